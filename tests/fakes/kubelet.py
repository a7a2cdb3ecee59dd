"""A stand-in kubelet: the device manager's part of one, on real unix sockets in a directory of the caller's choice.

It does what the real one does with a device plugin: serves Registration on ``kubelet.sock``, dials the plugin while
the plugin's Register call waits, asks for its options, keeps ListAndWatch open, and makes the calls that a pod's
admission makes. It must never be given a node's own ``/var/lib/kubelet``.
"""

from __future__ import annotations

import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import trio

from bitfusiond.plugin import grpc  # before trio-asyncio and grpclib: it knows how they want to be imported

# isort: split
import trio_asyncio
from grpclib.client import Channel
from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.server import Stream

from bitfusiond.plugin.v1beta1 import api_pb2 as api
from bitfusiond.plugin.v1beta1.api_grpc import DevicePluginStub, RegistrationBase

DIAL_SECONDS = 10.0
WAIT_SECONDS = 20.0


class Registration(NamedTuple):
    """One Register call that was accepted, and the options that the plugin then gave on its own socket."""

    request: api.RegisterRequest
    options: api.DevicePluginOptions


class _Endpoint:
    """The plugin as the kubelet sees it: a connection, and the last list that came over it."""

    def __init__(self, path: Path) -> None:
        self.channel = Channel(path=str(path))
        self.stub = DevicePluginStub(self.channel)
        self.devices: dict[str, str] | None = None
        self.lists = 0
        self.ended = False

    async def watch(self, changed: Callable[[], None]) -> None:
        """Read ListAndWatch until it ends. asyncio-flavoured."""
        try:
            async with self.stub.ListAndWatch.open() as stream:
                await stream.send_message(api.Empty(), end=True)
                async for response in stream:
                    self.devices = {device.ID: device.health for device in response.devices}
                    self.lists += 1
                    changed()
        except (GRPCError, StreamTerminatedError, OSError):
            pass
        finally:
            self.ended = True
            changed()


