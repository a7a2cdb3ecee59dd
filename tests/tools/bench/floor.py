"""The least that a device plugin in trio and grpclib can be: serve one fixed list, register once, sleep.

``python -m tests.tools.bench.floor DIRECTORY DEVICES``
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import trio
import trio_asyncio
from grpclib.client import Channel
from grpclib.server import Server

from bitfusiond.plugin.v1beta1 import api_grpc
from bitfusiond.plugin.v1beta1 import api_pb2 as api


class _Servicer(api_grpc.DevicePluginBase):
    def __init__(self, devices: int) -> None:
        self._devices = devices

    async def GetDevicePluginOptions(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        await stream.send_message(api.DevicePluginOptions())

    async def ListAndWatch(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        devices = [api.Device(ID=str(index), health="Healthy") for index in range(self._devices)]
        await stream.send_message(api.ListAndWatchResponse(devices=devices))
        await trio_asyncio.trio_as_aio(trio.sleep_forever)()

    async def GetPreferredAllocation(self, stream: Any) -> None:  # noqa: N802
        raise NotImplementedError

    async def Allocate(self, stream: Any) -> None:  # noqa: N802
        raise NotImplementedError

    async def PreStartContainer(self, stream: Any) -> None:  # noqa: N802
        raise NotImplementedError


async def _main(directory: Path, devices: int) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(directory / "floor.sock"))
        sock.listen()
        sock.setblocking(False)
        async with trio_asyncio.open_loop():
            await trio_asyncio.aio_as_trio(Server([_Servicer(devices)]).start)(sock=sock)
            channel = Channel(path=str(directory / "kubelet.sock"))
            request = api.RegisterRequest(version="v1beta1", endpoint="floor.sock", resource_name="bitfusion.io/gpu")
            await trio_asyncio.aio_as_trio(api_grpc.RegistrationStub(channel).Register)(request)
            channel.close()
            await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_main, Path(sys.argv[1]), int(sys.argv[2]))
