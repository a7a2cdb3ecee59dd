"""Connections of the plain port that every daemon has: how long they live, and which one makes room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from prometheus_client import CollectorRegistry

from bitfusiond.http import connections, observe
from bitfusiond.settings.values import Address
from tests.fakes.https_client import Connection, HungUpError

KEEP_ALIVE = 0.4
MOST = 3


@pytest.fixture
async def address(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> AsyncIterator[Address]:
    monkeypatch.setattr(observe, "KEEP_ALIVE_SECONDS", KEEP_ALIVE)
    monkeypatch.setattr(observe, "MOST_CONNECTIONS", MOST)
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.1)
    stop, health = trio.Event(), observe.Health()
    yield await nursery.start(observe.serve, Address("127.0.0.1", 0), health, CollectorRegistry(), stop)
    stop.set()


@asynccontextmanager
async def connected(address: Address) -> AsyncIterator[Connection]:
    async with await trio.open_tcp_stream(*address) as stream:
        yield Connection(stream)


@pytest.fixture
def idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "KEEP_ALIVE_SECONDS", 30)


async def test_a_connection_in_use_outlives_the_time_that_an_idle_one_has(address: Address) -> None:
    async with connected(address) as connection:
        for _ in range(8):
            assert (await connection.request("GET", "/healthz")).text == "ok\n"
            await trio.sleep(KEEP_ALIVE / 4)


async def test_an_idle_connection_ends(address: Address) -> None:
    async with connected(address) as connection:
        await connection.request("GET", "/healthz")
        began = trio.current_time()
        assert await connection.rest() == b""
        assert KEEP_ALIVE / 2 < trio.current_time() - began < 5 * KEEP_ALIVE


@pytest.mark.usefixtures("idle_for_long")
async def test_the_longest_idle_makes_room_for_a_newcomer_and_for_nobody_else(address: Address) -> None:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connected(address)) for _ in range(MOST)]
        for connection in opened:
            await connection.request("GET", "/healthz")
        await trio.sleep(3 * connections.PATIENCE_SECONDS)
        for connection in reversed(opened):
            assert (await connection.request("GET", "/healthz")).status == 200
        async with connected(address) as newcomer:
            assert (await newcomer.request("GET", "/healthz")).status == 200
            for connection in opened[:-1]:
                assert (await connection.request("GET", "/healthz")).status == 200
            with pytest.raises(HungUpError):
                await opened[-1].request("GET", "/healthz")


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"  # and empty SETTINGS


@pytest.mark.usefixtures("idle_for_long")
@pytest.mark.parametrize(
    "first",
    [
        PREFACE,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000,
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\nHost: x\r\n\r\n",
    ],
    ids=["HTTP/2", "answers that nobody takes", "a body that never comes"],
)
async def test_clients_that_stall_in_a_request_leave_their_place_to_others(
    address: Address, nursery: trio.Nursery, first: bytes
) -> None:
    async def stalls() -> None:
        with suppress(trio.BrokenResourceError):
            async with connected(address) as connection:
                await connection.send(first)
                await trio.sleep_forever()

    for _ in range(MOST):
        nursery.start_soon(stalls)
    await trio.sleep(0.2)
    with trio.fail_after(observe.REQUEST_SECONDS - 1):  # at that, they would be ended anyway
        async with connected(address) as newcomer:
            assert (await newcomer.request("GET", "/healthz")).status == 200
    nursery.cancel_scope.cancel()


async def test_a_wish_to_continue_is_no_error(address: Address, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /metrics HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    for _ in range(5):
        async with connected(address) as connection:
            await connection.send(head)
            while (await connection.response()).status == 100:
                await connection.send(b"abc")
    assert "connection failed" not in caplog.text
