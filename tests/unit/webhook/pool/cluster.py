"""A cluster in memory, a time of day that goes with trio's clock, and what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import trio

from bitfusiond.kube import Resource
from tests.fakes.cluster import FakeCluster

NOON = 1_796_000_000.0  # of some day in 2026


def clock() -> float:
    """The time of day."""
    return NOON + trio.current_time()


def writes(cluster: FakeCluster, *resources: Resource) -> Counter[str]:
    """How many requests there were of each verb that writes."""
    return Counter(
        request.verb
        for request in cluster.requests
        if request.verb not in {"list", "watch", "get"} and (not resources or request.resource in resources)
    )


def asked(cluster: FakeCluster) -> Counter[tuple[str, str]]:
    """How many requests there were of each verb and kind."""
    return Counter((request.verb, request.resource.plural) for request in cluster.requests)


def names_of(documents: Sequence[dict[str, dict[str, str]]]) -> list[str]:
    return [document["metadata"]["name"] for document in documents]
