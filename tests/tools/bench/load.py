"""A client that keeps some connections busy: each asks again as soon as it has its answer.

A process of its own, on plain sockets and ``ssl``: it spends a small part of what the server does on each request.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bitfusiond.settings.values import Address
from tests.tools.bench.measure import cpu_seconds

_WARM_UP_SECONDS = 0.1
_PATIENCE_SECONDS = 30.0
_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Load:
    """One window: ``connections`` ask ``path`` of ``address`` for ``seconds``, or for ``requests`` answers if given.

    ``ca`` and ``body`` are files; the CPU time of the process ``pid`` and its children is the server's. With ``pause``
    all ask at once, and again so many seconds after that; without it each asks as soon as it has its answer. ``host``
    is the name in the server's certificate.
    """

    address: tuple[str, int]
    ca: str
    path: str
    body: str
    pid: int
    connections: int
    seconds: float
    requests: int | None = None
    pause: float = 0.0
    host: str = "localhost"

    def run(self) -> Result:
        """The window, in a new process."""
        command = [sys.executable, "-m", "tests.tools.bench.load", json.dumps(asdict(self))]
        return Result(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


@dataclass(frozen=True, slots=True)
class Result:
    """What one window gave: requests a second, milliseconds for half and for 99 % of them, the server's CPU."""

    rate: float
    p50: float
    p99: float
    cpu_microseconds: float


class _Connection:
    """One connection that was asked once already: it is known how its answers end.

    They are all of the same size, or in chunks, of which the last is empty.
    """

    def __init__(self, address: Address, host: str, context: ssl.SSLContext, request: bytes) -> None:
        plain = socket.create_connection(address)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = context.wrap_socket(plain, server_hostname=host)
        self._request = request
        self._missing = 0
        self._size: int | None = None
        self._end = b""
        self.began = 0.0

    def first(self) -> None:
        self.socket.sendall(self._request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._received()
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        if b" 200" not in lines[0]:
            raise RuntimeError(f"not answered: {lines[0].decode()}")
        headers = dict(line.split(b": ", 1) for line in lines[1:])
        if b"content-length" in headers:
            length = int(headers[b"content-length"])
            self._size = len(head) + 4 + length
        while len(body) < length if self._size else not body.endswith(_LAST_CHUNK):
            body += self._received()
        self.socket.setblocking(False)

    def _received(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise RuntimeError("the server hung up")
        return data

    def ask(self) -> None:
        self.began = time.perf_counter()
        self._missing, self._end = self._size or 0, b""
        self.socket.sendall(self._request)

    def answered(self) -> bool:
        """Whether the answer is whole, with what can be read now."""
        try:
            while self._missing > 0 if self._size else self._end != _LAST_CHUNK:
                data = self._received()
                self._missing -= len(data)
                self._end = (self._end + data)[-len(_LAST_CHUNK) :]
        except ssl.SSLWantReadError:
            return False
        return True


def _run(load: Load) -> Result:
    body = Path(load.body).read_bytes()
    head = f"POST {load.path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: kube-apiserver-admission\r\n"
    head += f"Content-Length: {len(body)}\r\nAccept: application/json\r\nContent-Type: application/json\r\n\r\n"
    context = ssl.create_default_context(cafile=load.ca)
    context.set_alpn_protocols(["http/1.1"])
    poll = select.epoll()
    connections = {}
    for _ in range(load.connections):
        connection = _Connection(Address(*load.address), load.host, context, head.encode() + body)
        connection.first()
        connections[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
    if not load.pause:
        for connection in connections.values():
            connection.ask()
        _answers(poll, connections, _WARM_UP_SECONDS, None)
    cpu, began = cpu_seconds(load.pid), time.perf_counter()
    if load.pause:
        taken = _bursts(poll, connections, load.seconds, load.pause)
    else:
        taken = _answers(poll, connections, load.seconds, load.requests)
    seconds, cpu = time.perf_counter() - began, cpu_seconds(load.pid) - cpu
    percentiles = statistics.quantiles(taken, n=100)
    return Result(len(taken) / seconds, percentiles[49] * 1e3, percentiles[98] * 1e3, cpu / len(taken) * 1e6)


def _answers(
    poll: select.epoll, connections: dict[int, _Connection], seconds: float, requests: int | None
) -> list[float]:
    """The seconds that each answer took, for ``seconds`` or until there are ``requests`` of them."""
    taken: list[float] = []
    now = time.perf_counter()
    ends = now + seconds
    while len(taken) < requests if requests is not None else now < ends:
        for number, _ in _readable(poll):
            connection = connections[number]
            if connection.answered():
                now = time.perf_counter()
                taken.append(now - connection.began)
                connection.ask()
    return taken


def _bursts(poll: select.epoll, connections: dict[int, _Connection], seconds: float, pause: float) -> list[float]:
    """The same, where all connections ask at once every ``pause`` seconds, or when all have their answers."""
    taken: list[float] = []
    ends = time.perf_counter() + seconds
    while (due := time.perf_counter()) < ends:
        for connection in connections.values():
            connection.ask()
        waiting = set(connections)
        while waiting:
            for number, _ in _readable(poll):
                if connections[number].answered():
                    taken.append(time.perf_counter() - connections[number].began)
                    waiting.discard(number)
        time.sleep(max(0.0, due + pause - time.perf_counter()))
    return taken


def _readable(poll: select.epoll) -> list[tuple[int, int]]:
    """Raises TimeoutError where no answer comes."""
    found = poll.poll(_PATIENCE_SECONDS)
    if not found:
        raise TimeoutError(f"no answer within {_PATIENCE_SECONDS:g} s")
    return found


if __name__ == "__main__":
    print(json.dumps(asdict(_run(Load(**json.loads(sys.argv[1]))))))
