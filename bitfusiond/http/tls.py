"""A server's end of TLS on one socket, as a trio stream.

trio's own SSLStream can stand on any stream and pays for that with locks and task switches at every call. Here OpenSSL
is given what one recv() brought, and what it has to send goes straight to the socket. It does not have the socket
itself: one call would read for as long as records come that hold no data, such as TLS 1.3's key updates, and a client
that sends nothing else would hold up every task.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import trio

RECEIVED_AT_ONCE = 2**14  # bytes; no more data is in one record
_SENT_AT_ONCE = 2**16  # bytes of data, enciphered before they are sent

_ParamT = ParamSpec("_ParamT")
_ResultT = TypeVar("_ResultT")


class TLSStream(trio.abc.HalfCloseableStream):
    """One task may read while another one writes. What need not wait to be sent is sent without a task switch.

    Every method raises trio.BrokenResourceError where the connection, or what comes over it, is no good. A client may
    hang up without TLS's own goodbye, as an HTTP message says itself where it ends.
    """

    def __init__(self, plain: trio.SocketStream, context: ssl.SSLContext) -> None:
        """Takes the socket out of ``plain``; the handshake is still to be done."""
        self.socket = socket.socket(fileno=plain.socket.detach())
        self.socket.setblocking(False)
        self._received, self._enciphered = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._enciphered, server_side=True)
        self._unsent = b""  # enciphered, and all of it in its order: half a record would spoil those after it
        self._sending = trio.Lock()  # a reader, too, has something to send: what TLS itself answers
        self._ended = False

    async def do_handshake(self) -> None:
        try:
            await self._with_records(self._tls.do_handshake)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            if self._ended:
                await trio.lowlevel.wait_readable(self.socket)
                return self.socket.recv(max_bytes or RECEIVED_AT_ONCE)
            # A request is hardly ever there before it is waited for; and a client that sends and sends must not keep
            # the other tasks from running.
            if self._received.pending or self._tls.pending():
                await trio.lowlevel.checkpoint()
            else:
                await self._receive_records()
            return await self._with_records(self._tls.read, max_bytes or RECEIVED_AT_ONCE)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raises trio.ClosedResourceError after send_eof()."""
        if self._ended:
            raise trio.ClosedResourceError
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left[:_SENT_AT_ONCE]) :]
                await self._send_records()
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.wait_writable(self.socket)

    async def send_eof(self) -> None:
        """The end of the connection, not of TLS alone: what comes after it is received as it is, undeciphered."""
        self._ended = True
        try:
            # OpenSSL's complaint that the client has not said goodbye, or that it still sends.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            await self._send_records()
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError from error
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()
        await trio.lowlevel.checkpoint()

    async def _with_records(
        self, call: Callable[_ParamT, _ResultT], *args: _ParamT.args, **kwargs: _ParamT.kwargs
    ) -> _ResultT:
        """``call`` until it needs no further records. Sends what TLS has to say to them, be it an alert."""
        while True:
            try:
                return call(*args, **kwargs)
            except ssl.SSLWantReadError:
                pass
            finally:
                if self._enciphered.pending:
                    await self._send_records()
            await self._receive_records()

    async def _receive_records(self) -> None:
        """One recv(): some records, or part of one, or the end."""
        await trio.lowlevel.wait_readable(self.socket)
        try:
            received = self.socket.recv(RECEIVED_AT_ONCE)
        except BlockingIOError:
            return
        if received:
            self._received.write(received)
        else:
            self._received.write_eof()

    async def _send_records(self) -> None:
        """All that is enciphered. What is left when this is cancelled goes first the next time."""
        try:
            self._sending.acquire_nowait()
        except trio.WouldBlock:
            await self._sending.acquire()
        try:
            self._unsent += self._enciphered.read()
            while self._unsent:
                try:
                    self._unsent = self._unsent[self.socket.send(self._unsent) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self.socket)
        finally:
            self._sending.release()
