"""Unix sockets beside a kubelet: what is there under a name, ours made and removed."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import NamedTuple

import trio

from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.settings import Plugin

KUBELET_SOCKET = "kubelet.sock"
# Linux keeps the path of a unix socket in 108 bytes, one of them the final zero: unix(7).
LONGEST_PATH_BYTES = 107
BACKLOG = 16
ANSWER_SECONDS = 1.0
# A stat call a round for each socket. inotify would wake us a little sooner, but it watches an inode and not a name: it
# falls silent when the directory itself is removed and made anew, it does not see what happens through every kind of
# mount, and its queue can overflow. At this rate a restarted kubelet has its devices back within a second, for less
# than a tenth of a percent of a core on every node.
POLL_SECONDS = 0.75


class Identity(NamedTuple):
    """Which socket it is that bears a name.

    The inode alone does not tell: on tmpfs and ext4 a kubelet.sock that is removed and made anew often gets the old
    number again.
    """

    device: int
    inode: int
    changed_ns: int


def identity(path: Path) -> Identity | None:
    """None if nothing is there, or the directory itself is not."""
    try:
        status = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return Identity(status.st_dev, status.st_ino, status.st_ctime_ns)


async def replaced(path: Path, known: Identity | None) -> Identity | None:
    """Wait until ``path`` is not the socket ``known`` any more; return what is there now."""
    while (present := identity(path)) == known:  # noqa: ASYNC110 - a file system tells nobody, see POLL_SECONDS
        await trio.sleep(POLL_SECONDS)
    return present


def paths(settings: Plugin) -> tuple[Path, Path]:
    """Our socket's path and the kubelet's. Raises ConfigurationError where no socket could ever be there."""
    directory = settings.device_plugin_dir
    if not directory.is_dir():
        problem = "is not a directory" if directory.exists() else "does not exist"
        raise ConfigurationError(
            f"--device-plugin-dir: {directory} {problem}: it must be the kubelet's device plugin directory"
        )
    ours, kubelet = directory / settings.socket_name, directory / KUBELET_SOCKET
    check_length(ours, "--device-plugin-dir and --socket-name")
    check_length(kubelet, "--device-plugin-dir")
    return ours, kubelet


def check_length(path: Path, options: str) -> None:
    """Raise ConfigurationError, which names ``options``, where no socket could have so long a path."""
    length = len(os.fsencode(path))
    if length > LONGEST_PATH_BYTES:
        raise ConfigurationError(
            f"{options}: the socket path {path} has {length} bytes; a unix socket allows {LONGEST_PATH_BYTES}"
        )


def is_deleted(directory: Path) -> bool:
    """Whether the directory is still here though it was removed.

    A mount outlives the removal of what it shows: nothing can ever be made in there, and one of the same name that is
    made in its place is another.
    """
    try:
        return directory.stat().st_nlink == 0
    except OSError:
        return False


async def listen(
    path: Path, kind: str = "device plugin", alternative: str = "choose another --socket-name"
) -> socket.socket:
    """A unix socket that listens at ``path``, in place of one that a crashed run left behind.

    ``kind`` is what we are, ``alternative`` what else can be done where the name is taken. Raises Failure if it is, by
    something alive or by another kind of file, OSError where the directory does not permit a socket or is not there.
    """
    await _make_way(path, kind, alternative)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Before bind(), so that there is no moment at which others may connect: the kubelet is root, as we are.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(os.fspath(path))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def remove(path: Path, ours: Identity | None) -> None:
    """Remove our socket, unless the name belongs to another one by now."""
    if ours is not None and identity(path) == ours:
        _unlink(path)


async def _make_way(path: Path, kind: str, alternative: str) -> None:
    """Remove the socket of a crashed run from ``path``. Raises Failure where something else is there."""
    present = _kind(path)
    if present is None:
        return
    if present != stat.S_IFSOCK:
        raise Failure(f"{path} exists and is not a socket: remove it, or {alternative}")
    try:
        with trio.fail_after(ANSWER_SECONDS):
            await trio.aclose_forcefully(await trio.open_unix_socket(path))
    except (ConnectionRefusedError, FileNotFoundError):
        _unlink(path)
        return
    except trio.TooSlowError:
        pass  # somebody listens, though behind a full queue
    raise Failure(f"{path} answers: another {kind} is running; stop it, or {alternative}")


# Metadata of one file in a directory of the node: quicker than handing the call to a thread.


def _kind(path: Path) -> int | None:
    """The kind of file at ``path``, as stat.S_IFMT tells it; None where there is none."""
    try:
        return stat.S_IFMT(path.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
