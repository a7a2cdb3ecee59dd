"""A small client distro of the real shape: what a client package holds once it is unpacked."""

from __future__ import annotations

import os
from pathlib import Path

LIBRARIES = "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib"
CLIENT_PROGRAM = """\
#!/bin/sh
echo "bitfusion $*"
while [ $# -gt 0 ] && [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""
_LONG_AGO = 1_600_000_000_123_456_789  # nanoseconds: an odd fraction shows who keeps only seconds


def make_distro(root: Path, package: str, client_program: str = CLIENT_PROGRAM) -> Path:
    """Make ``root/package`` and return it.

    ``client_program`` is the text of ``usr/bin/bitfusion``. Beside it: libraries with the links that the loader
    follows, a set-id program, a read-only directory, an empty one, names with a blank and with bytes that are not
    UTF-8, one file with two names, a sparse file, links that lead nowhere and out of the tree.
    """
    tree = root / package
    libraries = tree / LIBRARIES
    program = tree / "usr/bin/bitfusion"
    _file(program, client_program.encode(), 0o755)
    _file(libraries / "libbitfusion.so.4.5.0", os.urandom(300_000), 0o755)
    (libraries / "libbitfusion.so.4").symlink_to("libbitfusion.so.4.5.0")
    (libraries / "libbitfusion.so").symlink_to("libbitfusion.so.4")
    _file(libraries / "libcuda.so.1", os.urandom(70_001), 0o644)
    os.link(libraries / "libcuda.so.1", libraries / "libcuda.so.450.80")
    _file(libraries / "large.so", os.urandom(3 << 20), 0o644)
    _file(tree / "opt/bitfusion/bin/helper", b"#!/bin/sh\nexit 0\n", 0o4755)
    _file(tree / "opt/bitfusion/bin/group helper", b"#!/bin/sh\nexit 0\n", 0o2755)
    os.link(tree / "opt/bitfusion/bin/helper", tree / "opt/bitfusion/lib/helper")
    _file(tree / "opt/bitfusion/share/doc/READ ME first.txt", b"words\n", 0o444)
    _file(tree / "opt/bitfusion/share/doc" / os.fsdecode(b"caf\xe9"), b"latin 1\n", 0o600)
    _file(tree / "opt/bitfusion/share/empty", b"", 0o640)
    _sparse(tree / "opt/bitfusion/share/cache", 5 << 20)
    (tree / "opt/bitfusion/share/nothing yet").mkdir(mode=0o1777)
    (tree / "opt/bitfusion/share/nothing yet").chmod(0o1777)
    (tree / "opt/bitfusion/lib64").symlink_to("lib")
    (tree / "opt/bitfusion/VERSION").write_text("4.5.0-4\n")
    (tree / "opt/bitfusion/share/gone").symlink_to("no such file")
    (tree / "opt/bitfusion/share/hosts").symlink_to("/etc/hosts")
    (tree / "opt/bitfusion/share/etc").symlink_to("/etc")
    (tree / "opt/bitfusion/share/doc").chmod(0o555)
    _date(tree)
    return tree


def _file(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _sparse(path: Path, size: int) -> None:
    """Data, a hole, data, a hole that ends the file."""
    with path.open("wb") as file:
        file.write(b"head" * 1024)
        file.seek(size // 2)
        file.write(b"middle" * 1000)
        file.truncate(size)


def _date(tree: Path) -> None:
    """A time of its own for each name; children first, since they change their directory's."""
    found = [tree, *(path for path in tree.rglob("*"))]
    for index, path in enumerate(sorted(found, key=lambda path: len(path.parts), reverse=True)):
        moment = _LONG_AGO + index * 1_000_000_007
        os.utime(path, ns=(moment, moment), follow_symlinks=False)
