"""TLS and HTTP/1.1 on the wire: what is offered, how long connections live, and what a hostile client cannot do."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import h11
import pytest
import trio

from bitfusiond.http import connections, conversation, server
from bitfusiond.http.messages import Response
from tests import pods
from tests.fakes.https_client import HungUpError, head, review
from tests.fakes.pki import Pki
from tests.fakes.processes import until
from tests.unit.conftest import Events, RunWebhook, Webhook
from tests.unit.http.keyupdates import KeyUpdates

MOST = 8  # connections at once


@pytest.fixture
async def webhook(run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Webhook]:
    monkeypatch.setattr(connections, "MOST", MOST)
    async with run_webhook() as running:
        yield running


BODY = json.dumps(review(pods.pod())).encode()
HEAD = head("POST", "/mutate", {"Content-Type": "application/json", "Content-Length": str(len(BODY))})
HELLO = b"\x16\x03\x01"  # what a client hello begins with


@pytest.mark.parametrize("offered", [("h2", "http/1.1"), ("http/1.1",), ()], ids=["h2 first", "http/1.1", "nothing"])
async def test_only_http_1_1_is_agreed_on(webhook: Webhook, pki: Pki, offered: tuple[str, ...]) -> None:
    async with webhook.connect(pki.client(*offered)) as connection:
        stream: Any = connection.stream
        assert stream.selected_alpn_protocol() == ("http/1.1" if offered else None)
        assert (await connection.ask("/mutate", review(pods.pod()))).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_1_2_and_1_3_are_spoken(webhook: Webhook, pki: Pki, version: ssl.TLSVersion) -> None:
    context = pki.client()
    context.minimum_version = context.maximum_version = version
    async with webhook.connect(context) as connection:
        assert (await connection.request("GET", "/healthz")).text == "ok\n"


async def test_tls_1_1_is_refused(webhook: Webhook, pki: Pki) -> None:
    context = pki.client()
    context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL 3 would not even try
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(trio.BrokenResourceError):
        async with webhook.connect(context):
            pass


async def test_a_connection_serves_more_than_a_thousand_requests(webhook: Webhook) -> None:
    async with webhook.connect() as connection:
        for _ in range(1100):
            response = await connection.request("GET", "/healthz")
            assert (response.status, response.headers.get("connection")) == (200, None)


def test_an_idle_connection_outlives_the_api_servers_own() -> None:
    """Go's default transport keeps one for 90 s, which must not be the first to be closed by us."""
    assert conversation.KEEP_ALIVE_SECONDS >= 120


async def test_an_idle_connection_ends_at_last(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "KEEP_ALIVE_SECONDS", 0.2)
    async with webhook.connect() as connection:
        await connection.request("GET", "/healthz")
        assert await connection.rest() == b""


