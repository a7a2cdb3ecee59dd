"""The plugin with servers that are gone and back all the time: it changes its list as fast as it can send it.

``python -m tests.tools.bench.flapping`` takes the options of the executable; ``--servers-conf`` may name any file.
"""

from __future__ import annotations

import sys

import trio

from bitfusiond import cli
from bitfusiond.core.devices import Health
from bitfusiond.plugin import health, service

_PAUSE_SECONDS = 0.001  # for the list to be sent before it changes again


class _Flapping(health.Prober):
    async def run(self) -> None:
        while True:
            for each in (Health.UNHEALTHY, Health.HEALTHY):
                self._report(each, "flapping")
                await trio.sleep(_PAUSE_SECONDS)


if __name__ == "__main__":
    service.Prober = _Flapping  # type: ignore[attr-defined]
    sys.exit(cli.main())
