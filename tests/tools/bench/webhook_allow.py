"""The least that an admission webhook on our server can be: it allows everything, and looks at the ``uid`` alone.

``python -m tests.tools.bench.webhook_allow CERT KEY``. It prints its port.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import trio

from bitfusiond.http import server, tls
from bitfusiond.http.messages import JSON, Request, Response


async def answer(request: Request) -> Response:
    """``allowed: true`` for every AdmissionReview."""
    parts = []
    while part := await request.more():
        parts.append(part)
    review = json.loads(b"".join(parts))
    response = {"uid": review["request"]["uid"], "allowed": True}
    document = {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}
    return Response(200, json.dumps(document).encode(), JSON)


async def _main(cert: str, key: str) -> None:
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sock.setblocking(False)
    print(sock.getsockname()[1], flush=True)
    context = tls.ServerTLS(Path(cert).read_bytes(), Path(key).read_bytes()).context
    await server.serve(answer, sock, lambda: context, stop=trio.Event(), graceful_seconds=1)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], sys.argv[2])
