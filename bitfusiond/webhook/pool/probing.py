"""Which servers of the pool answer: each is asked for a connection every few seconds, by every replica for itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from bitfusiond import logs, probes
from bitfusiond.core.clients import servers_conf
from bitfusiond.core.pool.inventory import Pool

ROUND_SECONDS = 10.0
# A thousand servers that are all silent take 24 s; those that answer take no time.
PROBES_AT_ONCE = 128

_log = logs.Log("pool")


class Report(Protocol):
    """Told of every probe: the server, whether it answered, and whether it counts as down from now on."""

    def __call__(self, server: str, *, answered: bool, went_down: bool) -> None: ...


@dataclass(slots=True)
class _Health:
    """``is_up`` None: not known yet."""

    address: str
    is_up: bool | None = None
    failures: int = 0

    def observe(self, *, answered: bool) -> None:
        """One more probe."""
        self.failures = 0 if answered else self.failures + 1
        if answered:
            self.is_up = True
        elif self.failures >= probes.FAILED_ROUNDS:
            self.is_up = False


class Probing:
    """How the servers of ``pool()`` are doing. A server of another address is another server."""

    def __init__(
        self, pool: Callable[[], Pool], report: Report, connect: probes.Connect = trio.open_tcp_stream
    ) -> None:
        self._pool = pool
        self._report = report
        self._connect = connect
        self._health: dict[str, _Health] = {}

    def up(self) -> dict[str, bool]:
        """Of each server of which it is known whether it answers."""
        return {name: health.is_up for name, health in self._health.items() if health.is_up is not None}

    def is_down(self, server: str) -> bool:
        health = self._health.get(server)
        return health is not None and health.is_up is False

    async def run(self) -> None:
        """Probe until cancelled. Raises nothing of its own."""
        while True:
            due = trio.current_time() + ROUND_SECONDS
            await self._round()
            await trio.sleep_until(due)

    async def _round(self) -> None:
        asked = {each.address: servers_conf.address(each.address) for each in self._pool().servers}
        answers = await probes.probe_all(set(asked.values()), self._connect, PROBES_AT_ONCE)
        # Another inventory may have come meanwhile: what is new in it waits for the next round.
        servers = {each.name: each.address for each in self._pool().servers if each.address in asked}
        self._health = {
            name: health
            if (health := self._health.get(name)) is not None and health.address == address
            else _Health(address)
            for name, address in servers.items()
        }
        for name, health in self._health.items():
            before = health.is_up
            answered = answers[asked[health.address]]
            health.observe(answered=answered)
            if health.is_up is False and before is not False:
                _log.warning("GPU server does not answer", server=name, address=health.address)
            elif health.is_up and before is False:
                _log.info("GPU server answers again", server=name, address=health.address)
            self._report(name, answered=answered, went_down=health.is_up is False and before is not False)
