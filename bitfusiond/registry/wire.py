"""GET over HTTP/1.1 to hosts that others name: nothing is taken from them without a bound.

By h11 on trio's own streams. A request that is cancelled is gone at once, with its connection; an address is checked
and then connected to, so that a name cannot lead elsewhere in between; a body is refused while it comes.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple

import h11
import trio

from bitfusiond import __version__
from bitfusiond.core.images.registries import NotAllowedError, Origin, Registries
from bitfusiond.core.text import one_line
from bitfusiond.http.memory import Memory, Share

_HEAD_LIMIT = 32 * 1024  # bytes
_ERROR_LIMIT = 16 * 1024  # bytes of a body that nobody reads; with a longer one the connection goes
_FREE = 64 * 1024  # bytes of a body that wait for no other
_RECEIVED_AT_ONCE = 2**14
_MOST_ADDRESSES = 4  # of one host that are tried
_CONNECT_SECONDS = 2.0  # for each of them
_LONGEST_REASON = 200

# Threads that wait for a name server, those included which nobody waits for any more.
_resolving = trio.CapacityLimiter(64)


class UnreachableError(Exception):
    """No connection, or none that holds. One line for a person."""


class TooLargeError(Exception):
    """The body is longer than what is read of it."""


class Answer(NamedTuple):
    """One answer; ``headers`` in the order of the server, names in lower case. ``body`` is of status 200 alone."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Trust(NamedTuple):
    """TLS contexts: of those whose certificates are checked, and of the insecure ones."""

    checked: ssl.SSLContext
    unchecked: ssl.SSLContext


def trust(pem: str = "") -> Trust:
    """The system's CAs, and those in ``pem``. Raises ssl.SSLError or ValueError for what is no PEM."""
    checked, unchecked = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if pem:
        checked.load_verify_locations(cadata=pem)
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    for each in (checked, unchecked):
        each.set_alpn_protocols(["http/1.1"])
    return Trust(checked, unchecked)


