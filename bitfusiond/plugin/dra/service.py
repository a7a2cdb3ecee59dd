"""The life of the driver: its socket, the socket by which the kubelet finds that one, and both anew when one is gone.

A kubelet that starts looks through its directory of registrations, and one that runs sees what appears there and what
goes: unlike a device plugin, a driver calls nobody.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.kube import Cluster
from bitfusiond.plugin import grpc, sockets
from bitfusiond.plugin.dra.cdifiles import CdiFiles
from bitfusiond.plugin.dra.driver import Driver
from bitfusiond.plugin.dra.servicers import CallsV1, CallsV1beta1, Registration
from bitfusiond.plugin.metrics import DriverMetrics
from bitfusiond.plugin.retry import Retry
from bitfusiond.settings import Plugin

REGISTRY_SOCKET = f"{names.DRIVER}-reg.sock"
ENDPOINT = "dra.sock"
# How long calls that are under way may take when we are told to stop: one request to the API server and some more. The
# kubelet kills our container 10 s after the signal.
DRAIN_SECONDS = 6.0
_TAKEN = ("DRA driver", "remove its pod: a node has one driver of that name")

_log = logs.Log("dra")


@dataclass(frozen=True, slots=True)
class Places:
    """Where the sockets and the files are. All three directories are the node's, under the node's own paths."""

    endpoint: Path
    registry: Path
    cdi: Path


def places(settings: Plugin) -> Places:
    """Raises ConfigurationError for a directory or a path that cannot work."""
    for option, directory in ("--plugins-dir", settings.plugins_dir), ("--registry-dir", settings.registry_dir):
        if not directory.is_dir():
            problem = "is not a directory" if directory.exists() else "does not exist"
            raise ConfigurationError(
                f"{option}: {directory} {problem}: it must be the kubelet's directory of that name"
            )
        if not directory.is_absolute():
            raise ConfigurationError(
                f"{option}: {directory} is not a path from the root: the kubelet could not follow it"
            )
    endpoint = settings.plugins_dir / names.DRIVER / ENDPOINT
    registry = settings.registry_dir / REGISTRY_SOCKET
    sockets.check_length(endpoint, "--plugins-dir")
    sockets.check_length(registry, "--registry-dir")
    return Places(endpoint, registry, settings.cdi_dir)


async def serve(places: Places, cluster: Cluster, registration: Registration, metrics: DriverMetrics) -> None:
    """Prepare claims until cancelled; then calls under way are finished, and the sockets removed last.

    Raises Failure where a socket cannot be had at the start, or never again.
    """
    driver = Driver(cluster, CdiFiles(places.cdi), metrics)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.clean_up)
        nursery.start_soon(_watch_directories, places)
        nursery.start_soon(_run_sessions, places, driver, registration)


async def _run_sessions(places: Places, driver: Driver, registration: Registration) -> None:
    """One session after the other, until cancelled. Raises Failure where the sockets cannot be made the first time."""
    retry = Retry()
    session = _Session(places, driver, registration)
    while True:
        try:
            await session.run()
        except Failure:
            raise
        except OSError as error:
            if not session.was_serving:
                raise Failure(f"cannot make the sockets of the DRA driver: {error.strerror or error}") from error
            if retry.is_due(str(error)):
                _log.error("cannot serve", error=str(error))
            await retry.pause()
        except Exception:  # noqa: BLE001 - whatever it is, this node's pods need the driver: log it and begin again
            _log.exception("session failed")
            await retry.pause()
        else:
            _log.warning("own socket vanished", socket=session.vanished)
            retry.reset()


class _Session:
    """Both sockets, from the moment in which they are made until one of them is gone."""

    def __init__(self, places: Places, driver: Driver, registration: Registration) -> None:
        self._places = places
        self._calls = [CallsV1(driver), CallsV1beta1(driver)]
        self._registration = registration
        self.was_serving = False
        self.vanished = ""

    async def run(self) -> None:
        """Serve until one of the sockets is gone. Raises OSError where they cannot be made, Failure as sockets.listen.

        Both files go last: the kubelet hangs up on a driver whose registration is gone.
        """
        endpoint, registry = self._places.endpoint, self._places.registry
        endpoint.parent.mkdir(mode=0o750, exist_ok=True)
        known: dict[Path, sockets.Identity | None] = {}
        try:
            with await sockets.listen(endpoint, *_TAKEN) as sock:
                known[endpoint] = sockets.identity(endpoint)
                with await sockets.listen(registry, *_TAKEN) as registry_sock:
                    known[registry] = sockets.identity(registry)
                    await self._serve(sock, registry_sock, known)
        finally:
            self._registration.lost("its socket is gone")
            for path, ours in reversed(known.items()):
                sockets.remove(path, ours)

    async def _serve(
        self, sock: socket.socket, registry_sock: socket.socket, known: dict[Path, sockets.Identity | None]
    ) -> None:
        async with (
            grpc.grpc_server(self._calls, sock, drain_seconds=DRAIN_SECONDS),
            grpc.grpc_server([self._registration], registry_sock),
        ):
            self.was_serving = True
            _log.info("serving claims", socket=str(self._places.endpoint), registration=str(self._places.registry))
            await self._until_one_is_gone(known)

    async def _until_one_is_gone(self, known: dict[Path, sockets.Identity | None]) -> None:
        async def watch(path: Path, done: Callable[[], None]) -> None:
            await sockets.replaced(path, known[path])
            self.vanished = str(path)
            done()

        async with trio.open_nursery() as siblings:
            for path in known:
                siblings.start_soon(watch, path, siblings.cancel_scope.cancel)


async def _watch_directories(places: Places) -> None:
    """Raise Failure when a directory was deleted under its mount: nothing in there reaches kubelet and runtime."""
    while True:
        # Of those for the endpoint either may be what is mounted.
        for directory in (places.registry.parent, places.endpoint.parent, places.endpoint.parent.parent, places.cdi):
            if sockets.is_deleted(directory):
                raise Failure(f"{directory} was deleted under its mount: only a new container gets to see a new one")
        await trio.sleep(sockets.POLL_SECONDS)
