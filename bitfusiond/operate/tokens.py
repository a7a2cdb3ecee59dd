"""``just tokens DIR``: from an unpacked token to the three Secrets, checked first, updated in place."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object
from bitfusiond.core.tokens.copies import TOKENS
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate import checks, choices, current, report, tokenfiles
from bitfusiond.operate.kubectl import Kubectl, ref
from bitfusiond.operate.report import Say
from bitfusiond.operate.settings import Settings
from bitfusiond.operate.upgrade04 import adoption


def run(settings: Settings, directory: Path, say: Say) -> None:
    """Write the Secrets. Raises ConfigurationError with every problem of the files, before anything is written."""
    files = read(directory)
    listed = ", ".join(f"{host}:{port}" for host, port in tokenfiles.servers(files[names.SERVERS_CONF]))
    say(f"{directory}: ca.crt, client.yaml and servers.conf are good; servers: {listed}")
    kubectl = Kubectl(settings.kubectl)
    checks.cluster(kubectl, say)
    place = choices.token_place(settings, current.read(kubectl))
    wanted = [secret(place.namespace, token.secret, token.file, files[token.file]) for token in TOKENS]
    before = kubectl.get_all(wanted)
    # Server-side apply keeps no copy of the content in an annotation, as `kubectl apply` would.
    after = kubectl.apply(wanted)
    changed = 0
    for what, document in after.items():
        old = before.get(what)
        same = old is not None and old.get("data") == document.get("data")
        changed += not same
        say(f"{what}: {'unchanged' if same else 'made' if old is None else 'changed'}")
    unknown = adoption.sort(adoption.find(kubectl, place.namespace), place.read(kubectl))
    for each in map(ref, unknown.other):
        say(f"{each}: not managed by bitfusiond, so it keeps its content: `kubectl delete {each.words}` if it is stale")
    webhook = kubectl.get(current.WEBHOOK)
    if webhook is None:
        say("bitfusiond is not installed yet: `just deploy`")
    elif changed and not mapping(webhook, "status").get("availableReplicas"):
        say("No webhook runs that would bring the copies up to date: `just verify` says why")
    elif changed:
        say("Running webhooks bring all copies up to date within seconds; `just verify` shows any that is not.")


def read(directory: Path) -> dict[str, bytes]:
    """The three files by name. Raises ConfigurationError that names all that is missing or wrong."""
    if directory.is_file():
        raise ConfigurationError(
            f"{directory} is a file: unpack it with `mkdir tokens && tar -xf {directory} -C tokens`, then `just tokens"
            " tokens`"
        )
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not there: it must be the directory of an unpacked token")
    files: dict[str, bytes] = {}
    missing: list[str] = []
    problems: list[str] = []
    for name in names.TOKEN_FILES:
        try:
            files[name] = (directory / name).read_bytes()
        except FileNotFoundError:
            missing.append(name)
        except OSError as error:
            problems.append(f"{name}: cannot read it: {error.strerror}")
        else:
            problems += tokenfiles.problems(name, files[name], datetime.now(UTC))
    deeper = _deeper(directory) if len(missing) == len(names.TOKEN_FILES) else None
    if deeper is not None:
        raise ConfigurationError(f"{directory} has no token, the directory in it has: just tokens {deeper}")
    problems = [*(f"{name}: it is not in {directory}" for name in missing), *problems]
    if problems:
        raise ConfigurationError(report.listed(f"nothing was written, {directory} is not a whole token", problems))
    return files


def _deeper(directory: Path) -> Path | None:
    """Where the files are, if not in ``directory`` but in one that lies in it."""
    whole = [each for each in directory.iterdir() if all((each / name).is_file() for name in names.TOKEN_FILES)]
    return whole[0] if len(whole) == 1 else None


def secret(namespace: str, name: str, file: str, content: bytes) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace},
        "type": "Opaque",
        "data": {file: base64.b64encode(content).decode()},
    }
