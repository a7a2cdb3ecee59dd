"""``--role plugin``: serve on our socket, check it, register with the kubelet, watch both sockets, and so on again.

A session is the life of one socket file of ours. It ends when that file is gone, which is how a kubelet that starts
tells its plugins to come again: it deletes every socket in the directory, then makes kubelet.sock anew.
"""

from __future__ import annotations

from pathlib import Path

import trio
from grpclib.exceptions import GRPCError

from bitfusiond import logs
from bitfusiond.core.devices import DeviceTable
from bitfusiond.errors import Failure
from bitfusiond.http import observe
from bitfusiond.plugin import grpc, sockets
from bitfusiond.plugin.health import Prober
from bitfusiond.plugin.metrics import Metrics
from bitfusiond.plugin.retry import Retry
from bitfusiond.plugin.servicer import Servicer, options
from bitfusiond.plugin.v1beta1 import api_grpc
from bitfusiond.plugin.v1beta1 import api_pb2 as api
from bitfusiond.settings import Plugin

API_VERSION = "v1beta1"

# Two stat calls a round. inotify would wake us a little sooner, but it watches an inode and not a name: it falls silent
# when the directory itself is removed and made anew, it does not see what happens through every kind of mount, and its
# queue can overflow. At this rate a restarted kubelet has its devices back within a second, for less than a tenth of
# a percent of a core on every node.
POLL_SECONDS = 0.75
# The kubelet calls back on our socket while we wait, and gives that 10 s itself.
REGISTER_SECONDS = 12.0
CHECK_SECONDS = 5.0
# A kubelet that has accepted a registration opens ListAndWatch within its own 10 s. Without that stream it has dropped
# us without making its socket anew, or it is dead and its socket file has survived it.
UNWATCHED_SECONDS = 10.0

_log = logs.Log("plugin")


async def serve(settings: Plugin, stop: trio.Event) -> None:
    """Run the device plugin until ``stop``; then: not ready, streams ended, socket removed.

    Raises ConfigurationError for a directory or a path that cannot work, Failure where our socket cannot be had at
    the start. That the kubelet is down, or not there yet, raises nothing at any time.
    """
    path, kubelet_path = sockets.checked(settings)
    registry = observe.registry("plugin")
    metrics = Metrics(registry)
    health = observe.Health("not registered with the kubelet yet")
    servicer = Servicer(DeviceTable(settings.resource_nums), metrics)
    life = _Life(path, kubelet_path, settings.resource_name, servicer, health, metrics)
    stopped = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(observe.serve, settings.observe, health, registry, stopped)
        async with trio.open_nursery() as working:
            if settings.servers_conf is not None:
                prober = Prober(settings.servers_conf, settings.interval, servicer.change_health, metrics)
                working.start_soon(prober.run)
            working.start_soon(life.run)
            await stop.wait()
            health.not_ready("stopping")
            working.cancel_scope.cancel()
        stopped.set()


