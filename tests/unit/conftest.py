"""What was logged, and the webhook of this process on a free port."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from bitfusiond import settings
from bitfusiond.core.fields import Json
from bitfusiond.settings import values
from bitfusiond.settings.values import Address
from bitfusiond.webhook import service
from tests import pods
from tests.fakes import https_client as client
from tests.fakes.https_client import Connection, Response
from tests.fakes.pki import Pki
from tests.fakes.processes import until

STOP_SECONDS = 20.0
Events = Callable[..., list[dict[str, Any]]]


class Webhook:
    """A running webhook."""

    def __init__(self, address: Address, observe: Address | None, context: ssl.SSLContext, stop: trio.Event) -> None:
        self.address = address
        self.observe = observe
        self.context = context
        self.stop = stop

    def connect(self, context: ssl.SSLContext | None = None) -> AbstractAsyncContextManager[Connection]:
        return client.connect(self.address, context or self.context)

    def connect_plain(self) -> AbstractAsyncContextManager[Connection]:
        return client.connect(self.address, None)

    async def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        """One request on a connection of its own; ``Content_Type`` is Content-Type."""
        async with self.connect() as connection:
            return await connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )

    async def ask(self, path: str, document: Json) -> Json:
        """The AdmissionReview that answers ``document``."""
        async with self.connect() as connection:
            return (await connection.ask(path, document)).review

    async def get(self, path: str) -> Response:
        """One request to the port of ``--observe``."""
        assert self.observe is not None
        async with client.connect(self.observe, None) as connection:
            return await connection.request("GET", path)

    async def still_answers(self) -> None:
        """A good request gets its good answer."""
        given = pods.example("pod")
        answer = await self.ask("/mutate", client.review(given))
        assert client.patched(given, answer) == pods.admitted(given)


RunWebhook = Callable[..., AbstractAsyncContextManager[Webhook]]


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Events:
    """What was logged so far: every line, or those of one event, as its fields and ``event``."""
    caplog.set_level("INFO", "bitfusiond")

    def lines(event: str | None = None) -> list[dict[str, Any]]:
        found = [
            {
                "event": record.getMessage(),
                "level": record.levelname,
                "traceback": record.exc_text,
                **getattr(record, "fields", {}),
            }
            for record in caplog.records
            if record.name.startswith("bitfusiond.")
        ]
        return [line for line in found if event in {None, line["event"]}]

    return lines


@pytest.fixture
def run_webhook(pki: Pki, events: Events) -> RunWebhook:
    """``async with run_webhook(total_gpu_memory="16000") as webhook``: whatever the test does to it, in the end it
    must still answer (unless it was told to stop) and stop when it is told to.
    """

    @asynccontextmanager
    async def run(**flags: str) -> AsyncIterator[Webhook]:
        given = {
            "listen": "127.0.0.1:0",
            "observe": "127.0.0.1:0",
            "tls_cert": str(pki.cert),
            "tls_key": str(pki.key),
            "kubeconfig": "none",
            "drain_seconds": "0",
        }
        chosen = settings.resolve(settings.Webhook, given | flags, {})
        assert isinstance(chosen, settings.Webhook)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.serve, chosen, stop)
            await until(lambda: events("listening"))
            observing = events("observing")
            webhook = Webhook(
                values.address(events("listening")[-1]["address"]),
                values.address(observing[-1]["address"]) if observing else None,
                pki.client("http/1.1"),
                stop,
            )
            yield webhook
            if not stop.is_set():
                await webhook.still_answers()
                stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
        assert not nursery.cancel_scope.cancelled_caught, "the webhook did not stop"

    return run
