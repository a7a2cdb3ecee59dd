"""A server's end of TLS on one socket, as a trio stream.

trio's own SSLStream can stand on any stream and pays for that with locks and task switches at every call. Here OpenSSL
reads and writes the socket itself.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import trio

_ParamT = ParamSpec("_ParamT")
_ResultT = TypeVar("_ResultT")


class TLSStream(trio.abc.HalfCloseableStream):
    """One task may read while another one writes. What need not wait to be sent is sent without a task switch.

    Every method raises trio.BrokenResourceError where the connection, or what comes over it, is no good. A client may
    hang up without TLS's own goodbye, as an HTTP message says itself where it ends.
    """

    def __init__(self, plain: trio.SocketStream, context: ssl.SSLContext) -> None:
        """Takes the socket out of ``plain``. Raises OSError where the client is gone already."""
        with socket.socket(fileno=plain.socket.detach()) as own:
            own.setblocking(False)
            self.socket = context.wrap_socket(own, server_side=True, do_handshake_on_connect=False)

    async def do_handshake(self) -> None:
        await self._when_possible(self.socket.do_handshake)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        # A client that sends and sends must not keep the other tasks from running; and a request is hardly ever there
        # before it is waited for. What OpenSSL holds already makes no socket readable.
        if not self.socket.pending():
            await trio.lowlevel.wait_readable(self.socket)
        return await self._when_possible(self.socket.recv, max_bytes or 2**16)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[await self._when_possible(self.socket.send, left) :]

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """The end of the connection, not of TLS alone: what comes after it is received as it is, undeciphered."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError from error
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()
        await trio.lowlevel.checkpoint()

    async def _when_possible(
        self, call: Callable[_ParamT, _ResultT], *args: _ParamT.args, **kwargs: _ParamT.kwargs
    ) -> _ResultT:
        """``call`` until it need not wait for the socket."""
        while True:
            try:
                return call(*args, **kwargs)
            except (ssl.SSLWantReadError, BlockingIOError):
                await trio.lowlevel.wait_readable(self.socket)
            except ssl.SSLWantWriteError:
                await trio.lowlevel.wait_writable(self.socket)
            except OSError as error:
                raise trio.BrokenResourceError from error
