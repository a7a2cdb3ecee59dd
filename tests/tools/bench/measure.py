"""How things are timed: alternately with their baseline, medians of many rounds."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: the median of ``ours`` in ``unit``.

    With a baseline its median, and the median and spread of the rounds' ratios where there are any: a baseline may be
    nothing at all. With an ``aim`` ours is meant to be below it, with a ``ratio_aim`` the ratio to be at least that.
    """

    name: str
    unit: str
    ours: float
    baseline_name: str | None = None
    baseline: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    aim: float | None = None
    ratio_aim: float | None = None

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def compare(
    name: str,
    unit: str,
    ours: Callable[[], float],
    baseline_name: str,
    baseline: Callable[[], float],
    rounds: int = 9,
    aim: float | None = None,
) -> Figure:
    """Take ``ours()`` and ``baseline()`` in turn; each returns one measurement in ``unit``.

    The first pair is thrown away.
    """
    pairs = [(ours(), baseline()) for _ in range(rounds + 1)][1:]
    return paired(name, unit, pairs, baseline_name, aim=aim)


def paired(
    name: str,
    unit: str,
    pairs: Sequence[tuple[float, float]],
    baseline_name: str,
    *,
    aim: float | None = None,
    ratio_aim: float | None = None,
) -> Figure:
    """The row for measurements that were taken in turn: ours and the baseline's of each round."""
    ratios = sorted(one / other for one, other in pairs if other)
    return Figure(
        name,
        unit,
        statistics.median(one for one, _ in pairs),
        baseline_name,
        statistics.median(other for _, other in pairs),
        statistics.median(ratios) if ratios else None,
        ratios[0] if ratios else None,
        ratios[-1] if ratios else None,
        aim,
        ratio_aim,
    )


def cpu_microseconds(call: Callable[[], object], times: int = 2000) -> float:
    """CPU time of this process for one ``call``."""
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times * 1e6


def process_milliseconds(*arguments: str) -> float:
    """Wall time of ``python ARGUMENTS`` from start to end."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1e3


def cpu_seconds(pid: int) -> float:
    """CPU time that the process ``pid`` and its children that live have used so far."""
    # /proc/PID/stat counts in ticks of 10 ms, too coarse for short windows.
    tasks = [task for each in _family(pid) for task in Path(f"/proc/{each}/task").glob("*/schedstat")]
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def own_cpu_seconds(pid: int) -> float:
    """CPU time of a process alone, of its threads that have ended too: those that wait for a list or a watch do end."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3), which Python has for threads only


def resident_megabytes(pid: int) -> float:
    """Resident memory of the process ``pid``."""
    return _megabytes(pid, "VmRSS:")


def peak_megabytes(pid: int) -> float:
    """The most that it was so far."""
    return _megabytes(pid, "VmHWM:")


def _megabytes(pid: int, field: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))