async def test_an_old_connection_ends_with_an_answer(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the API server connects anew, and perhaps to a replica that came later."""
    monkeypatch.setattr(conversation, "CONNECTION_SECONDS", 0.3)
    async with webhook.connect() as connection:
        young = await connection.request("GET", "/healthz")
        assert young.headers.get("connection") is None
        await trio.sleep(0.4)
        old = await connection.ask("/mutate", review(pods.pod()))
        assert old.status == 200
        assert old.headers.get("connection") == "close"
        assert await connection.rest() == b""


@pytest.mark.slow
async def test_the_answer_to_a_request_begun_before_the_drain_says_goodbye_too(
    run_webhook: RunWebhook, events: Events
) -> None:
    async with run_webhook(drain_seconds="2") as webhook, webhook.connect() as connection:
        await connection.send(HEAD + BODY[:10])
        await webhook.request("GET", "/healthz")  # the server has seen the first half by now
        webhook.stop.set()
        await until(lambda: events("draining"))
        await connection.send(BODY[10:])
        response = await connection.response()
        assert response.review["response"]["allowed"] is True
        assert response.headers["connection"] == "close"
        assert await connection.rest() == b""


async def test_an_answer_after_the_drain_says_goodbye(run_webhook: RunWebhook) -> None:
    async with run_webhook() as webhook, webhook.connect() as connection:
        await connection.send(HEAD + BODY[:10])
        await webhook.request("GET", "/healthz")
        webhook.stop.set()
        await trio.sleep(0.2)
        await connection.send(BODY[10:])
        assert (await connection.response()).headers["connection"] == "close"


async def test_pipelined_requests_are_answered_in_their_order(webhook: Webhook) -> None:
    bodies = [json.dumps(review(pods.pod(), uid=f"uid-{number}")).encode() for number in range(50)]
    async with webhook.connect() as connection:
        for body in bodies:
            headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
            await connection.send(head("POST", "/mutate", headers) + body)
        answers = [(await connection.response()).review["response"]["uid"] for _ in bodies]
    assert answers == [f"uid-{number}" for number in range(50)]


async def test_an_answer_is_one_tls_record(webhook: Webhook) -> None:
    """Head and body apart would be two system calls here and two packets on the wire."""
    async with webhook.connect() as connection:
        await connection.send(HEAD)
        await connection.send(BODY)
        record = await connection.stream.receive_some()
    answered, _, body = bytes(record).partition(b"\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["response"]["allowed"] is True


async def test_a_client_can_ask_for_the_connection_to_end(webhook: Webhook) -> None:
    async with webhook.connect() as connection:
        response = await connection.request("GET", "/healthz", headers={"Connection": "close"})
        assert response.headers["connection"] == "close"
        assert await connection.rest() == b""


async def test_http_1_0_is_answered(webhook: Webhook) -> None:
    async with webhook.connect() as connection:
        await connection.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await connection.response()).text == "ok\n"
        assert await connection.rest() == b""


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", id="plain HTTP"),
        pytest.param(bytes(range(256)) * 300, id="garbage"),
        pytest.param(b"\x16\x03\x01\xff\xff" + b"\0" * 70_000, id="a TLS record too long"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_what_is_no_tls_ends_its_own_connection_only(webhook: Webhook, sent: bytes, events: Events) -> None:
    async with webhook.connect_plain() as connection:
        await connection.send(sent)
        if sent:
            assert b"HTTP" not in await connection.rest()
    await webhook.still_answers()
    assert not [line for line in events() if line["level"] == "ERROR"]


async def test_a_handshake_that_is_never_finished_ends(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 0.2)
    async with webhook.connect_plain() as connection:
        await connection.send(HELLO)
        await connection.rest()


@pytest.mark.slow
async def test_of_too_many_connections_those_that_wait_longest_end_first(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.5)
    async with AsyncExitStack() as stack:
        stalled = [await stack.enter_async_context(webhook.connect_plain()) for _ in range(3 * MOST)]
        for connection in stalled:
            await connection.send(HELLO)
        began = trio.current_time()
        await webhook.still_answers()
        # Three rounds, all of them older than the good client.
        assert 0.5 < trio.current_time() - began < server.HANDSHAKE_SECONDS
        assert await stalled[0].rest() == b""


async def test_an_idle_connection_makes_room_for_a_new_one(webhook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.1)
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(webhook.connect()) for _ in range(MOST + 1)]
        await webhook.still_answers()
        assert await opened[0].rest() == b""


async def test_requests_that_stall_after_their_first_byte_make_room_too(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for the ten seconds that a request has: as many of them as there is room for would keep all others out."""
    monkeypatch.setattr(connections, "PATIENCE_SECONDS", 0.3)
    began = trio.current_time()
    async with AsyncExitStack() as stack:
        for index in range(3 * MOST):
            stalled = await stack.enter_async_context(webhook.connect_plain() if index % 2 else webhook.connect())
            await stalled.send(b"P" if index % 2 == 0 else HELLO)
        await webhook.still_answers()
        assert trio.current_time() - began < conversation.REQUEST_SECONDS / 2


async def test_key_updates_in_the_middle_of_a_request_are_followed(
    webhook: Webhook, pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    context = pki.client("http/1.1")
    async with webhook.connect(context) as connection:
        stream: Any = connection.stream
        client = KeyUpdates(stream, tmp_path / "keys")
        records = client.updates(1000) + client.data(HEAD + BODY[:50]) + client.updates(1000) + client.data(BODY[50:])
        await stream.transport_stream.send_all(records)
        assert (await connection.response()).review["response"]["allowed"] is True


async def test_the_http_2_preface_is_answered_505(webhook: Webhook) -> None:
    async with webhook.connect() as connection:
        await connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        response = await connection.response()
        assert (response.status, response.text) == (505, "use HTTP/1.1\n")
        await connection.rest()


UPGRADES = {
    "h2c": {"Upgrade": "h2c", "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA"},
    "WebSocket": {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    },
    "a broken WebSocket": {"Upgrade": "websocket", "Connection": "Upgrade"},
}


@pytest.mark.parametrize("headers", UPGRADES.values(), ids=UPGRADES.keys())
async def test_a_wish_to_upgrade_is_ignored(webhook: Webhook, headers: dict[str, str]) -> None:
    async with webhook.connect() as connection:
        assert (await connection.request("GET", "/mutate", headers=headers)).status == 405
        assert (await connection.request("GET", "/healthz", headers=headers)).text == "ok\n"
        response = await connection.request("POST", "/mutate", BODY, {"Content-Type": "application/json", **headers})
        assert response.review["response"]["allowed"] is True


async def test_an_error_in_one_connection_leaves_the_others_alone(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    one = conversation.Conversation._answered

    async def fails(self: conversation.Conversation, head: h11.Request, *shares: Any) -> Response:
        if head.target == b"/boom":
            raise RuntimeError("boom")
        return await one(self, head, *shares)

    monkeypatch.setattr(conversation.Conversation, "_answered", fails)
    async with webhook.connect() as good, webhook.connect() as bad:
        await good.request("GET", "/healthz")
        with pytest.raises(HungUpError):
            await bad.request("GET", "/boom")
        assert (await good.ask("/mutate", review(pods.pod()))).status == 200
    (line,) = events("connection failed")
    assert line["level"] == "ERROR"


async def test_an_error_of_the_application_is_logged_and_answered_500(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> bytes:
        raise RuntimeError("boom")

    monkeypatch.setattr("bitfusiond.http.observe.generate_latest", fails)
    assert (await webhook.request("GET", "/metrics")).status == 500
    assert any("boom" in logging.Formatter().format(record) for record in caplog.records)


async def test_a_defect_in_admission_is_500_and_says_where_to_look(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("boom")

    with monkeypatch.context() as patch:
        patch.setattr("bitfusiond.webhook.admission.mutate", fails)
        async with webhook.connect() as connection:
            response = await connection.ask("/mutate", review(pods.pod()))
    assert (response.status, response.text) == (500, "internal error: see the log of bitfusiond\n")
    (line,) = events("defect in admission, please report it")
    assert line["level"] == "ERROR"
