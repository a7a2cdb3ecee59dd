"""Probes of servers.conf: three failed rounds, one good one, a file that changes under the plugin."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond import probes
from bitfusiond.core.devices import DeviceTable, Health
from bitfusiond.plugin.health import Prober
from bitfusiond.plugin.metrics import Metrics
from bitfusiond.plugin.servicer import Servicer
from tests.fakes.kubelet import Kubelet
from tests.unit.conftest import Events
from tests.unit.plugin.conftest import RunPlugin

A, B = ("10.0.0.1", 56001), ("10.0.0.2", 56001)
ONE = "servers:\n- addresses:\n  - 10.0.0.1:56001\n"
BOTH = "servers:\n- reachable: 10.0.0.2:56001\n  addresses:\n  - 10.0.0.1:56001\n"


class Pool:
    """Servers that accept, refuse or never answer, and a Prober on a servers.conf that names them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.up: set[tuple[str, int]] = set()
        self.silent: set[tuple[str, int]] = set()
        self.asked: list[tuple[float, str]] = []
        self.reports: list[Health] = []
        self.reasons: list[str] = []
        self.registry = CollectorRegistry()
        self.prober = Prober(path, 10.0, self.report, Metrics(self.registry), self.connect)

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        self.asked.append((trio.current_time(), host))
        if (host, port) in self.silent:
            await trio.sleep_forever()
        if (host, port) not in self.up:
            raise OSError("refused")
        return trio.testing.memory_stream_pair()[0]

    def report(self, health: Health, reason: str) -> None:
        self.reports.append(health)
        self.reasons.append(reason)

    def metric(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"bitfusiond_plugin_{name}", labels)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    path = tmp_path / "servers.conf"
    path.write_text(ONE)
    return Pool(path)


@pytest.fixture
async def probing(pool: Pool, nursery: trio.Nursery) -> Pool:
    """The pool, with rounds of probes at 0, 10, 20, ... seconds; a test looks in between.

    The test itself has to ask for autojump_clock: pytest-trio does not look for clocks in fixtures.
    """
    nursery.start_soon(pool.prober.run)
    await trio.sleep(5)
    return pool


async def test_devices_turn_unhealthy_after_three_failed_rounds_and_not_before(
    probing: Pool, autojump_clock: MockClock
) -> None:
    await trio.sleep(10)
    assert (len(probing.asked), probing.reports) == (2, [])
    await trio.sleep(10)
    assert probing.reports == [Health.UNHEALTHY]
    assert probing.reasons == ["none of 1 servers accepted a connection in 3 rounds of probes"]


async def test_one_good_round_makes_them_healthy_again(probing: Pool, autojump_clock: MockClock) -> None:
    await trio.sleep(30)
    probing.up.add(A)
    await trio.sleep(10)
    assert probing.reports[-2:] == [Health.UNHEALTHY, Health.HEALTHY]
    assert probing.reasons[-1] == "1 of 1 servers accept connections"


async def test_a_good_round_in_between_starts_the_count_again(probing: Pool, autojump_clock: MockClock) -> None:
    await trio.sleep(10)
    probing.up.add(A)
    await trio.sleep(10)
    probing.up.clear()
    await trio.sleep(20)
    assert probing.reports == [Health.HEALTHY]
    await trio.sleep(10)
    assert probing.reports == [Health.HEALTHY, Health.UNHEALTHY]


async def test_one_server_of_many_is_enough(probing: Pool, autojump_clock: MockClock) -> None:
    probing.path.write_text(BOTH)
    probing.up.add(B)
    await trio.sleep(10)
    assert probing.reports == [Health.HEALTHY]
    assert (probing.metric("servers", reachable="true"), probing.metric("servers", reachable="false")) == (1, 1)


