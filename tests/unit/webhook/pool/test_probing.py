"""Which servers answer: three failures in a row, one answer, and a thousand servers at once."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from bitfusiond import probes
from bitfusiond.core.pool.inventory import Pool, Server
from bitfusiond.webhook.pool import probing
from bitfusiond.webhook.pool.probing import Probing
from tests.unit.conftest import Events


class Servers:
    """Servers that accept, refuse or never answer."""

    def __init__(self, *names: str) -> None:
        self.pool = Pool(tuple(Server(name, f"{name}:1", (), name) for name in names))
        self.up: set[str] = set(names)
        self.silent: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.told: list[tuple[str, bool, bool]] = []
        self.probing = Probing(lambda: self.pool, self.report, self.connect)

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await trio.sleep_forever() if host in self.silent else await trio.sleep(0.001)
        finally:
            self.at_once -= 1
        if host not in self.up:
            raise OSError("refused")
        return trio.testing.memory_stream_pair()[0]

    def report(self, server: str, *, answered: bool, went_down: bool) -> None:
        self.told.append((server, answered, went_down))

    def went_down(self) -> list[str]:
        return [name for name, _, went_down in self.told if went_down]


@pytest.fixture
async def probed(nursery: trio.Nursery) -> Servers:
    servers = Servers("a", "b")
    nursery.start_soon(servers.probing.run)
    await trio.sleep(5)
    return servers


async def test_three_failures_in_a_row_are_down_and_one_answer_is_up(
    probed: Servers, autojump_clock: MockClock, events: Events
) -> None:
    assert probed.probing.up() == {"a": True, "b": True}
    probed.up.remove("a")
    await trio.sleep(20)
    probed.up.add("a")
    await trio.sleep(10)
    probed.up.remove("a")
    await trio.sleep(20)
    assert probed.went_down() == []
    await trio.sleep(10)
    assert (probed.went_down(), probed.probing.is_down("a"), probed.probing.is_down("b")) == (["a"], True, False)
    await trio.sleep(100)
    assert probed.went_down() == ["a"], "told once"
    probed.up.add("a")
    await trio.sleep(10)
    assert probed.probing.up() == {"a": True, "b": True}
    assert [each["event"] for each in events()] == ["GPU server does not answer", "GPU server answers again"]


async def test_a_server_that_never_answered_goes_down_too(
    autojump_clock: MockClock, nursery: trio.Nursery, events: Events
) -> None:
    servers = Servers("a", "b")
    servers.up, servers.silent = set(), {"b"}
    nursery.start_soon(servers.probing.run)
    await trio.sleep(15)
    assert servers.probing.up() == {}
    await trio.sleep(15)
    assert servers.went_down() == ["a", "b"]
    assert len(events()) == 2


async def test_a_server_that_moves_or_leaves_is_another_one(probed: Servers, autojump_clock: MockClock) -> None:
    probed.up.clear()
    await trio.sleep(30)
    assert probed.went_down() == ["a", "b"]
    probed.pool = Pool((Server("a", "elsewhere:1", (), "a"), Server("c", "c:1", (), "c")))
    await trio.sleep(10)
    assert probed.probing.up() == {}
    await trio.sleep(20)
    assert probed.probing.up() == {"a": False, "c": False}


async def test_an_inventory_that_comes_during_a_round_waits_for_the_next(
    probed: Servers, autojump_clock: MockClock
) -> None:
    probed.silent = {"b"}
    await trio.sleep(6)
    probed.pool = Pool((probed.pool.servers[1], Server("c", "c:1", (), "c")))
    await trio.sleep(3)
    assert probed.probing.up() == {"b": True}
    probed.up.add("c")
    await trio.sleep(10)
    assert probed.probing.up() == {"b": True, "c": True}


async def test_a_thousand_servers_of_which_many_are_silent(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    servers = Servers(*(f"s{number}" for number in range(1000)))
    servers.silent = {f"s{number}" for number in range(300)}
    nursery.start_soon(servers.probing.run)
    rounds = 300 / probing.PROBES_AT_ONCE * probes.PROBE_SECONDS
    assert rounds < probing.ROUND_SECONDS
    await trio.sleep(35)
    assert sorted(servers.went_down()) == sorted(servers.silent)
    assert sum(servers.probing.up().values()) == 700
    assert servers.most_at_once <= probing.PROBES_AT_ONCE
