"""gRPC over trio-asyncio by itself, without a service."""

from __future__ import annotations

import gc
import socket
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from bitfusiond.plugin.grpc import CLOSE_SECONDS, grpc_server


@pytest.mark.parametrize("held_up_seconds", [0.0, CLOSE_SECONDS + 0.1], ids=["in time", "past the deadline"])
async def test_who_connects_as_the_server_stops_is_hung_up_on(tmp_path: Path, held_up_seconds: float) -> None:
    for number in range(2 if held_up_seconds else 20):
        path = str(tmp_path / str(number))
        with socket.socket(socket.AF_UNIX) as listening, ExitStack() as opened:
            listening.bind(path)
            listening.listen()
            clients = [opened.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
            async with grpc_server([], listening, partial(time.sleep, held_up_seconds), drain_seconds=0.01):
                for client in clients:
                    client.connect(path)
            assert all(map(_is_hung_up_on, clients))
    gc.collect()  # a socket that was left open warns now


def _is_hung_up_on(client: socket.socket) -> bool:
    client.settimeout(5)
    try:
        while client.recv(4096):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True
