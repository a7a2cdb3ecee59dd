"""HTTP/1.1 with one client, by h11: request, answer, the next request, until one of the two has enough."""

from __future__ import annotations

import contextlib
import email.utils
import math
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache

import h11
import trio

from bitfusiond import logs
from bitfusiond.http.connections import Connections
from bitfusiond.http.memory import Memory, Share
from bitfusiond.http.messages import ClientGoneError, Handler, Request, Response
from bitfusiond.http.turns import Turns

# The API server keeps idle webhook connections for 90 s (IdleConnTimeout of Go's default transport). Closing one
# from our side while a request is on its way loses that request, so ours must live longer.
KEEP_ALIVE_SECONDS = 120.0
# A Service chooses a replica for each new connection, not for each request, and the API server keeps its connections
# for as long as it uses them: without an end of their own a replica that came later would never be asked.
CONNECTION_SECONDS = 300.0
_SPREAD = 0.2  # of it, either way, so that connections of one moment do not all end in another
REQUEST_SECONDS = 10.0  # for a request as a whole; the API server gives a webhook 10 s by default
SEND_SECONDS = 10.0  # for an answer: a client that takes longer does not read
LINGER_SECONDS = 1.0
MOST_LINES = 100  # of a head; the API server's has some ten. Each costs hundreds of bytes until it is answered
MOST_CHUNKS = 512  # of a body; the API server sends none. To read one of a byte takes longer than to check a pod
SMALL = 2**14  # bytes of a body or an answer that wait for no large one; a pod's review has some kilobytes
_RECEIVED_AT_ONCE = 2**14  # bytes; no more data is in one TLS record

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

_BLANK_LINE = re.compile(rb"\n\r?\n")

_log = logs.Log("serving")


class _BoundError(h11.RemoteProtocolError):
    """HTTP with more parts than are read; the message says which and how many."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all conversations of a server have in common.

    ``closes_keepalives()``: each connection is to end with its next answer. ``broken(status)`` is told of what was no
    HTTP. ``bodies`` and ``answers`` are the memory for the large ones, ``turns`` are at the one thread.
    """

    answer: Handler
    connections: Connections
    closes_keepalives: Callable[[], bool]
    broken: Callable[[int], None]
    bodies: Memory
    answers: Memory
    turns: Turns