async def test_all_servers_are_probed_at_once_and_each_is_given_up_after_a_deadline(
    pool: Pool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hosts = [f"10.0.1.{index}" for index in range(probes.PROBES_AT_ONCE)]
    pool.path.write_text("servers:\n- addresses:\n" + "".join(f"  - {host}:1\n" for host in hosts))
    pool.silent.update((host, 1) for host in hosts)
    started = trio.current_time()
    nursery.start_soon(pool.prober.run)
    await trio.sleep(probes.PROBE_SECONDS + 1)
    assert sorted(pool.asked) == sorted((started, host) for host in hosts)
    assert pool.metric("servers", reachable="false") == len(hosts)


async def test_more_servers_than_are_probed_at_once_are_all_probed(
    pool: Pool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    hosts = [f"h{index}" for index in range(probes.PROBES_AT_ONCE + 1)]
    pool.path.write_text("servers:\n- addresses:\n" + "".join(f"  - {host}:1\n" for host in hosts))
    pool.silent.update((host, 1) for host in hosts[:-1])
    pool.up.add((hosts[-1], 1))
    nursery.start_soon(pool.prober.run)
    await trio.sleep(2 * probes.PROBE_SECONDS)
    assert pool.reports == [Health.HEALTHY]


async def test_a_servers_conf_that_changes_is_taken_up_with_a_new_count(
    probing: Pool, autojump_clock: MockClock
) -> None:
    await trio.sleep(10)
    probing.path.write_text(ONE.replace("10.0.0.1", "10.0.0.2"))
    await trio.sleep(20)
    assert [host for _, host in probing.asked] == ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"]
    assert probing.reports == []
    await trio.sleep(10)
    assert probing.reports == [Health.UNHEALTHY]


async def test_the_misprint_of_the_old_readme_is_read_as_it_was_meant(probing: Pool, autojump_clock: MockClock) -> None:
    probing.path.write_text("servers:\n- reachable:10.0.0.2:56001\n  addresses:\n  - 10.0.0.1:56001\n")
    probing.up.add(B)
    await trio.sleep(10)
    assert probing.reports == [Health.HEALTHY]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"servers: [{addresses: [hidden", "malformed: not YAML"),
        (b"servers: []\n", "malformed: servers must be a list with at least one server"),
        (b"servers:\n- addresses: [hidden:port]\n", "malformed: servers[0].addresses[0]"),
        (b"\xff\xfehidden", "it is not UTF-8 text"),
        (b"hidden", "malformed: it must be a mapping with the key servers"),
        (b"servers: !!bool hidden", "malformed: not YAML"),
        (b"x: !!timestamp 2001-01-01T00:00:00+99:99", "malformed: not YAML"),
    ],
)
async def test_an_unusable_servers_conf_is_one_error_line_and_keeps_the_last_good_one(
    probing: Pool,
    autojump_clock: MockClock,
    events: Events,
    caplog: pytest.LogCaptureFixture,
    content: bytes | None,
    problem: str,
) -> None:
    probing.up.add(A)
    probing.path.unlink()
    if content is not None:
        probing.path.write_bytes(content)
    await trio.sleep(30)
    assert probing.reports == [Health.HEALTHY] * 3
    (line,) = events("servers.conf not usable")
    assert line["problem"].startswith(problem)
    assert line["servers_kept"] == 1
    assert probing.metric("servers_conf_errors_total") == 3
    # What stands in the file comes from a Secret.
    assert not any("hidden" in str(record.__dict__) for record in caplog.records)


async def test_a_servers_conf_that_is_mended_is_said_and_used(
    probing: Pool, autojump_clock: MockClock, events: Events
) -> None:
    probing.path.unlink()
    await trio.sleep(10)
    probing.path.write_text(ONE)
    await trio.sleep(10)
    assert [line["event"] for line in events()][-2:] == ["servers.conf not usable", "servers.conf read"]


async def test_without_any_good_servers_conf_the_devices_stay_as_they_are(
    pool: Pool, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    pool.path.unlink()
    nursery.start_soon(pool.prober.run)
    await trio.sleep(100)
    assert (pool.asked, pool.reports) == ([], [])


@pytest.mark.slow
async def test_the_kubelet_sees_the_servers_go_and_come_back(
    directory: Path, run_plugin: RunPlugin, tmp_path: Path, events: Events
) -> None:
    """With real sockets, end to end; nothing is sent while nothing changes."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    conf = tmp_path / "servers.conf"
    conf.write_text(f"servers:\n- addresses:\n  - 127.0.0.1:{port}\n")
    async with Kubelet(directory) as kubelet, run_plugin(servers_conf=str(conf), interval="0.1"):
        assert set((await kubelet.devices()).values()) == {"Healthy"}
        await trio.sleep(1)
        assert kubelet.lists == 1
        await listeners[0].aclose()
        await kubelet.wait_health("Unhealthy")
        (again,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
        async with again:
            await kubelet.wait_health("Healthy")
        assert kubelet.lists == 3
    assert [(line["level"], line["health"], line["devices"]) for line in events("devices changed")] == [
        ("WARNING", "Unhealthy", 1000),
        ("INFO", "Healthy", 1000),
    ]
    assert "none of 1 servers" in events("devices changed")[0]["reason"]


async def test_a_name_that_cannot_be_looked_up_is_a_server_that_does_not_answer(
    directory: Path, run_plugin: RunPlugin, tmp_path: Path
) -> None:
    conf = tmp_path / "servers.conf"
    conf.write_text(f"servers:\n- addresses:\n  - {'x' * 70}.invalid:1\n  - 127.0.0.1:1\n")
    async with Kubelet(directory) as kubelet, run_plugin(servers_conf=str(conf), interval="0.1"):
        await kubelet.wait_health("Unhealthy")


def test_the_reason_for_the_health_is_one_series_that_follows_each_report() -> None:
    registry = CollectorRegistry()
    servicer = Servicer(DeviceTable(3), Metrics(registry))

    def shown() -> list[dict[str, str]]:
        families = [each for each in registry.collect() if each.name == "bitfusiond_plugin_health"]
        return [sample.labels for sample in families[0].samples]

    assert shown() == [{"health": "Healthy", "reason": "not probed"}]
    servicer.change_health(Health.HEALTHY, "1 of 2 servers accept connections")
    assert shown() == [{"health": "Healthy", "reason": "1 of 2 servers accept connections"}]
    servicer.change_health(Health.UNHEALTHY, "none does")
    assert shown() == [{"health": "Unhealthy", "reason": "none does"}]
