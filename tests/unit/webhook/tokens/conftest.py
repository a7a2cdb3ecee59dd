"""A cluster in memory with the sources of the tokens."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from tests.fakes.cluster import FakeCluster
from tests.unit.webhook.tokens.cluster import put_sources


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster("team")
    put_sources(cluster)
    return cluster


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()
