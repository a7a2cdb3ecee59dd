"""The answer to an AdmissionReview: bytes in, core, bytes out. What is decided about a pod is the core's."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry, Counter, Histogram

from bitfusiond import logs
from bitfusiond.core.admission import capacity, images, review
from bitfusiond.core.admission.capacity import Largest
from bitfusiond.core.admission.decision import Patch, Refusal, Rules, Untouched
from bitfusiond.core.admission.images import Needed
from bitfusiond.core.admission.mutate import ALREADY_INJECTED, mark, mutate
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.admission.review import BadRequestError, Review
from bitfusiond.core.admission.validate import Verdict, validate
from bitfusiond.core.images.image import NONE, Images
from bitfusiond.core.pool.claims import ClaimTemplate
from bitfusiond.core.text import cut
from bitfusiond.http import conversation
from bitfusiond.http.messages import JSON, Request, Response
from bitfusiond.pacing import Repeats
from bitfusiond.webhook.images.pullsecrets import PullSecrets

BODY_LIMIT = 4 * 2**20  # bytes; an API server stores no object above 1.5 MiB, and a review holds it twice
ANSWER_LIMIT = 4 * 2**20  # bytes
MOST_VALUES = 100_000  # objects and lists in a body
ENDPOINTS = ("/mutate", "/validate")
# Alerts and dashboards look for an increase, which Prometheus does not see in a series that begins with 1.
_COUNTED_FROM_NOUGHT = (
    ("mutate", "patched", "injected"),
    ("mutate", "refused", "invalid pod"),
    ("mutate", "refused", "no tokens"),
    ("mutate", "error", "500"),
    ("validate", "refused", "invalid pod"),
    ("validate", "error", "500"),
)
LOOKUP_SECONDS = 4.0  # for the images of a pod
_AFTER_LOOKUP_SECONDS = 5.5  # of a request's time, for its tokens and the answer
_LONGEST_FIELD = 1024  # characters of what a client sent, in a log line
_REPEAT_SECONDS = 10.0  # between two lines about what is wrong with requests
_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)

_NO_CERTIFICATE = (
    "a client certificate of the CA in --client-ca of bitfusiond is needed: kube-apiserver gets one by"
    " --admission-control-config-file"
)
_NOT_TRUSTED = (
    "the handshake failed: if this is the API server, pods that opted in are refused: give it a client certificate of"
    " the CA in --client-ca"
)

_GONE = (
    "spec.resourceClaims: there is no ResourceClaimTemplate {} any more: one goes a day after the last pod that was"
    " made with it. Create the pod from its own manifest, not from a copy of an earlier pod"
)

_log = logs.Log("webhook")


@dataclass(frozen=True, slots=True)
class _Answer:
    """What goes back, and how it is counted: ``verdict`` and ``reason`` are each one of few.

    ``needs_tokens``: only if the pod's namespace has them.
    """

    body: bytes
    verdict: str
    reason: str
    message: str = ""
    needs_tokens: bool = False
    claims: tuple[ClaimTemplate, ...] = ()  # must be there
    held_claims: tuple[str, ...] = ()  # are there, or their pod waits for ever


class HTTPError(Exception):
    """A broken request: answered with ``status`` and one line of text."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class ClusterView(Protocol):
    """What an admission asks of the cluster, from memory wherever that is possible."""

    def largest_node(self) -> Largest | None:
        """The most that any one node has of each of our resources; None = no node is known."""
        ...

    async def ensure_tokens(self, namespace: str, dry_run: bool) -> list[str]:
        """Have the token Secrets in ``namespace``; why that cannot be, and nothing where it is done."""
        ...

    async def ensure_templates(self, namespace: str, templates: Sequence[ClaimTemplate], dry_run: bool) -> list[str]:
        """Have the templates of claims in ``namespace``; why that cannot be, and nothing where it is done."""
        ...

    async def missing_templates(self, namespace: str, templates: Sequence[str]) -> list[str]:
        """Those of these names that are not in ``namespace``."""
        ...

    async def pull_secrets(self, namespace: str, names: Sequence[str]) -> PullSecrets:
        """The pull secrets of these names, for a namespace whose pods may have their images looked up."""
        ...

    def servers(self) -> Sequence[str]:
        """The GPU servers that servers.conf names, HOST:PORT; none where there is no such file, or a wrong one."""
        ...

    def refused(self, request: Review, message: str) -> None:
        """Take note of a refusal; never waits."""
        ...


