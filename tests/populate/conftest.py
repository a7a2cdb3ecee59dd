"""A pod's volumes, and the real executable run on them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.populate.pod import Pod


@pytest.fixture
def pod() -> Iterator[Pod]:
    """Not below pytest's own directory, into which another user may not look."""
    directory = Path(tempfile.mkdtemp(prefix="bitfusiond-populate-"))
    directory.chmod(0o755)
    try:
        yield Pod(directory)
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", directory], check=True)
        shutil.rmtree(directory)
