"""A registry over real HTTP that also does what a real one never does; what it was asked stands in ``requests``."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.fakes.images import Document

TOKEN = "a-token-of-the-registry"


class Request(NamedTuple):
    """One request that came."""

    path: str
    authorization: str | None


class Answer(NamedTuple):
    """What is said to a request. ``length`` lies about the body's."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    length: int | None = None


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@dataclass
class Registry:
    """``users`` (each with a password): nobody else is shown anything. ``token``: they get a token first.

    ``answers`` go before what is stored, by path; what they give is an Answer, or one for each request.
    """

    address: str = ""
    scheme: str = "http"
    users: dict[str, str] = field(default_factory=dict)
    token: bool = False
    answers: dict[str, Answer | Callable[[Request], Answer]] = field(default_factory=dict)
    stored: dict[str, Document] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def push(self, repository: str, *documents: Document, tag: str | None = None) -> str:
        """Store them all by their digests, the last one under ``tag`` too; the name of that image."""
        for each in documents:
            for kind in ("manifests", "blobs"):
                self.stored[f"/v2/{repository}/{kind}/{each.digest}"] = each
        name = f"{self.address}/{repository}"
        if tag is None:
            return f"{name}@{documents[-1].digest}"
        self.stored[f"/v2/{repository}/manifests/{tag}"] = documents[-1]
        return f"{name}:{tag}"

    def asked(self, word: str = "") -> list[str]:
        """The paths with ``word`` in them that were asked for."""
        return [request.path for request in self.requests if word in request.path]

    def answer(self, request: Request) -> Answer:
        path = request.path.partition("?")[0]
        scripted = self.answers.get(path)
        if scripted is not None:
            return scripted if isinstance(scripted, Answer) else scripted(request)
        if path == "/token":
            return self._token(request)
        if self.users and not self._is_known(request.authorization):
            return Answer(401, b"{}", {"WWW-Authenticate": self._challenge(path)})
        found = self.stored.get(path)
        if found is None:
            return Answer(404, b"{}")
        return Answer(200, found.data, {"Content-Type": found.media_type, "Docker-Content-Digest": found.digest})

    def _challenge(self, path: str) -> str:
        if not self.token:
            return 'Basic realm="a registry"'
        repository = path.removeprefix("/v2/").rpartition("/")[0].rpartition("/")[0]
        return f'Bearer realm="{self.url}/token",service="us",scope="repository:{repository}:pull"'

    def _is_known(self, authorization: str | None) -> bool:
        if self.token:
            return authorization == f"Bearer {TOKEN}"
        return authorization in {basic(*user) for user in self.users.items()}

    def _token(self, request: Request) -> Answer:
        query = parse_qs(urlsplit(request.path).query)
        if request.authorization not in {basic(*user) for user in self.users.items()} or query["service"] != ["us"]:
            return Answer(401, b"{}")
        return Answer(200, json.dumps({"token": TOKEN}).encode())


@contextmanager
def serving(context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Registry]:
    """A registry on a port of its own, over TLS with ``context``."""
    registry = Registry(scheme="https" if context else "http")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            registry.connections += 1
            super().setup()

        def do_GET(self) -> None:
            request = Request(self.path, self.headers.get("Authorization"))
            registry.requests.append(request)
            answer = registry.answer(request)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(answer.body)
            self.close_connection = answer.length is not None

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as http.server has it
            pass

        def handle(self) -> None:
            with suppress(OSError):
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass

        def get_request(self) -> tuple[socket.socket, Any]:
            sock, address = super().get_request()
            # The handshake happens in the thread that serves: one that fails keeps nobody waiting.
            return (
                context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) if context else sock
            ), address

    with Server((host, 0), Handler) as server:
        registry.address = f"{host}:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def stalled(host: str = "127.0.0.1") -> Iterator[tuple[str, list[socket.socket]]]:
    """A socket that takes connections and never answers: its address, and the connections that it took."""
    taken: list[socket.socket] = []
    with socket.create_server((host, 0), backlog=64) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"{host}:{listener.getsockname()[1]}", taken
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for each in taken:
                each.close()
