"""A ``FakeCluster`` over HTTPS, for processes that want an API server. What it is asked is counted.

It stands in where the machine is too small for a real one: 100,000 claims, 5,000 nodes. It knows only what our code
asks for; the contract tests hold it to a real one.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import trio
import trustme
from hypercorn.config import Config
from hypercorn.trio import serve

from bitfusiond import kube
from bitfusiond.kube import (
    Change,
    ClusterError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    Object,
    Resource,
)
from tests.fakes.cluster import FakeCluster

BOOKMARK_SECONDS = 60.0  # as an API server's
START_SECONDS = 10.0
_RESOURCES = {
    (each.group, each.version, each.plural): each for each in vars(kube).values() if isinstance(each, Resource)
}
_STATUS = {NotFoundError: 404, ConflictError: 409, ForbiddenError: 403, InvalidError: 422, ExpiredError: 410}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Taken:
    """What a server was asked for so far: requests by verb and plural, bytes of all bodies in both directions."""

    requests: Counter[str]
    bytes: int

    def __sub__(self, other: Taken) -> Taken:
        return Taken(self.requests - other.requests, self.bytes - other.bytes)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request, taken apart."""

    verb: str
    resource: Resource
    namespace: str | None
    name: str | None
    query: dict[str, str]
    body: Object

    @property
    def selected_name(self) -> str | None:
        return self.query.get("fieldSelector", "").removeprefix("metadata.name=") or None

    @property
    def labels(self) -> dict[str, str]:
        given = self.query.get("labelSelector")
        return dict(each.split("=", 1) for each in given.split(",")) if given else {}


class Server:
    """``cluster`` in a thread of its own; only :meth:`do` may touch it."""

    def __init__(self, cluster: FakeCluster, directory: Path) -> None:
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1")
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(authority.cert_pem.bytes())
        leaf.private_key_and_cert_chain_pem.write_to_path(directory / "server.pem")
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._socket.setblocking(False)
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        self._certificate = directory / "server.pem"
        self._cluster = cluster
        self._requests: Counter[str] = Counter()
        self._bytes = 0
        self._pages: dict[str, _Pages] = {}
        self._numbers = itertools.count()
        self._over = trio.Event()
        self._started = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def do(self, what: Callable[[FakeCluster], ResultT]) -> ResultT:
        """``what`` of the cluster, as somebody else's doing: between two requests."""
        return trio.from_thread.run_sync(what, self._cluster, trio_token=self._token)

    def taken(self) -> Taken:
        return self.do(lambda _: Taken(self._requests.copy(), self._bytes))

    def write_kubeconfig(self, path: Path) -> Path:
        document = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.url, "certificate-authority": str(self.ca)}}],
            "users": [{"name": "u", "user": {"token": "anybody"}}],
        }
        path.write_text(json.dumps(document))
        return path

    @contextmanager
    def running(self) -> Iterator[Server]:
        thread = threading.Thread(target=trio.run, args=(self._serve,))
        thread.start()
        if not self._started.wait(START_SECONDS):
            raise TimeoutError(f"the stand-in did not start within {START_SECONDS:g} s")
        try:
            yield self
        finally:
            self.do(lambda _: self._over.set())
            thread.join()

    async def _serve(self) -> None:
        config = Config()
        config.bind = [f"fd://{self._socket.detach()}"]
        config.certfile = config.keyfile = str(self._certificate)
        config.keep_alive_max_requests = 2**62
        config.keep_alive_timeout = 3600
        config.graceful_timeout = 0.1
        config.errorlog = None
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_bookmarks)
            self._started.set()
            await serve(self._application, config, shutdown_trigger=self._over.wait)
            nursery.cancel_scope.cancel()

    async def _tell_bookmarks(self) -> None:
        while True:
            await trio.sleep(BOOKMARK_SECONDS)
            self._cluster.bookmark()

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise NotImplementedError  # which tells hypercorn that there is no lifespan
        data = b""
        while True:
            part = await receive()
            data += part.get("body", b"")
            if not part.get("more_body"):
                break
        self._bytes += len(data)

        async def answer(status: int, document: object) -> None:
            body = json.dumps(document, separators=(",", ":")).encode()
            await start(status)
            await more(body, is_last=True)

        async def start(status: int) -> None:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})

        async def more(body: bytes, *, is_last: bool = False) -> None:
            self._bytes += len(body)
            await send({"type": "http.response.body", "body": body, "more_body": not is_last})

        asked = _asked(scope["method"], scope["path"], scope["query_string"].decode(), data)
        if asked is None:
            self._requests[f"other {scope['path']}"] += 1
            return await answer(404, _status(404, "NotFound", "the server could not find the requested resource"))
        self._requests[f"{asked.verb} {asked.resource.plural}"] += 1
        try:
            if asked.verb != "watch":
                return await answer(201 if asked.verb == "create" else 200, await self._answer(asked))
            with trio.move_on_after(float(asked.query.get("timeoutSeconds", "300"))):
                version, place = asked.query["resourceVersion"], (asked.namespace, asked.selected_name)
                async with self._cluster.watch(asked.resource, version, *place, labels=asked.labels) as changes:
                    await start(200)
                    await more(b"")  # hypercorn sends the head with the first part of the body
                    await _until_gone(receive, _tell(changes, more))
            await more(b"", is_last=True)
        except ClusterError as error:
            await answer(*_refusal(error))

    async def _answer(self, asked: _Asked) -> Object:
        cluster, place = self._cluster, (asked.resource, asked.namespace)
        match asked.verb:
            case "list":
                return await self._page(asked)
            case "get":
                return await cluster.get(*place, asked.name or "")
            case "create":
                return await cluster.create(*place, asked.body, dry_run="dryRun" in asked.query)
            case "update":
                return await cluster.replace(*place, asked.name or "", asked.body)
            case "patch":
                manager = asked.query["fieldManager"]
                return await cluster.apply(*place, asked.name or "", asked.body, field_manager=manager)
        version = asked.body.get("preconditions", {}).get("resourceVersion")
        await cluster.delete(*place, asked.name or "", resource_version=version)
        return {"apiVersion": "v1", "kind": "Status", "status": "Success", "metadata": {"resourceVersion": "0"}}

    async def _page(self, asked: _Asked) -> Object:
        """As an API server: what all pages show is what there was at the first."""
        given = asked.query.get("continue")
        if given is None:
            found = await self._cluster.read(asked.resource, asked.namespace, asked.selected_name, labels=asked.labels)
            pages = _Pages(found.items, found.resource_version)
            given = f"{next(self._numbers)}"
        else:
            pages = self._pages.pop(given)
        most = int(asked.query.get("limit") or len(pages.left) or 1)
        items = [{key: each[key] for key in each if key not in ("apiVersion", "kind")} for each in pages.left[:most]]
        metadata = {"resourceVersion": pages.version}
        if len(pages.left) > most:
            self._pages[given] = _Pages(pages.left[most:], pages.version)
            metadata["continue"] = given
        kind = {"apiVersion": asked.resource.api_version, "kind": f"{asked.resource.kind}List"}
        return {**kind, "metadata": metadata, "items": items}


