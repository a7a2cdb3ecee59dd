"""When to try again, and when to speak of it."""

from __future__ import annotations

import random

import trio

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 30.0
SAY_AGAIN_SECONDS = 600.0


class Retry:
    """A pause that doubles with each failure, up to LONGEST_SECONDS, and a memory of what was said last.

    Each pause is cut by up to a half at random: after a kubelet upgrade all nodes of a cluster come back together,
    and all plugins of a node at the same moment.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """It works again, or the cause is another one: start from the shortest pause, say the next failure."""
        self._failures = 0
        self._due = trio.current_time()
        self._said: str | None = None
        self._said_at = 0.0

    def failed(self) -> None:
        pause = min(FIRST_SECONDS * 2.0 ** min(self._failures, 30), LONGEST_SECONDS)
        self._failures += 1
        self._due = trio.current_time() + pause * random.uniform(0.5, 1)  # noqa: S311 - no secret

    def due(self) -> bool:
        """Whether the pause after the last failure is over."""
        return trio.current_time() >= self._due

    async def pause(self) -> None:
        """A failure, and the pause after it."""
        self.failed()
        await trio.sleep_until(self._due)

    def worth_saying(self, problem: str) -> bool:
        """Whether ``problem`` is news: not what was said last, or said SAY_AGAIN_SECONDS ago. Counts as said."""
        now = trio.current_time()
        if problem == self._said and now - self._said_at < SAY_AGAIN_SECONDS:
            return False
        self._said, self._said_at = problem, now
        return True
