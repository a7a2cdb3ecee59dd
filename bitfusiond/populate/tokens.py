"""The token files: read, made right for the client, written where the workload can change them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.clients import servers_conf
from bitfusiond.errors import Failure
from bitfusiond.files.read import load_yaml
from bitfusiond.populate import hidden

_MODES = {names.CLIENT_YAML: 0o600}  # it holds the key of the client
_MODE = 0o644
_log = logs.Log("populate")


def read(
    directory: Path, *, wants_reachable: bool, chosen: Mapping[str, Sequence[str]] | None = None
) -> tuple[dict[str, bytes], list[str]]:
    """The content of each token file as the client is to find it, by its path, and the problems.

    A problem is a file that is missing, empty or cannot be read, or that the client could not use. ``chosen`` has the
    servers, HOST:PORT, of each servers.conf that is wanted, by its path; None: those of the file itself.
    """
    contents: dict[str, bytes] = {}
    problems: list[str] = []
    for name in names.TOKEN_FILES:
        try:
            content = _content(directory / name)
            if name != names.SERVERS_CONF:
                contents[name] = content
            elif chosen is None:
                contents[name] = _servers_conf(content, wants_reachable=wants_reachable)
            else:
                contents |= _of_servers(content, chosen, wants_reachable=wants_reachable)
        except ValueError as error:
            problems.append(f"--tokens: {directory / name}: {error}")
    return contents, problems


def write(contents: Mapping[str, bytes], directory: Path) -> None:
    """Put the files into ``directory``, each under its name only when whole; logs ``copied tokens``.

    A file that differs is replaced, even if the client changed it: we run before the client, so what differs is left
    from before the pod's containers were made anew, and the Secret may hold a newer token by now. What a client adds
    of its own, it adds again when it starts; a stale token it could not mend. Raises Failure.
    """
    written = [name for name, content in contents.items() if _put(content, directory, name)]
    if written:
        _log.info("copied tokens", path=str(directory), names=written)
    else:
        _log.info("already there", what="tokens", path=str(directory))


def _content(path: Path) -> bytes:
    """Raises ValueError with what is wrong with the file."""
    try:
        if path.is_dir():
            # What the kubelet or a container engine makes where a mount's source has no such file.
            raise ValueError("a directory: the Secret has no such key")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError("missing") from None
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if not content.strip():
        raise ValueError("empty")
    return content


def _servers_conf(content: bytes, *, wants_reachable: bool) -> bytes:
    """``content`` as the client can read it; a file that the client can read already stays as it is, byte for byte.

    Raises ValueError for what is not YAML, which no client can read, and if the client needs the field ``reachable``
    and the file does not allow to add it. To a client that does not, what is not as documented may mean more than it
    does to us: a warning is enough.
    """
    try:
        document, text = _parse(content.decode())
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    try:
        added = servers_conf.with_reachable(document)
    except ValueError as error:
        if wants_reachable:
            raise ValueError(f"{error}; this client needs the field reachable in it") from None
        _log.warning("servers.conf is not as documented", problem=str(error))
        return content
    if wants_reachable and added is not None:
        import yaml  # noqa: PLC0415 - few clients need it

        _log.info("added the field reachable to servers.conf", servers=len(added["servers"]))
        return yaml.safe_dump(added, sort_keys=False, allow_unicode=True).encode()
    return text.encode()


def _of_servers(content: bytes, chosen: Mapping[str, Sequence[str]], *, wants_reachable: bool) -> dict[str, bytes]:
    """``content`` once for each path of ``chosen``, with the servers there and no others. Raises ValueError."""
    import yaml  # noqa: PLC0415 - few pods need it

    try:
        document, _ = _parse(content.decode())
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    try:
        servers_conf.addresses(document)
    except ValueError as error:
        # What else it may mean to the client, it would mean for servers that were not allocated.
        _log.warning("servers.conf is not as documented", problem=str(error))
        document = None
    found = {}
    for path, addresses in chosen.items():
        alone = servers_conf.of_addresses(document, addresses) if document else servers_conf.made_of(addresses)
        if wants_reachable:
            alone = servers_conf.with_reachable(alone) or alone
        found[path] = yaml.safe_dump(alone, sort_keys=False, allow_unicode=True).encode()
        _log.info("servers.conf has the servers of claims", path=path, servers=list(addresses))
    return found


def _parse(text: str) -> tuple[object, str]:
    """The document and the text that it came from: ``text``, or ``text`` without the README's misprint.

    Raises ValueError that says where the text is wrong and quotes nothing of it: it may be any other file by mistake.
    """
    repaired = servers_conf.repaired(text)
    try:
        return load_yaml(text), text
    except ValueError as error:
        where = re.search(r"line \d+, column \d+", str(error))
        problem = ValueError(f"not YAML ({where[0] if where else 'nested too deeply'})")
    if repaired == text:
        raise problem
    try:
        document = load_yaml(repaired)
    except ValueError:
        raise problem from None
    _log.info("repaired servers.conf", problem="no blank after `reachable:`")
    return document, repaired


def _put(content: bytes, directory: Path, name: str) -> bool:
    """Whether ``name`` had to be written to hold ``content`` with its mode. Raises Failure."""
    path, mode = directory / name, _MODES.get(name, _MODE)
    try:
        if _holds(content, path, mode):
            return False
        path.parent.mkdir(mode=0o755, exist_ok=True)  # that of a claim
        partial = hidden.name(str(directory))
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        os.rename(partial, path)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    return True


def _holds(content: bytes, path: Path, mode: int) -> bool:
    """Whether ``path`` is a file with this content and mode already."""
    try:
        return path.lstat().st_mode == stat.S_IFREG | mode and path.read_bytes() == content
    except (FileNotFoundError, PermissionError):
        return False
