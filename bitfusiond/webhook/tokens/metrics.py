"""What ``/metrics`` tells about the copies of token Secrets."""

from __future__ import annotations

from collections.abc import Iterable

import trio
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from bitfusiond.core.tokens.copies import State
from bitfusiond.webhook.tokens.inventory import Inventory


class Metrics(Collector):
    """Gauges are counted from the inventory when somebody asks, so that they cannot drift from it."""

    def __init__(self, registry: CollectorRegistry, inventory: Inventory) -> None:
        self._inventory = inventory
        self.failures = Counter(
            "bitfusiond_token_copy_failures",
            "Copies of token Secrets that could not be written.",
            ["reason"],
            registry=registry,
        )
        registry.register(self)

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Called for each scrape."""
        stale = self._inventory.stale()
        lag = GaugeMetricFamily(
            "bitfusiond_token_replication_lag_seconds",
            "Age of the oldest change of a token Secret that has not reached all of its copies; 0 = all are current.",
        )
        lag.add_metric([], max(trio.current_time() - min(stale.values()), 0.0) if stale else 0.0)
        counted = GaugeMetricFamily(
            "bitfusiond_token_copies",
            "Secrets under the names of the token Secrets outside the token namespace, by what they are to us.",
            labels=["state"],
        )
        states = self._inventory.states()
        for state in State:
            counted.add_metric([state.value], states[state])
        return [lag, counted]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """So that registering does not collect."""
        return []
