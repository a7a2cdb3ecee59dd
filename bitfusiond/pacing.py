"""When to try again, and when to speak of it. Pure: the caller brings the time, and chance if it wants another."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

FIRST_SECONDS = 0.2
LONGEST_SECONDS = 30.0
REPEAT_SECONDS = 60.0


class Backoff:
    """Pauses that double from ``first`` up to ``longest`` seconds, each cut by up to a half.

    All watches of all replicas lose an API server at the same moment; they are not to come back at the same moment.
    """

    def __init__(
        self,
        first: float = FIRST_SECONDS,
        longest: float = LONGEST_SECONDS,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._first = first
        self._longest = longest
        self._chance = chance
        self._failures = 0

    def failed(self) -> float:
        """One more failure: the seconds to wait now."""
        pause = min(self._first * 2.0 ** min(self._failures, 30), self._longest)
        self._failures += 1
        return pause * (1 - self._chance() / 2)

    def reset(self) -> None:
        self._failures = 0


class Allowance:
    """``burst`` of something at once, and ``per_second`` after that."""

    def __init__(self, burst: int, per_second: float) -> None:
        self._seconds = 1 / per_second  # for one
        self._credit = (burst - 1) * self._seconds
        self._due = -math.inf  # when all that were taken would have come one after the other

    def take(self, now: float, longest: float) -> float | None:
        """The seconds until one may be had, and have it then; None, and have none, where they are over ``longest``."""
        due = max(self._due, now)
        pause = due - now - self._credit
        if pause > longest:
            return None
        self._due = due + self._seconds
        return max(pause, 0.0)


class Repeats:
    """Whether something is worth a line: at once what is new, again after ``seconds`` what is not.

    ``number`` is how often it has happened since the line before, when a line is due.
    """

    def __init__(self, seconds: float) -> None:
        self.number = 0
        self._seconds = seconds
        self._unsaid = 0
        self._words: str | None = None
        self._said_at = -math.inf

    def is_due(self, now: float, words: str = "") -> bool:
        """It happened: whether to say ``words`` now. They count as said then."""
        self._unsaid += 1
        if words == self._words and now - self._said_at < self._seconds:
            return False
        self._words, self._said_at = words, now
        self.number, self._unsaid = self._unsaid, 0
        return True

    def reset(self) -> None:
        """The next words are new, whatever they are."""
        self._words = None


class Outage(NamedTuple):
    """An outage that was spoken of, and is over."""

    seconds: float
    failures: int


class Outages:
    """Which failures of an outage to write into the log: the first, then one a minute, and the end once."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._failures = 0
        self._spoken = False
        self._repeats = Repeats(REPEAT_SECONDS)  # across outages: what comes and goes every second is one story

    def failed(self, now: float) -> bool:
        """One more failure: whether to say so."""
        if self._since is None:
            self._since, self._failures, self._spoken = now, 0, False
        self._failures += 1
        is_due = self._repeats.is_due(now)
        self._spoken |= is_due
        return is_due

    def succeeded(self, now: float) -> Outage | None:
        """It works: the outage that this ends, if it was spoken of."""
        since, self._since = self._since, None
        return Outage(now - since, self._failures) if since is not None and self._spoken else None
