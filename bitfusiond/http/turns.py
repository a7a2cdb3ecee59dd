"""Work for many clients at once, with other tasks in between: a probe must not wait for all of them."""

from __future__ import annotations

import trio

AT_ONCE_SECONDS = 0.05  # of work without a break, and what is begun by then


class Turns:
    """Seconds that were worked since all other tasks had their turn; who comes when these are many waits for that."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._lock = trio.Lock()

    def worked(self, seconds: float) -> None:
        """Count ``seconds`` in which no other task could run."""
        self._seconds += seconds

    async def wait(self) -> None:
        """Return when it is time to work: at once, if little was done."""
        if self._seconds < AT_ONCE_SECONDS:
            return
        async with self._lock:  # first come, first served, and other tasks run before the next one has it
            await trio.lowlevel.checkpoint()
            self._seconds = 0.0
