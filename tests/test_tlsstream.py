"""The server's end of TLS on a socket: what one client may cost the others, and how a connection ends."""

from __future__ import annotations

import fcntl
import ssl
import struct
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from bitfusiond.http.tls import RECEIVED_AT_ONCE, TLSStream
from tests.webhook.keyupdates import KeyUpdates

CA = trustme.CA()
UPDATES = 5000


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert("localhost").configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


class Ends:
    """Both ends of a connection on a pair of sockets, which hold what is sent until it is received."""

    def __init__(self, https_compatible: bool = True) -> None:
        near, far = (trio.SocketStream(sock) for sock in trio.socket.socketpair())
        self.server = TLSStream(near, server_context())
        self.plain = far
        self.client = trio.SSLStream(
            far, client_context(), server_hostname="localhost", https_compatible=https_compatible
        )

    async def __aenter__(self) -> Ends:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.server.do_handshake)
            await self.client.do_handshake()
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.server)
        await trio.aclose_forcefully(self.plain)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    async with Ends() as shaken:
        yield shaken


def unread(stream: TLSStream) -> int:
    """Bytes that the kernel still has."""
    return int(struct.unpack("i", fcntl.ioctl(stream.socket, termios.FIONREAD, b"\0" * 4))[0])


async def test_a_flood_of_key_updates_lets_the_other_tasks_run_after_each_recv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL would read them all in one call, tens of thousands within a second."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await flooded.server.receive_some())

    async with Ends() as flooded:
        client = KeyUpdates(flooded.client, tmp_path / "keys")
        await flooded.plain.send_all(client.updates(UPDATES) + client.data(b"at last"))
        left = unread(flooded.server)
        assert left > 5 * RECEIVED_AT_ONCE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            while left:
                before, left = left, unread(flooded.server)
                assert before - left <= 2 * RECEIVED_AT_ONCE  # trio runs the tasks of a turn in any order
                await trio.lowlevel.checkpoint()
    assert received == [b"at last"]


async def test_what_one_record_brought_is_received_in_parts(ends: Ends) -> None:
    await ends.client.send_all(b"0123456789")
    assert [await ends.server.receive_some(4) for _ in range(3)] == [b"0123", b"4567", b"89"]


async def test_both_sides_can_send_more_than_their_sockets_hold_at_once(ends: Ends) -> None:
    data = bytes(range(256)) * 2**14  # 4 MiB
    received = {"server": b"", "client": b""}

    async def receive(side: str, stream: trio.abc.ReceiveStream) -> None:
        arrived = bytearray()
        while len(arrived) < len(data):
            arrived += await stream.receive_some()
        received[side] = bytes(arrived)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for side, stream in (("server", ends.server), ("client", ends.client)):
                nursery.start_soon(receive, side, stream)
                nursery.start_soon(stream.send_all, data)
    assert received == {"server": data, "client": data}


async def test_a_send_that_was_cancelled_leaves_no_half_record_behind(ends: Ends) -> None:
    data = b"a" * 2**22
    with trio.move_on_after(0.1):
        await ends.server.send_all(data)
    received = []

    async def receive() -> None:
        while part := await ends.client.receive_some():
            received.append(bytes(part))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await ends.server.send_all(b"b")
        await ends.server.send_eof()
    arrived = b"".join(received)
    assert arrived == b"a" * (len(arrived) - 1) + b"b"
    assert len(arrived) < len(data)


async def test_after_its_own_end_it_sends_nothing_not_even_plain_text(ends: Ends) -> None:
    await ends.server.send_all(b"last")
    await ends.server.send_eof()
    with pytest.raises(trio.ClosedResourceError):
        await ends.server.send_all(b"secret")
    assert await ends.client.receive_some() == b"last"
    assert await ends.client.receive_some() == b""


async def test_its_end_is_the_goodbye_of_tls() -> None:
    async with Ends(https_compatible=False) as ends:  # so that the client insists on it
        await ends.server.send_eof()
        assert await ends.client.receive_some() == b""


async def test_a_client_that_hangs_up_is_the_end_with_and_without_its_goodbye(ends: Ends) -> None:
    await ends.plain.send_eof()
    assert await ends.server.receive_some() == b""
    async with Ends(https_compatible=False) as polite, trio.open_nursery() as nursery:
        nursery.start_soon(polite.client.aclose)
        assert await polite.server.receive_some() == b""


async def test_a_broken_record_is_said_to_the_client_and_ends_the_connection(ends: Ends) -> None:
    await ends.plain.send_all(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    with pytest.raises(trio.BrokenResourceError):
        await ends.server.receive_some()
    with pytest.raises(trio.BrokenResourceError) as caught:
        await ends.client.receive_some()
    assert "BAD_RECORD_MAC" in str(caught.value.__cause__)


async def test_closing_wakes_who_reads(ends: Ends) -> None:
    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await ends.server.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await ends.server.aclose()
