"""A small HTTPS client that can also misbehave, and AdmissionReviews as the API server sends them."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import jsonpatch
import trio

from bitfusiond.core.fields import Json
from bitfusiond.settings.values import Address

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
SECONDS = 20.0  # for anything that must happen at all


class HungUpError(Exception):
    """The server closed the connection before its answer was whole."""


@dataclass(frozen=True)
class Response:
    """One answer; the names of ``headers`` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def review(self) -> Json:
        """The AdmissionReview in the body."""
        assert self.status == 200, self.text
        document: Json = json.loads(self.body)
        return document


class Connection:
    """One connection; what it sends is up to the test."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def pour(self, data: bytes) -> None:
        """Send ``data`` again and again until the server has hung up."""
        with trio.fail_after(SECONDS):
            try:
                while True:
                    await self.send(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def response(self, method: str = "POST") -> Response:
        """The next answer to a request by ``method``. Raises HungUpError."""
        head = await self._until(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        number = int(status.split()[1])
        if number == 100:
            return Response(number, headers, b"")
        length = 0 if method == "HEAD" else int(headers["content-length"])
        while len(self._buffer) < length:
            await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Response(number, headers, body)

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Response:
        await self.send(head(method, path, {"Content-Length": str(len(body)), **(headers or {})}) + body)
        return await self.response(method)

    async def post(self, path: str, body: bytes) -> Response:
        return await self.request("POST", path, body, {"Content-Type": "application/json"})

    async def ask(self, path: str, document: Json) -> Response:
        return await self.post(path, json.dumps(document).encode())

    async def rest(self) -> bytes:
        """Everything until the server hangs up."""
        with trio.fail_after(SECONDS):
            try:
                while True:
                    await self._more()
            except HungUpError:
                return self._buffer

    async def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._more()
        found, _, self._buffer = self._buffer.partition(end)
        return found

    async def _more(self) -> None:
        try:
            with trio.fail_after(SECONDS):
                data = await self.stream.receive_some()
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise HungUpError
        self._buffer += data


def head(method: str, path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bwki-webhook-svc.bwki.svc"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


@asynccontextmanager
async def connect(address: Address, context: ssl.SSLContext | None) -> AsyncIterator[Connection]:
    """A connection to ``address``, over TLS if ``context`` is given."""
    async with await trio.open_tcp_stream(address.host, address.port) as plain:
        stream: Any = plain
        if context is not None:
            stream = trio.SSLStream(plain, context, server_hostname="localhost", https_compatible=True)
            with trio.fail_after(SECONDS):
                await stream.do_handshake()
        yield Connection(stream)


def review(pod: Json | None, namespace: str = "team", version: str = "v1", **request: Any) -> Json:
    """An AdmissionReview of a pod that is being created; ``request`` replaces fields of it."""
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    asked = {"uid": UID, "kind": kind, "resource": resource, "operation": "CREATE", "namespace": namespace}
    return {
        "apiVersion": f"admission.k8s.io/{version}",
        "kind": "AdmissionReview",
        "request": {**asked, "userInfo": {"username": "jane"}, "oldObject": None, "object": pod, **request},
    }


def patched(pod: Json, answer: Json) -> Json:
    """``pod`` with the patch of an answer, applied by a library that is not ours, which takes RFC 6902 at its word."""
    assert answer["response"]["patchType"] == "JSONPatch"
    result: Json = jsonpatch.apply_patch(pod, json.loads(base64.b64decode(answer["response"]["patch"])))
    return result
