"""A pod's volumes, and the real executable run on them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.places import open_directory
from tests.fakes.volumes import Pod


@pytest.fixture
def pod() -> Iterator[Pod]:
    with open_directory("bitfusiond-populate-") as directory:
        yield Pod(directory)
