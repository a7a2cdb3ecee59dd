"""Client distros to copy: random bytes, the same for each run of the benchmark."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

from tests.fakes.distro import LIBRARIES

PACKAGES = tuple(
    f"bitfusion-client-{name}"
    for version, release in (("4.5.0-4", "4.5.0-4"), ("4.0.1-5", "4.0.1-5"))
    for name in (
        f"ubuntu1804_{version}_amd64.deb",
        f"ubuntu2004_{version}_amd64.deb",
        f"centos7-{release}.x86_64.rpm",
        f"centos8-{release}.x86_64.rpm",
    )
)
PACKAGE = PACKAGES[0]
_A_DIRECTORY = 50  # files


def like_the_client(root: Path) -> int:
    """350 MB in 3,000 files: 60 libraries hold nearly all of it. Returns the bytes."""
    chosen = random.Random(1)
    libraries = [chosen.randrange(1_000_000, 10_000_000) for _ in range(60)]
    small = [chosen.randrange(100, 16_000) for _ in range(2_940)]
    return _distro(root, [*libraries, *small])


def many_small(root: Path) -> int:
    """20,000 files of up to 8 kB. Returns the bytes."""
    chosen = random.Random(2)
    return _distro(root, [chosen.randrange(100, 8_000) for _ in range(20_000)])


def tiny(root: Path) -> int:
    """Three files. Returns the bytes."""
    return _distro(root, [1_000, 1_000])


def _distro(root: Path, sizes: Sequence[int]) -> int:
    """A distro with a file of each of ``sizes`` below its libraries, every 50 in a directory of their own."""
    tree = root / PACKAGE
    program = tree / "usr/bin/bitfusion"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    content = os.urandom(max(sizes))
    for index, size in enumerate(sizes):
        path = tree / LIBRARIES / f"part{index // _A_DIRECTORY}" / f"lib{index}.so"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[:size])
    return sum(sizes) + program.stat().st_size
