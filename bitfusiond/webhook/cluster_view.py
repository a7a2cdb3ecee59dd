"""What the webhook knows of its cluster, where there is one (``--kubeconfig none``: there is none)."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from bitfusiond.core import names
from bitfusiond.core.admission.capacity import Largest
from bitfusiond.core.admission.review import Review
from bitfusiond.core.pool.claims import ClaimTemplate
from bitfusiond.core.pool.inventory import Pool
from bitfusiond.core.tokens import copies
from bitfusiond.kube import Cluster
from bitfusiond.kube.follow import WatchState
from bitfusiond.settings import Webhook
from bitfusiond.webhook.events import SERVER_GONE, Events
from bitfusiond.webhook.images import pullsecrets
from bitfusiond.webhook.images.pullsecrets import PullSecrets
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.nodes import Nodes
from bitfusiond.webhook.pool.view import PoolView
from bitfusiond.webhook.tokens.replication import Replication


class NoCluster:
    """Nodes are not known, tokens are somebody else's affair, and there is nobody to tell of a refusal."""

    def largest_node(self) -> Largest | None:
        return None

    async def ensure_tokens(self, namespace: str, dry_run: bool) -> list[str]:  # noqa: ARG002
        return []

    async def ensure_templates(
        self,
        namespace: str,  # noqa: ARG002
        templates: Sequence[ClaimTemplate],  # noqa: ARG002
        dry_run: bool,  # noqa: ARG002
    ) -> list[str]:
        return []

    async def missing_templates(self, namespace: str, templates: Sequence[str]) -> list[str]:  # noqa: ARG002
        return []

    async def pull_secrets(self, namespace: str, names: Sequence[str]) -> PullSecrets:  # noqa: ARG002
        return PullSecrets(notes=("there is no cluster to read pull secrets from",) if names else ())

    def servers(self) -> Sequence[str]:
        return ()

    def refused(self, request: Review, message: str) -> None:
        pass


class InCluster:
    """Nodes, namespaces and tokens, kept in memory by watches; Events, written behind the admissions' back."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Webhook,
        metrics: CollectorRegistry,
        pool: Callable[[], Pool | None] = lambda: None,
    ) -> None:
        """``pool()``: what the scheduler is to count; None at the start: nothing, and no request is made for it."""
        self._cluster = cluster
        self._nodes = Nodes()
        exempt = names.EXEMPT_NAMESPACES | {settings.namespace}
        self._namespaces = Namespaces(exempt)
        self._events = Events(self._namespaces.serves)
        self._globs = settings.allow_namespaces
        self._tokens = Replication(
            cluster,
            metrics,
            self._namespaces,
            namespace=settings.namespace,
            token_namespace=settings.token_namespace,
            allow_namespaces=settings.allow_namespaces,
            exempt=exempt,
            is_proven=settings.client_ca is not None,
        )
        is_proven = settings.client_ca is not None
        first = pool()
        self._pool = None
        if first is not None:
            self._pool = PoolView(
                cluster,
                metrics,
                self._namespaces,
                lambda: pool() or first,
                partial(self._events.of_pod, cluster, reason=SERVER_GONE),
                is_proven=is_proven,
            )
        others = {"nodes": self._nodes.watch, "namespaces": self._namespaces.watch}
        if self._pool is not None:
            others |= self._pool.watches
        self.watches = ChainMap(others, self._tokens.watches)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with the cluster until cancelled; an API server that is away ends nothing."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._nodes.run, self._cluster)
            await nursery.start(self._namespaces.run, self._cluster)
            await nursery.start(self._tokens.run)
            if self._pool is not None:
                await nursery.start(self._pool.run)
            nursery.start_soon(self._events.run, self._cluster)
            task_status.started()

    def ready_reason(self) -> str | None:
        """Why no pod can be admitted yet. Nodes that are not known yet stop none."""
        return self._tokens.ready_reason() or self._namespaces.ready_reason()

    def take_up_pool(self) -> None:
        """The pool is another one than before."""
        if self._pool is not None:
            self._pool.take_up()

    def largest_node(self) -> Largest | None:
        return self._nodes.largest()

    async def ensure_tokens(self, namespace: str, dry_run: bool) -> list[str]:
        return await self._tokens.ensure(namespace, dry_run)

    async def ensure_templates(self, namespace: str, templates: Sequence[ClaimTemplate], dry_run: bool) -> list[str]:
        """As tokens: whoever reaches the webhook can name any namespace."""
        return [] if self._pool is None else await self._pool.templates.ensure(namespace, templates, dry_run)

    async def missing_templates(self, namespace: str, templates: Sequence[str]) -> list[str]:
        return [] if self._pool is None else await self._pool.templates.missing(namespace, templates)

    async def pull_secrets(self, namespace: str, names: Sequence[str]) -> PullSecrets:
        """By the same proof as a copy of the tokens: whoever reaches the webhook can name any namespace."""
        if not copies.allowed(namespace, self._globs):
            return PullSecrets(problem=copies.not_allowed(namespace, self._globs))
        if problem := await self._namespaces.problem(namespace):
            return PullSecrets(problem=problem)
        return await pullsecrets.read(self._cluster, namespace, names)

    def servers(self) -> Sequence[str]:
        return self._tokens.servers()

    def refused(self, request: Review, message: str) -> None:
        self._events.refused(request, message)


class WatchMetrics:
    """How the watches are doing, read at each scrape: ``watches`` may change."""

    def __init__(self, watches: Mapping[str, WatchState], metrics: CollectorRegistry) -> None:
        self._watches = watches
        metrics.register(self)

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's protocol of a collector."""
        connected = GaugeMetricFamily("bitfusiond_watch_connected", "Whether the watch is open.", labels=["watch"])
        synced = GaugeMetricFamily("bitfusiond_watch_synced", "Whether there was a first list.", labels=["watch"])
        quiet = GaugeMetricFamily(
            "bitfusiond_watch_quiet_seconds", "Since the watch last said anything, be it a bookmark.", labels=["watch"]
        )
        failures = CounterMetricFamily("bitfusiond_watch_failures", "Lists and watches that failed.", labels=["watch"])
        now = trio.current_time()
        for name, state in self._watches.items():
            connected.add_metric([name], float(state.connected))
            synced.add_metric([name], float(state.synced))
            failures.add_metric([name], state.failures)
            if state.last_event_at is not None:
                quiet.add_metric([name], now - state.last_event_at)
        yield from (connected, synced, quiet, failures)
