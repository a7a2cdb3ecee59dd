"""``--role plugin``: serve on our socket, check it, register with the kubelet, watch both sockets, and so on again."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry

from bitfusiond import logs
from bitfusiond.core.devices import DeviceTable
from bitfusiond.errors import Failure
from bitfusiond.http import observe
from bitfusiond.plugin import sockets
from bitfusiond.plugin.health import Prober
from bitfusiond.plugin.metrics import DriverMetrics, Metrics
from bitfusiond.plugin.retry import Retry
from bitfusiond.plugin.servicer import Servicer
from bitfusiond.plugin.session import Session
from bitfusiond.settings import Plugin

# To the API server, each in a thread with a connection of its own. A claim takes two of some 10 ms each.
REQUESTS_AT_ONCE = 4

_log = logs.Log("plugin")


async def serve(settings: Plugin, stop: trio.Event) -> None:
    """Run the device plugin, and the DRA driver beside it, until ``stop``; then: not ready, streams ended, calls that
    are under way finished, sockets removed.

    Raises ConfigurationError for a directory or a path that cannot work, Failure where a socket of ours cannot be had
    at the start. That the kubelet is down, or not there yet, raises nothing at any time.
    """
    path, kubelet_path = sockets.paths(settings)
    registry = observe.registry("plugin")
    metrics = Metrics(registry)
    drive, problem = _driver(settings, registry)
    health = observe.Health("not registered with the kubelet yet", problem)
    servicer = Servicer(DeviceTable(settings.resource_nums), metrics)
    session = Session(path, kubelet_path, settings.resource_name, servicer, health, metrics)
    stopped = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(observe.serve, settings.observe, health, registry, stopped)
        async with trio.open_nursery() as working:
            if settings.servers_conf is not None:
                prober = Prober(settings.servers_conf, settings.interval, servicer.change_health, metrics)
                working.start_soon(prober.run)
            working.start_soon(_run_sessions, session)
            working.start_soon(drive)
            await stop.wait()
            health.not_ready("stopping")
            working.cancel_scope.cancel()
        stopped.set()


def _driver(
    settings: Plugin, registry: CollectorRegistry
) -> tuple[Callable[[], Awaitable[None]], Callable[[], str | None]]:
    """The DRA driver, to be run until it is cancelled, and what tells why it is not ready, if it is not.

    Without --dra-driver both do nothing, and the client of the API server, some 20 MB, is not imported. Raises
    ConfigurationError.
    """
    if settings.dra_driver is None:
        return trio.lowlevel.checkpoint, lambda: None
    from bitfusiond.kube import apiserver  # noqa: PLC0415
    from bitfusiond.plugin.dra import service, servicers  # noqa: PLC0415

    places = service.places(settings)
    metrics = DriverMetrics(registry)
    registration = servicers.Registration(places.endpoint, metrics)
    cluster = apiserver.connect(settings.kubeconfig, REQUESTS_AT_ONCE)
    return partial(service.serve, places, cluster, registration, metrics), registration.problem


async def _run_sessions(session: Session) -> None:
    """One session after the other, until cancelled. Raises Failure where the socket cannot be had, or never again."""
    retry = Retry()
    try:
        sock = await _listen(session.path, retry)
    except OSError as error:
        raise Failure(f"cannot make the socket {session.path}: {error.strerror or error}") from error
    while True:
        vanished = False
        try:
            with sock:
                vanished = await session.run(sock)
        except Exception:  # noqa: BLE001 - whatever it is, this node needs its devices: log it and begin again
            _log.exception("session failed")
        if vanished:
            _log.warning("own socket vanished", socket=str(session.path))
            retry.reset()
        else:
            await retry.pause()
        sock = await _listen_again(session.path, retry)


async def _listen(path: Path, retry: Retry) -> socket.socket:
    """Listen on our socket as soon as its directory is there. Raises as sockets.listen() does, and Failure."""
    while True:
        try:
            return await sockets.listen(path)
        except FileNotFoundError:
            # The directory went away under us. It may come back, with a kubelet that is set up anew.
            if sockets.is_deleted(path.parent):
                raise Failure(
                    f"{path.parent} was deleted under its mount: only a new container gets to see a new one"
                ) from None
            if retry.is_due("missing"):
                _log.warning("waiting for the device plugin directory", path=str(path.parent))
            await trio.sleep(sockets.POLL_SECONDS)


async def _listen_again(path: Path, retry: Retry) -> socket.socket:
    """Like :func:`_listen`, in a directory that has permitted it before: try until it does so again."""
    while True:
        try:
            return await _listen(path, retry)
        except OSError as error:
            if retry.is_due(str(error)):
                _log.error("cannot serve", socket=str(path), error=str(error))
            await retry.pause()
