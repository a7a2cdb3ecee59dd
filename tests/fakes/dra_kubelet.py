"""A stand-in kubelet: the part of one that looks after drivers, on real unix sockets in directories of the caller's.

It does what the real one does: dials each socket that appears in the directory of registrations, asks who is there,
notes the endpoint and says whether it is registered; forgets the driver when the socket goes; makes the calls for the
claims of a pod on the endpoint. It must never be given a node's own ``/var/lib/kubelet``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from bitfusiond.plugin import grpc, sockets  # before trio-asyncio and grpclib: it knows how they want to be imported

# isort: split
import trio_asyncio
from grpclib.client import Channel

from bitfusiond.plugin.dra.registration import api_grpc as registration_grpc
from bitfusiond.plugin.dra.registration import api_pb2 as registration
from bitfusiond.plugin.dra.v1 import api_grpc as v1_grpc
from bitfusiond.plugin.dra.v1 import api_pb2 as v1
from bitfusiond.plugin.dra.v1beta1 import api_grpc as v1beta1_grpc
from bitfusiond.plugin.dra.v1beta1 import api_pb2 as v1beta1

WAIT_SECONDS = 20.0
INFO_SECONDS = 1.0  # what the real one gives a driver to say who it is
CALL_SECONDS = 45.0
_VERSIONS: dict[str, tuple[Any, Any]] = {
    "v1.DRAPlugin": (v1, v1_grpc.DRAPluginStub),
    "v1beta1.DRAPlugin": (v1beta1, v1beta1_grpc.DRAPluginStub),
}

Claim = tuple[str, str, str]  # namespace, name, UID


class DraKubelet:
    """A kubelet that runs inside ``async with running(registry) as kubelet``; it knows the services of ``versions``.

    Every ``wait`` gives up with trio.TooSlowError after WAIT_SECONDS.
    """

    def __init__(self, registry: Path, versions: Sequence[str]) -> None:
        if registry.is_relative_to("/var/lib/kubelet"):
            raise ValueError("a stand-in kubelet has no business in the directory of a real one")
        self._registry = registry
        self._versions = versions
        self.refuse_with: str | None = None  # a message: tell drivers that they are not registered
        self.infos: list[registration.PluginInfo] = []
        self._seen: dict[Path, sockets.Identity | None] = {}
        self._endpoint: Channel | None = None
        self._service = ""

    # --- its life -----------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Register whatever appears, until cancelled."""
        while True:
            there = {path: sockets.identity(path) for path in sorted(self._registry.glob("*.sock"))}
            for path in [path for path, known in self._seen.items() if there.get(path) != known]:
                self.forget()
                del self._seen[path]
            for path, found in there.items():
                if path not in self._seen and await self._register(path):
                    self._seen[path] = found
            await trio.sleep(0.02)

    def forget(self) -> None:
        """Hang up on the driver that is registered: its calls are cancelled."""
        if self._endpoint is not None:
            self._endpoint.close()
        self._endpoint = None

    def restart(self) -> None:
        """A kubelet that starts anew looks at all sockets that are there."""
        self.forget()
        self._seen.clear()

    async def _register(self, path: Path) -> bool:
        """Whether somebody answered there."""
        channel = Channel(path=str(path))
        stub = registration_grpc.RegistrationStub(channel)
        try:
            info = await self._aio(stub.GetInfo, registration.InfoRequest(), INFO_SECONDS)
            service = next((each for each in self._versions if each in info.supported_versions), None)
            refusal = "no service of it is known" if service is None else self.refuse_with
            status = registration.RegistrationStatus(plugin_registered=refusal is None, error=refusal or "")
            await self._aio(stub.NotifyRegistrationStatus, status, INFO_SECONDS)
            # Only now, so that who waits for it finds a driver that knows.
            if service is not None and refusal is None:
                self._endpoint, self._service = Channel(path=info.endpoint), service
        except (OSError, TimeoutError):
            return False
        finally:
            channel.close()
        self.infos.append(info)
        return True

    # --- what it asks -------------------------------------------------------------------------------------------------

    async def wait_registered(self, times: int = 1) -> None:
        """Until a driver is registered, and was so many times."""
        with trio.fail_after(WAIT_SECONDS):
            while self._endpoint is None or len(self.infos) < times:
                await trio.sleep(0.01)

    async def prepare(self, *claims: Claim, seconds: float = CALL_SECONDS) -> Any:
        """The response to NodePrepareResources for the claims of a pod. Raises what grpclib raises."""
        return await self._call("NodePrepareResources", claims, seconds)

    async def unprepare(self, *claims: Claim, seconds: float = CALL_SECONDS) -> Any:
        return await self._call("NodeUnprepareResources", claims, seconds)

    async def _call(self, method: str, claims: Sequence[Claim], seconds: float) -> Any:
        await self.wait_registered()
        assert self._endpoint is not None
        api, stub = _VERSIONS[self._service]
        listed = [api.Claim(namespace=namespace, name=name, uid=uid) for namespace, name, uid in claims]
        request = getattr(api, f"{method}Request")(claims=listed)
        return await self._aio(getattr(stub(self._endpoint), method), request, seconds)

    async def _aio(self, function: Any, request: Any, seconds: float) -> Any:
        return await grpc.grpc_call(function, request, seconds=seconds)


@asynccontextmanager
async def running(registry: Path, *versions: str) -> AsyncIterator[DraKubelet]:
    """A kubelet that knows ``versions`` of the service, or all of them, the best first."""
    kubelet = DraKubelet(registry, versions or tuple(_VERSIONS))
    async with trio_asyncio.open_loop(), trio.open_nursery() as nursery:
        nursery.start_soon(kubelet.watch)
        try:
            yield kubelet
        finally:
            nursery.cancel_scope.cancel()
            kubelet.forget()
