"""Admissions that come at once, as a controller makes pods: how long the last of them waits, and what one costs.

The baseline is the smallest server on hypercorn, or the webhook of another checkout, where BENCH_BASELINE names
one. Both take turns.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.tools.bench.admission import floor, prepared, webhook
from tests.tools.bench.measure import Figure, paired

BURSTS = (8, 64)
RATE = 100.0  # reviews a second
ROUNDS = 7
WINDOW_SECONDS = 6.0
_OTHER = "BENCH_BASELINE"


def figures() -> Iterator[Figure]:
    """Latency of half and of 99 % of the reviews, and the CPU time of one, at each size of a burst."""
    other = os.environ.get(_OTHER)
    name = "that checkout" if other else "the floor on hypercorn's serve"
    with ExitStack() as stack:
        directory = stack.enter_context(prepared())
        ours = stack.enter_context(webhook(directory))
        if other:
            baseline = stack.enter_context(webhook(directory, sources=Path(other)))
        else:
            baseline = stack.enter_context(floor(directory, "own"))
        for size in BURSTS:
            rounds = [
                [each.load(size, WINDOW_SECONDS, pause=size / RATE) for each in (ours, baseline)]
                for _ in range(ROUNDS + 1)
            ][1:]
            for title, unit, field in (
                ("CPU of one", "us", "cpu_microseconds"),
                ("half of them within", "ms", "p50"),
                ("99 % of them within", "ms", "p99"),
            ):
                pairs = [(getattr(one, field), getattr(two, field)) for one, two in rounds]
                yield paired(f"{title}, bursts of {size}", unit, pairs, name)
