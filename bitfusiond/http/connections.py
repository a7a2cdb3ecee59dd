"""The connections of one port: how many there may be, and which one goes where there are too many."""

from __future__ import annotations

import errno
from operator import itemgetter
from types import TracebackType

import trio

from bitfusiond import logs
from bitfusiond.pacing import Repeats

# Each costs 25 kB over TLS, and some 100 kB while its handshake lasts: more than all API servers together have, and
# still few enough for a container with little memory.
MOST = 400
PATIENCE_SECONDS = 2.0  # a client has so long before it makes room for another one
# What accept() says where a connection could be had and the means for it are lacking.
_SHORT_OF_MEANS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SHORT_PAUSE_SECONDS = 0.1
REPEAT_SECONDS = 10.0  # between two lines of one kind

_log = logs.Log("serving")


class Connections:
    """At most ``most`` at once. Those that wait for their client are known by the time since when they do."""

    def __init__(self, most: int | None = None) -> None:
        self._most = MOST if most is None else most
        self._number = 0
        self._waiting: dict[trio.CancelScope, float] = {}
        self._idle: set[trio.CancelScope] = set()
        self._changed = trio.lowlevel.ParkingLot()
        self._closing = False

    async def slot(self) -> None:
        """Wait until there is room for one more, if need be by ending the one that has waited for its client longest.

        A good client needs milliseconds between a connection and its request. So those that have waited longest are
        idle or stall, and they must not keep others out.
        """
        while self._number >= self._most:
            if self._waiting:
                longest, since = min(self._waiting.items(), key=itemgetter(1))
                longest.deadline = min(longest.deadline, since + PATIENCE_SECONDS)
            with trio.move_on_after(PATIENCE_SECONDS):
                await self._changed.park()

    def opened(self) -> None:
        self._number += 1

    def closed(self) -> None:
        self._number -= 1
        self._changed.unpark_all()

    def waiting(self, seconds: float, *, since: float | None = None, is_idle: bool = True) -> _Waiting:
        """The client has ``seconds`` for what is waited for in the block; less where others want its place.

        ``since`` is when that began, by default now. One that ``is_idle`` owes nothing, and ends when the server does.
        """
        scope = trio.CancelScope()
        self.waits(scope, seconds, since=since, is_idle=is_idle)
        return _Waiting(self, scope)

    def waits(
        self, scope: trio.CancelScope, seconds: float, *, since: float | None = None, is_idle: bool = True
    ) -> None:
        """As :meth:`waiting`, but until the next call or :meth:`ends`: for a server that tells of requests."""
        now = trio.current_time()
        scope.deadline = now + seconds
        self._waiting[scope] = now if since is None else since
        if not is_idle:
            self._idle.discard(scope)
            return
        self._idle.add(scope)
        if self._closing:
            scope.cancel()

    def ends(self, scope: trio.CancelScope) -> None:
        """The client of ``scope`` is not waited for any more."""
        del self._waiting[scope]
        self._idle.discard(scope)
        self._changed.unpark_all()

    def close(self) -> None:
        """End each idle connection, now and from now on."""
        self._closing = True
        for scope in self._idle:
            scope.cancel()


class _Waiting:
    """No generator, which every answer would pay for several times."""

    __slots__ = ("_connections", "_scope")

    def __init__(self, connections: Connections, scope: trio.CancelScope) -> None:
        self._connections = connections
        self._scope = scope

    def __enter__(self) -> trio.CancelScope:
        return self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._connections.ends(self._scope)
        return self._scope.__exit__(kind, error, traceback)


class BoundedListener(trio.abc.Listener[trio.SocketStream]):
    """New connections as there is room for them; the others wait in the kernel's backlog."""

    def __init__(self, listener: trio.SocketListener, connections: Connections) -> None:
        self._listener = listener
        self._connections = connections
        self._repeats = Repeats(REPEAT_SECONDS)

    async def accept(self) -> trio.SocketStream:
        """trio.serve_listeners would write a traceback ten times a second for as long as descriptors are lacking."""
        while True:
            # Nobody makes room for a newcomer who is not there yet.
            await trio.lowlevel.wait_readable(self._listener.socket)
            await self._connections.slot()
            try:
                stream = await self._listener.accept()
            except OSError as error:
                if error.errno not in _SHORT_OF_MEANS:
                    raise
                if self._repeats.is_due(trio.current_time()):
                    _log.error("new connections must wait", error=error.strerror)
                await trio.sleep(_SHORT_PAUSE_SECONDS)
            else:
                self._connections.opened()
                return stream

    async def aclose(self) -> None:
        await self._listener.aclose()
