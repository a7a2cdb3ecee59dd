"""A real remoting client and its server, PoCL-Remote, where BITFUSIOND_REMOTE_CLIENT names the directory of both.

It has ``client/``, the tree that is put into pods, and ``server/``, whose device is this machine's processor.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path

VARIABLE = "BITFUSIOND_REMOTE_CLIENT"
DOUBLE = Path(__file__).parent / "demo" / "programs" / "double.py"
# The server's compiler knows AMD's processors up to this family, and of a newer one it says `unknown target CPU`.
_NEWEST_AMD_FAMILY = 25
_EMULATOR = "qemu-x86_64-static"


def directory() -> tuple[Path | None, str]:
    """The directory of both; or None, and what to do about it."""
    named = os.environ.get(VARIABLE)
    if not named:
        return None, f"let {VARIABLE} name a directory with PoCL-Remote's client/ and server/"
    found = Path(named)
    for name in ("client/libpocl.so.2", "server/bin/pocld"):
        if not (found / name).is_file():
            return None, f"{VARIABLE}: there is no {found / name}"
    if _is_too_new() and shutil.which(_EMULATOR) is None:
        return None, f"its server does not know this processor: install {_EMULATOR} (Debian: qemu-user-static)"
    return found, ""


def emulator() -> list[str]:
    """What the server must run under on this machine; nothing on most."""
    return [str(shutil.which(_EMULATOR)), "-cpu", "EPYC-v3"] if _is_too_new() else []


def _is_too_new() -> bool:
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return fields.get("vendor_id") == "AuthenticAMD" and int(fields.get("cpu family", 0)) > _NEWEST_AMD_FAMILY


def server_variables(server: Path, cache: Path) -> dict[str, str]:
    """The environment of the server that lies in ``server``; ``cache`` can be written."""
    (device,) = (server / "cpu/pyopencl/.libs").glob("libpocl-*.so")
    path = f"{server / 'bin'}:{os.environ.get('PATH', '/usr/bin:/bin')}"
    return {"OCL_ICD_VENDORS": str(device), "PATH": path, "POCL_CACHE_DIR": str(cache)}


def server_command(server: Path, address: str, port: int) -> list[str]:
    """It takes ``port`` and the two behind it."""
    return [*emulator(), str(server / "bin/pocld"), "-a", address, "-p", str(port)]


def free_port() -> int:
    """The first of three that are free, one behind the other."""
    for port in range(20_000 + os.getpid() % 10_000, 40_000, 3):
        sockets = [socket.socket() for _ in range(3)]
        try:
            for number, each in enumerate(sockets):
                each.bind(("127.0.0.1", port + number))
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
        return port
    raise OSError("no three free ports in a row")


def wait_until_it_listens(port: int, seconds: float = 20.0) -> bool:
    """Whether the server accepts connections on ``port`` in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False
