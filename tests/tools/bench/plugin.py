"""The plugin as it idles on every node, against a bare trio and grpclib program; and a kubelet that restarts."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from tests.fakes.kubelet import Kubelet
from tests.tools.bench.measure import Figure, compare, cpu_seconds, resident_megabytes

DEVICES = 1000
SETTLE_SECONDS = 2.0  # the plugin's first looks at the sockets, and the imports of its first log lines, are over
IDLE_SECONDS = 10.0
RESTARTS = 20
FLOOR = "bare trio and grpclib"

Command = Callable[[Path], list[str]]
Measure = Callable[[int], float]


def figures() -> list[Figure]:
    """Memory, idle CPU time, and how long devices are away when the kubelet restarts."""
    restarts = trio.run(_restarts)
    return [
        _against_floor(f"resident, {DEVICES} devices", "MB", resident_megabytes, seconds=0, rounds=5, aim=45),
        _against_floor(f"idle CPU, {DEVICES} devices", "% core", _hundredths, seconds=IDLE_SECONDS, rounds=3, aim=0.1),
        Figure(f"kubelet restart to registered, median of {RESTARTS}", "ms", statistics.median(restarts), aim=1000),
        Figure(f"kubelet restart to registered, longest of {RESTARTS}", "ms", max(restarts), aim=1000),
    ]


def _against_floor(name: str, unit: str, measure: Measure, seconds: float, rounds: int, aim: float) -> Figure:
    ours = partial(trio.run, _measured, plugin_command, measure, seconds)
    floor = partial(trio.run, _measured, floor_command, measure, seconds)
    return compare(name, unit, ours, FLOOR, floor, rounds, aim)


def plugin_command(directory: Path) -> list[str]:
    where = ["--device-plugin-dir", str(directory), "--observe", "127.0.0.1:0"]
    return [sys.executable, "-m", "bitfusiond", "--role", "plugin", "--resource-nums", str(DEVICES), *where]


def flapping_command(directory: Path) -> list[str]:
    options = ["--servers-conf", "/dev/null", *plugin_command(directory)[3:]]
    return [sys.executable, "-m", "tests.tools.bench.flapping", *options]


def floor_command(directory: Path) -> list[str]:
    return [sys.executable, "-m", "tests.tools.bench.floor", str(directory), str(DEVICES)]


@asynccontextmanager
async def watched(command: Command) -> AsyncIterator[tuple[Kubelet, int]]:
    """A kubelet that has the list of a process, and the process's id."""
    # Not $TMPDIR: a unix socket's path is short.
    with tempfile.TemporaryDirectory(prefix="dp-", dir="/tmp") as name:
        async with Kubelet(Path(name)) as kubelet:
            process = await trio.lowlevel.open_process(command(Path(name)), stderr=subprocess.DEVNULL)
            try:
                await kubelet.wait_registered()
                assert len(await kubelet.devices()) == DEVICES
                yield kubelet, process.pid
            finally:
                process.terminate()
                await process.wait()


async def _measured(command: Command, measure: Measure, seconds: float) -> float:
    """``measure`` of a process that idles: its value, or how much that grows each second in ``seconds``."""
    async with watched(command) as (_, pid):
        await trio.sleep(SETTLE_SECONDS)
        before = measure(pid)
        if not seconds:
            return before
        began = trio.current_time()
        await trio.sleep(seconds)
        return (measure(pid) - before) / (trio.current_time() - began)


async def _restarts() -> list[float]:
    """Milliseconds from each new kubelet.sock until the plugin is registered."""
    taken = []
    async with watched(plugin_command) as (kubelet, _):
        for number in range(RESTARTS):
            # At another point between two looks of the plugin each time.
            await trio.sleep(1 + number / RESTARTS)
            await kubelet.restart()
            began = trio.current_time()
            await kubelet.wait_registered()
            taken.append((trio.current_time() - began) * 1e3)
    return taken


def _hundredths(pid: int) -> float:
    """CPU time so far, in hundredths of a second: its growth each second is a percentage of a core."""
    return cpu_seconds(pid) * 100
