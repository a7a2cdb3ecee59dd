"""The tokens: their sources, and the copies in every namespace that has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from bitfusiond.core import names
from bitfusiond.core.objects import Secret
from bitfusiond.core.text import from_base64
from bitfusiond.core.tokens import copies
from bitfusiond.core.tokens.copies import BY_SECRET, TOKENS, Content, Copy, State, Token
from bitfusiond.operate import checks, tokenfiles
from bitfusiond.operate.checks import TOKEN_NAMESPACE
from bitfusiond.operate.kubectl import ref
from bitfusiond.operate.report import NOTE, OK, WRONG, Row
from bitfusiond.operate.verify.webhooks import LOGS

FIX = "just tokens DIR"


def sources(secrets: dict[str, Secret], now: datetime) -> list[Row]:
    """A row for each token: there, with its key, fit for a client, and the certificate alive."""
    return [_source(token, secrets, now) for token in TOKENS]


def _source(token: Token, secrets: dict[str, Secret], now: datetime) -> Row:
    what = f"Secret {TOKEN_NAMESPACE}/{token.secret}"
    problems = checks.token_problems(token, secrets, now)
    if problems:
        return Row(what, WRONG, "; ".join(problems), FIX)
    source = copies.content(token, secrets, TOKEN_NAMESPACE)
    assert isinstance(source, Content)  # noqa: S101 - no source is a problem
    detail = f"from {source.origin}" if source.origin != f"{TOKEN_NAMESPACE}/{token.secret}" else ""
    content = from_base64(source.data)
    if token.file == names.SERVERS_CONF:
        listed = ", ".join(f"{host}:{port}" for host, port in tokenfiles.servers(content))
        return Row(what, OK, f"servers: {listed}")
    if token.file == names.CA_CRT:
        detail = f"certificate until {tokenfiles.end(content):%Y-%m-%d}"
    return Row(what, OK, detail)


def copied(found: Iterable[Secret], secrets: dict[str, Secret]) -> list[Row]:
    """Copies that do not hold what their source holds, and one row for all that do."""
    current = 0
    rows = []
    for secret in found:
        token = BY_SECRET[secret["metadata"]["name"]]
        row = _copy(secret, token, secrets)
        current += row is None
        rows += [row] if row else []
    namespaces = {each["metadata"]["namespace"] for each in found}
    if current:
        rows.insert(0, Row("token copies", OK, f"{current} up to date, in {len(namespaces)} namespaces"))
    return rows


def _copy(secret: Secret, token: Token, secrets: Mapping[str, Secret]) -> Row | None:
    what = ref(secret)
    source = copies.content(token, secrets, TOKEN_NAMESPACE)
    stored = copies.summarize(secret, token)
    delete = f"kubectl delete {what.words}"
    fixed = stored.immutable or stored.type != "Opaque"
    other = isinstance(source, Content) and stored.digest != source.digest
    row: tuple[str, str, str] | None = None
    match copies.state(Copy(token, stored.namespace, stored, source, TOKEN_NAMESPACE)):
        case State.STALE if fixed:
            row = WRONG, "stale, and immutable or of another type: it cannot follow its source", delete
        case State.STALE:
            row = WRONG, "stale: the webhook has not brought it up to date", LOGS
        case State.UNMANAGED if stored.digest is None:
            row = WRONG, f"not managed by bitfusiond, and nothing under the key {token.file}", delete
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
