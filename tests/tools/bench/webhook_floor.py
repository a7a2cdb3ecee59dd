"""The least that an HTTPS server on trio can be: read the whole body, answer ``{}``.

``python -m tests.tools.bench.webhook_floor own|wrapped CERT KEY``, with hypercorn or with ours. It prints its
port.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from bitfusiond.http import server, tls
from bitfusiond.http.messages import JSON, Request, Response


async def application(scope: Any, receive: Any, send: Any) -> None:
    """The smallest ASGI answer."""
    if scope["type"] != "http":
        raise NotImplementedError  # which tells hypercorn that there is no lifespan
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


async def _answer(request: Request) -> Response:
    while await request.more():
        pass
    return Response(200, b"{}", JSON)


async def _main(which: str, cert: str, key: str) -> None:
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setblocking(False)
    print(sock.getsockname()[1], flush=True)
    if which == "wrapped":
        context = tls.ServerTLS(Path(cert).read_bytes(), Path(key).read_bytes()).context
        await server.serve(_answer, sock, lambda: context, stop=trio.Event(), graceful_seconds=1)
    config = Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.certfile, config.keyfile = cert, key
    config.keep_alive_max_requests = 2**62
    config.errorlog = None
    await serve(application, config)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], sys.argv[2], sys.argv[3])