class Conversation:
    """One client's requests, each answered before the next one is looked at."""

    def __init__(self, stream: Stream, shared: Shared) -> None:
        self._stream = stream
        self._shared = shared
        self._http = h11.Connection(h11.SERVER)
        self._begun, self._deadline = 0.0, math.inf
        self._turn_began = trio.current_time()
        self._wants_head_alone = False
        # One that is not good has ended the handshake.
        self._is_certified = isinstance(stream, trio.SSLStream) and stream.getpeercert(binary_form=True) is not None
        # Not a secret, so a plain random number will do.
        self._old_at = trio.current_time() + CONNECTION_SECONDS * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311

    async def run(self) -> None:
        """Serve until either side has enough. The stream is the caller's to close."""
        try:
            while await self._begins():
                await self._one()
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
            else:
                return  # the client has hung up, or said nothing for too long
        except (ClientGoneError, trio.BrokenResourceError):
            return
        await _linger(self._stream)

    async def _begins(self) -> bool:
        """Whether a further request has begun."""
        if not self._http.trailing_data[0]:
            with self._shared.connections.waiting(KEEP_ALIVE_SECONDS) as waiting:
                await self._receive()
            if waiting.cancelled_caught or self._http.trailing_data == (b"", True):
                return False
        self._begun = trio.current_time()
        self._deadline = self._begun + REQUEST_SECONDS
        await self._turn()
        return True

    async def _one(self) -> None:
        """One request and its answer."""
        with self._shared.bodies.share() as bodies:
            try:
                head = await self._event()
                if isinstance(head, h11.Request):
                    await self._send(await self._answered(head, bodies))
            except trio.TooSlowError:
                await self._refuse(408)
            except h11.RemoteProtocolError as error:
                if self._http.trailing_data[1]:
                    raise ClientGoneError from None
                await self._refuse(error.error_status_hint, f"{error}\n" if isinstance(error, _BoundError) else "")

    async def _answered(self, head: h11.Request, bodies: Share) -> Response:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        if "content-length" in headers and "transfer-encoding" in headers:
            # Whoever passed it on may have taken the other one at its word (RFC 9112, 6.1).
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        self._wants_head_alone = head.method == b"HEAD"
        request = Request(
            head.method.decode("ascii"),
            head.target.decode("latin-1").partition("?")[0],
            head.http_version.decode("ascii"),
            self._body(bodies),
            self._deadline,
            headers,
            self._is_certified,
        )
        try:
            return await self._shared.answer(request)
        except (ClientGoneError, h11.RemoteProtocolError, trio.BrokenResourceError):
            raise
        except Exception:  # noqa: BLE001 - a defect in one answer must not end the connection without a word
            _log.exception("error in the application")
            return Response(500, b"")

    def _body(self, bodies: Share) -> Callable[[], Awaitable[bytes]]:
        received = chunks = 0

        async def more() -> bytes:
            nonlocal received, chunks
            event = await self._event()
            if not isinstance(event, h11.Data):
                return b""
            received += len(event.data)
            chunks += event.chunk_start
            if chunks > MOST_CHUNKS:
                raise _BoundError(f"the body has more than {MOST_CHUNKS} chunks: send a Content-Length", 413)
            if received > SMALL:
                with trio.fail_at(self._deadline):
                    await bodies.take(len(event.data))
            return bytes(event.data)

        return more

    async def _event(self) -> h11.Event:
        """The next part of the request. Raises TooSlowError once its time is over, ClientGoneError."""
        while not isinstance(event := self._next_event(), h11.Event):  # h11.NEED_DATA
            # What stalls in the middle of a request is no better than what never begins one.
            left = self._deadline - trio.current_time()
            with self._shared.connections.waiting(left, since=self._begun, is_idle=False) as waiting:
                if self._http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
                    await self._stream.send_all(self._http.send(go_on) or b"")
                await self._receive()
            if waiting.cancelled_caught:
                raise ClientGoneError if trio.current_time() < self._deadline else trio.TooSlowError
            await self._turn()
        return event

    def _next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Raises _BoundError for a head of too many lines, which h11 would read all the same."""
        if self._http.their_state is h11.IDLE:
            given = self._http.trailing_data[0]
            blank = _BLANK_LINE.search(given)
            if given.count(b"\n", 0, blank.start() + 1 if blank else len(given)) > MOST_LINES:
                raise _BoundError(f"the head of the request has more than {MOST_LINES} lines", 431)
        return self._http.next_event()

    async def _receive(self) -> None:
        self._shared.turns.worked(trio.current_time() - self._turn_began)
        try:
            self._http.receive_data(bytes(await self._stream.receive_some(_RECEIVED_AT_ONCE)))
        finally:
            self._turn_began = trio.current_time()

    async def _turn(self) -> None:
        """Until it is time to work on what was received: nothing is waited for from the client any more."""
        await self._shared.turns.wait()
        self._turn_began = trio.current_time()

    async def _refuse(self, status: int, text: str = "") -> None:
        self._shared.broken(status)
        await self._send(Response(status, text.encode()), is_last=True)

    async def _send(self, response: Response, *, is_last: bool = False) -> None:
        """The answer, head and body at once: one TLS record, one system call.

        With its last word where this is to be the last: a connection that closes without one may lose the request that
        is on its way.
        """
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("date", _date(int(time.time()))),
            *response.headers,
        ]
        is_last |= self._shared.closes_keepalives() or trio.current_time() >= self._old_at or not self._is_read()
        if is_last:
            headers.append(("connection", "close"))
        events: list[h11.Event] = [h11.Response(status_code=response.status, headers=headers)]
        if response.body and not self._wants_head_alone:
            events.append(h11.Data(data=response.body))
        data = b"".join(self._http.send(event) or b"" for event in [*events, h11.EndOfMessage()])
        with self._shared.answers.share() as share:
            if len(data) > SMALL and not share.take_nowait(len(data)):
                raise ClientGoneError  # of many clients with large answers, the ones that came first are served
            with self._shared.connections.waiting(SEND_SECONDS, is_idle=False) as sending:
                self._shared.turns.worked(trio.current_time() - self._turn_began)
                await self._stream.send_all(data)
                self._turn_began = trio.current_time()
        if sending.cancelled_caught:
            raise ClientGoneError

    def _is_read(self) -> bool:
        """Whether nothing is left of the request; what is left cannot be told from a next one."""
        if self._http.their_state is h11.SEND_BODY:
            with contextlib.suppress(h11.RemoteProtocolError):
                self._http.next_event()
        return self._http.their_state not in {h11.IDLE, h11.SEND_BODY, h11.ERROR}


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


async def _linger(stream: Stream) -> None:
    """Until the client hangs up too: closing on what it still sends would reset the connection, its answer unread."""
    plain = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    with trio.move_on_after(LINGER_SECONDS):
        if isinstance(stream, trio.SSLStream):
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.unwrap()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await plain.send_eof()
            while await plain.receive_some():
                pass
