"""Who has how much of the pool, as a watch of claims tells it."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from bitfusiond.kube import CLAIMS, UnavailableError
from bitfusiond.webhook.pool.claims import Claims, Pod
from tests.fakes.cluster import FakeCluster


def result(server: str = "a", shares: str | None = "60", **fields: Any) -> dict[str, Any]:
    consumed = {} if shares is None else {"consumedCapacity": {"shares": shares}}
    return {"driver": "bitfusion.io", "pool": server, "device": "gpu-0", "request": "gpu", **consumed, **fields}


def claim(name: str, *results: dict[str, Any], pods: tuple[str, ...] = ()) -> dict[str, Any]:
    status: dict[str, Any] = {"reservedFor": [{"resource": "pods", "name": each, "uid": f"u-{each}"} for each in pods]}
    if results:
        status["allocation"] = {"devices": {"results": list(results)}}
    return {"metadata": {"name": name, "namespace": "team"}, "spec": {"devices": {}}, "status": status}


@asynccontextmanager
async def running(cluster: FakeCluster) -> AsyncIterator[Claims]:
    claims = Claims()
    async with trio.open_nursery() as nursery:
        await nursery.start(claims.run, cluster)
        await trio.sleep(1)
        yield claims
        nursery.cancel_scope.cancel()


async def test_shares_are_counted_by_server_as_claims_come_change_and_go(autojump_clock: MockClock) -> None:
    cluster = FakeCluster("team")
    with cluster.failing(UnavailableError("connection refused")):
        async with running(cluster) as claims:
            assert claims.allocated() is None
    cluster.put(CLAIMS, claim("one", result(), result("b", "40"), pods=("p",)))
    async with running(cluster) as claims:
        assert claims.allocated() == {"a": 60, "b": 40}
        cluster.put(CLAIMS, claim("two", result("a", "1"), result("a", "2"), pods=("q", "r")))
        cluster.put(CLAIMS, claim("waiting"))
        await trio.sleep(1)
        assert claims.allocated() == {"a": 63, "b": 40}
        assert sorted(claims.pods_on({"a", "none"})) == [("a", Pod("team", each, f"u-{each}")) for each in "pqr"]
        cluster.put(CLAIMS, claim("one"))
        cluster.remove(CLAIMS, "team", "two")
        await trio.sleep(1)
        assert claims.allocated() == {}
        assert list(claims.pods_on({"a", "b"})) == []
        cluster.put(CLAIMS, claim("three", result()))
        cluster.expire()
        await trio.sleep(60)
        assert claims.allocated() == {"a": 60}


async def test_what_is_not_ours_or_takes_nothing_does_not_count(autojump_clock: MockClock) -> None:
    cluster = FakeCluster("team")
    others = (result(driver="gpu.example.com"), result(adminAccess=True), result(pool=None))
    cluster.put(CLAIMS, claim("one", *others))
    cluster.put(CLAIMS, claim("two", result(shares=None), result("b", "much"), *others))
    broken = claim("three")
    broken["status"] = {"allocation": {"devices": {"results": "x"}}, "reservedFor": 7}
    cluster.put(CLAIMS, broken)
    async with running(cluster) as claims:
        assert claims.allocated() == {"a": 100, "b": 100}


@pytest.mark.slow
@pytest.mark.skipif(sys.gettrace() is not None, reason="a tracer's own memory would be counted")
async def test_ten_thousand_claims_take_less_than_five_megabytes(autojump_clock: MockClock) -> None:
    cluster = FakeCluster("team")
    for number in range(10_000):
        name = f"train-{number:05}-bitfusion-0-x7k2p"
        cluster.put(CLAIMS, claim(name, result(f"gpu-{number % 100:02}", "10"), pods=(f"train-{number:05}-abcde",)))
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        async with running(cluster) as claims:
            allocated = claims.allocated()
            after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    assert allocated is not None
    assert len(allocated) == 100
    assert set(allocated.values()) == {1000}
    kept = sum(difference.size_diff for difference in after.compare_to(before, "filename"))
    assert kept < 5e6, kept
