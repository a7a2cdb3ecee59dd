"""``/healthz``, ``/readyz`` and ``/metrics``, the same for every daemon, on plain HTTP (``--observe``).

A daemon owns one :class:`Health` and one prometheus registry, and hands both to :func:`serve`.
"""

from __future__ import annotations

import logging
import math
import platform
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState
from hypercorn.utils import wrap_app
from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from bitfusiond import __version__, logs
from bitfusiond.http import server
from bitfusiond.http.connections import Connections
from bitfusiond.http.messages import Response
from bitfusiond.settings.values import Address

KEEP_ALIVE_SECONDS = 60.0
REQUEST_SECONDS = 10.0
MOST_CONNECTIONS = 50  # a kubelet, some Prometheus servers, a person

_log = logs.Log("observe")


class Health:
    """Why this process is not ready, if it is not. ``/healthz`` says only that it turns."""

    def __init__(self, not_ready: str = "starting", *checks: Callable[[], str | None]) -> None:
        """``checks`` are asked each time and give a reason of their own, or None."""
        self._not_ready: str | None = not_ready
        self._checks = checks

    def ready(self) -> None:
        self._not_ready = None

    def not_ready(self, reason: str) -> None:
        self._not_ready = reason

    @property
    def reason(self) -> str | None:
        """None when ready."""
        reasons = (self._not_ready, *(check() for check in self._checks))
        return next((reason for reason in reasons if reason is not None), None)


def registry(role: str) -> CollectorRegistry:
    """A registry with the process's own figures and ``bitfusiond_build_info{version,python_version,role}``."""
    disable_created_metrics()  # type: ignore[no-untyped-call] # a second series for every counter, which nobody asks for
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    build = Gauge("bitfusiond_build_info", "Always 1.", ["version", "python_version", "role"], registry=registry)
    build.labels(__version__, platform.python_version(), role).set(1)
    return registry


def answer(method: str, path: str, health: Health, metrics: CollectorRegistry, *others: str) -> Response:
    """The answer to ``method`` on one of the three paths; 404 and 405 for anything else.

    ``others`` are paths that are served beside them, for the message of a 404.
    """
    match path:
        case "/healthz":
            found = Response(200, b"ok\n")
        case "/readyz":
            reason = health.reason
            found = Response(200, b"ok\n") if reason is None else Response(503, f"not ready: {reason}\n".encode())
        case "/metrics":
            found = Response(200, generate_latest(metrics), CONTENT_TYPE_LATEST)
        case _:
            paths = ", ".join([*others, "/healthz", "/readyz"])
            return Response(404, f"not found; there are {paths} and /metrics\n".encode())
    return found if method in {"GET", "HEAD"} else Response(405, b"use GET\n", headers=(("allow", "GET, HEAD"),))


class _Config(Config):
    """Where hypercorn's defaults, which are for web sites, do not do."""

    keep_alive_timeout = math.inf  # by default 5 s; idle connections are ended by _Connection, and only for others
    include_server_header = False  # nobody need know what to attack
    accesslog = None  # a probe a second is no news
    errorlog = logging.getLogger("bitfusiond.observe")  # as JSON lines, as all else


class _Connection(TCPServer):
    """hypercorn counts no connections, but tells when one begins to wait for its client and when it ends to.

    One with a request stalls too, where it takes longer than a moment: an answer is there at once, and a client that
    does not take it, or speaks HTTP/2 and never asks, must leave its place to others.
    """

    connections: Connections
    scope: trio.CancelScope

    async def run(self) -> None:
        with trio.CancelScope() as self.scope:
            self.connections.waits(self.scope, KEEP_ALIVE_SECONDS)
            try:
                await super().run()
            finally:
                self.connections.ends(self.scope)

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            seconds = KEEP_ALIVE_SECONDS if event.idle else REQUEST_SECONDS
            self.connections.waits(self.scope, seconds, is_idle=event.idle)
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        # hypercorn shields what it sends from cancellation: a client that stops reading would keep the process alive.
        async with self.send_lock:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_all(event.data)


def _application(health: Health, metrics: CollectorRegistry) -> ASGIFramework:
    """What answers as an ASGI application."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return  # hypercorn refuses a WebSocket then
        response = answer(scope["method"], scope["path"], health, metrics)
        headers = [("content-type", response.content_type), ("content-length", str(len(response.body)))]
        await send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": [(name.encode(), value.encode()) for name, value in (*headers, *response.headers)],
            }
        )
        await send({"type": "http.response.body", "body": response.body})

    return app


async def serve(
    address: Address | None,
    health: Health,
    metrics: CollectorRegistry,
    stop: trio.Event,
    task_status: trio.TaskStatus[Address | None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on ``address`` until ``stop``; ``started(address)`` with the one bound. None = off: returns at once.

    Raises Failure when the address cannot be had.
    """
    if address is None:
        task_status.started(None)
        return
    sock = server.listen(address, "--observe")
    bound = server.bound_address(sock)
    _log.info("observing", address=str(bound))
    connections = Connections(MOST_CONNECTIONS)
    config, context = _Config(), WorkerContext(None)
    app = wrap_app(_application(health, metrics), config.wsgi_max_body_size, "asgi")

    async def one(plain: trio.SocketStream) -> None:
        connection = _Connection(app, config, context, ConnectionState({}), plain)  # type: ignore[arg-type]
        connection.connections = connections
        await connection

    async with trio.open_nursery() as nursery:
        await nursery.start(
            lambda task_status: server.serve_connections(
                one, sock, connections, stop=stop, graceful_seconds=1, task_status=task_status
            )
        )
        task_status.started(bound)
