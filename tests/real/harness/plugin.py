"""The plugin as a process of the node, on the real kubelet's directory."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.fakes.processes import free_port, get, logged, wait_until
from tests.real.harness.node import DIRECTORY

SOCKET = DIRECTORY / "bitfusion.io"
DRIVER_SOCKETS = (
    DIRECTORY.parent / "plugins/bitfusion.io/dra.sock",
    DIRECTORY.parent / "plugins_registry/bitfusion.io-reg.sock",
)


class Plugin:
    """``bitfusiond --role plugin``, which can be started again."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._log.touch()
        self._address = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        command = [sys.executable, "-W", "error", "-m", "bitfusiond", "--role", "plugin", "--observe", self._address]
        with self._log.open("ab") as output:
            self._process = subprocess.Popen([*command, *options], stderr=output)

    def start_ready(self, *options: str) -> None:
        self.start(*options)
        self.wait_ready()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal; return the exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(10)

    def end(self) -> None:
        """Whatever its state, it runs no more and leaves no socket."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for path in (SOCKET, *DRIVER_SOCKETS):
            path.unlink(missing_ok=True)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def readiness(self) -> tuple[int, str]:
        return get(self._address, "/readyz")

    def wait_ready(self) -> None:
        wait_until(lambda: self.readiness() == (200, "ok\n"), "/readyz of the plugin")

    def metric(self, name: str) -> float:
        """The value of one of our metrics, with its labels if it has any."""
        _, text = get(self._address, "/metrics")
        found = [line.split()[-1] for line in text.splitlines() if line.startswith(f"bitfusiond_plugin_{name} ")]
        return float(found[0])

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log lines of that event."""
        return logged(self._log, event)
