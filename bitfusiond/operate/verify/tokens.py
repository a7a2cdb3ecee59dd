"""The tokens: their sources, and the copies in every namespace that has them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from bitfusiond.core import names
from bitfusiond.core.objects import Object
from bitfusiond.core.text import from_base64
from bitfusiond.core.tokens import copies
from bitfusiond.core.tokens.copies import TOKENS, Content, Copy, State, Token
from bitfusiond.operate import checks, tokenfiles
from bitfusiond.operate.kubectl import Ref
from bitfusiond.operate.report import NOTE, OK, WRONG, Row
from bitfusiond.operate.tokenplace import EXEMPT, TokenPlace
from bitfusiond.operate.verify.webhooks import LOGS

FIX = "just tokens DIR"


def sources(place: TokenPlace, now: datetime) -> list[Row]:
    """A row for each token: there, with its key, fit for a client, and the certificate alive."""
    return [_source(token, place, now) for token in TOKENS]


def _source(token: Token, place: TokenPlace, now: datetime) -> Row:
    here = f"{place.namespace}/{token.secret}"
    what = f"Secret {here}"
    problems = checks.token_problems(token, place, now)
    if problems:
        return Row(what, WRONG, "; ".join(problems), FIX)
    source = place.content(token)
    assert isinstance(source, Content)  # noqa: S101 - no source is a problem
    detail = f"from {source.origin}" if source.origin != here else ""
    content = from_base64(source.data)
    if token.file == names.SERVERS_CONF:
        listed = ", ".join(f"{host}:{port}" for host, port in tokenfiles.servers(content))
        return Row(what, OK, f"servers: {listed}")
    if token.file == names.CA_CRT:
        detail = f"certificate until {tokenfiles.end(content):%Y-%m-%d}"
    return Row(what, OK, detail)


def copied(found: Iterable[Object], place: TokenPlace) -> list[Row]:
    """Copies that do not hold what their source holds, or may not be there, and one row for all others."""
    current = 0
    rows = []
    strays: dict[str, list[str]] = {}
    namespaces = set()
    for secret in found:
        copy = place.copy(secret)
        if copies.state(copy) is State.NOT_ALLOWED:
            strays.setdefault(copy.namespace, []).append(copy.token.secret)
            continue
        namespaces.add(copy.namespace)
        row = _copy(copy)
        current += row is None
        rows += [row] if row else []
    if current:
        rows.insert(0, Row("token copies", OK, f"{current} up to date, in {len(namespaces)} namespaces"))
    return [*rows, *(_not_allowed(namespace, secrets, place) for namespace, secrets in strays.items())]


def _not_allowed(namespace: str, secrets: list[str], place: TokenPlace) -> Row:
    detail = f"there are token copies, which may be in {','.join(place.allowed)} alone (ALLOW_NAMESPACES)"
    if namespace in EXEMPT:
        detail = "there are token copies, which may be in no namespace of the system"
    fix = f"kubectl delete secret -n {namespace} {' '.join(secrets)}"
    return Row(f"Namespace {namespace}", WRONG, f"{detail}: they follow nothing", fix)


def _copy(copy: Copy) -> Row | None:
    what = Ref("Secret", copy.token.secret, copy.namespace)
    source, stored = copy.source, copy.stored
    assert stored is not None  # noqa: S101 - it was found
    delete = f"kubectl delete {what.words}"
    fixed = stored.immutable or stored.type != "Opaque"
    other = isinstance(source, Content) and stored.digest != source.digest
    row: tuple[str, str, str] | None = None
    match copies.state(copy):
        case State.STALE if fixed:
            row = WRONG, "stale, and immutable or of another type: it cannot follow its source", delete
        case State.STALE:
            row = WRONG, "stale: the webhook has not brought it up to date", LOGS
        case State.UNMARKED:
            row = NOTE, "the webhook has not marked it as its own yet", LOGS
        case State.UNPROVEN:
            row = WRONG, "labelled as a copy, but not written by bitfusiond: it follows nothing", f"{delete} ({_ADOPT})"
        case State.UNMANAGED if stored.digest is None:
            row = WRONG, f"not managed by bitfusiond, and nothing under the key {copy.token.file}", delete
        case State.UNMANAGED if other:
            whose = f"stale, or a token of {what.namespace}'s own"
            row = WRONG, f"{whose}: not managed by bitfusiond, and not the source's content", f"{delete} ({_ADOPT})"
        case State.UNMANAGED:
            row = NOTE, "not managed by bitfusiond: it will not follow its source", "just deploy"
        case State.ABANDONED:
            row = NOTE, "nobody keeps it current until the next pod is admitted there", delete
    return Row(str(what), *row) if row else None


_ADOPT = "the next pod there gets a new copy; ADOPT=yes just deploy does it for all such"


def today() -> datetime:
    return datetime.now(UTC)
