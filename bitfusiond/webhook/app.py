"""The ASGI application: bytes in, core, bytes out. HTTP ends here; what is decided about a pod is the core's."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram

from bitfusiond import logs
from bitfusiond.core import review
from bitfusiond.core.mutate import Configuration, Patch, Refusal, Untouched, mutate
from bitfusiond.core.review import BadRequestError, Review
from bitfusiond.core.validate import Largest, validate
from bitfusiond.serving import Application, Receive, Scope, Send, respond

BODY_LIMIT = 8 * 2**20  # bytes; the API server's own limit for a request is 3 MiB, and a review holds it twice
# Many clients that send a large body at once must not take all of the memory. A pod's review has some kilobytes.
LARGE_BODY = 2**17  # bytes
LARGE_TOGETHER = 2**25  # bytes of large bodies that are here at once; more must wait
DEADLINE_SECONDS = 10.0  # for a request as a whole; the API server gives a webhook 10 s by default
ENDPOINTS = ("/mutate", "/validate")
_LONGEST_FIELD = 1024  # characters of what a client sent, in a log line
_REPEAT_SECONDS = 10.0  # between two lines about broken HTTP
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)

_log = logs.Log("webhook")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What goes back, and how it is counted: ``verdict`` and ``reason`` are each one of few."""

    body: bytes
    verdict: str
    reason: str
    message: str = ""


