"""What ``/metrics`` tells about the pool's servers: counted when somebody asks, so that it cannot drift."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bitfusiond.core import names
from bitfusiond.webhook.pool.claims import Claims
from bitfusiond.webhook.pool.probing import Probing
from bitfusiond.webhook.pool.publishing import Publishing


class Metrics(Collector):
    """A figure for each server."""

    def __init__(self, registry: CollectorRegistry, publishing: Publishing, probing: Probing, claims: Claims) -> None:
        self._publishing = publishing
        self._probing = probing
        self._claims = claims
        registry.register(self)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Called for each scrape."""
        problem = GaugeMetricFamily("bitfusiond_pool_problem", "1: the pool is not published as it should be.")
        problem.add_metric([], float(self._publishing.problem() is not None))
        by = ["server"]
        offered = GaugeMetricFamily(
            "bitfusiond_pool_shares_offered", "Shares that the scheduler knows of; 100 = one GPU.", labels=by
        )
        allocated = GaugeMetricFamily("bitfusiond_pool_shares_allocated", "Shares that claims have.", labels=by)
        free = GaugeMetricFamily(
            "bitfusiond_pool_shares_free",
            "Shares that the scheduler can give out; 0 while the server is down.",
            labels=by,
        )
        up = GaugeMetricFamily(
            "bitfusiond_pool_server_up", "Whether the server accepts connections of this process.", labels=by
        )
        taken = self._claims.allocated()
        for server, stored in self._publishing.stored():
            shares = names.SHARES_OF_ONE_GPU * stored.gpus
            offered.add_metric([server], shares)
            if taken is not None:
                left = 0 if stored.tainted is not None else max(shares - taken.get(server, 0), 0)
                free.add_metric([server], left)
                if server not in taken:
                    allocated.add_metric([server], 0)
        for server, shares in (taken or {}).items():
            allocated.add_metric([server], shares)
        for server, is_up in self._probing.up().items():
            up.add_metric([server], float(is_up))
        return [problem, offered, allocated, free, up]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """So that registering does not collect."""
        return []
