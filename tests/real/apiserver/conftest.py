"""One real API server for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.harness.apiserver import APIServer, started


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with started(tmp_path_factory.mktemp("apiserver")) as server:
        yield server
