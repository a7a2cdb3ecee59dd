"""The ``Cluster`` that is one: requests to an API server, as raw JSON, by the kubernetes package's blocking client.

Each request runs in a thread. A trio scope that ends does not wait for that thread: it shuts the connection down under
it, so that a watch ends at once, and a thread that still waits for a connection or for a first byte ends by its own
timeouts. CONTRIBUTING.md says why not kubernetes.aio.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import urlencode

import trio
import urllib3
from kubernetes.client.api_client import ApiClient
from kubernetes.client.configuration import Configuration
from kubernetes.client.exceptions import ApiException

from bitfusiond import __version__
from bitfusiond.core.fields import mapping
from bitfusiond.core.text import one_line
from bitfusiond.kube import (
    CLAIM_TEMPLATES,
    CLAIMS,
    NO_LABELS,
    RESOURCE_SLICES,
    SECRETS,
    Change,
    Listing,
    Object,
    Resource,
    UnavailableError,
)
from bitfusiond.kube import kubeconfig as kubeconfigs
from bitfusiond.kube.status import LONGEST, error_of

REQUEST_SECONDS = 5.0
# A page of a long list: the API server has to read it from etcd first.
PAGE_SECONDS = 30.0
PAGE_ITEMS = 500
DRY_RUN_SECONDS = 60.0
# Each may have a megabyte, and anybody may make one in a namespace of theirs; a slice has the GPUs of a whole server.
_LARGE = (SECRETS, RESOURCE_SLICES, CLAIMS, CLAIM_TEMPLATES)
LARGE_ITEMS = 50
# The API server ends a watch after this; at random, so that not all watches of all replicas come back together.
WATCH_SECONDS = (240, 360)
# It sends a bookmark every minute: a watch that says nothing for so long is a connection that was lost on the way.
IDLE_SECONDS = 150.0
# Threads that requests may hold at a time, those included which nobody waits for any more.
REQUESTS_AT_ONCE = 16

_JSON = "application/json"
ResultT = TypeVar("ResultT")


def connect(kubeconfig: str | None, requests_at_once: int = REQUESTS_AT_ONCE) -> APIServer:
    """The API server that ``kubeconfig`` names; without it, that of the pod we run in, else that of ``$KUBECONFIG``.

    Makes no request: an API server that is absent now may be there later. Raises ConfigurationError for a kubeconfig
    that is not usable.
    """
    return APIServer(lambda: kubeconfigs.load(kubeconfig), requests_at_once)


class _Connection:
    """One request and its answer. ``send`` and ``read`` run in threads; ``hang_up`` may be called meanwhile."""

    def __init__(self, client: ApiClient, configuration: Configuration, read_seconds: float) -> None:
        self._client = client
        self._configuration = configuration
        self._timeout = (REQUEST_SECONDS, read_seconds)
        self._response: urllib3.HTTPResponse | None = None
        self._hung_up = False
        self._busy = False

    def run(self, function: Callable[[], ResultT]) -> ResultT:
        """``function()``, with what can go wrong on the way as UnavailableError."""
        self._busy = True
        try:
            if self._hung_up:
                raise UnavailableError("nobody waits for it any more")
            return function()
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise UnavailableError(f"the API server at {self._configuration.host}: {_reason(error)}") from None
        finally:
            self._busy = False
            if self._hung_up:
                self._close()

    def send(self, method: str, url: str, body: Object | None, content_type: str) -> int:
        """The status of the answer, whose body is still to be read."""
        headers = {"Accept": _JSON, "User-Agent": f"bitfusiond/{__version__}", "Content-Type": content_type}
        # Reads the service account's token again when it is a minute old: the kubelet renews it in place.
        authorization = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if authorization:
            headers["Authorization"] = authorization.strip()
        answer = self._client.call_api(method, url, header_params=headers, body=body, _request_timeout=self._timeout)
        self._response = answer.response
        return int(answer.response.status)

    def read(self) -> bytes:
        assert self._response is not None  # noqa: S101 - send() came first
        return self._response.data

    def chunks(self) -> Iterator[bytes]:
        assert self._response is not None  # noqa: S101 - send() came first
        return self._response.stream(2**16)

    def hang_up(self) -> None:
        """End it from another thread: what is being read ends in an error, and nothing is kept open."""
        self._hung_up = True
        if self._response is None:
            return  # the thread closes it when it gets there
        # Both the thread and the API server may have closed it since.
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            self._response.shutdown()
        if not self._busy:
            self._close()

    def _close(self) -> None:
        if self._response is not None:
            with contextlib.suppress(OSError):
                self._response.close()


class APIServer:
    """An API server, as :class:`~bitfusiond.kube.Cluster` describes it."""

    def __init__(self, load: Callable[[], Configuration], requests_at_once: int = REQUESTS_AT_ONCE) -> None:
        self._load = load
        self._requests = trio.CapacityLimiter(requests_at_once)
        self._watches = trio.CapacityLimiter(math.inf)
        self._renew()

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        return _whole(await self._request("GET", resource.path(namespace, name)))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        name: str | None = None,
        *,
        labels: Mapping[str, str] = NO_LABELS,
        keep: Callable[[Object], Object] | None = None,
    ) -> Listing:
        most = LARGE_ITEMS if resource in _LARGE else PAGE_ITEMS
        query = {"limit": str(min(most, PAGE_ITEMS)), **_selectors(name, labels)}
        items: list[Object] = []
        while True:
            page = await self._request("GET", resource.path(namespace), query, seconds=PAGE_SECONDS)
            _whole(page)
            listed = page.pop("items", None) or []
            if not isinstance(listed, list):
                raise _not_kubernetes()
            for each in listed:
                _whole(each)
            items += listed if keep is None else map(keep, listed)
            del listed
            if not page["metadata"].get("continue"):
                return Listing(items, page["metadata"]["resourceVersion"])
            query["continue"] = page["metadata"]["continue"]

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str | None = None,
        name: str | None = None,
        *,
        labels: Mapping[str, str] = NO_LABELS,
    ) -> AsyncIterator[AsyncIterator[Change]]:
        seconds = random.randint(*WATCH_SECONDS)  # noqa: S311 - no secret
        query = {
            "watch": "true",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
            **_selectors(name, labels),
        }
        connection = _Connection(self._client, self._configuration, IDLE_SECONDS)

        def begin() -> None:
            status = connection.send("GET", self._url(resource.path(namespace), query), None, _JSON)
            if status != 200:
                self._check(status, connection.read(), "GET")

        try:
            with _deadline(REQUEST_SECONDS):
                await _in_thread(connection, begin, self._watches)
            async with aclosing(_changes(connection, self._watches)) as changes:
                yield changes
        finally:
            connection.hang_up()

    async def create(self, resource: Resource, namespace: str | None, body: Object, *, dry_run: bool = False) -> Object:
        query = {"dryRun": "All"} if dry_run else {}
        # Who tries what becomes of an object wants the answer that the API server has after it waited for webhooks.
        seconds = DRY_RUN_SECONDS if dry_run else REQUEST_SECONDS
        created = await self._request("POST", resource.path(namespace), query, _typed(resource, body), seconds=seconds)
        return created if dry_run else _whole(created)  # what is not stored has no version

    async def replace(self, resource: Resource, namespace: str | None, name: str, body: Object) -> Object:
        return _whole(await self._request("PUT", resource.path(namespace, name), {}, _typed(resource, body)))

    async def apply(
        self, resource: Resource, namespace: str | None, name: str, body: Object, *, field_manager: str
    ) -> Object:
        query = {"fieldManager": field_manager, "force": "true"}
        body = _typed(resource, {**body, "metadata": {**body.get("metadata", {}), "name": name}})
        content_type = "application/apply-patch+yaml"  # JSON is YAML
        return _whole(await self._request("PATCH", resource.path(namespace, name), query, body, content_type))

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, resource_version: str | None = None
    ) -> None:
        preconditions = {} if resource_version is None else {"preconditions": {"resourceVersion": resource_version}}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", **preconditions}
        await self._request("DELETE", resource.path(namespace, name), {}, body)

    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Object | None = None,
        content_type: str = _JSON,
        seconds: float = REQUEST_SECONDS,
    ) -> Object:
        """The object in the answer. Raises ClusterError."""
        connection = _Connection(self._client, self._configuration, seconds)

        def exchange() -> Any:
            status = connection.send(method, self._url(path, query), body, content_type)
            data = connection.read()
            self._check(status, data, method)
            return _object(data)

        try:
            with _deadline(seconds):
                result: Object = await _in_thread(connection, exchange, self._requests)
        except BaseException:
            connection.hang_up()
            raise
        return result

    def _url(self, path: str, query: dict[str, str] | None) -> str:
        return f"{self._configuration.host}{path}" + (f"?{urlencode(query)}" if query else "")

    def _check(self, status: int, data: bytes, method: str) -> None:
        """Raise the ClusterError of an answer that is none."""
        if 200 <= status < 300:
            return
        if status == 401:
            # Other credentials may lie in the files by now: a client certificate that was renewed, or a token that
            # the kubernetes package takes for fresh because the clock went back.
            with contextlib.suppress(Exception):
                self._renew()
        raise error_of(status, data, method)

    def _renew(self) -> None:
        """Read the credentials anew, for all requests that begin from now on."""
        configuration = self._load()
        client = ApiClient(configuration)
        pools = client.rest_client.pool_manager.connection_pool_kw
        pools["ssl_context"] = kubeconfigs.tls_context(configuration)
        self._configuration, self._client = configuration, client


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise UnavailableError where what is inside takes longer."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise UnavailableError(f"the API server did not answer within {seconds:g} s") from None


async def _in_thread(
    connection: _Connection, function: Callable[[], ResultT], limiter: trio.CapacityLimiter
) -> ResultT:
    return await trio.to_thread.run_sync(connection.run, function, abandon_on_cancel=True, limiter=limiter)


async def _changes(connection: _Connection, limiter: trio.CapacityLimiter) -> AsyncGenerator[Change, None]:
    """The lines of a watch. Ends where the API server ends it, in order or not: the next watch will tell."""
    chunks = connection.chunks()
    unfinished = b""
    while True:
        try:
            chunk = await _in_thread(connection, lambda: next(chunks, b""), limiter)
        except UnavailableError:
            return
        if not chunk:
            return
        *lines, unfinished = (unfinished + chunk).split(b"\n")
        for line in lines:
            yield _change(_object(line))


def _change(event: Object) -> Change:
    """One line of a watch. Raises the ClusterError that an event of type ERROR tells of."""
    kind, changed = event.get("type"), event.get("object")
    if not isinstance(kind, str) or not isinstance(changed, dict):
        raise _not_kubernetes()
    if kind == "ERROR":
        code = changed.get("code")
        raise error_of(code if isinstance(code, int) else 500, changed, "GET")
    return Change(kind, _whole(changed))


def _object(data: bytes) -> Object:
    """JSON of an API server. Whatever stands in front of it may answer 200 with a page of its own."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _not_kubernetes() from None
    if not isinstance(document, dict):
        raise _not_kubernetes()
    return document


def _whole(document: Object) -> Object:
    """``document``, if it has the metadata that every object and every list of an API server has."""
    if not isinstance(mapping(document, "metadata").get("resourceVersion"), str):
        raise _not_kubernetes()
    return document


def _not_kubernetes() -> UnavailableError:
    return UnavailableError("the answer is no object of Kubernetes: is it the API server that answers there?")


def _selectors(name: str | None, labels: Mapping[str, str]) -> dict[str, str]:
    fields = {} if name is None else {"fieldSelector": f"metadata.name={name}"}
    return fields | ({"labelSelector": ",".join(f"{key}={value}" for key, value in labels.items())} if labels else {})


def _typed(resource: Resource, body: Object) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, **body}


def _reason(error: BaseException) -> str:
    """What a person wants to know: "Connection refused", not how many layers it went through."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, socket.gaierror | ConnectionError | TimeoutError) and seen.args:
            return one_line(str(seen.args[-1]), LONGEST)
        seen = seen.__cause__ or seen.__context__
    # The client makes an ApiException of status 0 of what is wrong with a certificate.
    return one_line(str(error.reason if isinstance(error, ApiException) else error), LONGEST)
