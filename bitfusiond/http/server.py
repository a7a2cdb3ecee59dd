"""hypercorn, wrapped once: an ASGI application on one TCP address, under trio, until it is told to stop.

hypercorn's own ``serve`` runs every connection in the server's nursery, so an exception in one ends them all, and it
shields writes without a bound, so a client that stops reading keeps the process from ending. Here each connection is
hypercorn's HTTP/1.1 code in a task of its own that can only end itself.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr, wrap_app

from bitfusiond import logs
from bitfusiond.errors import Failure
from bitfusiond.http.accept import Handshakes, accept
from bitfusiond.http.tls import TLSStream
from bitfusiond.settings import Address

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# The API server keeps idle webhook connections for 90 s (IdleConnTimeout of Go's default transport). Closing one
# from our side while a request is on its way loses that request, so ours must live longer.
KEEP_ALIVE_SECONDS = 120.0
# A Service chooses a replica for each new connection, not for each request, and the API server keeps its connections
# for as long as it uses them: without an end of their own a replica that came later would never be asked.
CONNECTION_SECONDS = 300.0
_SPREAD = 0.2  # of it, either way, so that connections of one moment do not all end in another
SEND_SECONDS = 10.0
LINGER_SECONDS = 1.0
BACKLOG = 1024
TEXT = "text/plain; charset=utf-8"

_log = logs.Log("serving")


class _Config(Config):
    """hypercorn's defaults are for public web sites: these are for a few long-lived API server connections."""

    keep_alive_timeout = KEEP_ALIVE_SECONDS
    keep_alive_max_requests = 2**62
    max_app_queue_size = 2  # pieces of a body, of up to 64 KiB each, for every client whose body must wait
    include_server_header = False
    accesslog = None
    errorlog = logging.getLogger("bitfusiond.http.server")


class _Http1(H11Protocol):
    """HTTP/1.1 and nothing that a client could talk it into: a wish to upgrade may be ignored (RFC 9110, 7.8)."""

    context: _Context

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not a secret, so a plain random number will do.
        self._old_at = trio.current_time() + CONNECTION_SECONDS * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and (self.context.parting.is_set() or trio.current_time() >= self._old_at):
            # With an answer: a connection that closes without a word may lose the request that is on its way.
            event.headers.append((b"connection", b"close"))
        await super().stream_send(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        """No HTTP/2, neither by its preface nor by an upgrade."""

    async def _create_stream(self, request: h11.Request) -> None:
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in request.headers}:
            # Whoever passed it on may have taken the other one at its word (RFC 9112, 6.1).
            await self._send_error_response(400)
            await self.send(Closed())
            return
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        if len(headers) < len(request.headers):  # no WebSocket
            request = h11.Request(
                method=request.method, target=request.target, headers=headers, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        _, client_gone = self.connection.trailing_data
        if not client_gone:
            self.context.broken(status_code)
        await super()._send_error_response(status_code)

    async def _maybe_recycle(self) -> None:
        if self.connection.their_state is not h11.DONE:
            # Answered before all of the request was there. hypercorn first tells the application that it is over,
            # through a queue that the rest of the request may have filled, and that nobody reads any more.
            await self.send(Closed())
        await super()._maybe_recycle()


class _Inbox:
    """What a connection has read for the application, and hypercorn's bound on it.

    hypercorn uses trio's memory channels, where each event is a task switch on either side.
    """

    def __init__(self, size: int) -> None:
        self._events: deque[Any] = deque()
        self._size = size
        self._waiting = trio.lowlevel.ParkingLot()  # for a first event, or for room

    async def put(self, event: Any) -> None:
        while len(self._events) >= self._size:
            await self._waiting.park()
        self._events.append(event)
        self._waiting.unpark_all()

    async def get(self) -> Any:
        while not self._events:
            await self._waiting.park()
        event = self._events.popleft()
        self._waiting.unpark_all()
        return event


class _Tasks(TaskGroup):
    """The nursery of a connection, where each of its requests has a task."""

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Any:
        inbox = _Inbox(config.max_app_queue_size)
        self._nursery.start_soon(self._request, app, scope, inbox.get, send)  # type: ignore[union-attr]
        return inbox.put

    async def _request(self, app: Any, scope: Scope, receive: Receive, send: Any) -> None:
        try:
            await app(scope, receive, send, None, None)
        except Exception:  # noqa: BLE001 - a defect in one answer must not end the connection without a word
            _log.exception("error in the application")
        await send(None)  # hypercorn's word for the end: 500 where there was no answer


class _Context(WorkerContext):
    """What the connections of a server share: ``parting`` is set when each must end with its next answer, ``idle`` are
    those that wait for a request, ``broken`` is told the status of an answer to what was no HTTP.
    """

    def __init__(self, parting: trio.Event, broken: Callable[[int], None]) -> None:
        super().__init__(None)
        self.parting = parting
        self.broken = broken
        self.handshakes = Handshakes()
        self.idle: set[_Connection] = set()

    async def end(self) -> None:
        """No further request on any connection."""
        await self.terminated.set()
        for connection in self.idle:
            connection.life.cancel()


class _Connection(TCPServer):
    """One client. A write that takes longer than SEND_SECONDS means a client that no longer reads: it is dropped."""

    context: _Context
    stream: TLSStream | trio.SocketStream  # type: ignore[assignment]

    async def run(self) -> None:
        """Handshake, then requests until either side has enough; the stream is the caller's to close."""
        self._hung_up = False
        self._unsent = b""
        sock = self.stream.socket
        try:
            if isinstance(self.stream, TLSStream):
                with self.context.handshakes.one():
                    await self.stream.do_handshake()
            client = parse_socket_addr(sock.family, sock.getpeername())
            server = parse_socket_addr(sock.family, sock.getsockname())
        except (trio.BrokenResourceError, trio.TooSlowError, OSError):
            return  # no TLS, or gone already
        with trio.CancelScope() as self.life:
            self._rest(idle=True)
            async with _Tasks() as tasks:
                self.protocol = _Http1(  # type: ignore[assignment]
                    self.app,
                    self.config,
                    self.context,
                    tasks,
                    self.state,
                    isinstance(self.stream, TLSStream),
                    client,
                    server,
                    self.protocol_send,
                )
                await self._read_data()
                # hypercorn would keep the socket of a client that is gone for as long as an idle one.
                self.life.cancel()
        self.context.idle.discard(self)
        if self._hung_up:
            await _linger(self.stream)

    async def protocol_send(self, event: Event) -> None:
        """What hypercorn's HTTP has to say to this connection."""
        if isinstance(event, RawData):
            self._unsent += event.data
            # An answer leaves when it is whole: one TLS record and one system call for head and body.
            if self.protocol.connection.our_state is not h11.SEND_BODY:  # type: ignore[attr-defined]
                await self._flush()
        elif isinstance(event, Updated):
            self._rest(event.idle)
        elif isinstance(event, Closed):
            self._hung_up = True
            self.life.cancel()

    async def _flush(self) -> None:
        """Send what is unsent; what another task is sending goes first."""
        try:
            self.send_lock.acquire_nowait()
        except trio.WouldBlock:
            await self.send_lock.acquire()
        data, self._unsent = self._unsent, b""
        try:
            if data:
                with trio.move_on_after(SEND_SECONDS) as sending:
                    await self.stream.send_all(data)
                if sending.cancelled_caught:
                    self.life.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.life.cancel()
        finally:
            self.send_lock.release()

    def _rest(self, idle: bool) -> None:
        """An idle connection ends by itself after a while, and at once when the server does.

        hypercorn has a task for that, a new one after each request.
        """
        if idle:
            self.context.idle.add(self)
            self.life.deadline = trio.current_time() + self.config.keep_alive_timeout
            if self.context.terminated.is_set():
                self.life.cancel()
        else:
            self.context.idle.discard(self)
            self.life.deadline = math.inf


async def _linger(stream: TLSStream | trio.SocketStream) -> None:
    """Until the client hangs up too: closing on what it still sends would reset the connection, its answer unread."""
    with trio.move_on_after(LINGER_SECONDS), contextlib.suppress(trio.BrokenResourceError):
        await stream.send_eof()
        while await stream.receive_some():
            pass


class EncryptedKeyError(Exception):
    """A private key that needs a password."""


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/1.1 only.

    Raises OSError (ssl.SSLError is one) for files that cannot be read or used, EncryptedKeyError for such a key.

    The API server speaks HTTP/1.1 to a webhook behind a Service; offering h2 would only split its pool in two.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # OpenSSL before 3.0 lets a client ask for one after another
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key, password=_no_password)
    return context


