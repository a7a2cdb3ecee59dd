"""Pods created at a steady rate, whatever the answers: what a rolling restart must not disturb."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bitfusiond.core import names
from tests.pods import pod
from tests.real.harness.apiserver import Door

# Where an API server is killed in a handshake, Python's ssl drops a socket that nobody else can close: a test that does
# it wants this filter.
KILLED_IN_A_HANDSHAKE = "ignore:unclosed <ssl.SSLSocket:ResourceWarning"
# Every so many-th pod is stored, the others are dry runs: etcd stays small.
STORED_EVERY = 10
_CLIENTS = 16
# What may become of a pod that an API server is sent before it is ready: it has not read everything yet.
# Before 1.20.6 it holds requests back until its informers have the webhook configurations, which is a moment before its
# admission plugins go by them (kubernetes#95783). By the audit log of 1.20.2, 12 restarts with 8 clients: 1 of 5,973
# pods passed unasked. It came 23 ms after "Serving securely" and went on after 207 ms; at 214 ms "informer-sync failed"
# still stood in the log of /readyz. Where the mutating webhook alone is not asked, the validating one refuses the pod,
# and rightly. Service and Endpoints of the webhook are read beside the configurations, and may come after them.
_NOT_READY = (
    "the mutating webhook was not asked",
    "admitted without the changes of the webhook",
    'endpoints "bwki-webhook-svc" not found',
    'service "bwki-webhook-svc" not found',
)


@dataclass
class Load:
    """What became of the pods. ``seconds`` are counted from when each was due, so that no wait is left out.

    ``unsent``: those that nobody could create, as there was no API server, or none that was ready. Where the
    webhook is to blame it is a failure even then.
    """

    stored: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    absent: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        ordered = sorted(self.seconds)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000

    @contextmanager
    def without_api_server(self) -> Iterator[None]:
        """For as long as there is none, by the caller's doing."""
        self.absent = True
        try:
            yield
        finally:
            self.absent = False

    def summary(self) -> str:
        unsent = f", {len(self.unsent)} not sent" if self.unsent else ""
        return (
            f"{len(self.seconds)} pods ({self.stored} stored), {len(self.failures)} refused{unsent},"
            f" p50 {self.percentile(0.5):.1f} ms, p99 {self.percentile(0.99):.1f} ms,"
            f" longest {self.percentile(1):.1f} ms"
        )


@contextmanager
def creating_pods(door: Door, namespace: str, rate: float, stored_every: int = STORED_EVERY) -> Iterator[Load]:
    """Create ``rate`` pods a second in ``namespace`` until the block is left; ``stored_every`` 0: by dry run alone."""
    load, over = Load(), threading.Event()
    turns = itertools.count()
    begin = time.monotonic()

    def client() -> None:
        connection = door.connect()
        while not over.is_set():
            turn = next(turns)
            due = begin + turn / rate
            if over.wait(max(0.0, due - time.monotonic())):
                break
            dry = not stored_every or turn % stored_every != 0
            absent = load.absent
            try:
                failure = _create(door, connection, namespace, f"pod-{turn}", dry)
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                failure = f"no answer of the API server: {error!r}"
                connection.close()
            with load.lock:
                if failure is not None and (absent or load.absent) and not _of_the_webhook(failure):
                    load.unsent.append(failure)
                    continue
                load.seconds.append(time.monotonic() - due)
                load.stored += not dry
                if failure is not None:
                    load.failures.append(f"{time.strftime('%H:%M:%S')} {failure}")
        connection.close()

    threads = [threading.Thread(target=client) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _of_the_webhook(failure: str) -> bool:
    """Whether the webhook is to blame, and not an API server that starts."""
    return "webhook" in failure and not any(words in failure for words in _NOT_READY)


def _create(door: Door, connection: http.client.HTTPSConnection, namespace: str, name: str, dry: bool) -> str | None:
    """Why the pod was refused; None where it is stored as a pod of ours."""
    document = pod()
    document["metadata"]["name"] = name
    path = f"/api/v1/namespaces/{namespace}/pods" + ("?dryRun=All" if dry else "")
    connection.request("POST", path, json.dumps(document), {**door.headers, "Content-Type": "application/json"})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    if answer.status != 201:
        return f"{answer.status} {body.get('message')}"
    injected = body["metadata"].get("annotations", {}).get(names.STATUS) == names.STATUS_INJECTED
    return None if injected else "admitted without the changes of the webhook"