class HTTPError(Exception):
    """A broken request: answered with ``status`` and one line of text."""

    def __init__(self, status: int, message: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or []


class Surroundings(Protocol):
    """What an admission asks of the cluster around it, from memory wherever that is possible."""

    def largest_node(self) -> Largest | None:
        """The most that any one node has of each of our resources; None = no node is known."""
        ...

    async def ensure_tokens(self, namespace: str, dry_run: bool) -> list[str]:
        """Have the token Secrets in ``namespace``; why that cannot be, and nothing where it is done."""
        ...

    def refused(self, request: Review, message: str) -> None:
        """Take note of a refusal; never waits."""
        ...


class _Budget:
    """``size`` bytes, which are lent; the oldest of those who took some may have more.

    Else all could wait for each other, each with a part of what it needs.
    """

    def __init__(self, size: int) -> None:
        self._left = size
        self._sharers: list[object] = []  # the oldest first
        self._waiting = trio.lowlevel.ParkingLot()

    @contextmanager
    def share(self) -> Iterator[Callable[[int], Awaitable[None]]]:
        """A function that takes so many bytes, as soon as they are there; after the block they all go back."""
        taken = 0
        sharer = object()

        async def take(size: int) -> None:
            nonlocal taken
            while size > self._left and self._sharers[:1] != [sharer]:
                await self._waiting.park()
            if not taken:
                self._sharers.append(sharer)
            self._left -= size
            taken += size

        try:
            yield take
        finally:
            if taken:
                self._sharers.remove(sharer)
            self._left += taken
            self._waiting.unpark_all()


class Admission:
    """``/mutate`` and ``/validate``; every other path is ``observe``'s.

    ``configuration`` is asked once a request, so that what it returns may change between two.
    """

    def __init__(
        self,
        configuration: Callable[[], Configuration],
        surroundings: Surroundings,
        observe: Application,
        metrics: CollectorRegistry,
    ) -> None:
        self._configuration = configuration
        self._surroundings = surroundings
        self._observe = observe
        self._endpoints = dict(zip(ENDPOINTS, (self._mutate, self._validate), strict=True))
        self._requests = Counter(
            "bitfusiond_admission_requests",
            "Admission reviews answered, and requests that were none (verdict bad_request).",
            ["endpoint", "verdict", "reason"],
            registry=metrics,
        )
        self._seconds = Histogram(
            "bitfusiond_admission_duration_seconds",
            "From the last byte of a request to its answer.",
            ["endpoint"],
            buckets=_BUCKETS,
            registry=metrics,
        )
        self._large = _Budget(LARGE_TOGETHER)
        self._broken = 0
        self._broken_said_at = -math.inf

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        if scope["http_version"] not in {"1.0", "1.1"}:
            await respond(send, 505, b"use HTTP/1.1\n")
            return
        decide = self._endpoints.get(scope["path"])
        if decide is None:
            await self._observe(scope, receive, send)
            return
        endpoint = scope["path"][1:]
        status, body, content_type = 200, b"", "application/json"
        headers: list[tuple[bytes, bytes]] = []
        try:
            with self._large.share() as take:
                answer = await self._admit(endpoint, decide, scope, receive, take)
            if answer is None:
                return  # the client is gone
            body = answer
        except HTTPError as error:
            verdict = "error" if error.status == 500 else "bad_request"
            self._requests.labels(endpoint, verdict, str(error.status)).inc()
            if verdict == "bad_request":  # of a defect its traceback is in the log
                _log.warning("bad request", endpoint=endpoint, status=error.status, message=_cut(str(error)))
            status, body, content_type = error.status, f"{_cut(str(error))}\n".encode(), "text/plain; charset=utf-8"
            headers = error.headers
        await respond(send, status, body, content_type, headers)

    def broken_http(self, status: int) -> None:
        """Take note of what was no HTTP and was answered with ``status``: a line at once, then one for many."""
        self._requests.labels("none", "bad_request", str(status)).inc()
        self._broken += 1
        now = trio.current_time()
        if now - self._broken_said_at >= _REPEAT_SECONDS:
            _log.warning("broken HTTP", status=status, number=self._broken)
            self._broken, self._broken_said_at = 0, now

    async def _admit(
        self,
        endpoint: str,
        decide: Callable[[Review], Awaitable[_Answer]],
        scope: Scope,
        receive: Receive,
        take: Callable[[int], Awaitable[None]],
    ) -> bytes | None:
        with trio.move_on_after(DEADLINE_SECONDS) as deadline:
            body = await _read(receive, take)
        if deadline.cancelled_caught:
            raise HTTPError(408, f"the request did not arrive within {DEADLINE_SECONDS:g} s")
        if body is None:
            return None
        if broken := _broken_head(scope):
            raise broken
        began = time.perf_counter()
        try:
            request = review.parse(body)
            answer = await decide(request)
            if answer.verdict == "refused":
                self._surroundings.refused(request, answer.message)
        except BadRequestError as error:
            raise HTTPError(400, str(error)) from None
        except Exception:  # noqa: BLE001 - a defect of ours in one pod must not end the answers to others
            _log.exception("defect in admission, please report it", endpoint=endpoint)
            raise HTTPError(500, "internal error: see the log of bitfusiond") from None
        seconds = time.perf_counter() - began
        self._requests.labels(endpoint, answer.verdict, answer.reason).inc()
        self._seconds.labels(endpoint).observe(seconds)
        _log.info(
            "admission",
            endpoint=endpoint,
            namespace=_cut(request.namespace),
            name=_cut(request.name),
            uid=request.uid,
            verdict=answer.verdict,
            reason=_cut(answer.message or answer.reason),
            dry_run=request.dry_run,
            microseconds=round(seconds * 1e6),
        )
        return answer.body

    async def _mutate(self, request: Review) -> _Answer:
        if not request.creates_pod or request.object is None:
            return _Answer(review.allow(request), "untouched", "not a pod being created")
        verdict = mutate(request.object, request.namespace, self._configuration())
        match verdict:
            case Refusal():
                return _refused(request, "invalid pod", verdict.problems)
            case Untouched():
                return _Answer(review.allow(request), "untouched", verdict.reason)
            case Patch():
                problems = await self._surroundings.ensure_tokens(request.namespace, request.dry_run)
                if problems:
                    return _refused(request, "no tokens", problems)
                return _Answer(review.allow(request, verdict.operations, verdict.warnings), "patched", "injected")

    async def _validate(self, request: Review) -> _Answer:
        if not request.creates_pod or request.object is None:
            return _Answer(review.allow(request), "untouched", "not a pod being created")
        verdict = validate(request.object, request.namespace, self._configuration(), self._surroundings.largest_node())
        match verdict:
            case Refusal():
                return _refused(request, "invalid pod", verdict.problems)
            case Untouched():
                return _Answer(review.allow(request), "untouched", verdict.reason)
        # Again, and from memory nearly always: a pod that came with its status already was never mutated here.
        problems = await self._surroundings.ensure_tokens(request.namespace, request.dry_run)
        if problems:
            return _refused(request, "no tokens", problems)
        return _Answer(review.allow(request), "allowed", "complete")


def _refused(request: Review, reason: str, problems: Sequence[str]) -> _Answer:
    return _Answer(review.refuse(request, problems), "refused", reason, review.message(problems))


def _broken_head(scope: Scope) -> HTTPError | None:
    if scope["method"] != "POST":
        return HTTPError(405, "use POST", [(b"allow", b"POST")])
    content_type = _header(scope, b"content-type").partition(";")[0].strip().lower()
    if content_type != "application/json":
        return HTTPError(415, f"Content-Type must be application/json, not {content_type or 'absent'}")
    return None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_FIELD else text[: _LONGEST_FIELD - 3] + "..."


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name), "")


async def _read(receive: Receive, take: Callable[[int], Awaitable[None]]) -> bytes | None:
    """The whole body; None when the client went away. Raises HTTPError for one that is too large.

    What comes after LARGE_BODY of it is taken by ``take(size)``, piece by piece, as it is there and not as it was
    announced: a client that stalls must have sent what it keeps from others.

    Up to twice the limit is read and thrown away before that is said: to close on a client that still writes resets
    the connection, and the client loses the answer.
    """
    parts: list[bytes] = []
    size = 0
    more = True
    while more and size <= 2 * BODY_LIMIT:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        size += len(event["body"])
        if size <= BODY_LIMIT:
            if size > LARGE_BODY:
                await take(len(event["body"]))
            parts.append(event["body"])
        else:
            parts.clear()
        more = event["more_body"]
    if size > BODY_LIMIT:
        raise HTTPError(413, f"the body is larger than {BODY_LIMIT} bytes")
    return b"".join(parts)
