"""A cluster in a dict behind the commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bitfusiond.kubectl_bitfusion import options
from bitfusiond.operate.kubectl import KubectlError
from tests.fakes.kubectl import Recorded

Clusters = Callable[..., Recorded]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Clusters:
    """Makes the commands ask these paths, in place of kubectl."""

    def made(paths: dict[str, Any], created: dict[str, Any] | KubectlError | None = None) -> Recorded:
        recorded = Recorded(paths, created)
        monkeypatch.setattr(options, "kubectl", lambda chosen, seconds=0: recorded)
        return recorded

    return made
