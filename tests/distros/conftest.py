"""Directories for packages and distros."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distros.place import Place


@pytest.fixture
def place() -> Iterator[Place]:
    """Not below pytest's own directory, into which another user may not look."""
    directory = Path(tempfile.mkdtemp(prefix="bitfusiond-distros-"))
    directory.chmod(0o755)
    try:
        yield Place(directory)
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", directory], check=True)
        shutil.rmtree(directory)
