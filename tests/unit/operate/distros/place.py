"""A directory of packages, one for the distros, and ``python -m bitfusiond.operate.distros`` run on them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.fakes import packages
from tests.fakes.distro import make_distro

DEB = "bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb"
RPM = "bitfusion-client-rocky9-4.6.1-2.x86_64.rpm"
LIBRARIES = "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib"
NOBODY = 65534

# Another user may not be able to read this interpreter: the privileges go once everything is imported.
UNPRIVILEGED = f"""
import os, sys
from bitfusiond.operate.distros.__main__ import main
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.exit(main(sys.argv[1:]))
"""


@dataclass(frozen=True)
class Result:
    """How a run ended and what it said, by lines."""

    status: int
    lines: list[str]
    problems: list[str]


class Place:
    """``packages`` and ``out`` below ``directory``, and ``tree``, out of which packages can be built."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.packages = directory / "packages"
        self.packages.mkdir()
        self.out = directory / "distros"
        self.tree = make_distro(directory / "source", "tree")

    @property
    def catalogue(self) -> Path:
        return self.out / "bitfusion-client-config.yaml"

    def small_tree(self, name: str = "small") -> Path:
        """The least that is a client."""
        tree = self.directory / name
        (tree / LIBRARIES).mkdir(parents=True)
        (tree / LIBRARIES / "libcuda.so.1").write_text(name)
        (tree / "usr/bin").mkdir(parents=True)
        (tree / "usr/bin/bitfusion").write_text("#!/bin/sh\n")
        (tree / "usr/bin/bitfusion").chmod(0o755)
        return tree

    def small_deb(self, name: str = DEB) -> Path:
        return packages.deb(self.small_tree(name + ".tree"), self.packages, name)

    def run(
        self, *, program: tuple[str, ...] = ("-m", "bitfusiond.operate.distros"), path: Path | None = None
    ) -> Result:
        """``path``: the only directory in which tools are looked for."""
        environment = dict(os.environ) if path is None else {**os.environ, "PATH": str(path)}
        done = subprocess.run(
            [sys.executable, *program, self.packages, self.out],
            capture_output=True, text=True, timeout=60, check=False, env=environment,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert all(line.startswith("distros: ") for line in done.stderr.splitlines()), done.stderr
        problems = [line.removeprefix("distros: ") for line in done.stderr.splitlines()]
        return Result(done.returncode, done.stdout.splitlines(), problems)

    def path_with(self, *tools: str) -> Path:
        """A directory with nothing but these programs."""
        path = self.directory / "-".join(["path", *tools])
        path.mkdir()
        for tool in tools:
            found = shutil.which(tool)
            assert found, tool
            (path / tool).symlink_to(found)
        return path

    def distros(self) -> set[str]:
        """What is in ``out`` under a name that is not hidden."""
        there = self.out.iterdir() if self.out.exists() else []
        return {path.name for path in there if not path.name.startswith(".")}

    def hidden(self) -> set[str]:
        return {path.name for path in self.out.iterdir() if path.name.startswith(".")}


def shape(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a package can say of what is below ``root``: kind and mode, time in seconds, content, links, and which
    names are one file."""
    found: dict[str, tuple[object, ...]] = {}
    files: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        name, info = str(path.relative_to(root)), path.lstat()
        content: object = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = (hashlib.sha256(path.read_bytes()).hexdigest(), files.setdefault(info.st_ino, name))
        found[name] = (stat.filemode(info.st_mode), int(info.st_mtime), content)
    return found