def _no_password() -> str:
    # Without this OpenSSL asks for one on the terminal.
    raise EncryptedKeyError


def listen(address: Address, option: str) -> socket.socket:
    """A socket that listens on ``address``. Raises Failure, naming ``option``, where that is not possible."""
    try:
        family, *_, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except UnicodeError:  # of the idna codec
        raise Failure(f"{option}: cannot listen on {address}: not the name of a host") from None
    except OSError as error:
        raise Failure(f"{option}: cannot listen on {address}: {error.strerror or error}") from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise Failure(f"{option}: cannot listen on {address}: {error.strerror or error}") from error
    return sock


def bound_address(sock: socket.socket) -> Address:
    host, port, *_ = sock.getsockname()
    return Address(host, port)


async def respond(
    send: Send,
    status: int,
    body: bytes,
    content_type: str = TEXT,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> None:
    """Send one whole response with its Content-Length."""
    start = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def serve(
    application: Application,
    sock: socket.socket,
    tls: Callable[[], ssl.SSLContext] | None,
    *,
    stop: trio.Event,
    graceful_seconds: float,
    draining: trio.Event | None = None,
    broken: Callable[[int], None] = lambda _status: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``application`` on ``sock`` (HTTPS where ``tls`` is given) until ``stop`` is set.

    ``started()`` once it accepts. From ``draining`` on, if given, each connection ends with its next answer, so that
    the API server takes its next request to another replica. After ``stop``: no new connection, idle ones are closed,
    and the last answers have ``graceful_seconds``. ``broken(status)`` is called for what was no HTTP and so never came
    as far as the application. Owns the socket. ``tls()`` is asked at each handshake, so that a new certificate holds
    from the next one on.
    """
    config = _Config()
    context = _Context(stop if draining is None else draining, broken)
    framework = wrap_app(application, config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))

    async def connection(plain: trio.SocketStream) -> None:
        stream: TLSStream | trio.SocketStream = plain
        try:
            if tls:
                stream = TLSStream(plain, tls())
            await _Connection(framework, config, context, ConnectionState({}), stream)  # type: ignore[arg-type]
        except* Exception:  # noqa: BLE001 - nothing that one client sends may end the others
            _log.exception("connection failed")
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            accepting.start_soon(accept, listener, connection, connections, context.handshakes)
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        await context.end()
        connections.cancel_scope.deadline = trio.current_time() + graceful_seconds
