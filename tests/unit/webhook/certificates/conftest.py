"""A cluster in memory with both configurations, and the clock of its replicas."""

from __future__ import annotations

import pytest

from tests.unit.webhook.certificates.configured import Cluster, put_configurations
from tests.unit.webhook.certificates.replicas import NAMESPACE, Time


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(NAMESPACE)
    put_configurations(found)
    return found


@pytest.fixture
def clock() -> Time:
    return Time()
