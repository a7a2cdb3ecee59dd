"""One real API server for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.harness.apiserver import APIServer, started

_HOW = "set KUBEBUILDER_ASSETS to a directory with kube-apiserver and etcd (setup-envtest use -p path) to run this"


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        pytest.skip(_HOW)
    with started(Path(assets), tmp_path_factory.mktemp("apiserver")) as server:
        yield server