class ImageLookup(Protocol):
    """Where images are looked up (``--image-lookup``)."""

    async def find(
        self, needed: Needed, namespace: str, secrets: Callable[[], Awaitable[PullSecrets]], deadline: float
    ) -> Images: ...


class Admission:
    """``/mutate`` and ``/validate``; every other path is for ``others``.

    ``rules`` is asked once a request, so that what it returns may change between two. ``needs_certificate``: only
    clients that showed one are served (``--client-ca``). ``lookup`` None: nobody looks at images.
    """

    def __init__(
        self,
        rules: Callable[[], Rules],
        view: ClusterView,
        others: Callable[[Request], Response],
        metrics: CollectorRegistry,
        *,
        needs_certificate: bool = False,
        lookup: ImageLookup | None = None,
    ) -> None:
        self._lookup = lookup
        self._needs_certificate = needs_certificate
        self._rules = rules
        self._view = view
        self._others = others
        self._endpoints = dict(zip(ENDPOINTS, (self._mutate, self._validate), strict=True))
        self._requests = Counter(
            "bitfusiond_admission_requests",
            "Admission reviews answered, and requests that were none (verdict bad_request).",
            ["endpoint", "verdict", "reason"],
            registry=metrics,
        )
        for labels in _COUNTED_FROM_NOUGHT:
            self._requests.labels(*labels)
        self._seconds = Histogram(
            "bitfusiond_admission_duration_seconds",
            "From the last byte of a request to its answer.",
            ["endpoint"],
            buckets=_BUCKETS,
            registry=metrics,
        )
        # Of what a client can make happen as often as it likes.
        self._broken_http = Repeats(_REPEAT_SECONDS)
        self._bad_requests = Repeats(_REPEAT_SECONDS)
        self._untrusted = Repeats(_REPEAT_SECONDS)

    async def __call__(self, request: Request) -> Response:
        """The answer to any request."""
        if request.version not in {"1.0", "1.1"}:
            return Response(505, b"use HTTP/1.1\n")
        decide = self._endpoints.get(request.path)
        if decide is None:
            return self._others(request)
        endpoint = request.path[1:]
        try:
            return Response(200, await self._admit(endpoint, decide, request), JSON)
        except HTTPError as error:
            verdict = "error" if error.status == 500 else "bad_request"
            self._requests.labels(endpoint, verdict, str(error.status)).inc()
            message = cut(str(error), _LONGEST_FIELD)
            # Of a defect its traceback is in the log.
            if verdict == "bad_request" and self._bad_requests.is_due(trio.current_time()):
                number = self._bad_requests.number
                _log.warning("bad request", endpoint=endpoint, status=error.status, message=message, number=number)
            return Response(error.status, f"{message}\n".encode(), headers=error.headers)

    def broken_http(self, status: int) -> None:
        """Take note of what was no HTTP and was answered with ``status``."""
        self._requests.labels("none", "bad_request", str(status)).inc()
        if self._broken_http.is_due(trio.current_time()):
            _log.warning("broken HTTP", status=status, number=self._broken_http.number)

    def untrusted(self, reason: str) -> None:
        """Take note of a client whose certificate is not of ``--client-ca``, or is not good any more."""
        self._requests.labels("none", "bad_request", "certificate").inc()
        if self._untrusted.is_due(trio.current_time()):
            number = self._untrusted.number
            _log.warning("client certificate refused", reason=reason, message=_NOT_TRUSTED, number=number)

    async def _admit(self, endpoint: str, decide: Callable[[Review, Images], _Answer], request: Request) -> bytes:
        """The answer to a review. Raises HTTPError where it is none."""
        body = await self._received(request)
        began = time.perf_counter()
        try:
            admission = review.parse(body)
            looked_up = NONE
            if endpoint == "mutate" and (needed := self._needed(admission)):
                admission = replace(admission, object=None)  # as below
                looked_up = await self._looked_up(needed, admission.namespace, request.deadline)
                admission = review.parse(body)
            answer = decide(admission, looked_up)
            # A body becomes some thirty times its size: nothing of it is kept while others are asked.
            admission, body = replace(admission, object=None), b""
            answer = await self._if_namespace_is_ready(admission, answer)
            if answer.verdict == "refused":
                self._view.refused(admission, answer.message)
        except BadRequestError as error:
            raise HTTPError(400, str(error)) from None
        except RecursionError:
            raise HTTPError(400, "the AdmissionReview is nested too deeply") from None
        except Exception:  # noqa: BLE001 - a defect of ours in one pod must not end the answers to others
            _log.exception("defect in admission, please report it", endpoint=endpoint)
            raise HTTPError(500, "internal error: see the log of bitfusiond") from None
        self._report(endpoint, admission, answer, time.perf_counter() - began)
        return answer.body

    async def _received(self, request: Request) -> bytes:
        """The body, of somebody who may ask, and small enough to be parsed. Raises HTTPError."""
        if self._needs_certificate and not request.is_certified:
            raise HTTPError(401, _NO_CERTIFICATE)
        try:
            body = await _read(request)
        except trio.TooSlowError:
            raise HTTPError(408, f"the request did not arrive within {conversation.REQUEST_SECONDS:g} s") from None
        _check_head(request)
        _check_size(body)
        return body

    async def _if_namespace_is_ready(self, admission: Review, answer: _Answer) -> _Answer:
        """``answer``, if the pod's namespace has what the pod needs there; else a refusal."""
        if answer.needs_tokens:
            problems = await self._view.ensure_tokens(admission.namespace, admission.dry_run)
            if problems:
                return _refused(admission, "no tokens", problems)
        if answer.claims:
            problems = await self._view.ensure_templates(admission.namespace, answer.claims, admission.dry_run)
            if problems:
                return _refused(admission, "no claims", problems)
        if answer.held_claims and not admission.dry_run:  # a dry run of a mutation has made none
            missing = await self._view.missing_templates(admission.namespace, answer.held_claims)
            if missing:
                return _refused(admission, "no claims", [_GONE.format(each) for each in missing])
        return answer

    def _report(self, endpoint: str, admission: Review, answer: _Answer, seconds: float) -> None:
        """What became of a review, in metrics and log."""
        self._requests.labels(endpoint, answer.verdict, answer.reason).inc()
        self._seconds.labels(endpoint).observe(seconds)
        _log.info(
            "admission",
            endpoint=endpoint,
            namespace=cut(admission.namespace, _LONGEST_FIELD),
            name=cut(admission.name, _LONGEST_FIELD),
            uid=admission.uid,
            verdict=answer.verdict,
            reason=cut(answer.message or answer.reason, _LONGEST_FIELD),
            dry_run=admission.dry_run,
            microseconds=round(seconds * 1e6),
        )

    def _needed(self, request: Review) -> Needed | None:
        """The images that must be looked up before anything is decided."""
        if self._lookup is None or not request.creates_pod or request.object is None:
            return None
        return images.needed(request.object, request.namespace, self._rules())

    async def _looked_up(self, needed: Needed, namespace: str, deadline: float) -> Images:
        assert self._lookup is not None  # noqa: S101 - _needed() looked
        secrets = partial(self._view.pull_secrets, namespace, needed.pull_secrets)
        until = min(trio.current_time() + LOOKUP_SECONDS, deadline - _AFTER_LOOKUP_SECONDS)
        return await self._lookup.find(needed, namespace, secrets, until)

    def _mutate(self, request: Review, looked_up: Images) -> _Answer:
        if not request.creates_pod or request.object is None:
            return _Answer(review.allow(request), "untouched", "not a pod being created")
        rules, nodes = self._rules(), self._view.largest_node()
        verdict = mutate(request.object, request.namespace, rules, looked_up)
        match verdict:
            case Refusal():
                return _refused(request, "invalid pod", verdict.problems)
            case Untouched(reason) if verdict == ALREADY_INJECTED:
                # A copy of a pod that was mutated once, or ours that another webhook has changed since. Where the API
                # server sees that it is complete, nobody asks /validate about it.
                whole = validate(request.object, request.namespace, rules, nodes, is_final=False)
                return _of_whole(request, whole, ("untouched", reason), mark(request.object, request.namespace, rules))
            case Untouched():
                return _Answer(review.allow(request), "untouched", verdict.reason)
        pool = rules.pool if verdict.claims else None
        return _patched(request, verdict, capacity.problems(verdict.wanted, nodes, pool))

    def _validate(self, request: Review, _: Images) -> _Answer:
        if not request.creates_pod or request.object is None:
            return _Answer(review.allow(request), "untouched", "not a pod being created")
        verdict = validate(request.object, request.namespace, self._rules(), self._view.largest_node())
        return _of_whole(request, verdict, ("allowed", "complete"))


