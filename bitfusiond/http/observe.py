"""``/healthz``, ``/readyz`` and ``/metrics``, the same for every daemon, on plain HTTP (``--observe``).

A daemon owns one :class:`Health` and one prometheus registry and hands both to :func:`application`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable

import trio
from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from bitfusiond import __version__, logs
from bitfusiond.http import server
from bitfusiond.http.server import TEXT, Application, Receive, Scope, Send, respond
from bitfusiond.settings import Address

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


def application(health: Health, metrics: CollectorRegistry, *others: str) -> Application:
    """The ASGI application that answers the three paths; 404 and 405 for anything else.

    ``others`` are paths of an application around this one, for the message of a 404.
    """
    not_found = f"not found; there are {', '.join([*others, '/healthz', '/readyz'])} and /metrics\n".encode()

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        found = _answer(scope["path"], health, metrics)
        if found is None:
            await respond(send, 404, not_found)
        elif scope["method"] not in {"GET", "HEAD"}:
            await respond(send, 405, b"use GET\n", headers=[(b"allow", b"GET, HEAD")])
        else:
            await respond(send, *found)

    return app


def _answer(path: str, health: Health, metrics: CollectorRegistry) -> tuple[int, bytes, str] | None:
    match path:
        case "/healthz":
            return 200, b"ok\n", TEXT
        case "/readyz":
            reason = health.reason
            return (200, b"ok\n", TEXT) if reason is None else (503, f"not ready: {reason}\n".encode(), TEXT)
        case "/metrics":
            return 200, generate_latest(metrics), CONTENT_TYPE_LATEST
    return None


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
    async with trio.open_nursery() as nursery:
        app = application(health, metrics)
        await nursery.start(
            lambda task_status: server.serve(app, sock, None, stop=stop, graceful_seconds=1, task_status=task_status)
        )
        task_status.started(bound)
