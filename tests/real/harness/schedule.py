"""Which fault comes when: random, and the same again for the same seed."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence

SECONDS_VARIABLE = "BITFUSIOND_TEST_FAULT_SECONDS"
SEED_VARIABLE = "BITFUSIOND_TEST_FAULT_SEED"


class Schedule:
    """Rounds of ``faults``, each round in an order of its own; the round that is begun is ended.

    It lasts for ``seconds``, or for what BITFUSIOND_TEST_FAULT_SECONDS says; BITFUSIOND_TEST_FAULT_SEED is the seed.
    """

    def __init__(self, faults: Sequence[str], seconds: float) -> None:
        self.seconds = float(os.environ.get(SECONDS_VARIABLE, seconds))
        self.seed = int(os.environ.get(SEED_VARIABLE, "1"))
        self.random = random.Random(self.seed)
        self.done: Counter[str] = Counter()
        self._faults = faults

    def __iter__(self) -> Iterator[str]:
        begin = time.monotonic()
        while time.monotonic() - begin < self.seconds:
            for fault in self.random.sample(self._faults, len(self._faults)):
                yield fault
                self.done[fault] += 1

    def __str__(self) -> str:
        faults = ", ".join(f"{fault} {number} times" for fault, number in sorted(self.done.items()))
        return f"{faults} (seed {self.seed}, {SECONDS_VARIABLE}={self.seconds:g})"
