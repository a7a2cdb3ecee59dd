"""Directories and filesystems of a test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def open_directory(prefix: str) -> Iterator[Path]:
    """A directory that other users may look into, as they may not below pytest's own; deleted whatever is in it."""
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", directory], check=True)
        shutil.rmtree(directory)


@contextmanager
def tmpfs(where: Path, options: str) -> Iterator[Path]:
    """A filesystem in memory, mounted on ``where`` with ``options``. Skips the test that may not mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a filesystem: run the tests as root")
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)
