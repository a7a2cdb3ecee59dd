"""Bytes that all clients of a server share: who would take more than is left must wait."""

from __future__ import annotations

import trio


class Memory:
    """``size`` bytes that are lent to tasks and come back."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._shares: list[Share] = []  # that took some, the oldest first
        self._returned = trio.lowlevel.ParkingLot()

    def share(self) -> Share:
        """A share that holds nothing yet; after its block all that it took is back."""
        return Share(self)

    def give_back(self, share: Share) -> None:
        """All that ``share`` took is there to be lent again."""
        if share.taken:
            self._shares.remove(share)
            self._left += share.taken
            share.taken = 0
            self._returned.unpark_all()

    async def take(self, share: Share, size: int) -> None:
        """Lend ``size`` bytes to ``share``. The oldest one never waits: else all could wait for each other."""
        while size > self._left and self._shares[:1] != [share]:
            await self._returned.park()
        self._lend(share, size)

    def take_nowait(self, share: Share, size: int) -> bool:
        """Whether ``size`` bytes were there to be lent."""
        if size > self._left:
            return False
        self._lend(share, size)
        return True

    def _lend(self, share: Share, size: int) -> None:
        if not share.taken:
            self._shares.append(share)
        self._left -= size
        share.taken += size


class Share:
    """What one task has of a Memory, in bytes, until the end of its ``with`` block."""

    __slots__ = ("_memory", "taken")

    def __init__(self, memory: Memory) -> None:
        self.taken = 0
        self._memory = memory

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.give_back(self)

    async def take(self, size: int) -> None:
        """``size`` bytes more, as soon as they are there."""
        await self._memory.take(self, size)

    def take_nowait(self, size: int) -> bool:
        """Whether ``size`` bytes more were there."""
        return self._memory.take_nowait(self, size)
