"""The plugin's own metrics, all of them ``bitfusiond_plugin_*``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from bitfusiond.core.devices import DeviceTable, Health

_PREFIX = "bitfusiond_plugin_"


class Metrics:
    """What the plugin counts; one instance a process, on the registry that ``--observe`` shows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help: str) -> Counter:  # noqa: A002
            return Counter(_PREFIX + name, help, registry=registry)

        def gauge(name: str, help: str, labels: tuple[str, ...] = ()) -> Gauge:  # noqa: A002
            return Gauge(_PREFIX + name, help, labels, registry=registry)

        self.registrations = counter("registrations_total", "Registrations that the kubelet accepted.")
        self.registration_failures = counter("registration_failures_total", "Registrations that failed.")
        self.registered = gauge("registered", "1 while registered with the present kubelet, else 0.")
        self.kubelet_unseen = gauge(
            "kubelet_unseen_seconds",
            "Seconds since the kubelet was last known to be there (open ListAndWatch stream, call, registration); "
            "since our start if it never was.",
        )
        self.allocations = counter("allocations_total", "Containers that Allocate answered for.")
        self.shares_allocated = counter("shares_allocated_total", "Shares in those answers; 100 = one GPU.")
        self.devices = gauge("devices", "Devices advertised, by health.", ("health",))
        self.health = gauge("health", "Always 1: the health of all devices, and why.", ("health", "reason"))
        self.servers = gauge(
            "servers", "Addresses of servers.conf, by what the last round of probes found.", ("reachable",)
        )
        self.servers_conf_errors = counter(
            "servers_conf_errors_total", "Rounds in which servers.conf could not be read or understood."
        )

    def show_health(self, health: Health, reason: str) -> None:
        self.health.clear()  # one series at a time
        self.health.labels(health.value, reason).set(1)

    def show_table(self, table: DeviceTable) -> None:
        for health, count in table.by_health().items():
            self.devices.labels(health.value).set(count)

    def show_servers(self, reachable: int, unreachable: int) -> None:
        self.servers.labels("true").set(reachable)
        self.servers.labels("false").set(unreachable)
