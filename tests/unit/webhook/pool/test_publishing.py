"""The pool in the cluster: written once, by any replica, and by none against another."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond.core import names
from bitfusiond.core.pool import slices
from bitfusiond.core.pool.inventory import Gpu, Pool, Server
from bitfusiond.kube import DEVICE_CLASSES, RESOURCE_SLICES, ForbiddenError, NotFoundError, UnavailableError
from bitfusiond.webhook.pool.publishing import Publishing
from bitfusiond.webhook.pool.record import DROPPED_SECONDS, SETTLE_SECONDS
from tests.fakes.cluster import FakeCluster
from tests.unit.conftest import Events
from tests.unit.webhook.pool.cluster import asked, clock, names_of, writes

GPU = Gpu("0", "Tesla V100", 16000)
HOUR = 3600.0


def server(name: str = "a", gpus: int = 2, **fields: Any) -> Server:
    given = {"address": f"{name}.example:56001", "hostname": name, **fields}
    return Server(name, gpus=tuple(dataclasses.replace(GPU, id=str(number)) for number in range(gpus)), **given)


class Replica:
    """A replica with an inventory that the test changes."""

    def __init__(self, cluster: FakeCluster, *servers: Server) -> None:
        self.pool = Pool(servers)
        self.metrics = CollectorRegistry()
        self.publishing = Publishing(cluster, self.metrics, lambda: self.pool, clock)

    def change(self, *servers: Server) -> None:
        self.pool = Pool(servers)
        self.publishing.take_up()

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.get_sample_value(f"bitfusiond_pool_{name}", labels)

    def goes_down(self, name: str = "a") -> None:
        self.publishing.probed(name, answered=False, went_down=True)

    def hears(self, name: str = "a", *, answers: int = 1) -> None:
        for _ in range(answers):
            self.publishing.probed(name, answered=True, went_down=False)


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for replica in replicas:
            await nursery.start(replica.publishing.run)
        await trio.sleep(2)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


def stored(cluster: FakeCluster, name: str = "a") -> dict[str, Any]:
    found = cluster.find(RESOURCE_SLICES, None, f"bitfusion.io-{name}")
    assert found is not None
    return found


def published(cluster: FakeCluster) -> list[str]:
    return [slices.server_name(name) for name in names_of(cluster.all(RESOURCE_SLICES))]


def generation(cluster: FakeCluster, name: str = "a") -> int:
    number: int = stored(cluster, name)["spec"]["pool"]["generation"]
    return number


def tainted(cluster: FakeCluster, name: str = "a") -> bool:
    taints = [device.get("taints") for device in stored(cluster, name)["spec"]["devices"]]
    assert taints.count(taints[0]) == len(taints), "all devices of a server, or none"
    return bool(taints[0])


async def test_a_pool_is_published_and_nothing_is_written_in_the_next_hour(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    """1,000 GPUs on 100 servers, two replicas."""
    servers = [server(f"gpu-{number:03}", 10) for number in range(100)]
    replicas = [Replica(cluster, *servers) for _ in range(2)]
    async with running(*replicas):
        assert len(published(cluster)) == 100
        assert sum(len(each["spec"]["devices"]) for each in cluster.all(RESOURCE_SLICES)) == 1000
        assert {each["spec"]["pool"]["generation"] for each in cluster.all(RESOURCE_SLICES)} == {1}
        assert writes(cluster)["patch"] <= 202, "at most one of each replica for each object"
        assert names_of(cluster.all(DEVICE_CLASSES)) == ["bitfusion.io"]
        assert [replica.metric("behind") for replica in replicas] == [0, 0]
        cluster.requests.clear()
        await trio.sleep(HOUR)
        assert {verb for verb, _ in asked(cluster)} <= {"list", "watch"}
        assert max(asked(cluster).values()) <= 2 * 7, "each replica lists every ten minutes, to be sure"
        assert [replica.publishing.problem() for replica in replicas] == [None, None]


async def test_a_replica_that_starts_beside_others_writes_nothing(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(Replica(cluster, server())):
        before = writes(cluster)
        async with running(Replica(cluster, server())):
            await trio.sleep(HOUR)
            assert writes(cluster) == before


async def test_gpus_come_and_go_with_a_new_generation_of_their_server_alone(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replica = Replica(cluster, server(), server("b"))
    async with running(replica):
        replica.change(server(gpus=3), server("b"))
        await trio.sleep(1)
        assert (generation(cluster), generation(cluster, "b")) == (2, 1)
        assert len(stored(cluster)["spec"]["devices"]) == 3
        replica.change(server(gpus=1, cuda_version="12.4"), server("c"))
        await trio.sleep(1)
        assert published(cluster) == ["a", "c"]
        assert (generation(cluster), generation(cluster, "c")) == (3, 1)
        replica.change(server(gpus=1, cuda_version="12.4"), server("c"))
        await trio.sleep(1)
        assert generation(cluster) == 3
    assert writes(cluster, RESOURCE_SLICES) == {"patch": 5, "delete": 1}


async def test_a_change_that_reaches_another_replica_later_is_written_once(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    """Between the two files lie 90 seconds, in which neither writes against the other."""
    old, new = (server(), server("b"), server("gone")), (server(gpus=4), server("b"), server("new"))
    first, second = Replica(cluster, *old), Replica(cluster, *old)
    async with running(first, second):
        cluster.requests.clear()
        first.change(*new)
        await trio.sleep(1)
        assert len(stored(cluster)["spec"]["devices"]) == 4
        await trio.sleep(89)
        assert len(stored(cluster)["spec"]["devices"]) == 4, "not undone"
        second.change(*new)
        await trio.sleep(300)
        assert published(cluster) == ["a", "b", "new"]
        assert generation(cluster) == 2
        # Nobody can know whether a newer file or an accident took a slice away: it is back at once, and goes again.
        assert writes(cluster) == {"patch": 3, "delete": 2}


async def test_a_server_that_leaves_while_it_is_being_written_does_not_stay(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replica = Replica(cluster, server())
    async with running(replica):
        release = cluster.hang(verb="patch")
        replica.change(server(), server("b"))
        await trio.sleep(1)
        replica.change(server(gpus=3))
        replica.hears("b")
        await trio.sleep(1)
        release()
        await trio.sleep(1)
        assert published(cluster) == ["a"]
        assert len(stored(cluster)["spec"]["devices"]) == 3
        assert writes(cluster, RESOURCE_SLICES) == {"patch": 3, "delete": 1}


async def test_a_difference_that_stands_is_mended_once_it_has_stood(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replica = Replica(cluster, server())
    async with running(replica):
        document = stored(cluster)
        document["spec"]["devices"].pop()
        cluster.put(RESOURCE_SLICES, document)
        stray = {"metadata": {"name": "bitfusion.io-stray", "labels": dict(slices.LABELS)}, "spec": document["spec"]}
        cluster.put(RESOURCE_SLICES, stray)
        cluster.put(DEVICE_CLASSES, {"metadata": {"name": "bitfusion.io"}, "spec": {"selectors": []}})
        await trio.sleep(SETTLE_SECONDS - 5)
        assert len(stored(cluster)["spec"]["devices"]) == 1
        assert replica.metric("behind") == 3
        await trio.sleep(10)
        assert len(stored(cluster)["spec"]["devices"]) == 2
        assert generation(cluster) == 2
        assert published(cluster) == ["a"]
        assert cluster.all(DEVICE_CLASSES)[0]["spec"] == slices.device_class()["spec"]
        assert replica.metric("behind") == 0


async def test_what_was_deleted_is_back_at_once(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(Replica(cluster, server())):
        cluster.remove(RESOURCE_SLICES, None, "bitfusion.io-a")
        cluster.remove(DEVICE_CLASSES, None, "bitfusion.io")
        await trio.sleep(1)
        assert published(cluster) == ["a"]
        assert names_of(cluster.all(DEVICE_CLASSES)) == ["bitfusion.io"]


async def test_slices_of_others_are_left_alone(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    spec = {"driver": names.DRIVER, "pool": {"name": "x"}, "devices": []}
    cluster.put(RESOURCE_SLICES, {"metadata": {"name": "unlabelled"}, "spec": spec})
    labels = dict(slices.LABELS)
    cluster.put(
        RESOURCE_SLICES,
        {"metadata": {"name": "other", "labels": labels}, "spec": {**spec, "driver": "gpu.example.com"}},
    )
    replica = Replica(cluster, server())
    async with running(replica):
        await trio.sleep(HOUR)
        replica.change(server("b"))
        await trio.sleep(HOUR)
        assert published(cluster) == ["b", "other", "unlabelled"]


async def test_what_others_add_to_the_device_class_stays(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    spec = {**slices.device_class()["spec"], "config": [{"opaque": {"driver": "x", "parameters": {}}}]}
    cluster.put(DEVICE_CLASSES, {"metadata": {"name": "bitfusion.io", "labels": dict(slices.LABELS)}, "spec": spec})
    async with running(Replica(cluster, server())):
        await trio.sleep(HOUR)
        assert writes(cluster, DEVICE_CLASSES) == {}


# --- taints -----------------------------------------------------------------------------------------------------------


async def test_a_server_that_goes_down_is_tainted_and_comes_back(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replica = Replica(cluster, server(), server("b"))
    async with running(replica):
        replica.goes_down()
        await trio.sleep(1)
        assert (tainted(cluster), tainted(cluster, "b"), generation(cluster)) == (True, False, 2)
        taint = stored(cluster)["spec"]["devices"][0]["taints"][0]
        assert (taint["key"], taint["effect"]) == ("bitfusion.io/unreachable", "NoSchedule")
        replica.change(server(gpus=4), server("b"))
        await trio.sleep(1)
        assert (tainted(cluster), generation(cluster)) == (True, 3)
        assert stored(cluster)["spec"]["devices"][0]["taints"][0] == taint, "since when it is down does not change"
        replica.hears(answers=2)
        await trio.sleep(1)
        assert tainted(cluster)
        replica.hears()
        await trio.sleep(1)
        assert (tainted(cluster), generation(cluster)) == (False, 4)


async def test_replicas_that_see_different_things_write_once_for_each_transition(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    near, far = Replica(cluster, server()), Replica(cluster, server())
    async with running(near, far):
        cluster.requests.clear()
        for _ in range(3):
            far.goes_down()
            for _ in range(60):  # ten minutes of probes
                await trio.sleep(10)
                near.hears()
                far.publishing.probed("a", answered=False, went_down=False)
            assert not tainted(cluster), "who reaches it takes the taint away, and it is not set again"
            far.hears(answers=3)
        assert writes(cluster) == {"patch": 6}


async def test_both_see_it_go_and_come_back(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    one, other = Replica(cluster, server()), Replica(cluster, server())
    async with running(one, other):
        cluster.requests.clear()
        one.goes_down()
        await trio.sleep(3)
        other.goes_down()
        await trio.sleep(3)
        assert tainted(cluster)
        for _ in range(3):
            one.hears()
            other.hears()
            await trio.sleep(1)
        assert not tainted(cluster)
        assert writes(cluster)["patch"] <= 3


async def test_an_answer_before_the_taint_was_written_takes_it_back(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replica = Replica(cluster, server())
    async with running(replica):
        with cluster.failing(UnavailableError("down"), verb="patch"):
            replica.goes_down()
            await trio.sleep(5)
            replica.hears()
        await trio.sleep(120)
        assert (tainted(cluster), generation(cluster)) == (False, 1)
        assert replica.publishing.problem() is None


async def test_a_slice_that_comes_back_has_the_taint_of_a_server_that_is_down(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replica = Replica(cluster, server())
    async with running(replica):
        replica.goes_down()
        await trio.sleep(1)
        cluster.remove(RESOURCE_SLICES, None, "bitfusion.io-a")
        await trio.sleep(1)
        assert tainted(cluster)
        replica.change(server(address="elsewhere.example:1"))
        await trio.sleep(1)
        replica.hears(answers=3)
        await trio.sleep(1)
        assert not tainted(cluster)


# --- what goes wrong --------------------------------------------------------------------------------------------------


async def test_an_api_server_that_is_away_is_waited_for(
    cluster: FakeCluster, autojump_clock: MockClock, events: Events
) -> None:
    replica = Replica(cluster, server())
    with cluster.failing(UnavailableError("connection refused")):
        async with running(replica):
            await trio.sleep(300)
            problem = replica.publishing.problem()
            assert problem is not None
            assert "cannot be listed (connection refused)" in problem
            assert len(cluster.requests) < 60, "with a back-off"
    assert [event["level"] for event in events("the pool is not as it should be")] == ["ERROR"]
    async with running(replica):
        with cluster.failing(UnavailableError("connection refused")):
            cluster.disconnect()
            replica.change(server(gpus=5))
            await trio.sleep(300)
            assert len(stored(cluster)["spec"]["devices"]) == 2
        await trio.sleep(120)
        assert len(stored(cluster)["spec"]["devices"]) == 5
        assert replica.publishing.problem() is None


async def test_a_cluster_without_the_api_is_told_so_and_asked_again(
    cluster: FakeCluster, autojump_clock: MockClock, events: Events
) -> None:
    replica = Replica(cluster, server())
    missing = NotFoundError("the server could not find the requested resource")
    with cluster.failing(missing):
        async with running(replica):
            await trio.sleep(HOUR)
            assert "it takes Kubernetes 1.36 or later" in str(replica.publishing.problem())
            assert 100 < len(cluster.requests) < 500
            assert 5 <= len(events("the pool is not as it should be")) <= 7
    async with running(replica):
        assert published(cluster) == ["a"]


async def test_a_write_that_is_refused_is_tried_again_and_said(
    cluster: FakeCluster, autojump_clock: MockClock, events: Events
) -> None:
    replica = Replica(cluster, server())
    async with running(replica):
        with cluster.failing(ForbiddenError("no"), verb="patch", resource=RESOURCE_SLICES):
            replica.change(server(gpus=3), server("b"))
            await trio.sleep(300)
            told = "ResourceSlice bitfusion.io-a, ResourceSlice bitfusion.io-b"
            assert replica.publishing.problem() == f"2 objects of the pool cannot be written (no): {told}"
            failures = replica.metric("write_failures_total", kind="ResourceSlice")
            assert failures is not None
            assert 10 < failures < 40
            assert len(events("the pool is not as it should be")) == 1
        await trio.sleep(60)
        assert (published(cluster), replica.publishing.problem()) == (["a", "b"], None)


async def test_fields_that_the_api_server_drops_are_told_and_not_written_again_and_again(
    cluster: FakeCluster, autojump_clock: MockClock, events: Events
) -> None:
    def drop(document: dict[str, Any]) -> None:
        for device in document["spec"]["devices"]:
            device.pop("allowMultipleAllocations", None)
            device.pop("taints", None)

    cluster.drop(RESOURCE_SLICES, drop)
    one, other = Replica(cluster, server(), server("b")), Replica(cluster, server(), server("b"))
    async with running(one, other):
        one.goes_down()
        await trio.sleep(HOUR - 60)
        assert one.publishing.problem() == (
            "the pool cannot be counted, the API server drops spec.devices[].allowMultipleAllocations,"
            " spec.devices[].taints: its feature gates DRAConsumableCapacity and DRADeviceTaints must be on, as they"
            " are from Kubernetes 1.36 on"
        )
        assert one.metric("dropped_fields_total", kind="ResourceSlice") is not None
        assert writes(cluster, RESOURCE_SLICES)["patch"] <= 5
        cluster._dropping.clear()
        await trio.sleep(DROPPED_SECONDS + 2 * SETTLE_SECONDS)
        assert stored(cluster)["spec"]["devices"][0]["allowMultipleAllocations"]
        assert [each.publishing.problem() for each in (one, other)] == [None, None]
    assert events("the pool is not as it should be")


async def test_replicas_agree_whatever_happens(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    """Files at different times, taints, deletes, conflicts, outages; then quiet: all is as the last file has it."""
    chance = random.Random(7)
    replicas = [Replica(cluster, server()) for _ in range(3)]
    async with running(*replicas):
        for _ in range(60):
            pool = [server(name, chance.randint(1, 4)) for name in "abcdef" if chance.random() < 0.7] or [server()]
            for replica in chance.sample(replicas, 3):
                replica.change(*pool)
                await trio.sleep(chance.choice([0, 0.05, 1, 60]))
                chance.choice(replicas).goes_down(chance.choice("abcdef"))
                there = cluster.all(RESOURCE_SLICES)
                if there and chance.random() < 0.2:
                    cluster.remove(RESOURCE_SLICES, None, chance.choice(names_of(there)))
                if chance.random() < 0.2:
                    cluster.fail_with(UnavailableError("down"), 3)
                if chance.random() < 0.1:
                    cluster.disconnect()
        for _ in range(6):
            await trio.sleep(100)
            for replica in replicas:
                for name in "abcdef":
                    replica.hears(name)
        assert published(cluster) == [each.name for each in pool]
        for each in pool:
            assert stored(cluster, each.name)["spec"]["devices"] == slices.resource_slice(each, 1)["spec"]["devices"]
        before = writes(cluster)
        await trio.sleep(HOUR)
        assert writes(cluster) == before
        assert [replica.metric("behind") for replica in replicas] == [0, 0, 0]