class Session:
    """Requests of one lookup: a connection for each origin, kept from one request to the next."""

    def __init__(self, registries: Registries, tls: Callable[[], Trust], memory: Memory) -> None:
        self._registries = registries
        self._tls = tls
        self._memory = memory
        self._connections: dict[Origin, _Connection] = {}

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for each in self._connections.values():
            await each.close()

    async def get(self, origin: Origin, target: str, headers: Mapping[str, str], limit: int) -> Answer:
        """The answer, with at most ``limit`` bytes of body.

        Raises UnreachableError, TooLargeError, and NotAllowedError for an address where nothing is asked.
        """
        kept = self._connections.pop(origin, None)
        with self._memory.share() as share:
            if kept is not None:
                with contextlib.suppress(UnreachableError):  # it may have ended since
                    return await self._exchange(kept, target, headers, limit, share)
            return await self._exchange(await self._connect(origin), target, headers, limit, share)

    async def _exchange(
        self, connection: _Connection, target: str, headers: Mapping[str, str], limit: int, share: Share
    ) -> Answer:
        try:
            answer = await connection.get(target, headers, limit, share)
        except (trio.BrokenResourceError, h11.ProtocolError, ssl.SSLError, OSError) as error:
            await connection.close()
            raise UnreachableError(f"{connection.origin.authority}: {_reason(error)}") from None
        except BaseException:
            await connection.close()
            raise
        if connection.is_reusable:
            self._connections[connection.origin] = connection
        else:
            await connection.close()
        return answer

    async def _connect(self, origin: Origin) -> _Connection:
        problem: Exception = OSError("no address")
        for address in (await self._addresses(origin))[:_MOST_ADDRESSES]:
            try:
                with trio.fail_after(_CONNECT_SECONDS):
                    stream = await trio.open_tcp_stream(address, origin.port)
            except (OSError, trio.TooSlowError) as error:
                problem = error
                continue
            return _Connection(origin, await self._secured(origin, stream))
        raise UnreachableError(f"{origin.authority}: {_reason(problem)}") from None

    async def _addresses(self, origin: Origin) -> list[str]:
        """Those at which it may be asked. Raises NotAllowedError where there are others alone."""
        try:
            found = await trio.to_thread.run_sync(
                _resolve, origin.host, origin.port, abandon_on_cancel=True, limiter=_resolving
            )
        except (OSError, UnicodeError) as error:
            raise UnreachableError(f"{origin.authority}: {_reason(error)}") from None
        allowed, problem = [], NotAllowedError(f"{origin.authority} has no address")
        for address in found:
            try:
                self._registries.check_address(origin, address)
                allowed.append(address)
            except NotAllowedError as error:
                problem = error
        if not allowed:
            raise problem
        return allowed

    async def _secured(self, origin: Origin, stream: trio.SocketStream) -> trio.abc.Stream:
        if origin.scheme == "http":
            return stream
        trusted = self._tls()
        context = trusted.checked if self._registries.is_verified(origin) else trusted.unchecked
        secured = trio.SSLStream(stream, context, server_hostname=origin.host, https_compatible=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            await _close(secured)
            raise UnreachableError(f"{origin.authority}: {_reason(error)}") from None
        except BaseException:
            await _close(secured)
            raise
        return secured


class _Connection:
    """One connection, one request at a time."""

    def __init__(self, origin: Origin, stream: trio.abc.Stream) -> None:
        self.origin = origin
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT)
        self._used = False

    @property
    def is_reusable(self) -> bool:
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def close(self) -> None:
        await _close(self._stream)

    async def get(self, target: str, headers: Mapping[str, str], limit: int, share: Share) -> Answer:
        if self._used:
            self._http.start_next_cycle()
        self._used = True
        sent = {"Host": self.origin.authority, "User-Agent": f"bitfusiond/{__version__}", "Accept-Encoding": "identity"}
        request = h11.Request(method="GET", target=target, headers=[*(sent | dict(headers)).items()])
        data = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        await self._stream.send_all(data)
        head = await self._event()
        while isinstance(head, h11.InformationalResponse):
            head = await self._event()
        if not isinstance(head, h11.Response):
            raise trio.BrokenResourceError("the connection ended before the answer")
        found = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in head.headers]
        if head.status_code != 200:
            with contextlib.suppress(TooLargeError):
                await self._body(_ERROR_LIMIT, share)
            return Answer(head.status_code, found, b"")
        return Answer(200, found, await self._body(limit, share))

    async def _body(self, limit: int, share: Share) -> bytes:
        parts, size = [], 0
        while isinstance(event := await self._event(), h11.Data):
            size += len(event.data)
            if size > limit:
                raise TooLargeError
            if size > _FREE:
                await share.take(len(event.data))
            parts.append(bytes(event.data))
        if not isinstance(event, h11.EndOfMessage):
            raise trio.BrokenResourceError("the connection ended before the answer")
        return b"".join(parts)

    async def _event(self) -> h11.Event:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self._stream.receive_some(_RECEIVED_AT_ONCE)))
        if not isinstance(event, h11.Event):
            raise trio.BrokenResourceError("the connection ended before the answer")
        return event


async def _close(stream: trio.abc.Stream) -> None:
    await trio.aclose_forcefully(stream)
    # TLS holds a bound method of its own: some 50 kB would wait for the garbage collector.
    vars(stream).pop("_handshook", None)


def _resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _reason(error: BaseException) -> str:
    """What a person wants to know: "Connection refused", not how many layers it went through."""
    if isinstance(error, trio.TooSlowError):
        return f"no connection within {_CONNECT_SECONDS:g} s"
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):  # trio's, of all attempts to connect
        cause = cause.exceptions[0]
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message} (--registry-ca)"
    if isinstance(cause, ssl.SSLError):
        return one_line(f"no TLS: {cause.reason or cause}", _LONGEST_REASON)
    if isinstance(cause, OSError) and cause.strerror:
        return one_line(cause.strerror, _LONGEST_REASON)
    return one_line(str(cause) or type(cause).__name__, _LONGEST_REASON)
