"""All that the webhook's process does about the pool, in one nursery."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import trio
from prometheus_client import CollectorRegistry

from bitfusiond import probes
from bitfusiond.core.pool.inventory import Pool
from bitfusiond.kube import CLAIM_TEMPLATES, CLAIMS, Cluster
from bitfusiond.kube.follow import WatchState
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.pool.claims import Claims, Pod
from bitfusiond.webhook.pool.metrics import Metrics
from bitfusiond.webhook.pool.probing import ROUND_SECONDS, Probing
from bitfusiond.webhook.pool.publishing import Publishing
from bitfusiond.webhook.pool.templates import Templates

Tell = Callable[[Pod, str], Awaitable[bool]]  # write an Event about a pod; whether that needs no other try


class PoolView:
    """The pool in the cluster.

    ``run`` must be running for anything to happen; :meth:`take_up` tells that ``pool()`` is another one than before.
    ``is_proven``: whoever asks for templates is the API server. ``clock`` is the time of day.
    """

    def __init__(
        self,
        cluster: Cluster,
        metrics: CollectorRegistry,
        namespaces: Namespaces,
        pool: Callable[[], Pool],
        tell: Tell,
        *,
        is_proven: bool = False,
        connect: probes.Connect = trio.open_tcp_stream,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._pool = pool
        self._tell = tell
        self._claims = Claims()
        self._publishing = Publishing(cluster, metrics, pool, clock)
        self._probing = Probing(pool, self._publishing.probed, connect)
        self.templates = Templates(cluster, metrics, namespaces, is_proven=is_proven, clock=clock)
        Metrics(metrics, self._publishing, self._probing, self._claims)
        self.watches: Mapping[str, WatchState] = {
            **self._publishing.watches,
            CLAIMS.plural: self._claims.watch,
            CLAIM_TEMPLATES.plural: self.templates.watch,
        }

    def take_up(self) -> None:
        self._publishing.take_up()

    def problem(self) -> str | None:
        """Why the pool is not published as it should be; no reason to refuse pods."""
        return self._publishing.problem()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with the cluster until cancelled; raises nothing that a cluster or a server can cause."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._publishing.run)
            await nursery.start(self.templates.run)
            nursery.start_soon(partial(self._claims.run, self._cluster))
            nursery.start_soon(self._probing.run)
            nursery.start_soon(self._tell_pods)
            task_status.started()

    async def _tell_pods(self) -> None:
        """Tell pods whose server does not answer, those too that the scheduler had just put there."""
        told: set[tuple[str, Pod]] = set()
        while True:
            await trio.sleep(ROUND_SECONDS)
            down = {each.name: each.address for each in self._pool().servers if self._probing.is_down(each.name)}
            lost = set(self._claims.pods_on(set(down))) if down else set()
            told &= lost
            for server, pod in lost - told:
                if not await self._tell(pod, _gone(server, down[server])):
                    break  # the API server is away: they are told in another round
                told.add((server, pod))


def _gone(server: str, address: str) -> str:
    return (
        f"GPU server {server} ({address}), which has GPUs of this pod, does not answer: a program that uses them fails"
        " or waits. When the pod is deleted, its controller makes another, which gets servers that answer"
    )
