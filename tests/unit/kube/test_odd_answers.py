"""Answers that no API server gives, from what stands in front of one: an outage, never the end of the daemon."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfusiond.kube import SECRETS, UnavailableError
from bitfusiond.kube.apiserver import APIServer, connect

_LIST = json.dumps({"metadata": {"resourceVersion": "1"}, "items": []}).encode()


class _Odd(http.server.ThreadingHTTPServer):
    status = 200
    body = b""
    watch = b""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Odd)
        body = self.server.watch if "watch=true" in self.path else self.server.body
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass


@pytest.fixture
def odd(tmp_path: Path) -> Iterator[tuple[_Odd, APIServer]]:
    server = _Odd(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    named = {"name": "x", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
    context = {"name": "x", "context": {"cluster": "x", "user": "x"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x", "clusters": [named], "contexts": [context]}
    (tmp_path / "kubeconfig").write_text(json.dumps({**config, "users": [{"name": "x", "user": {"token": "t"}}]}))
    yield server, connect(str(tmp_path / "kubeconfig"))
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "body",
    [
        *(b"<html>login</html>", b"", b"null", b"[]", b"{}", b'{"metadata": {}}', b'{"metadata": []}', b"[" * 100_000),
        *(b'{"metadata": {"resourceVersion": "1"}, "items": %s}' % items for items in (b'"x"', b"[1]", b"[{}]")),
    ],
    ids=lambda body: body[:30].decode(),
)
async def test_a_list_that_is_none_is_an_outage(odd: tuple[_Odd, APIServer], body: bytes) -> None:
    server, api = odd
    server.body = body
    with pytest.raises(UnavailableError, match="no object of Kubernetes"):
        await api.list(SECRETS)


@pytest.mark.parametrize(
    "line",
    [b"upstream gone", b"null", b"{}", b'{"type": "ADDED", "object": {}}', b'{"type": "ERROR", "object": null}'],
    ids=lambda line: line[:30].decode(),
)
async def test_a_watch_that_is_none_is_an_outage(odd: tuple[_Odd, APIServer], line: bytes) -> None:
    server, api = odd
    server.body, server.watch = _LIST, line + b"\n"
    with pytest.raises(UnavailableError, match="no object of Kubernetes"):
        async with api.watch(SECRETS, "1") as changes:
            await anext(changes)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>\nbad gateway", "^<html> bad gateway$"),
        (b"", "^HTTP status 502$"),
        (b'{"message": "try later"}', "^try later$"),
        (b'{"message": ["try later"]}', "try later"),
        (b"[" * 100_000, r"^\[{997}\.\.\.$"),
    ],
    ids=lambda value: value[:30].decode() if isinstance(value, bytes) else "",
)
async def test_an_error_in_any_words_is_an_outage(odd: tuple[_Odd, APIServer], body: bytes, message: str) -> None:
    server, api = odd
    server.status, server.body = 502, body
    with pytest.raises(UnavailableError, match=message):
        await api.list(SECRETS)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (b'{"code": 500, "message": "try later"}', "^try later$"),
        (b'{"code": "x"}', "^HTTP status 500$"),
        (b'{"code": 503, "message": %s}' % (b"[" * 900 + b"]" * 900), "^HTTP status 503$"),
    ],
    ids=["a message", "no code", "nested deeply"],
)
async def test_an_error_in_a_watch_is_an_outage(odd: tuple[_Odd, APIServer], found: bytes, message: str) -> None:
    server, api = odd
    server.body, server.watch = _LIST, b'{"type": "ERROR", "object": %s}\n' % found
    with pytest.raises(UnavailableError, match=message):
        async with api.watch(SECRETS, "1") as changes:
            await anext(changes)