class Kubelet(RegistrationBase):
    """A kubelet that runs inside ``async with Kubelet(directory) as kubelet``, once started, until stopped.

    Every ``wait`` gives up with trio.TooSlowError after WAIT_SECONDS.
    """

    def __init__(self, directory: Path) -> None:
        if directory.is_relative_to("/var/lib/kubelet"):
            raise ValueError("a stand-in kubelet has no business in the directory of a real one")
        self.socket = directory / "kubelet.sock"
        self.refuse_with: str | None = None  # a message: refuse registrations with it
        self.hang = False  # never answer a registration
        self.register_calls = 0
        self._directory = directory
        self._arrived, self._registrations = trio.open_memory_channel[Registration](1000)
        self._changed = trio.Event()
        self._endpoint: _Endpoint | None = None
        self._incarnation: trio.CancelScope | None = None
        self._gone = trio.Event()
        self._context: AbstractAsyncContextManager[Kubelet] = self._running()

    async def __aenter__(self) -> Kubelet:
        return await self._context.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return await self._context.__aexit__(kind, error, traceback)

    # --- its life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start as a kubelet does: every socket in the directory goes, then kubelet.sock is made anew."""
        for path in self._directory.iterdir():
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        await self.listen()

    async def listen(self) -> None:
        """Make kubelet.sock anew and leave other sockets alone."""
        self.socket.unlink(missing_ok=True)
        await self._nursery.start(self._serve)

    async def stop(self) -> None:
        """Die: connections break, kubelet.sock stays behind as it does after SIGKILL."""
        if self._incarnation is not None:
            self._incarnation.cancel()
            await self._gone.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def forget(self) -> None:
        """Hang up on the plugin that registered last, and say nothing more to it."""
        assert self._endpoint is not None
        self._endpoint.channel.close()

    # --- what it was told ---------------------------------------------------------------------------------------

    async def wait_registered(self) -> Registration:
        """The next registration that was accepted and that no earlier call has returned."""
        with trio.fail_after(WAIT_SECONDS):
            return await self._registrations.receive()

    async def devices(self) -> dict[str, str]:
        """id -> health, as the plugin that registered last has listed them; waits for its first list."""
        await self._until(lambda: self._endpoint is not None and self._endpoint.devices is not None)
        assert self._endpoint is not None
        return dict(self._endpoint.devices or {})

    async def wait_health(self, health: str) -> None:
        """Until every device has ``health``."""
        await self._until(
            lambda: self._endpoint is not None and set((self._endpoint.devices or {}).values()) == {health}
        )

    async def wait_stream_ended(self) -> None:
        """Until ListAndWatch of the plugin that registered last is over."""
        await self._until(lambda: self._endpoint is not None and self._endpoint.ended)

    @property
    def lists(self) -> int:
        """How many lists the plugin that registered last has sent."""
        return self._endpoint.lists if self._endpoint else 0

    # --- what it asks -------------------------------------------------------------------------------------------

    async def allocate(self, *containers: Iterable[str]) -> api.AllocateResponse:
        """Allocate for a pod, given the ids for each of its containers. Raises GRPCError where the plugin refuses."""
        requests = [api.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
        response: api.AllocateResponse = await self._call("Allocate", api.AllocateRequest(container_requests=requests))
        return response

    async def preferred(self, available: Iterable[str], size: int, must_include: Iterable[str] = ()) -> Sequence[str]:
        """GetPreferredAllocation for one container. Raises GRPCError where the plugin refuses."""
        request = api.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=must_include, allocation_size=size
        )
        response = await self._call(
            "GetPreferredAllocation", api.PreferredAllocationRequest(container_requests=[request])
        )
        return list(response.container_responses[0].deviceIDs)

    # --- how ----------------------------------------------------------------------------------------------------

    async def Register(self, stream: Stream[api.RegisterRequest, api.Empty]) -> None:  # noqa: N802
        """Called by a plugin. asyncio-flavoured."""
        request = await stream.recv_message()
        assert request is not None
        self.register_calls += 1
        if self.hang:
            await grpc.Bell().wait()
        if self.refuse_with is not None:
            raise GRPCError(Status.UNKNOWN, self.refuse_with)
        if request.version != "v1beta1":
            raise GRPCError(Status.UNKNOWN, f"version {request.version} is not supported")
        endpoint = _Endpoint(self._directory / request.endpoint)
        self._endpoints.append(endpoint)
        options = await endpoint.stub.GetDevicePluginOptions(api.Empty(), timeout=DIAL_SECONDS)
        self._endpoint = endpoint
        self._watching.start_soon(self._aio(endpoint.watch), self._announce)
        self._arrived.send_nowait(Registration(request, options))
        await stream.send_message(api.Empty())

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[Kubelet]:
        async with trio.open_nursery() as self._nursery:
            await self.start()
            yield self
            await self.stop()
            self._nursery.cancel_scope.cancel()

    async def _serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """One incarnation, from the first moment of its kubelet.sock until :meth:`stop`."""
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.socket))
        sock.listen()
        sock.setblocking(False)
        self._gone = trio.Event()
        self._endpoint, self._endpoints = None, list[_Endpoint]()
        try:
            with trio.CancelScope() as self._incarnation:
                async with grpc.grpc_server([self], sock), trio.open_nursery() as self._watching:
                    self._loop = trio_asyncio.current_loop.get()
                    task_status.started()
                    try:
                        await trio.sleep_forever()
                    finally:
                        for endpoint in self._endpoints:
                            endpoint.channel.close()
        finally:
            self._incarnation = None
            self._gone.set()

    def _aio(self, function: Any) -> Any:
        return trio_asyncio.aio_as_trio(function, loop=self._loop)

    async def _call(self, method: str, request: Any) -> Any:
        await self.devices()
        assert self._endpoint is not None
        with trio.fail_after(WAIT_SECONDS):
            return await self._aio(getattr(self._endpoint.stub, method))(request)

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(WAIT_SECONDS):
            while not condition():
                with trio.move_on_after(0.05):  # an endpoint appears without an announcement
                    await self._changed.wait()
