"""A real API server for the operator's commands, with kubectl; the tests play the controllers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.harness.apiserver import APIServer
from tests.real.harness.operator import Operator
from tests.real.harness.webhook import routed


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with routed(tmp_path_factory.mktemp("operate")) as server:
        yield server


@pytest.fixture
def operator(api: APIServer, tmp_path: Path) -> Operator:
    """Runs the commands as an administrator of ``api``."""
    return Operator.of_environment(api.write_kubeconfig(tmp_path / "kubeconfig"))
