"""The plugin's own metrics, all of them ``bitfusiond_plugin_*``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bitfusiond.core.devices import DeviceTable, Health

_PREFIX = "bitfusiond_plugin_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


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


class DriverMetrics:
    """What the DRA driver counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = f"{_PREFIX}dra_"
        self.registered = Gauge(
            prefix + "registered", "1 while the kubelet has the DRA driver registered, else 0.", registry=registry
        )
        self.prepared = Counter(
            prefix + "prepared_total",
            "Claims that were prepared, those included that were so already.",
            registry=registry,
        )
        self.unprepared = Counter(prefix + "unprepared_total", "Claims that were unprepared.", registry=registry)
        self.failures = Counter(
            prefix + "failures_total",
            "Claims that could not be prepared or unprepared, each time that the kubelet asked.",
            ["call"],
            registry=registry,
        )
        self.seconds = Histogram(
            prefix + "prepare_seconds",
            "How long a claim took to be prepared, or not.",
            buckets=_SECONDS,
            registry=registry,
        )
        for call in ("prepare", "unprepare"):
            self.failures.labels(call)
