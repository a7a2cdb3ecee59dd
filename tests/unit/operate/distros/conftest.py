"""Directories for packages and distros."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.places import open_directory
from tests.unit.operate.distros.place import Place


@pytest.fixture
def place() -> Iterator[Place]:
    with open_directory("bitfusiond-distros-") as directory:
        yield Place(directory)
