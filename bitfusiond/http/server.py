"""A listening socket and its connections: each in a task of its own that can only end itself."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from bitfusiond import logs
from bitfusiond.errors import Failure
from bitfusiond.http.connections import REPEAT_SECONDS, BoundedListener, Connections
from bitfusiond.http.conversation import Conversation, Shared
from bitfusiond.http.memory import Memory
from bitfusiond.http.messages import Handler
from bitfusiond.http.turns import Turns
from bitfusiond.pacing import Repeats
from bitfusiond.settings.values import Address

HANDSHAKE_SECONDS = 10.0
BODIES = 2**23  # bytes of large bodies that are being received; more must wait
ANSWERS = 2**23  # bytes of answers that clients are slow to take
_BACKLOG = 1024

_log = logs.Log("serving")


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
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise Failure(f"{option}: cannot listen on {address}: {error.strerror or error}") from error
    return sock


def bound_address(sock: socket.socket) -> Address:
    host, port, *_ = sock.getsockname()
    return Address(host, port)


async def serve_connections(
    serve_one: Callable[[trio.SocketStream], Awaitable[None]],
    sock: socket.socket,
    connections: Connections,
    *,
    stop: trio.Event,
    graceful_seconds: float,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run ``serve_one`` for each connection of ``sock``, which is owned here, until ``stop`` is set.

    ``started()`` once it accepts. After ``stop``: no new connection, those that wait for their client are closed, and
    the others have ``graceful_seconds`` to end.
    """
    listener = BoundedListener(trio.SocketListener(trio.socket.from_stdlib_socket(sock)), connections)

    failures = Repeats(REPEAT_SECONDS)  # a client may cause them as often as it likes

    async def one(stream: trio.SocketStream) -> None:
        try:
            await serve_one(stream)
        except* Exception:  # noqa: BLE001 - nothing that one client sends may end the others
            if failures.is_due(trio.current_time()):
                _log.exception("connection failed")
        finally:
            connections.closed()
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as tasks:
        async with trio.open_nursery() as accepting:
            await accepting.start(partial(trio.serve_listeners, one, [listener], handler_nursery=tasks))
            task_status.started()
            await stop.wait()
            accepting.cancel_scope.cancel()
        connections.close()
        tasks.cancel_scope.deadline = trio.current_time() + graceful_seconds


async def serve(
    answer: Handler,
    sock: socket.socket,
    tls: Callable[[], ssl.SSLContext],
    *,
    stop: trio.Event,
    graceful_seconds: float,
    close_keepalives: trio.Event | None = None,
    broken: Callable[[int], None] = lambda _status: None,
    untrusted: Callable[[str], None] = lambda _reason: None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer HTTPS requests on ``sock`` until ``stop`` is set: see :func:`serve_connections`.

    From ``close_keepalives`` on, if given, each connection ends with its next answer, so that the API server takes its
    next request to another replica. ``broken(status)`` is told of what was no HTTP and never came as far as ``answer``,
    ``untrusted(reason)`` of a client whose certificate is not good: TLS has no answer for it but to fail.
    ``tls()`` is asked at each handshake, so that a new certificate holds from the next one on.
    """
    last_answers = stop if close_keepalives is None else close_keepalives
    connections = Connections()
    shared = Shared(answer, connections, last_answers.is_set, broken, Memory(BODIES), Memory(ANSWERS), Turns())

    async def one(plain: trio.SocketStream) -> None:
        stream = trio.SSLStream(plain, tls(), server_side=True, https_compatible=True)
        try:
            with connections.waiting(HANDSHAKE_SECONDS) as handshake:
                await stream.do_handshake()
            if not handshake.cancelled_caught:
                await Conversation(stream, shared).run()
        except trio.BrokenResourceError as error:  # no TLS, or gone already
            if isinstance(error.__cause__, ssl.SSLCertVerificationError):
                untrusted(error.__cause__.verify_message)
        finally:
            # It holds a bound method of its own: some 50 kB would wait for the garbage collector.
            vars(stream).pop("_handshook", None)

    await serve_connections(
        one, sock, connections, stop=stop, graceful_seconds=graceful_seconds, task_status=task_status
    )
