"""gRPC over trio-asyncio by itself, without a service."""

from __future__ import annotations

import gc
import socket
from pathlib import Path

from bitfusiond.plugin.grpc import grpc_server


async def test_who_connects_as_the_server_stops_is_hung_up_on(tmp_path: Path) -> None:
    for number in range(20):
        path = str(tmp_path / str(number))
        with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
            listening.bind(path)
            listening.listen()
            async with grpc_server([], listening, drain_seconds=0.01):
                client.connect(path)
            client.setblocking(True)
            client.settimeout(5)
            try:
                while client.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    gc.collect()  # a socket that was left open warns now
