"""One session with the kubelet: the life of one socket file of ours, with every kubelet.sock that appears beside it.

A session ends when our file is gone. That is how a kubelet that starts tells its plugins to come again: it deletes
every socket in the directory, then makes kubelet.sock anew.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import trio
from grpclib.exceptions import GRPCError

from bitfusiond import logs
from bitfusiond.http import observe
from bitfusiond.plugin import grpc, sockets
from bitfusiond.plugin.metrics import Metrics
from bitfusiond.plugin.retry import Retry
from bitfusiond.plugin.servicer import Servicer, options
from bitfusiond.plugin.v1beta1 import api_grpc
from bitfusiond.plugin.v1beta1 import api_pb2 as api

API_VERSION = "v1beta1"

# The kubelet calls back on our socket while we wait, and gives that 10 s itself.
REGISTER_SECONDS = 12.0
CHECK_SECONDS = 5.0
# A kubelet that has accepted a registration opens ListAndWatch within its own 10 s. Without that stream it has dropped
# us without making its socket anew, or it is dead and its socket file has survived it.
UNWATCHED_SECONDS = 10.0

_log = logs.Log("plugin")


@dataclass
class Session:
    """Sessions follow each other: :meth:`run` may be called again when it has returned."""

    path: Path
    kubelet_path: Path
    resource_name: str
    servicer: Servicer
    health: observe.Health
    metrics: Metrics
    # Which kubelet.sock was there last, across sessions: a kubelet that starts anew ends one and changes this.
    kubelet: sockets.Identity | None = None

    async def run(self, sock: socket.socket) -> bool:
        """Serve on ``sock``, which listens at our path, and keep registered until that file is gone.

        Returns False, and that at once, if our socket does not even answer ourselves. What is raised comes out of the
        asyncio loop in exception groups. ``sock`` is closed in any case, and its file removed if it is still there.
        """
        ours = sockets.identity(self.path)
        self.servicer.open()
        try:
            async with grpc.grpc_server([self.servicer], sock, before_close=self.servicer.close):
                if not await self._answers_ourselves():
                    return False
                _log.info("serving", socket=str(self.path))
                async with trio.open_nursery() as siblings:
                    siblings.start_soon(self._follow_kubelet, ours)
                    await sockets.replaced(self.path, ours)
                    siblings.cancel_scope.cancel()
                return True
        finally:
            self._not_registered("our own socket is gone")
            sockets.remove(self.path, ours)

    async def _answers_ourselves(self) -> bool:
        """Call our own socket by its name, as the kubelet will: better to fail here than in the kubelet's log."""
        try:
            async with grpc.grpc_channel(str(self.path)) as channel:
                stub = api_grpc.DevicePluginStub(channel)
                await grpc.grpc_call(stub.GetDevicePluginOptions, api.Empty(), seconds=CHECK_SECONDS)
        except Exception as error:  # noqa: BLE001 - each is a reason not to register
            _log.error("own socket does not answer", socket=str(self.path), error=_described(error))
            return False
        return True

    async def _follow_kubelet(self, ours: sockets.Identity | None) -> None:
        """Keep registered with every kubelet.sock that appears, until cancelled."""
        if self.kubelet is None and sockets.identity(self.kubelet_path) is None:
            _log.info("waiting for the kubelet", socket=str(self.kubelet_path))
        while True:
            known = self.kubelet
            async with trio.open_nursery() as siblings:
                # A kubelet removes our socket before it makes its own, and we may see the second of these first.
                if known is not None and sockets.identity(self.path) == ours:
                    siblings.start_soon(self._keep_registered)
                self.kubelet = await sockets.replaced(self.kubelet_path, known)
                if known is not None:
                    _log.info("kubelet socket changed", socket=str(self.kubelet_path), gone=self.kubelet is None)
                siblings.cancel_scope.cancel()
            # Not before: a registration may have succeeded in the same moment.
            self._not_registered("kubelet.sock was made anew" if self.kubelet else "there is no kubelet.sock")

    async def _keep_registered(self) -> None:
        """Register with the present kubelet, and again when it does not watch the devices, until cancelled."""
        retry = Retry()
        while True:
            if await self._register(retry):
                await self._expect_stream(retry)
                problem = "the kubelet does not watch the devices"
                if retry.is_due(problem):
                    _log.warning("kubelet does not watch the devices", seconds=UNWATCHED_SECONDS)
                self._not_registered(problem)
            await retry.pause()

    async def _register(self, retry: Retry) -> bool:
        """Announce ourselves on kubelet.sock; whether the kubelet accepted it."""
        request = api.RegisterRequest(
            version=API_VERSION, endpoint=self.path.name, resource_name=self.resource_name, options=options()
        )
        try:
            async with grpc.grpc_channel(str(self.kubelet_path)) as channel:
                stub = api_grpc.RegistrationStub(channel)
                await grpc.grpc_call(stub.Register, request, seconds=REGISTER_SECONDS)
        except Exception as error:  # noqa: BLE001 - whatever a kubelet that starts or dies does to the call
            self.metrics.registration_failures.inc()
            reason = _described(error)
            self._not_registered(f"registration failed: {reason}")
            if retry.is_due(reason):
                _log.warning("registration failed", socket=str(self.kubelet_path), error=reason)
            return False
        self.servicer.note_kubelet()
        self.metrics.registrations.inc()
        self.metrics.registered.set(1)
        self.health.ready()
        _log.info("registered", resource=self.resource_name, devices=self.servicer.table.size, socket=str(self.path))
        return True

    async def _expect_stream(self, retry: Retry) -> None:
        """Return when the kubelet has had no ListAndWatch stream open for UNWATCHED_SECONDS."""
        with trio.move_on_after(UNWATCHED_SECONDS) as patience:
            while True:
                if self.servicer.streams:
                    patience.deadline = trio.current_time() + UNWATCHED_SECONDS
                    retry.reset()  # not before: a kubelet that accepts us and never watches is one more failure
                await trio.sleep(sockets.POLL_SECONDS)

    def _not_registered(self, reason: str) -> None:
        self.metrics.registered.set(0)
        self.health.not_ready(reason)


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
