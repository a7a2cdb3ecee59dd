"""All of the pool together: a server dies under its pods and comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond.core import names
from bitfusiond.core.pool.inventory import Gpu, Pool, Server
from bitfusiond.kube import CLAIMS, EVENTS, RESOURCE_SLICES, ForbiddenError, UnavailableError
from bitfusiond.webhook.events import SERVER_GONE, Events
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.pool.view import PoolView
from tests.fakes.cluster import FakeCluster
from tests.unit.webhook.pool.cluster import asked, clock, names_of, writes
from tests.unit.webhook.pool.test_claims import claim, result

GPUS = (Gpu("0", "T4", 15000), Gpu("1", "T4", 15000))


class Replica:
    """A replica on servers that the test lets die."""

    def __init__(self, cluster: FakeCluster, *servers: str) -> None:
        self.pool = Pool(tuple(Server(name, f"{name}:1", GPUS, name) for name in servers))
        self.dead: set[str] = set()
        self.metrics = CollectorRegistry()
        self.cluster = cluster
        self.namespaces = Namespaces(names.EXEMPT_NAMESPACES)
        events = Events(self.namespaces.serves)
        self.view = PoolView(
            cluster,
            self.metrics,
            self.namespaces,
            lambda: self.pool,
            partial(events.of_pod, cluster, reason=SERVER_GONE),
            connect=self.connect,
            clock=clock,
        )

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        if host in self.dead:
            raise OSError("refused")
        return trio.testing.memory_stream_pair()[0]

    def shown(self, server: str = "a") -> list[float | None]:
        """Offered, allocated, free, up."""
        figures = ("shares_offered", "shares_allocated", "shares_free", "server_up")
        return [self.metrics.get_sample_value(f"bitfusiond_pool_{each}", {"server": server}) for each in figures]


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for replica in replicas:
            await nursery.start(replica.namespaces.run, replica.cluster)
            await nursery.start(replica.view.run)
        await trio.sleep(2)
        yield
        nursery.cancel_scope.cancel()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster("team")


def tainted(cluster: FakeCluster, name: str = "a") -> bool:
    found = cluster.find(RESOURCE_SLICES, None, f"bitfusion.io-{name}")
    assert found is not None
    return "taints" in found["spec"]["devices"][0]


async def test_a_dead_server_is_tainted_its_pods_are_told_once_and_all_is_well_again(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replicas = [Replica(cluster, "a", "b") for _ in range(2)]
    cluster.put(CLAIMS, claim("one", result("a", "60"), result("a", "40"), pods=("train",)))
    cluster.put(CLAIMS, claim("two", result("b", "30"), pods=("other",)))
    async with running(*replicas):
        assert replicas[0].shown() == [200, 100, 100, 1]
        assert replicas[0].shown("b") == [200, 30, 170, 1]
        for replica in replicas:
            replica.dead.add("a")
        await trio.sleep(25)
        assert not tainted(cluster)
        await trio.sleep(25)
        assert (tainted(cluster), tainted(cluster, "b")) == (True, False)
        assert replicas[1].shown() == [200, 100, 0, 0]
        (event,) = cluster.all(EVENTS)
        assert event["involvedObject"] == {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "train",
            "uid": "u-train",
            "namespace": "team",
        }
        assert (event["reason"], event["type"]) == ("BitfusionServerGone", "Warning")
        assert event["message"].startswith("GPU server a (a:1), which has GPUs of this pod, does not answer: ")
        cluster.put(CLAIMS, claim("three", result("a", "10"), pods=("late",)))  # it had just been placed
        await trio.sleep(600)
        assert sorted(each["involvedObject"]["name"] for each in cluster.all(EVENTS)) == ["late", "train"]
        assert asked(cluster)["create", "events"] <= 4, "one try of each replica for each pod"
        for replica in replicas:
            replica.dead.clear()
        await trio.sleep(45)
        assert not tainted(cluster)
        assert replicas[0].shown() == [200, 110, 90, 1]
        assert writes(cluster, RESOURCE_SLICES)["patch"] <= 8


async def test_an_hour_in_which_nothing_happens_writes_nothing(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    replica = Replica(cluster, *(f"s{number}" for number in range(20)))
    replica.dead.add("s7")
    async with running(replica):
        await trio.sleep(60)
        cluster.requests.clear()
        await trio.sleep(3600)
        assert {verb for verb, _ in asked(cluster)} <= {"list", "watch"}
        assert sum(asked(cluster).values()) <= 5 * 2 * 7, "four watches and the namespaces', listed every ten minutes"


async def test_events_wait_for_an_api_server_that_is_away_and_give_up_what_is_not_permitted(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replica = Replica(cluster, "a")
    for name in ("one", "two", "three"):
        cluster.put(CLAIMS, claim(name, result("a", "10"), pods=(f"p-{name}",)))
    replica.dead.add("a")
    async with running(replica):
        with cluster.failing(UnavailableError("down"), verb="create"):
            await trio.sleep(120)
            assert asked(cluster)["create", "events"] <= 10, "one a round"
        cluster.fail_with(ForbiddenError("no"), 1, verb="create")
        await trio.sleep(60)
        assert len(cluster.all(EVENTS)) == 2
        before = asked(cluster)["create", "events"]
        await trio.sleep(600)
        assert asked(cluster)["create", "events"] == before


async def test_pods_of_namespaces_that_are_left_alone_are_not_told(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    replica = Replica(cluster, "a")
    replica.dead.add("a")
    lost = claim("one", result("a", "10"), pods=("p",))
    lost["metadata"]["namespace"] = "kube-system"
    cluster.put(CLAIMS, lost)
    async with running(replica):
        await trio.sleep(120)
        assert cluster.all(EVENTS) == []


async def test_a_pool_that_changes_is_probed_and_published(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    replica = Replica(cluster, "a", "b")
    async with running(replica):
        replica.pool = Pool((replica.pool.servers[1], Server("c", "c:1", GPUS[:1], "c")))
        replica.view.take_up()
        await trio.sleep(20)
        assert names_of(cluster.all(RESOURCE_SLICES)) == ["bitfusion.io-b", "bitfusion.io-c"]
        assert replica.shown("a") == [None, None, None, None]
        assert replica.shown("c") == [100, 0, 100, 1]
        assert replica.metrics.get_sample_value("bitfusiond_pool_problem") == 0
        assert replica.view.problem() is None


async def test_without_its_first_lists_no_figure_is_made_up(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    replica = Replica(cluster, "a")
    with cluster.failing(UnavailableError("down")):
        async with running(replica):
            await trio.sleep(60)
            assert replica.shown() == [None, None, None, 1]
            assert replica.metrics.get_sample_value("bitfusiond_pool_problem") == 1
