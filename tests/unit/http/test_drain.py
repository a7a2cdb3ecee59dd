"""The end of the webhook and of single connections: who still gets an answer, and that nobody can hold it up."""

from __future__ import annotations

import gc
import json
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from bitfusiond.http import conversation
from bitfusiond.webhook import service
from tests import pods
from tests.fakes.https_client import Connection, HungUpError, head, review
from tests.fakes.processes import until
from tests.unit.conftest import Events, RunWebhook, Webhook

BODY = json.dumps(review(pods.pod())).encode()
HEAD = head("POST", "/mutate", {"Content-Type": "application/json", "Content-Length": str(len(BODY))})


async def test_while_draining_it_is_not_ready_but_answers_and_says_goodbye(
    run_webhook: RunWebhook, events: Events
) -> None:
    async with run_webhook(drain_seconds="0.5") as webhook, webhook.connect() as connection:
        assert (await connection.request("GET", "/readyz")).text == "ok\n"
        webhook.stop.set()
        await until(lambda: events("draining"))
        not_ready = await webhook.get("/readyz")
        assert (not_ready.status, not_ready.text) == (503, "not ready: stopping\n")
        assert (await webhook.request("GET", "/readyz")).text == "not ready: stopping\n"
        assert (await webhook.get("/healthz")).status == 200
        response = await connection.ask("/mutate", review(pods.pod()))
        assert response.review["response"]["allowed"] is True
        assert response.headers["connection"] == "close"
        assert await connection.rest() == b""
        assert (await webhook.ask("/mutate", review(pods.pod())))["response"]["allowed"] is True
    assert events("stopped")


async def test_a_request_in_flight_is_answered_after_the_drain(run_webhook: RunWebhook) -> None:
    async with run_webhook() as webhook, webhook.connect() as connection:
        await connection.send(HEAD + BODY[:10])
        await connection.stream.wait_send_all_might_not_block()
        await webhook.request("GET", "/healthz")  # the server has seen the first half by now
        webhook.stop.set()
        await trio.sleep(0.2)
        await connection.send(BODY[10:])
        assert (await connection.response()).review["response"]["allowed"] is True


async def test_an_idle_connection_does_not_hold_up_the_end(run_webhook: RunWebhook) -> None:
    """The old webhook was still running 8 s after SIGTERM."""
    async with run_webhook() as webhook, webhook.connect() as connection, webhook.connect_plain():
        await connection.request("GET", "/healthz")
        with trio.fail_after(5):
            webhook.stop.set()
            assert await connection.rest() == b""


async def test_a_request_that_never_ends_does_not_hold_up_the_end(
    run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REQUEST_SECONDS", 0.3)
    async with run_webhook() as webhook, webhook.connect() as connection:
        await connection.send(HEAD + BODY[:10])
        await webhook.request("GET", "/healthz")
        with trio.fail_after(5):
            webhook.stop.set()
            with pytest.raises(HungUpError):
                await connection.response()


async def jam(connection: Connection) -> None:
    """Ask for more and more without reading an answer, until the server takes no more."""
    with trio.move_on_after(1) as pause:
        while True:
            await connection.send(head("GET", "/metrics") * 200)
            pause.deadline = trio.current_time() + 0.5


async def test_a_client_that_never_reads_does_not_hold_up_the_end(
    run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "REQUEST_SECONDS", 0.3)
    async with trio.open_nursery() as nursery:
        async with run_webhook() as webhook:
            connection = await nursery.start(_jammed, webhook)
            began = trio.current_time()
            webhook.stop.set()
        assert trio.current_time() - began < 5
        await trio.aclose_forcefully(connection.stream)
        nursery.cancel_scope.cancel()


async def _jammed(webhook: Webhook, task_status: trio.TaskStatus[Connection]) -> None:
    async with webhook.connect() as connection:
        await jam(connection)
        task_status.started(connection)
        await trio.sleep_forever()


async def test_a_client_that_never_reads_is_dropped(run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "SEND_SECONDS", 0.3)
    async with run_webhook() as webhook, webhook.connect() as connection:
        await connection.pour(head("GET", "/metrics") * 200)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_connections_that_clients_closed_are_closed_here_too(run_webhook: RunWebhook) -> None:
    """Idle ones have minutes, and the kubelet probes every few seconds."""
    async with run_webhook() as webhook:
        await webhook.still_answers()
        before = open_files()
        for _ in range(10):
            async with webhook.connect() as connection:
                await connection.request("GET", "/healthz")
                await trio.sleep(0.02)  # by then it counts as idle
        async with webhook.connect() as connection:
            await connection.send(HEAD + BODY[:10])
        async with webhook.connect_plain():
            pass
        await until(lambda: open_files() <= before, seconds=5)


async def test_nothing_of_a_connection_that_ended_waits_for_the_garbage_collector(run_webhook: RunWebhook) -> None:
    async with run_webhook() as webhook:
        await webhook.still_answers()
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                async with webhook.connect_plain() as stalled:
                    await stalled.send(b"\x16\x03\x01")
                async with webhook.connect() as connection:
                    await connection.ask("/mutate", review(pods.pod()))
            await trio.sleep(0.1)
            left = [each for each in gc.get_objects() if isinstance(each, ssl.SSLObject) and each.server_side]
        finally:
            gc.enable()
        assert left == []


@pytest.mark.parametrize("rest", ["large pieces", "tiny chunks"])
async def test_a_client_that_sends_on_after_its_answer_is_closed(
    run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch, rest: str
) -> None:
    monkeypatch.setattr(conversation, "LINGER_SECONDS", 0.2)
    tiny = rest == "tiny chunks"
    start = head("POST", "/nowhere", {"Transfer-Encoding": "chunked"} if tiny else {"Content-Length": str(2**30)})
    async with run_webhook() as webhook:
        await webhook.still_answers()
        before = open_files()
        for _ in range(3):
            async with webhook.connect() as connection:
                await connection.send(start)
                await connection.pour(b"1\r\n \r\n" * 2**13 if tiny else b" " * 2**16)
        await until(lambda: open_files() <= before, seconds=5)


async def test_a_request_answered_before_its_body_was_read_does_not_hold_up_the_end(run_webhook: RunWebhook) -> None:
    began = trio.current_time()
    async with run_webhook() as webhook, webhook.connect() as connection:
        assert (await connection.request("POST", "/nowhere", b"x" * 100)).status == 404
        with suppress(HungUpError, trio.BrokenResourceError):
            await connection.request("GET", "/healthz")
        webhook.stop.set()
    assert trio.current_time() - began < conversation.REQUEST_SECONDS / 2
