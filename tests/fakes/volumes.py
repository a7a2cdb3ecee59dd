"""The directories that ``populate`` finds in its container, and what it says and leaves there."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.distro import make_distro

PACKAGE = "bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb"
OPT = {"VERSION", "bin", "lib", "lib64", "share"}  # what make_distro() puts below opt/bitfusion
SERVERS_CONF = b"servers:\n- addresses:\n  - 10.202.122.248:56001\n"
ENTRY = """\
- BitfusionVersion: "{version}"
  OSVersion: {os}
  BinaryPath: /bitfusion/{package}/usr/bin/bitfusion
  EnvVariable: /bitfusion/{package}/opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/
"""

# Runs the executable with a hook in it that does something to the process when it is about to do a certain thing to
# one of its hidden names for the Nth time: what happens is real, and the moment is exact.
_HOOKED = """
import os, signal, sys
action, event, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
def hook(name, arguments):
    global count
    if name != event or not (isinstance(arguments[0], int) or ".bitfusiond-" in str(arguments)):
        return
    count -= 1
    if count == 0:
        exec(action)
sys.addaudithook(hook)
from bitfusiond.cli import main
sys.exit(main(sys.argv[4:]))
"""


# Another user may not be able to read this interpreter: the privileges go when the role begins.
NOBODY = 65534
_UNPRIVILEGED = f"""
import os, sys
import yaml
from bitfusiond import cli, populate
def unprivileged(settings, run=populate.run):
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
        os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
    return run(settings)
populate.run = unprivileged
sys.exit(cli.main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Result:
    """How a run ended, and the lines of its log."""

    status: int
    stderr: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.splitlines()]

    def event(self, name: str, **fields: object) -> dict[str, Any]:
        """The only event of that name with these fields."""
        (found,) = [each for each in self.events if each["event"] == name and fields.items() <= each.items()]
        return found

    @property
    def message(self) -> str:
        """What a run that failed says: its last line, and never a traceback."""
        assert self.status == 1, self.stderr
        last = self.events[-1]
        assert last["event"] == "failed"
        assert "Traceback" not in self.stderr
        assert "\n" not in last["message"]
        message: str = last["message"]
        return message


class Pod:
    """Volumes below ``directory``, with one distro in the image and the three token files in their place."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.distros = directory / "image"
        self.distro_target = directory / "bitfusion-distro"
        self.opt_target = directory / "workload-container-opt"
        self.tokens = directory / "tokens"
        self.client_dir = directory / "client"
        for each in (self.distros, self.distro_target, self.opt_target, self.tokens, self.client_dir):
            each.mkdir()
            each.chmod(0o777)  # as the kubelet makes an emptyDir
        self.source = make_distro(self.distros, PACKAGE)
        (self.tokens / "ca.crt").write_bytes(b"certificate\n")
        (self.tokens / "client.yaml").write_bytes(b"key: s3cret\n")
        (self.tokens / "servers.conf").write_bytes(SERVERS_CONF)

    @property
    def distro(self) -> Path:
        return self.distro_target / PACKAGE

    @property
    def volumes(self) -> tuple[Path, Path, Path]:
        return self.distro_target, self.opt_target, self.client_dir

    def catalogue(self, *entries: dict[str, str]) -> Path:
        path = self.directory / "clients.yaml"
        text = "BitfusionClients:\n" + "".join(ENTRY.format(**entry) for entry in entries)
        path.write_text(text)
        return path

    def arguments(self, *more: str, os_name: str = "ubuntu18", version: str = "450") -> list[str]:
        options = {
            "--role": "init",
            "--client-os": os_name,
            "--client-version": version,
            "--distros": self.distros,
            "--distro-target": self.distro_target,
            "--opt-target": self.opt_target,
            "--tokens": self.tokens,
            "--client-dir": self.client_dir,
        }
        return [*(str(word) for pair in options.items() for word in pair), *more]

    def run(self, *more: str, os_name: str = "ubuntu18", version: str = "450") -> Result:
        arguments = self.arguments(*more, os_name=os_name, version=version)
        return self._result([sys.executable, "-m", "bitfusiond", *arguments])

    def run_below(self, prefix: tuple[str, ...]) -> Result:
        """Run under a command such as ``unshare``."""
        return self._result([*prefix, sys.executable, "-m", "bitfusiond", *self.arguments()])

    def open_source(self) -> None:
        """Let every user read what is in the image."""
        for path in (*self.source.rglob("*"), self.tokens / "client.yaml"):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o444)

    def run_unprivileged(self) -> Result:
        """Run as a user who is not root and has no capability."""
        catalogue = self.catalogue({"os": "ubuntu18", "version": "450", "package": PACKAGE})
        return self._result([sys.executable, "-c", _UNPRIVILEGED, *self.arguments("--clients", str(catalogue))])

    def run_hooked(self, action: str, event: str, count: int, *, prefix: tuple[str, ...] = ()) -> Result:
        """Run with ``action`` at the ``count``-th ``event`` (a name of Python's table of audit events)."""
        hooked = [sys.executable, "-c", _HOOKED, action, event, str(count)]
        return self._result([*prefix, *hooked, *self.arguments()])

    def run_code(self, code: str, *more: str) -> Result:
        """Run ``code``, which calls the executable's ``main`` with what follows ``more`` in its arguments."""
        return self._result([sys.executable, "-c", code, *more, *self.arguments()])

    def _result(self, command: list[str]) -> Result:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == ""
        return Result(done.returncode, done.stderr)


def shape(root: Path, *, owners: bool = True) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that must survive: kinds, modes, owners, times, content, links and names of one file."""
    found: dict[str, tuple[object, ...]] = {}
    files: dict[int, str] = {}
    for path in sorted([root, *root.rglob("*")]):
        name = str(path.relative_to(root))
        info = path.lstat()
        content: object = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            content = (content, info.st_size, info.st_blocks * 512 < info.st_size, files.setdefault(info.st_ino, name))
        owner = (info.st_uid, info.st_gid) if owners else ()
        attributes = () if path.is_symlink() else _user_attributes(path)
        found[name] = (stat.filemode(info.st_mode), owner, info.st_mtime_ns, content, attributes)
    return found


def _user_attributes(path: Path) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, os.getxattr(path, name)) for name in os.listxattr(path) if name.startswith("user."))


def copied_shape(root: Path, *, owners: bool = True) -> dict[str, tuple[object, ...]]:
    """What :func:`shape` is to find in a copy of ``root``: the same but for set-id bits."""
    found = shape(root, owners=owners)
    return {name: (str(mode).replace("s", "x"), *rest) for name, (mode, *rest) in found.items()}


def whole(pod: Pod) -> bool:
    """Whether both trees are as in the image, and nothing is left that is only half."""
    return (
        shape(pod.distro) == copied_shape(pod.source)
        and all(shape(pod.opt_target / name) == copied_shape(pod.source / "opt/bitfusion" / name) for name in OPT)
        and not hidden(*pod.volumes)
    )


def shown(volume: Path) -> set[str]:
    """What the workload sees in a volume: the names that are not hidden."""
    return {path.name for path in volume.iterdir() if not path.name.startswith(".")}


def hidden(*volumes: Path) -> set[str]:
    """What runs left in the volumes under names of their own."""
    return {path.name for volume in volumes for path in volume.iterdir() if path.name.startswith(".")}
