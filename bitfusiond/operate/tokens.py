"""``just tokens DIR``: from an unpacked token to the three Secrets, checked first, updated in place."""

from __future__ import annotations

import base64
from pathlib import Path

from bitfusiond.core import names
from bitfusiond.core.copies import TOKENS
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate import adoption, report, tokenfiles
from bitfusiond.operate.checks import TOKEN_NAMESPACE
from bitfusiond.operate.kubectl import Json, Kubectl, ref
from bitfusiond.operate.rollout import Say


def run(kubectl: Kubectl, directory: Path, say: Say) -> None:
    """Write the Secrets. Raises ConfigurationError with every problem of the files, before anything is written."""
    files = read(directory)
    listed = ", ".join(f"{host}:{port}" for host, port in tokenfiles.servers(files[names.SERVERS_CONF]))
    say(f"{directory}: ca.crt, client.yaml and servers.conf are good; servers: {listed}")
    wanted = [secret(token.secret, token.file, files[token.file]) for token in TOKENS]
    before = kubectl.get_all(wanted)
    # Server-side apply keeps no copy of the content in an annotation, as `kubectl apply` would.
    after = kubectl.apply(wanted)
    changed = 0
    for what, document in after.items():
        old = before.get(what)
        same = old is not None and old.get("data") == document.get("data")
        changed += not same
        say(f"{what}: {'unchanged' if same else 'made' if old is None else 'changed'}")
    unknown = adoption.sort(adoption.find(kubectl), {what.name: each for what, each in after.items()})
    for each in map(ref, unknown.other):
        say(f"{each}: not managed by bitfusiond, so it keeps its content: `kubectl delete {each.words}` if it is stale")
    if changed:
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
    files, problems = {}, []
    for name in names.TOKEN_FILES:
        try:
            files[name] = (directory / name).read_bytes()
        except FileNotFoundError:
            problems.append(f"{name}: it is not in {directory}")
        except OSError as error:
            problems.append(f"{name}: cannot read it: {error.strerror}")
        else:
            problems += tokenfiles.problems(name, files[name])
    if problems:
        raise ConfigurationError(report.listed(f"nothing was written, {directory} is not a whole token", problems))
    return files


def secret(name: str, file: str, content: bytes) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": TOKEN_NAMESPACE},
        "type": "Opaque",
        "data": {file: base64.b64encode(content).decode()},
    }
