"""Work for many clients at once, with looks of the event loop in between: a probe must not wait for all of them."""

from __future__ import annotations

import trio

AT_ONCE_SECONDS = 0.05  # of work, and what is begun by then, until the event loop looks around


class Turns:
    """How much was done since the event loop looked around. Whoever comes when that is much waits for a turn."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._lock = trio.Lock()

    def worked(self, seconds: float) -> None:
        """So long nobody else could do anything."""
        self._seconds += seconds

    async def wait(self) -> None:
        """Return when it is time to work: at once, if little was done."""
        if self._seconds < AT_ONCE_SECONDS:
            return
        async with self._lock:  # trio gives it to the next one only after a look around, first come, first served
            await trio.lowlevel.checkpoint()
            self._seconds = 0.0
