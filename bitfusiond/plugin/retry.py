"""What the plugin does about a kubelet that does not answer: pause, try again, and not say the same all the time."""

from __future__ import annotations

import trio

from bitfusiond.pacing import Backoff, Repeats

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 30.0
REPEAT_SECONDS = 600.0


class Retry:
    """The pause before the next try, and whether a problem is worth a line.

    Pauses differ by chance: after a kubelet upgrade all nodes of a cluster come back together.
    """

    def __init__(self) -> None:
        self._backoff = Backoff(FIRST_SECONDS, LONGEST_SECONDS)
        self._repeats = Repeats(REPEAT_SECONDS)

    def reset(self) -> None:
        """It works again, or the cause is another one: start from the shortest pause, say the next failure."""
        self._backoff.reset()
        self._repeats.reset()

    async def pause(self) -> None:
        """A failure, and the pause after it."""
        await trio.sleep(self._backoff.failed())

    def is_due(self, problem: str) -> bool:
        """Whether ``problem`` is news: not what was said last, or said REPEAT_SECONDS ago. Counts as said."""
        return self._repeats.is_due(trio.current_time(), problem)
