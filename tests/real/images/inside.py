"""``python -m tests.real.images.inside [--user UID] [--volume SOURCE:TARGET]... IMAGE -- ARGUMENTS``: one container.

IMAGE is a directory that ``Archive.unpack`` of :mod:`tests.real.images.saved` filled. As in a pod under Pod Security
``restricted`` the root file system is read-only, there is no capability, none can be gained, and the user is the
image's or any other; only the volumes can be written. Network and process ids are those of this machine, and there is
no seccomp profile. Wants root. The process becomes the image's entrypoint with ARGUMENTS: a signal to it is a signal to
that.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
from pathlib import Path

# Of <sched.h>, <sys/mount.h> and <sys/prctl.h>; Python has none of these before 3.12.
_CLONE_NEWNS = 0x20000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITIES = 64  # more than any kernel has

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.real.images.inside", description=__doc__.partition("\n")[0])
    parser.add_argument("--user", type=int, help="its group too [the image's]")
    parser.add_argument("--volume", action="append", default=[], dest="volumes")
    parser.add_argument("--entrypoint", action="append", help="instead of the image's; a word each")
    parser.add_argument("image", type=Path)
    end = sys.argv.index("--")
    chosen = parser.parse_args(sys.argv[1:end])
    config = json.loads((chosen.image / "config.json").read_text())["config"]
    user, group = (int(each) for each in config["User"].split(":")) if chosen.user is None else (chosen.user,) * 2
    _enter(chosen.image / "root", [volume.split(":") for volume in chosen.volumes])
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    command = [*(chosen.entrypoint or config["Entrypoint"]), *sys.argv[end + 1 :]]
    environment = dict(variable.split("=", 1) for variable in config["Env"])
    os.environ["PATH"] = environment["PATH"]  # where execvpe looks
    os.execvpe(command[0], command, environment)


def _enter(root: Path, volumes: list[list[str]]) -> None:
    """Make ``root`` our ``/``, read-only, with the volumes, ``/proc`` and ``/dev`` in it, for this process alone."""
    _call("unshare", _CLONE_NEWNS)
    _mount("none", "/", _MS_REC | _MS_PRIVATE)
    _mount(root, root, _MS_BIND)
    for source, target in [["/proc", "/proc"], ["/dev", "/dev"], *volumes]:
        place = root / target.lstrip("/")
        if Path(source).is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        _mount(source, place, _MS_BIND)
    _mount("none", root, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
    os.chroot(root)
    os.chdir("/")


def _mount(source: str | Path, target: str | Path, flags: int) -> None:
    _call("mount", os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None)


def _call(function: str, *arguments: object) -> None:
    """A function of the C library. Raises OSError."""
    if _libc[function](*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), function)


if __name__ == "__main__":
    main()
