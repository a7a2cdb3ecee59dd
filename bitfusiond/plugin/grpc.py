"""grpclib, which is asyncio, under trio: the only module that knows of both.

Everything here that a servicer awaits is asyncio-flavoured and says so; all else is trio-flavoured.
"""

from __future__ import annotations

import asyncio
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

with warnings.catch_warnings():
    # trio-asyncio derives from a class that Python 3.12 and 3.13 warn of. Under PYTHONWARNINGS=default a plugin would
    # print that between its lines of JSON, under PYTHONWARNINGS=error end by it; only trio-asyncio can mend it.
    warnings.filterwarnings("ignore", "'AbstractChildWatcher' is", DeprecationWarning, r"trio_asyncio\._loop")
    # Before grpclib, which keeps the current_task() that it finds in asyncio: from 3.12 on only trio-asyncio's knows of
    # the loops that run under trio.
    import trio_asyncio

from grpclib.client import Channel
from grpclib.server import Server

from bitfusiond import logs

if TYPE_CHECKING:
    from grpclib.protocol import H2Protocol

ResultT = TypeVar("ResultT")
_log = logs.Log("grpc")

# How long the streams may take to end by themselves, and how long closing may take after that. A kubelet that does
# not read holds up both, and neither may hold up the end of a process that its own kubelet kills after 30 s.
DRAIN_SECONDS = 1.0
CLOSE_SECONDS = 1.0


class Bell:
    """Rung by anyone, heard by every asyncio task that waits at that moment."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    def ring(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Until the next :meth:`ring`. asyncio-flavoured."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)


class _Server(Server):
    """grpclib's server, with its connections in sight.

    grpclib's ``close()`` cancels the calls but leaves the connections open, and the kubelet never hangs up first: its
    connections would live on as unclosed sockets, and ``wait_closed()`` of Python 3.12 would wait for them for ever.
    """

    def __init__(self, handlers: Sequence[Any]) -> None:
        super().__init__(handlers)
        self._protocols: list[H2Protocol] = []

    def _protocol_factory(self) -> H2Protocol:
        protocol = super()._protocol_factory()
        self._protocols = [each for each in self._protocols if not _lost(each)]
        self._protocols.append(protocol)
        return protocol

    async def drained(self) -> None:
        """Until no call is being handled. asyncio-flavoured."""
        # grpclib tells nobody when a call ends.
        while not all(handler.check_closed() for handler in self._handlers):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def stop_accepting(self, sock: socket.socket) -> None:
        """Take no new connection. asyncio-flavoured.

        What asyncio has accepted becomes a connection two turns of its loop later; after ``close()`` it would become
        none, and its socket be left open.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        for _ in range(2):
            turned = loop.create_future()
            loop.call_soon(turned.set_result, None)
            await turned

    def hang_up(self) -> None:
        """Close every connection, and drop what its client has not read by now."""
        for protocol in self._protocols:
            if hasattr(protocol, "connection") and not _lost(protocol):
                transport = protocol.connection._transport  # noqa: SLF001 - grpclib forgets it in close()
                protocol.processor.close("the server is stopping")
                transport.abort()


def _lost(protocol: H2Protocol) -> bool:
    """Whether its connection is over. Between accept() and connection_made() there is none yet."""
    return hasattr(protocol, "connection") and protocol.connection.is_closing()


@asynccontextmanager
async def grpc_server(
    servicers: Sequence[Any],
    sock: socket.socket,
    before_close: Callable[[], None] = lambda: None,
    drain_seconds: float = DRAIN_SECONDS,
) -> AsyncIterator[None]:
    """Answer gRPC calls on ``sock``, which listens already, for as long as the context lasts.

    Owns the socket and an asyncio loop; :func:`grpc_call` can be used inside. On leaving, ``before_close()`` asks the
    servicers to end their streams; calls that have not ended after ``drain_seconds`` are cancelled. Leaving takes at
    most ``drain_seconds`` + CLOSE_SECONDS even if the surrounding scope was cancelled.

    What is raised in the context comes out inside exception groups, for the loop is a nursery.
    """
    async with trio_asyncio.open_loop() as loop:
        # trio-asyncio raises what an asyncio callback did not catch in the nursery of the loop. grpclib lets h2's
        # errors through, so one client with a strange frame would end the calls of all others. asyncio has closed
        # that client's connection by the time it tells us.
        loop.set_exception_handler(_log_unhandled)
        server = _Server(servicers)
        await trio_asyncio.aio_as_trio(server.start)(sock=sock)
        try:
            yield
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + drain_seconds + CLOSE_SECONDS):
                try:
                    before_close()
                    with trio.move_on_after(drain_seconds):
                        await trio_asyncio.aio_as_trio(server.drained)()
                finally:  # also where the process was held up until past the deadline
                    with trio.CancelScope(shield=True):  # two turns of the loop
                        await trio_asyncio.aio_as_trio(server.stop_accepting)(sock)
                    server.close()
                    server.hang_up()
                await trio_asyncio.aio_as_trio(server.wait_closed)()


@asynccontextmanager
async def grpc_channel(path: str) -> AsyncIterator[Channel]:
    """A connection to the unix socket ``path``, made at the first call. Only inside :func:`grpc_server`."""
    channel = Channel(path=path)
    try:
        yield channel
    finally:
        channel.close()


async def grpc_call(function: Callable[..., Awaitable[ResultT]], *arguments: Any, seconds: float) -> ResultT:
    """Call an asyncio-flavoured gRPC method, which has ``seconds`` to answer. Only inside :func:`grpc_server`.

    The deadline goes to the server too, so that it need not work for a caller that is gone. Raises what grpclib
    raises (GRPCError, StreamTerminatedError, OSError) and TimeoutError.
    """
    try:
        with trio.fail_after(seconds + CLOSE_SECONDS):
            result: ResultT = await trio_asyncio.aio_as_trio(function)(*arguments, timeout=seconds)
            return result
    except trio.TooSlowError:
        raise TimeoutError from None


async def from_trio(function: Callable[..., Awaitable[ResultT]], *arguments: Any) -> ResultT:
    """Await a trio-flavoured function in a servicer's method. asyncio-flavoured; cancelled as the call is."""
    result: ResultT = await trio_asyncio.trio_as_aio(function)(*arguments)
    return result


def _log_unhandled(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _log.error("connection failed", message=context.get("message"), error=repr(context.get("exception")))
