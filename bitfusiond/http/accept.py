"""Connections as they come: none while file descriptors are lacking or too many handshakes are in progress."""

from __future__ import annotations

import errno
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import trio

from bitfusiond import logs

# Each holds up to 110 kB for a client of which nothing is known yet. More than all API servers together begin in one
# moment: a busy machine needs seconds for 500, and none of those may be taken for one that stalls.
HANDSHAKES_AT_ONCE = 600
HANDSHAKE_SECONDS = 10.0
CROWDED_SECONDS = 2.0  # for the oldest handshake while others must wait
# What accept() says where a connection could be had and the means for it are lacking.
_SHORT_OF_MEANS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORT_PAUSE_SECONDS = 0.1
_SHORT_REPEAT_SECONDS = 10.0

_log = logs.Log("serving")


class Handshakes:
    """Those in progress, the oldest first."""

    def __init__(self) -> None:
        self._begun: dict[trio.CancelScope, float] = {}
        self._fewer = trio.lowlevel.ParkingLot()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A handshake, in the block. Raises trio.TooSlowError."""
        with trio.fail_after(HANDSHAKE_SECONDS) as scope:
            self._begun[scope] = trio.current_time()
            try:
                yield
            finally:
                del self._begun[scope]
                self._fewer.unpark()

    async def room(self) -> None:
        """Wait until there is room for one more.

        A good client needs some milliseconds. So the oldest are those that stall, and they must not keep others out.
        """
        while len(self._begun) >= HANDSHAKES_AT_ONCE:
            oldest, began = next(iter(self._begun.items()))
            oldest.deadline = began + CROWDED_SECONDS
            await self._fewer.park()


async def accept(
    listener: trio.SocketListener,
    connection: Callable[[trio.SocketStream], Awaitable[None]],
    connections: trio.Nursery,
    handshakes: Handshakes,
) -> NoReturn:
    """Each connection becomes a task of ``connections``, until cancelled, which closes the listener.

    Where there is no room for a further handshake, connections wait in the kernel's backlog. trio.serve_listeners
    writes a traceback ten times a second for as long as file descriptors are lacking.
    """
    said_at = -math.inf
    async with listener:
        while True:
            await handshakes.room()
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _SHORT_OF_MEANS:
                    raise
                if trio.current_time() - said_at >= _SHORT_REPEAT_SECONDS:
                    said_at = trio.current_time()
                    _log.error("new connections must wait", error=error.strerror)
                await trio.sleep(_SHORT_PAUSE_SECONDS)
            else:
                connections.start_soon(connection, stream)
