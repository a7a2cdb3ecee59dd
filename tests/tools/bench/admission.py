"""Admissions over HTTPS: the executable on mutated pods, against the smallest servers on the same hypercorn.

The webhook runs with ``--kubeconfig none``, real TLS and a log that is read. The two floors read each request and
answer ``{}``: one on the ``serve`` of hypercorn, one on ours. All take turns in short windows, as machines are noisy;
the CPU time of the server for a request is the steadiest of the figures.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme

from bitfusiond.settings.values import Address, address
from tests import ROOT
from tests.fakes.https_client import review
from tests.pods import NAMESPACE, example
from tests.tools.bench.load import Load, Result
from tests.tools.bench.measure import Figure, paired

CONNECTIONS = (1, 8, 64)
ROUNDS = 7
WINDOW_SECONDS = 1.0
RATIO_AIM = 0.8
_OWN = "the floor on hypercorn's serve"
_WRAPPED = "the floor on ours"


class Server:
    """A server in a process of its own, and what a client needs to ask it."""

    def __init__(self, pid: int, where: Address, directory: Path, path: str = "/mutate") -> None:
        self.pid = pid
        self._path = path
        self._address = where
        self._directory = directory

    def handshake(self) -> None:
        """One TLS handshake."""
        context = ssl.create_default_context(cafile=self._directory / "ca.crt")
        with socket.create_connection(self._address) as plain, context.wrap_socket(plain, server_hostname="localhost"):
            pass

    def load(
        self, connections: int, seconds: float = WINDOW_SECONDS, requests: int | None = None, pause: float = 0.0
    ) -> Result:
        """Ask about the pod in ``review.json``."""
        ca, body = (str(self._directory / name) for name in ("ca.crt", "review.json"))
        return Load(self._address, ca, self._path, body, self.pid, connections, seconds, requests, pause).run()


def figures() -> list[Figure]:
    """Throughput, latency and CPU time, at each number of connections."""
    with ExitStack() as stack:
        directory = stack.enter_context(prepared())
        servers = {
            "ours": stack.enter_context(webhook(directory)),
            _OWN: stack.enter_context(floor(directory, "own")),
            _WRAPPED: stack.enter_context(floor(directory, "wrapped")),
        }
        return [each for connections in CONNECTIONS for each in _figures(servers, connections)]


def _figures(servers: dict[str, Server], connections: int) -> Iterator[Figure]:
    rounds = [{name: server.load(connections) for name, server in servers.items()} for _ in range(ROUNDS + 1)][1:]
    where = f"{connections} connection{'s' if connections > 1 else ''}"

    def row(name: str, unit: str, field: str, floor: str, ratio_aim: float | None = None) -> Figure:
        pairs = [(getattr(each["ours"], field), getattr(each[floor], field)) for each in rounds]
        return paired(f"{name}, {where}", unit, pairs, floor, ratio_aim=ratio_aim)

    yield row("admissions", "/s", "rate", _OWN, RATIO_AIM)
    yield row("admissions", "/s", "rate", _WRAPPED)
    yield row("CPU of one", "us", "cpu_microseconds", _OWN)
    yield row("CPU of one", "us", "cpu_microseconds", _WRAPPED)
    yield row("half of them within", "ms", "p50", _OWN)
    yield row("99 % of them within", "ms", "p99", _OWN)


@contextmanager
def prepared() -> Iterator[Path]:
    """A directory with a certificate, its CA, and the AdmissionReview of the README's pod."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(str(directory / "ca.crt"))
        leaf.private_key_pem.write_to_path(str(directory / "tls.key"))
        (directory / "tls.crt").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        (directory / "review.json").write_text(json.dumps(review(example("pod"), NAMESPACE)))
        yield directory


@contextmanager
def webhook(directory: Path, *flags: str, sources: Path = ROOT) -> Iterator[Server]:
    """The executable, with the certificate of ``directory`` and ``flags``, of this checkout or another."""
    files = ["--tls-cert", str(directory / "tls.crt"), "--tls-key", str(directory / "tls.key")]
    command = [sys.executable, "-m", "bitfusiond", "--role", "webhook", "--listen", "127.0.0.1:0", *files]
    command += ["--observe", "none", "--kubeconfig", "none", "--drain-seconds", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=sources) as process:
        assert process.stderr is not None
        try:
            line = json.loads(process.stderr.readline())
            # As a container runtime does: somebody reads the log all the time.
            threading.Thread(target=deque[bytes](maxlen=0).extend, args=(process.stderr,)).start()
            yield Server(process.pid, address(line["address"]), directory)
        finally:
            process.kill()


@contextmanager
def floor(directory: Path, which: str) -> Iterator[Server]:
    """A server of webhook_floor.py."""
    files = [str(directory / "tls.crt"), str(directory / "tls.key")]
    command = [sys.executable, "-m", "tests.tools.bench.webhook_floor", which, *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield Server(process.pid, Address("127.0.0.1", int(process.stdout.readline())), directory)
        finally:
            process.kill()
