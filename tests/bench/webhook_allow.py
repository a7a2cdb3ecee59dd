"""The least that an admission webhook on our server can be: it allows everything, and looks at the ``uid`` alone.

``python -m tests.bench.webhook_allow CERT KEY``. It prints its port.
"""

from __future__ import annotations

import json
import socket
import sys

import trio

from bitfusiond.http import server
from bitfusiond.http.server import Receive, Scope, Send


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """``allowed: true`` for every AdmissionReview."""
    parts = []
    more = True
    while more:
        event = await receive()
        parts.append(event["body"])
        more = event.get("more_body", False)
    review = json.loads(b"".join(parts))
    response = {"uid": review["request"]["uid"], "allowed": True}
    answer = {"apiVersion": review["apiVersion"], "kind": "AdmissionReview", "response": response}
    await server.respond(send, 200, json.dumps(answer).encode(), "application/json")


async def _main(cert: str, key: str) -> None:
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    sock.setblocking(False)
    print(sock.getsockname()[1], flush=True)
    context = server.server_context(cert, key)
    await server.serve(application, sock, lambda: context, stop=trio.Event(), graceful_seconds=1)


if __name__ == "__main__":
    trio.run(_main, sys.argv[1], sys.argv[2])
