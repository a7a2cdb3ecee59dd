"""A driver of this process on directories of its own, and the cluster that it asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
from prometheus_client import CollectorRegistry

from bitfusiond.core.fields import Json
from bitfusiond.kube import CLAIMS, RESOURCE_SLICES
from bitfusiond.plugin import sockets
from bitfusiond.plugin.dra import service
from bitfusiond.plugin.dra.servicers import Registration
from bitfusiond.plugin.metrics import DriverMetrics
from tests.fakes import pool
from tests.fakes.cluster import FakeCluster
from tests.fakes.dra_kubelet import Claim

STOP_SECONDS = 20.0


@dataclass
class World:
    """A node's directories and a cluster with the slices of two servers; what outlives each driver."""

    plugins: Path
    registry: Path
    cdi: Path
    cluster: FakeCluster = field(default_factory=lambda: FakeCluster("team"))
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    registration: Registration | None = None

    @property
    def places(self) -> service.Places:
        return service.Places(self.plugins / "bitfusion.io/dra.sock", self.registry / "bitfusion.io-reg.sock", self.cdi)

    def put(self, name: str, *results: Json, config: list[Json] | None = None, pod_claim: str = "bitfusion-0") -> Claim:
        """A claim in the cluster, in a kubelet's words."""
        body = pool.claim(name, *results, config=config, pod_claim=pod_claim)
        stored = self.cluster.put(CLAIMS, body)
        return "team", name, stored["metadata"]["uid"]

    def file(self, claim: Claim) -> Path:
        return self.cdi / f"bitfusion.io-claim_{claim[2]}.json"

    def env(self, claim: Claim) -> dict[str, str]:
        """The variables that the claim's containers get."""
        (device,) = json.loads(self.file(claim).read_text())["devices"]
        assert device["name"] == claim[2]
        return dict(each.split("=", 1) for each in device["containerEdits"]["env"])

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.get_sample_value(f"bitfusiond_plugin_dra_{name}", labels)

    def asked(self) -> list[str]:
        """What the API server was asked, by kind and name."""
        return [f"{each.resource.plural}/{each.name}" for each in self.cluster.requests]


@pytest.fixture
def world(directory: Path) -> World:
    found = World(directory / "plugins", directory / "registry", directory / "cdi")
    found.plugins.mkdir()
    found.registry.mkdir()
    for each in pool.slices().values():
        found.cluster.put(RESOURCE_SLICES, each)
    return found


RunDriver = Callable[[], AbstractAsyncContextManager[trio.CancelScope]]


@pytest.fixture
def run_driver(world: World, monkeypatch: pytest.MonkeyPatch) -> RunDriver:
    """``async with run_driver() as driver``: it is stopped at the end, or sooner where a test cancels that scope."""
    monkeypatch.setattr(sockets, "POLL_SECONDS", 0.05)

    async def serve(scope: trio.CancelScope) -> None:
        world.metrics = CollectorRegistry()
        metrics = DriverMetrics(world.metrics)
        world.registration = Registration(world.places.endpoint, metrics)
        with scope:
            await service.serve(world.places, world.cluster, world.registration, metrics)

    @asynccontextmanager
    async def run() -> AsyncIterator[trio.CancelScope]:
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(serve, scope)
            yield scope
            scope.cancel()
            nursery.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
        assert not nursery.cancel_scope.cancelled_caught, "the driver did not stop"

    return run