class _Life:
    """Sessions, one after the other."""

    def __init__(
        self,
        path: Path,
        kubelet_path: Path,
        resource_name: str,
        servicer: Servicer,
        health: observe.Health,
        metrics: Metrics,
    ) -> None:
        self._path = path
        self._kubelet_path = kubelet_path
        self._resource_name = resource_name
        self._servicer = servicer
        self._health = health
        self._metrics = metrics
        self._served = False
        self._kubelet: sockets.Identity | None = None

    async def run(self) -> None:
        """Until cancelled. Raises Failure where the socket cannot be had, or never again."""
        retry = Retry()
        while True:
            try:
                if await self._session():
                    _log.warning("own socket vanished", socket=str(self._path))
                    retry.reset()
                    continue
            except FileNotFoundError:
                # The directory went away under us. It may come back, with a kubelet that is set up anew.
                if sockets.deleted(self._path.parent):
                    raise Failure(
                        f"{self._path.parent} was deleted under its mount: only a new container gets to see a new one"
                    ) from None
                if retry.worth_saying("missing"):
                    _log.warning("waiting for the device plugin directory", path=str(self._path.parent))
                await trio.sleep(POLL_SECONDS)
                continue
            except OSError as error:
                if not self._served:
                    raise Failure(f"cannot make the socket {self._path}: {error.strerror or error}") from error
                if retry.worth_saying(str(error)):
                    _log.error("cannot serve", socket=str(self._path), error=str(error))
            except Failure:
                raise
            except Exception:  # noqa: BLE001 - whatever it is, this node needs its devices: log it and begin again
                _log.exception("session failed")
            await retry.pause()

    async def _session(self) -> bool:
        """Serve and keep registered for as long as our socket is there; False if it does not even answer ourselves.

        Raises Failure and OSError as sockets.listen() does; anything else comes out of the asyncio loop in a group.
        """
        with await sockets.listen(self._path) as sock:
            ours = sockets.identity(self._path)
            self._served = True
            self._servicer.open()
            try:
                async with grpc.grpc_server([self._servicer], sock, before_close=self._servicer.close):
                    if not await self._answers_ourselves():
                        return False
                    _log.info("serving", socket=str(self._path))
                    await self._keep_registered(ours)
                    return True
            finally:
                self._not_registered("our own socket is gone")
                sockets.remove(self._path, ours)

    async def _answers_ourselves(self) -> bool:
        """Call our own socket by its name, as the kubelet will: better to fail here than in the kubelet's log."""
        try:
            async with grpc.grpc_channel(str(self._path)) as channel:
                stub = api_grpc.DevicePluginStub(channel)
                await grpc.grpc_call(stub.GetDevicePluginOptions, api.Empty(), seconds=CHECK_SECONDS)
        except Exception as error:  # noqa: BLE001 - each is a reason not to register
            _log.error("own socket does not answer", socket=str(self._path), error=_described(error))
            return False
        return True

    async def _keep_registered(self, ours: sockets.Identity | None) -> None:
        """Register with every kubelet.sock that appears, for as long as our own socket is there."""
        registered = False
        watched = trio.current_time()
        retry = Retry()
        if self._kubelet is None and sockets.identity(self._kubelet_path) is None:
            _log.info("waiting for the kubelet", socket=str(self._kubelet_path))
        while sockets.identity(self._path) == ours:
            kubelet = sockets.identity(self._kubelet_path)
            if kubelet != self._kubelet:
                if self._kubelet is not None:
                    _log.info("kubelet socket changed", socket=str(self._kubelet_path), gone=kubelet is None)
                self._not_registered("kubelet.sock was made anew" if kubelet else "there is no kubelet.sock")
                self._kubelet, registered = kubelet, False
                retry.reset()
            if self._servicer.streams:
                watched = trio.current_time()
                if registered:
                    retry.reset()  # not before: a kubelet that accepts us and never watches is one more failure
            if registered and trio.current_time() - watched > UNWATCHED_SECONDS:
                problem = "the kubelet does not watch the devices"
                if retry.worth_saying(problem):
                    _log.warning("kubelet does not watch the devices", seconds=UNWATCHED_SECONDS)
                self._not_registered(problem)
                retry.failed()
                registered = False
            if kubelet and not registered and retry.due():
                registered = await self._register(retry)
                watched = trio.current_time()
            await trio.sleep(POLL_SECONDS)

    async def _register(self, retry: Retry) -> bool:
        """Announce ourselves on kubelet.sock; whether the kubelet accepted it. A failure is for ``retry`` to repeat."""
        request = api.RegisterRequest(
            version=API_VERSION, endpoint=self._path.name, resource_name=self._resource_name, options=options()
        )
        try:
            async with grpc.grpc_channel(str(self._kubelet_path)) as channel:
                stub = api_grpc.RegistrationStub(channel)
                await grpc.grpc_call(stub.Register, request, seconds=REGISTER_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever a kubelet that starts or dies does to the call
            self._metrics.registration_failures.inc()
            reason = _described(error)
            self._not_registered(f"registration failed: {reason}")
            retry.failed()
            if retry.worth_saying(reason):
                _log.warning("registration failed", socket=str(self._kubelet_path), error=reason)
            return False
        self._servicer.seen()
        self._metrics.registrations.inc()
        self._metrics.registered.set(1)
        self._health.ready()
        _log.info("registered", resource=self._resource_name, devices=self._servicer.table.size, socket=str(self._path))
        return True

    def _not_registered(self, reason: str) -> None:
        self._metrics.registered.set(0)
        self._health.not_ready(reason)


def _described(error: Exception) -> str:
    """One line on why a call failed, in gRPC's words or the system's."""
    match error:
        case GRPCError():
            return f"{error.status.name}: {error.message}"
        case TimeoutError():
            return "no answer in time"
        case OSError():
            return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"
