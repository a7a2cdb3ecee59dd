"""Clients of an API server: some connections, each of which sends its next request once it has its answer.

A process of its own, so that what it costs is nobody else's: ``python -m tests.tools.bench.clients`` with a
:class:`Work` in JSON on standard input.
"""

from __future__ import annotations

import http.client
import itertools
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.real.harness.apiserver import APIServer


class Request(NamedTuple):
    """``body`` is JSON text."""

    method: str
    path: str
    body: str
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Result:
    """How long each request took, in milliseconds, and how long all of them, in seconds."""

    milliseconds: list[float]
    seconds: float

    @classmethod
    def of(cls, parts: Iterable[Result]) -> Result:
        """Several, as one."""
        parts = list(parts)
        return cls([each for part in parts for each in part.milliseconds], sum(part.seconds for part in parts))

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.milliseconds) / self.seconds

    def percentile(self, share: float) -> float:
        """Milliseconds within which ``share`` of the requests, 0 to 1, had their answer."""
        ordered = sorted(self.milliseconds)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


@dataclass(frozen=True, slots=True)
class Work:
    """``requests`` over ``connections``: each once, or over and over for ``seconds`` if given."""

    url: str
    ca: str
    token: str
    connections: int
    requests: Sequence[Request]
    seconds: float | None = None


def run(api: APIServer, requests: Sequence[Request], connections: int, seconds: float | None = None) -> Result:
    """Send them as administrator, from a new process. Raises RuntimeError with the first answer that is a refusal."""
    work = Work(api.url, str(api.ca), api.token, connections, requests, seconds)
    command = [sys.executable, "-m", "tests.tools.bench.clients"]
    done = subprocess.run(command, input=json.dumps(asdict(work)), text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip())
    return Result(**json.loads(done.stdout))


def _run(work: Work) -> Result:
    host = urlsplit(work.url)
    context = ssl.create_default_context(cafile=work.ca)
    context.check_hostname = False
    turns = itertools.cycle(work.requests) if work.seconds else iter(work.requests)
    taken: list[float] = []
    refused: list[str] = []
    ready = threading.Barrier(work.connections + 1)

    def client() -> None:
        connection = http.client.HTTPSConnection(host.hostname or "", host.port, timeout=30, context=context)
        connection.connect()
        ready.wait()
        ends = time.perf_counter() + work.seconds if work.seconds else float("inf")
        while not refused and (began := time.perf_counter()) < ends:
            # One next() is one step of the interpreter: threads need no lock for it.
            request = next(turns, None)
            if request is None:
                break
            headers = {"Authorization": f"Bearer {work.token}", "Content-Type": request.content_type}
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                refused.append(f"{request.method} {request.path}: {answer.status} {text.decode()}")
            taken.append((time.perf_counter() - began) * 1e3)
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(work.connections)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if refused:
        sys.exit(refused[0])
    return Result(taken, seconds)


if __name__ == "__main__":
    given = json.load(sys.stdin)
    given["requests"] = [Request(*each) for each in given["requests"]]
    print(json.dumps(asdict(_run(Work(**given)))))
