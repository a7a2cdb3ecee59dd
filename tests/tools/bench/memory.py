"""Memory and start time of each role against the least that could stand in its place, and growth under work."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import trio

from tests import EXAMPLES
from tests.fakes.volumes import Pod
from tests.tools.bench import plugin
from tests.tools.bench.admission import Server, floor, prepared, webhook
from tests.tools.bench.measure import Figure, paired, resident_megabytes

ROUNDS = 5
SAMPLES = 10
REQUESTS = 100  # before the first look at the memory of a server
WARM_UP = 5_000  # admissions before growth is measured
ADMISSIONS, CHANGES = 20_000, 1_000
LONG_ADMISSIONS, LONG_CHANGES = 200_000, 10_000

# VmHWM begins anew with each program; what wait4() says of a child includes its parent's.
_PEAK = """
import sys
status = 0
if len(sys.argv) > 1:
    from bitfusiond.cli import main
    status = main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(status)
"""

Measured = tuple[float, float]  # milliseconds, megabytes


def figures() -> list[Figure]:
    """Every role at its start; a short look at growth."""
    return [*_roles(), *_growth(ADMISSIONS, CHANGES)]


def long_figures() -> list[Figure]:
    """Growth over many admissions and changes of the device list."""
    return list(_growth(LONG_ADMISSIONS, LONG_CHANGES))


def _roles() -> Iterator[Figure]:
    with prepared() as directory:
        yield from _against(
            "webhook",
            "listening",
            partial(_server, partial(webhook, directory)),
            "bare trio and hypercorn",
            partial(_server, partial(floor, directory, "own")),
        )
    yield from _against(
        "plugin",
        "registered",
        partial(trio.run, _plugin, plugin.plugin_command),
        plugin.FLOOR,
        partial(trio.run, _plugin, plugin.floor_command),
    )
    yield from _against("init", "done, a small client", _init, "python -c pass", _program)
    render = partial(_program, "--role", "render", "-f", str(EXAMPLES / "pod.yaml"))
    yield from _against("render", "done, one pod", render, "python -c pass", _program)


def _against(
    role: str, until: str, ours: Callable[[], Measured], baseline_name: str, baseline: Callable[[], Measured]
) -> Iterator[Figure]:
    rounds = [(ours(), baseline()) for _ in range(ROUNDS + 1)][1:]
    for index, name, unit in ((0, f"{role}, start to {until}", "ms"), (1, f"{role}, memory", "MB")):
        yield paired(name, unit, [(one[index], other[index]) for one, other in rounds], baseline_name)


def _server(start: Callable[[], AbstractContextManager[Server]]) -> Measured:
    """Until the first TLS handshake is done; memory after some requests."""
    began = time.perf_counter()
    with start() as server:
        server.handshake()
        milliseconds = (time.perf_counter() - began) * 1e3
        server.load(1, requests=REQUESTS)
        return milliseconds, resident_megabytes(server.pid)


async def _plugin(command: plugin.Command) -> Measured:
    """Until the kubelet has its list; memory once that is settled."""
    began = time.perf_counter()
    async with plugin.watched(command) as (_, pid):
        milliseconds = (time.perf_counter() - began) * 1e3
        await trio.sleep(plugin.SETTLE_SECONDS)
        return milliseconds, resident_megabytes(pid)


def _program(*arguments: str) -> Measured:
    """From start to end; the peak of its memory. Without arguments, of a Python that does nothing."""
    began = time.perf_counter()
    command = [sys.executable, "-c", _PEAK, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return (time.perf_counter() - began) * 1e3, int(done.stderr.split()[-1]) * 1024 / 1e6


def _init() -> Measured:
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        return _program(*Pod(Path(name)).arguments())


def _growth(admissions: int, changes: int) -> Iterator[Figure]:
    yield from _grown(f"webhook, {admissions} admissions", admissions, _admissions(admissions))
    yield from _grown(f"plugin, {changes} changes of the list", changes, trio.run(_changes, changes))


def _grown(name: str, events: int, samples: list[float]) -> Iterator[Figure]:
    """``samples`` of resident memory in MB, at equal distances from before the first event to after the last."""
    yield paired(f"{name}: memory", "MB", [(samples[-1], samples[0])], "itself before")
    line = statistics.linear_regression([events * index / SAMPLES for index in range(SAMPLES + 1)], samples)
    yield Figure(f"{name}: growth each 1,000", "KB", line.slope * 1e6)


def _admissions(count: int) -> list[float]:
    with prepared() as directory, webhook(directory) as server:
        server.load(8, requests=WARM_UP)
        samples = [resident_megabytes(server.pid)]
        for _ in range(SAMPLES):
            server.load(8, requests=count // SAMPLES)
            samples.append(resident_megabytes(server.pid))
        return samples


async def _changes(count: int) -> list[float]:
    async with plugin.watched(plugin.flapping_command) as (kubelet, pid):
        samples: list[float] = []
        for sample in range(SAMPLES + 1):
            while kubelet.lists < CHANGES // 10 + sample * count // SAMPLES:
                await trio.sleep(0.01)
            samples.append(resident_megabytes(pid))
        return samples
