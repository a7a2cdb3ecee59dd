"""Client packages of the real shape, small: .deb and .rpm, built out of a tree by the tools that build real ones.

Both carry maintainer scripts that fail and leave a trace: whoever unpacks a package must not run them. ``hostile_deb``
and ``hostile_rpm`` hold members that those tools would not put in.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from bitfusiond.core.clients import packages

_SCRIPT = "touch /tmp/bitfusiond-test-maintainer-script-ran; exit 1"
TRACE = Path("/tmp/bitfusiond-test-maintainer-script-ran")

needs_deb = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="building .deb packages needs dpkg-deb (Debian package dpkg)"
)
needs_rpm = pytest.mark.skipif(
    shutil.which("rpmbuild") is None, reason="building .rpm packages needs rpmbuild (Debian package rpm)"
)
needs_bsdtar = pytest.mark.skipif(
    shutil.which("bsdtar") is None, reason="unpacking needs bsdtar (Debian package libarchive-tools)"
)

_CONTROL = """\
Package: {name}
Version: {version}
Architecture: amd64
Maintainer: nobody <nobody@example.com>
Description: a small client
"""

# Nothing of the tree is to be changed: no stripping, no search for dependencies, no links of build ids, no complaint
# about names that are not UTF-8.
_SPEC = """\
%global __os_install_post %{{nil}}
%global debug_package %{{nil}}
%global _build_id_links none
%global _invalid_encoding_terminates_build 0
%global _binary_payload {payload}
Name: {name}
Version: {version}
Release: {release}
Summary: a small client
License: none
AutoReqProv: no
%description
A small client.
%pre
{script}
%post
{script}
%install
cp -a '{tree}/.' '%{{buildroot}}/'
%clean
chmod -R u+rwX '%{{buildroot}}'
rm -rf '%{{buildroot}}'
%files
%defattr(-,root,root,-)
{files}
"""


def deb(tree: Path, out: Path, name: str, *, compression: str = "gzip") -> Path:
    """``out/name``, a package file name as in the catalogue, with what is below ``tree``; ``tree`` stays as it is.

    ``compression`` is a word that ``dpkg-deb -Z`` knows. Raises RuntimeError with what the tool said.
    """
    package = _words(name)
    with tempfile.TemporaryDirectory(prefix="bitfusiond-deb-") as scratch:
        root = Path(scratch, "root")
        subprocess.run(["cp", "-a", tree, root], check=True)
        control = root / "DEBIAN"
        control.mkdir()
        control.chmod(0o755)
        (control / "control").write_text(_CONTROL.format(name=package[0], version=f"{package[1]}-{package[2]}"))
        for script in ("preinst", "postinst"):
            (control / script).write_text(f"#!/bin/sh\n{_SCRIPT}\n")
            (control / script).chmod(0o755)
        os.utime(root, ns=(tree.stat().st_mtime_ns, tree.stat().st_mtime_ns))
        _run("dpkg-deb", f"-Z{compression}", "--root-owner-group", "--build", root, out / name)
        _let_go(root)
    return out / name


def rpm(tree: Path, out: Path, name: str, *, payload: str = "w2.gzdio") -> Path:
    """As ``deb``; ``payload`` is rpm's word for a compression. Like a real package it has no ``/usr`` of its own."""
    package = _words(name)
    tops = [path for path in tree.iterdir() if path.is_symlink() or not path.is_dir()]
    tops += tree.glob("*/*")
    with tempfile.TemporaryDirectory(prefix="bitfusiond-rpm-") as scratch:
        spec = Path(scratch, "client.spec")
        spec.write_text(
            _SPEC.format(
                name=package[0],
                version=package[1],
                release=package[2],
                script=_SCRIPT,
                payload=payload,
                tree=tree.absolute(),
                files="\n".join(f'"/{path.relative_to(tree)}"' for path in tops),
            )
        )
        macros = {"_topdir": f"{scratch}/top", "_rpmdir": scratch, "_rpmfilename": "built.rpm"}
        defines = [word for key, value in macros.items() for word in ("--define", f"{key} {value}")]
        _run("rpmbuild", "-bb", "--quiet", "--target", "x86_64-linux", *defines, spec)
        shutil.move(f"{scratch}/built.rpm", out / name)
        _let_go(Path(scratch))
    return out / name


class Member(NamedTuple):
    """One entry of an archive: ``mode`` with its kind, ``content`` of a file or target of a link."""

    name: str
    mode: int = stat.S_IFREG | 0o644
    content: str = ""


def hostile_deb(members: Sequence[Member], out: Path, name: str) -> Path:
    """``out/name`` with exactly these members, whatever their names are."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for member in members:
            archive.addfile(_tar_info(member), io.BytesIO(member.content.encode()))
    nothing = io.BytesIO()
    tarfile.open(fileobj=nothing, mode="w").close()
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": gzip.compress(nothing.getvalue()),
        "data.tar.gz": gzip.compress(data.getvalue()),
    }
    content = b"!<arch>\n"
    for part, body in parts.items():
        content += f"{part:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(body):<10}`\n".encode()
        content += body + b"\n" * (len(body) % 2)
    (out / name).write_bytes(content)
    return out / name


def hostile_rpm(members: Sequence[Member], out: Path, name: str) -> Path:
    """As ``hostile_deb``: a package of rpmbuild's with its payload exchanged."""
    with tempfile.TemporaryDirectory(prefix="bitfusiond-rpm-") as scratch:
        (tree := Path(scratch, "tree")).mkdir()
        (tree / "file").touch()
        built = rpm(tree, out, name).read_bytes()
    start = _after_header(built, _after_header(built, 96) + 7 & ~7)  # the first one is padded to 8 bytes
    payload = b"".join(map(_cpio_entry, [*members, Member("TRAILER!!!", 0)]))
    (out / name).write_bytes(built[:start] + gzip.compress(payload))
    return out / name


def _words(name: str) -> tuple[str, str, str]:
    """Name, version and release of a package, out of its file name. Raises ValueError for one that has none."""
    stem = packages.parse(name).file.removesuffix("_amd64.deb").removesuffix(".x86_64.rpm")
    package, version, release = stem.replace("_", "-").rsplit("-", 2)
    return package, version, release


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, check=False, capture_output=True, timeout=120)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]}: {done.stderr.decode('utf-8', 'replace')}")


def _let_go(root: Path) -> None:
    """Directories may be read-only, and whoever is not root could not delete what is in them."""
    subprocess.run(["chmod", "-R", "u+rwX", root], check=True)


def _tar_info(member: Member) -> tarfile.TarInfo:
    info = tarfile.TarInfo(member.name)
    info.mode = stat.S_IMODE(member.mode)
    info.uid = info.gid = 0
    if stat.S_ISLNK(member.mode):
        info.type, info.linkname = tarfile.SYMTYPE, member.content
    elif stat.S_ISDIR(member.mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISFIFO(member.mode):
        info.type = tarfile.FIFOTYPE
    else:
        info.size = len(member.content)
    return info


def _cpio_entry(member: Member) -> bytes:
    """In the format "newc": a magic, thirteen numbers of eight hex digits, the name, the content, padded to four."""
    name, content = member.name.encode() + b"\0", member.content.encode()
    numbers = [0, member.mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
    header = b"070701" + b"".join(b"%08x" % number for number in numbers) + name
    return header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4)


def _after_header(package: bytes, start: int) -> int:
    """Where the header structure at ``start`` ends: 16 bytes with two counts, index entries of 16 bytes, the store."""
    entries, store = struct.unpack(">II", package[start + 8 : start + 16])
    return start + 16 + 16 * int(entries) + int(store)
