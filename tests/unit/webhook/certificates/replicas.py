"""Replicas that keep their own certificates in one cluster, by a clock that can be set."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from prometheus_client import CollectorRegistry

from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.kube import SECRETS
from bitfusiond.webhook.certificates.cabundles import TARGETS
from bitfusiond.webhook.certificates.selfmanaged import SECRET, SelfManagedCertificate
from tests.fakes.cluster import FakeCluster
from tests.fakes.handshakes import ca_bundle, shake

NAMESPACE = "bwki"
LIVES = Lives(ca=600, leaf=120, backdate=15, settle=20)
POLL = 5.0


class Time:
    """The time of day: trio's, plus whatever the clock was set to."""

    def __init__(self) -> None:
        self.offset = time.time()

    def __call__(self) -> float:
        return self.offset + trio.current_time()


@asynccontextmanager
async def running(cluster: FakeCluster, clock: Time, count: int = 1) -> AsyncIterator[list[SelfManagedCertificate]]:
    replicas = [
        SelfManagedCertificate(
            cluster, CollectorRegistry(), namespace=NAMESPACE, lives=LIVES, poll_seconds=POLL, clock=clock
        )
        for _ in range(count)
    ]
    async with trio.open_nursery() as nursery:
        for replica in replicas:
            await nursery.start(replica.run)
        yield replicas
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(cluster: FakeCluster, clock: Time, count: int = 1) -> AsyncIterator[list[SelfManagedCertificate]]:
    """Replicas that are ready."""
    async with running(cluster, clock, count) as replicas:
        await ready(*replicas)
        yield replicas


async def ready(*replicas: SelfManagedCertificate, seconds: float = 3.0) -> None:
    with trio.fail_after(seconds):
        while any(replica.ready_reason() for replica in replicas):
            await trio.sleep(0.1)


def bundles(cluster: FakeCluster) -> list[bytes]:
    """One for each configuration."""
    found = [cluster.find(resource, None, name) for resource, name, _ in TARGETS]
    return [ca_bundle(each) for each in found if each is not None]


def secret(cluster: FakeCluster) -> dict[str, str]:
    found = cluster.find(SECRETS, NAMESPACE, SECRET)
    assert found is not None
    data: dict[str, str] = found["data"]
    return data


def accepted(cluster: FakeCluster, clock: Time, *replicas: SelfManagedCertificate) -> None:
    """Every API server, by either configuration, accepts every replica now."""
    for bundle in set(bundles(cluster)):
        for replica in replicas:
            shake(replica.context, bundle, clock())
