"""hypercorn, wrapped once: an ASGI application on one TCP address, under trio, until it is told to stop.

hypercorn's own ``serve`` runs every connection in the server's nursery, so an exception in one ends them all, and it
shields writes without a bound, so a client that stops reading keeps the process from ending. Here each connection is
hypercorn's protocol code in a task of its own that can only end itself.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from bitfusiond import logs
from bitfusiond.errors import Failure
from bitfusiond.settings import Address

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# The API server keeps idle webhook connections for 90 s (IdleConnTimeout of Go's default transport). Closing one
# from our side while a request is on its way loses that request, so ours must live longer.
KEEP_ALIVE_SECONDS = 120.0
HANDSHAKE_SECONDS = 10.0
SEND_SECONDS = 10.0
BACKLOG = 1024

_log = logs.Log("serving")


class _Config(Config):
    """hypercorn's defaults are for public web sites: these are for a few long-lived API server connections."""

    keep_alive_timeout = KEEP_ALIVE_SECONDS
    keep_alive_max_requests = 2**62
    ssl_handshake_timeout = HANDSHAKE_SECONDS
    include_server_header = False
    accesslog = None
    errorlog = None


class _Connection(TCPServer):
    """One client. A write that takes longer than SEND_SECONDS means a client that no longer reads: it is dropped."""

    async def protocol_send(self, event: Event) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        async with self.send_lock:
            try:
                # Shielded, as in hypercorn: half a TLS record would make the connection useless.
                with trio.fail_after(SEND_SECONDS, shield=True):
                    await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                await trio.aclose_forcefully(self.stream)
                await self.protocol.handle(Closed())


def server_context(cert: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, HTTP/1.1 only. Raises OSError (ssl.SSLError is one) for files that cannot be read or used.

    The API server speaks HTTP/1.1 to a webhook behind a Service; offering h2 would only split its pool in two.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(cert, key)
    return context


def listen(address: Address, option: str) -> socket.socket:
    """A socket that listens on ``address``. Raises Failure, naming ``option``, where that is not possible."""
    try:
        family, *_, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
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


async def serve(
    application: Application,
    sock: socket.socket,
    tls: ssl.SSLContext | None,
    *,
    stop: trio.Event,
    graceful_seconds: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``application`` on ``sock`` (HTTPS where ``tls`` is given) until ``stop`` is set.

    ``started()`` once it accepts. After ``stop``: no new connection, idle ones are closed, and the last answers have
    ``graceful_seconds``. Owns the socket. ``tls`` is used as it is, so that a certificate that is loaded into it later
    holds from the next handshake on.
    """
    config = _Config()
    context = WorkerContext(None)
    framework = wrap_app(application, config.wsgi_max_body_size, "asgi")  # type: ignore[arg-type]
    plain = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    listener = trio.SSLListener(plain, tls, https_compatible=True) if tls else plain

    async def connection(stream: Any) -> None:
        try:
            await _Connection(framework, config, context, ConnectionState({}), stream)
        except Exception:  # noqa: BLE001 - nothing that one client sends may end the others
            _log.exception("connection failed")
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as accepting:
            await accepting.start(partial(trio.serve_listeners, connection, [listener], handler_nursery=connections))
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        await listener.aclose()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + graceful_seconds
