"""Whether the Bitfusion servers can be reached: probes of servers.conf that decide the health of the devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from bitfusiond import logs, probes
from bitfusiond.core.clients import servers_conf
from bitfusiond.core.devices import Health
from bitfusiond.files.read import load_yaml
from bitfusiond.plugin.metrics import Metrics

_log = logs.Log("health")


class Prober:
    """Probes the servers of ``path`` every ``interval`` seconds and tells ``report`` of each change of health.

    Three rounds without an answer make the devices Unhealthy, one answer makes them Healthy again. The file is read
    before every round: a Secret that Kubernetes updates is a new file behind a link. Its last good content stays in
    force while it is missing or malformed; before there has been any, there is nothing to hold against the devices.
    """

    def __init__(
        self,
        path: Path,
        interval: float,
        report: Callable[[Health, str], None],
        metrics: Metrics,
        connect: probes.Connect = trio.open_tcp_stream,
    ) -> None:
        self._path = path
        self._interval = interval
        self._report = report
        self._metrics = metrics
        self._connect = connect
        self._text: str | None = None
        self._servers: list[tuple[str, int]] = []
        self._problem: str | None = None
        self._failed_rounds = 0

    async def run(self) -> None:
        """Probe until cancelled. Raises nothing of its own."""
        while True:
            self._read()
            if self._servers:
                await self._round()
            await trio.sleep(self._interval)

    def _read(self) -> None:
        """Read the file again if it changed; log it once where it cannot be used."""
        try:
            text = self._path.read_text("utf-8")
            if text == self._text and self._problem is None:
                return
            servers = servers_conf.addresses(load_yaml(servers_conf.repaired(text)))
        except OSError as error:
            self._broken(error.strerror or type(error).__name__)
        except UnicodeDecodeError:
            self._broken("it is not UTF-8 text")
        except ValueError as error:
            # The file comes from a Secret, so no log may show what stands in it: from "FIELD: VALUE is not ALLOWED"
            # and from YAML's own words only the part before the value is kept.
            self._broken(f"malformed: {str(error).partition(': ')[0]}")
        else:
            if servers != self._servers:
                self._failed_rounds = 0
            self._text, self._servers, self._problem = text, servers, None
            _log.info("servers.conf read", path=str(self._path), servers=len(servers))

    def _broken(self, problem: str) -> None:
        self._metrics.servers_conf_errors.inc()
        if problem != self._problem:
            self._problem = problem
            _log.error(
                "servers.conf not usable", path=str(self._path), problem=problem, servers_kept=len(self._servers)
            )

    async def _round(self) -> None:
        """Probe all servers once, and judge by the answers."""
        answers = await probes.probe_all(self._servers, self._connect)
        self._judge(sum(answers[server] for server in self._servers))

    def _judge(self, reachable: int) -> None:
        """Report what a round with so many ``reachable`` servers means."""
        self._metrics.show_servers(reachable, len(self._servers) - reachable)
        if reachable:
            self._failed_rounds = 0
            self._report(Health.HEALTHY, f"{reachable} of {len(self._servers)} servers accept connections")
            return
        self._failed_rounds += 1
        if self._failed_rounds >= probes.FAILED_ROUNDS:
            reason = (
                f"none of {len(self._servers)} servers accepted a connection in {probes.FAILED_ROUNDS} rounds of probes"
            )
            self._report(Health.UNHEALTHY, reason)
