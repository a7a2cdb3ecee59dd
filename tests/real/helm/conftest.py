"""The chart of these sources, and Helm."""

from __future__ import annotations

import pytest

from bitfusiond.operate.chart import package
from tests.real.harness import helm
from tests.real.harness.helm import Helm
from tests.unit.manifests.overlays import overlay


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    program = helm.program()
    directory = tmp_path_factory.mktemp("chart")
    package.run(overlay, directory, print)
    return Helm(program, directory / f"bitfusiond-{package.version()}.tgz")