def _patched(request: Review, patch: Patch, problems: Iterable[str]) -> _Answer:
    """The answer with ``patch``, unless there are ``problems``."""
    if found := list(problems):
        return _refused(request, "invalid pod", found)
    body = review.allow(request, patch.operations, patch.warnings)
    if len(body) > ANSWER_LIMIT:
        return _refused(request, "invalid pod", [_too_large(body)])
    return _Answer(body, "patched", "injected", needs_tokens=patch.takes_tokens, claims=patch.claims)


def _of_whole(
    request: Review, verdict: Verdict, counted: tuple[str, str], operations: Sequence[Operation] = ()
) -> _Answer:
    """The answer to a pod that was mutated before, with ``operations`` and ``counted`` as such where it is right.

    Tokens again, and from memory nearly always: a pod that came with its status already was never mutated here.
    """
    match verdict:
        case Refusal():
            return _refused(request, "invalid pod", verdict.problems)
        case Untouched():
            return _Answer(review.allow(request), "untouched", verdict.reason)
    held = verdict.claims
    return _Answer(review.allow(request, operations), *counted, needs_tokens=verdict.takes_tokens, held_claims=held)


def _refused(request: Review, reason: str, problems: Sequence[str]) -> _Answer:
    return _Answer(review.refuse(request, problems), "refused", reason, review.message(problems))