@dataclass(frozen=True, slots=True)
class _Pages:
    """What is left of a list."""

    left: list[Object] = field(default_factory=list)
    version: str = ""


async def _tell(changes: AsyncIterator[Change], more: Callable[[bytes], Awaitable[None]]) -> None:
    """Each change in a line, to the end of the watch."""
    try:
        async for change in changes:
            await more(_line(change.type, change.object))
    except ClusterError as error:
        await more(_line("ERROR", _refusal(error)[1]))


async def _until_gone(receive: Callable[[], Awaitable[Any]], telling: Coroutine[Any, Any, None]) -> None:
    """Do ``telling``, for as long as the client is there."""

    async def listen(scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen, nursery.cancel_scope)
        await telling
        nursery.cancel_scope.cancel()


def _asked(method: str, path: str, query: str, data: bytes) -> _Asked | None:
    """None for a path that is no object's of ours."""
    prefix, *parts = path.strip("/").split("/")
    group = parts.pop(0) if prefix == "apis" and parts else ""
    version = parts.pop(0) if parts else ""
    namespace = None
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = unquote(parts[1]), parts[2:]
    resource = _RESOURCES.get((group, version, parts[0])) if parts else None
    if resource is None or len(parts) > 2:
        return None
    name = unquote(parts[1]) if len(parts) == 2 else None
    options = dict(parse_qsl(query))
    verb = _VERBS.get(method) or ("get" if name else "watch" if options.get("watch") in ("true", "1") else "list")
    return _Asked(verb, resource, namespace, name, options, json.loads(data) if data else {})


def _line(kind: str, document: Object) -> bytes:
    return json.dumps({"type": kind, "object": document}, separators=(",", ":")).encode() + b"\n"


def _refusal(error: ClusterError) -> tuple[int, Object]:
    status = _STATUS.get(type(error), 503)
    reason = "AlreadyExists" if "already exists" in str(error) else type(error).__name__.removesuffix("Error")
    return status, _status(status, reason, str(error))


def _status(code: int, reason: str, message: str) -> Object:
    kind = {"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure"}
    return {**kind, "code": code, "reason": reason, "message": message}
