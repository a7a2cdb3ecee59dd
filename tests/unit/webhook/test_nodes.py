"""What the nodes have of our resources, as a watch tells it."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitfusiond.core import names
from bitfusiond.kube import NODES, UnavailableError
from bitfusiond.webhook.nodes import Nodes, _keep
from tests.fakes.cluster import FakeCluster

GPU, TINY = names.GPU, "bitfusion.io/tiny"


def node(name: str, **allocatable: Any) -> dict[str, Any]:
    amounts = {"cpu": "8", "memory": "32Gi", **{key.replace("gpu", GPU): value for key, value in allocatable.items()}}
    return {"metadata": {"name": name}, "status": {"allocatable": amounts, "capacity": amounts}}


@asynccontextmanager
async def running(cluster: FakeCluster) -> AsyncIterator[Nodes]:
    nodes = Nodes()
    async with trio.open_nursery() as nursery:
        await nursery.start(nodes.run, cluster)
        await trio.sleep(1)
        yield nodes
        nursery.cancel_scope.cancel()


async def test_before_the_first_list_nothing_is_known_and_after_it_every_node_is(
    autojump_clock: MockClock,
) -> None:
    cluster = FakeCluster()
    cluster.put(NODES, node("a", gpu="1k"))
    cluster.put(NODES, node("b", **{TINY: "3"}))
    with cluster.failing(UnavailableError("connection refused")):
        async with running(cluster) as nodes:
            assert nodes.largest() is None
    async with running(cluster) as nodes:
        assert nodes.largest() == {GPU: 1000, TINY: 3}


async def test_nodes_that_come_change_and_go_are_followed(autojump_clock: MockClock) -> None:
    cluster = FakeCluster()
    cluster.put(NODES, node("a", gpu=100))
    async with running(cluster) as nodes:
        cluster.put(NODES, node("a", gpu="400"))
        cluster.put(NODES, node("b", gpu="300"))
        await trio.sleep(1)
        assert nodes.largest() == {GPU: 400}
        cluster.remove(NODES, None, "a")
        await trio.sleep(1)
        assert nodes.largest() == {GPU: 300}
        cluster.remove(NODES, None, "b")
        cluster.expire()
        await trio.sleep(60)
        assert nodes.largest() is None


async def test_a_node_whose_kubelet_restarts_counts_with_what_it_had(autojump_clock: MockClock) -> None:
    cluster = FakeCluster()
    cluster.put(NODES, node("a", gpu="100"))
    cluster.put(NODES, node("b", gpu="0"))
    async with running(cluster) as nodes:
        cluster.put(NODES, node("a", gpu="0"))
        await trio.sleep(1)
        assert nodes.largest() == {GPU: 100}
        cluster.expire()  # so that all nodes are listed anew
        await trio.sleep(60)
        assert nodes.largest() == {GPU: 100}
        cluster.put(NODES, node("a", gpu="50"))
        cluster.put(NODES, node("b"))
        await trio.sleep(1)
        assert nodes.largest() == {GPU: 50}


async def test_a_lost_api_server_leaves_what_is_known(autojump_clock: MockClock) -> None:
    cluster = FakeCluster()
    cluster.put(NODES, node("a", gpu=100))
    async with running(cluster) as nodes:
        with cluster.failing(UnavailableError("connection refused")):
            cluster.disconnect()
            cluster.put(NODES, node("a", gpu=50))
            await trio.sleep(300)
            assert nodes.largest() == {GPU: 100}
        await trio.sleep(120)
        assert nodes.largest() == {GPU: 50}


async def test_a_cordoned_node_counts_and_an_amount_that_is_none_does_not(
    autojump_clock: MockClock,
) -> None:
    cluster = FakeCluster()
    cluster.put(NODES, {**node("cordoned", gpu="100"), "spec": {"unschedulable": True}})
    broken = node("broken", gpu="many")
    broken["status"]["allocatable"] |= {TINY: "1500m", "bitfusion.io/other": "7"}
    cluster.put(NODES, broken)
    for name, status in (("new", None), ("newer", {}), ("newest", {"allocatable": None})):
        cluster.put(NODES, {"metadata": {"name": name}, "status": status})
    async with running(cluster) as nodes:
        assert nodes.largest() == {GPU: 100, "bitfusion.io/other": 7}


@pytest.mark.slow
@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer's own memory would be counted")
async def test_five_thousand_nodes_take_less_than_three_megabytes(autojump_clock: MockClock) -> None:
    cluster = FakeCluster()
    images = {"images": [{"names": [f"registry.example/{index}"], "sizeBytes": 1} for index in range(5)]}
    for index in range(5000):
        each = node(f"node-{index:04}", **({"gpu": str(1000 + index)} if index % 10 == 9 else {}))
        cluster.put(NODES, {**each, "status": {**each["status"], **images}})
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        async with running(cluster) as nodes:
            largest = nodes.largest()
            after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    assert largest == {GPU: 5999}
    kept = sum(difference.size_diff for difference in after.compare_to(before, "filename"))
    assert kept < 3e6


def test_devices_that_are_unhealthy_for_a_while_still_count() -> None:
    """The kubelet takes them out of allocatable and leaves them in the capacity."""
    status = {"allocatable": {"bitfusion.io/gpu": "0", "cpu": "8"}, "capacity": {"bitfusion.io/gpu": "1k", "cpu": "8"}}
    kept = _keep({"metadata": {"name": "n"}, "status": status})
    assert kept["status"]["allocatable"] == {"bitfusion.io/gpu": "1k"}