def _too_large(body: bytes) -> str:
    return (
        f"spec: what is to be added to the pod has {len(body)} bytes: bitfusiond answers with at most {ANSWER_LIMIT}."
        " Give the pod fewer containers, or a shorter filter"
    )


def _check_head(request: Request) -> None:
    if request.method != "POST":
        raise HTTPError(405, "use POST", (("allow", "POST"),))
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise HTTPError(415, f"Content-Type must be application/json, not {content_type or 'absent'}")


def _check_size(body: bytes) -> None:
    """JSON of many small values becomes some thirty times its size in memory; no pod has so many."""
    values = body.count(b"{") + body.count(b"[")
    if values > MOST_VALUES:
        raise HTTPError(413, f"the body holds {values} objects and lists: bitfusiond reads at most {MOST_VALUES}")


async def _read(request: Request) -> bytes:
    """The whole body. Raises HTTPError for one that is too large.

    Up to twice the limit is read and thrown away before that is said: to close on a client that still writes resets
    the connection, and the client loses the answer.
    """
    parts: list[bytes] = []
    size = 0
    while size <= 2 * BODY_LIMIT and (part := await request.more()):
        size += len(part)
        if size <= BODY_LIMIT:
            parts.append(part)
        else:
            parts.clear()
    if size > BODY_LIMIT:
        raise HTTPError(413, f"the body is larger than {BODY_LIMIT} bytes")
    return b"".join(parts)
