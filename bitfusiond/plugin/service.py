"""``--role plugin``: serve on our socket, check it, register with the kubelet, watch both sockets, and so on again."""

from __future__ import annotations

import socket
from pathlib import Path

import trio

from bitfusiond import logs
from bitfusiond.core.devices import DeviceTable
from bitfusiond.errors import Failure
from bitfusiond.http import observe
from bitfusiond.plugin import sockets
from bitfusiond.plugin.health import Prober
from bitfusiond.plugin.metrics import Metrics
from bitfusiond.plugin.retry import Retry
from bitfusiond.plugin.servicer import Servicer
from bitfusiond.plugin.session import Session
from bitfusiond.settings import Plugin

_log = logs.Log("plugin")


async def serve(settings: Plugin, stop: trio.Event) -> None:
    """Run the device plugin until ``stop``; then: not ready, streams ended, socket removed.

    Raises ConfigurationError for a directory or a path that cannot work, Failure where our socket cannot be had at
    the start. That the kubelet is down, or not there yet, raises nothing at any time.
    """
    path, kubelet_path = sockets.paths(settings)
    registry = observe.registry("plugin")
    metrics = Metrics(registry)
    health = observe.Health("not registered with the kubelet yet")
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
            await stop.wait()
            health.not_ready("stopping")
            working.cancel_scope.cancel()
        stopped.set()


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
            if retry.worth_saying("missing"):
                _log.warning("waiting for the device plugin directory", path=str(path.parent))
            await trio.sleep(sockets.POLL_SECONDS)


async def _listen_again(path: Path, retry: Retry) -> socket.socket:
    """Like :func:`_listen`, in a directory that has permitted it before: try until it does so again."""
    while True:
        try:
            return await _listen(path, retry)
        except OSError as error:
            if retry.worth_saying(str(error)):
                _log.error("cannot serve", socket=str(path), error=str(error))
            await retry.pause()
