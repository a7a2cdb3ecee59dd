"""What the plugin does about a kubelet that does not answer: pause, try again, and not say the same all the time."""

from __future__ import annotations

import trio

from bitfusiond.pacing import Backoff, Repeats

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 30.0
SAY_AGAIN_SECONDS = 600.0


class Retry:
    """When the next try is due, and whether a problem is worth a line.

    Pauses differ by chance: after a kubelet upgrade all nodes of a cluster come back together.
    """

    def __init__(self) -> None:
        self._backoff = Backoff(FIRST_SECONDS, LONGEST_SECONDS)
        self._repeats = Repeats(SAY_AGAIN_SECONDS)
        self._due = trio.current_time()

    def reset(self) -> None:
        """It works again, or the cause is another one: start from the shortest pause, say the next failure."""
        self._backoff.reset()
        self._repeats.reset()
        self._due = trio.current_time()

    def failed(self) -> None:
        self._due = trio.current_time() + self._backoff.failed()

    def due(self) -> bool:
        """Whether the pause after the last failure is over."""
        return trio.current_time() >= self._due

    async def pause(self) -> None:
        """A failure, and the pause after it."""
        self.failed()
        await trio.sleep_until(self._due)

    def worth_saying(self, problem: str) -> bool:
        """Whether ``problem`` is news: not what was said last, or said SAY_AGAIN_SECONDS ago. Counts as said."""
        return self._repeats.is_due(trio.current_time(), problem)
