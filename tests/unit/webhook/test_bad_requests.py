"""Broken requests: each gets its HTTP status and one line that says what is wrong, and the next is answered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from bitfusiond.core.fields import Json
from bitfusiond.http import conversation, server
from bitfusiond.pacing import Repeats
from bitfusiond.webhook import admission
from tests import pods
from tests.fakes.https_client import HungUpError, head, review
from tests.unit.conftest import Events, RunWebhook, Webhook

JSON = "application/json"
LIMIT = admission.BODY_LIMIT
TOO_LARGE = f"the body is larger than {LIMIT} bytes\n"


@pytest.fixture
async def webhook(run_webhook: RunWebhook) -> AsyncIterator[Webhook]:
    async with run_webhook() as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
async def test_another_method_than_post_is_405_and_says_which_is_allowed(webhook: Webhook, method: str) -> None:
    for path in ("/mutate", "/validate"):
        response = await webhook.request(method, path)
        assert (response.status, response.headers["allow"]) == (405, "POST")
        assert response.text == ("" if method == "HEAD" else "use POST\n")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_observing_is_for_get_and_head(webhook: Webhook, path: str) -> None:
    response = await webhook.request("POST", path, b"{}")
    assert (response.status, response.headers["allow"], response.text) == (405, "GET, HEAD", "use GET\n")
    assert (await webhook.request("HEAD", path)).status == 200


@pytest.mark.parametrize("path", ["/", "/mutate/", "/Mutate", "/mutate%2f", "//mutate", "/..", "http://x/mutate", "*"])
async def test_an_unknown_path_is_404_and_says_which_there_are(webhook: Webhook, path: str) -> None:
    response = await webhook.request("POST", path, b"{}", Content_Type=JSON)
    assert response.status == 404
    assert response.text == "not found; there are /mutate, /validate, /healthz, /readyz and /metrics\n"


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("text/plain", "text/plain"),
        ("application/json-patch+json", "application/json-patch+json"),
        ("application/x-www-form-urlencoded; charset=utf-8", "application/x-www-form-urlencoded"),
        ("", "absent"),
    ],
)
async def test_another_content_type_is_415(webhook: Webhook, content_type: str, shown: str) -> None:
    body = json.dumps(review(pods.pod())).encode()
    response = await webhook.request("POST", "/mutate", body, Content_Type=content_type)
    assert (response.status, response.text) == (415, f"Content-Type must be application/json, not {shown}\n")


async def test_no_content_type_is_415(webhook: Webhook) -> None:
    response = await webhook.request("POST", "/mutate", b"{}")
    assert (response.status, response.text) == (415, "Content-Type must be application/json, not absent\n")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json;"])
async def test_json_is_json_however_it_is_written(webhook: Webhook, content_type: str) -> None:
    body = json.dumps(review(pods.pod())).encode()
    response = await webhook.request("POST", "/mutate", body, Content_Type=content_type)
    assert response.review["response"]["allowed"] is True


def without(key: str) -> Json:
    document = review(pods.pod())
    del document["request"][key]
    return document


GOOD = review(pods.pod())
BODIES: Mapping[str, tuple[Any, str]] = {
    "empty": (b"", "the body is empty"),
    "not JSON": (b"{", "the body is not JSON: Expecting property name"),
    "YAML": (b"kind: AdmissionReview", "the body is not JSON: Expecting value"),
    "not UTF-8": (b'{"kind": "\xff"}', "the body is not JSON: 'utf-8' codec can't decode byte 0xff"),
    "NUL bytes": (b"\0" * 64, "the body is not JSON: "),
    "two documents": (b"{}{}", "the body is not JSON: Extra data"),
    "100,000 nested lists": (b"[" * 100_000, "the body is nested too deeply (more than 500 levels)"),
    "100,000 nested objects": (b'{"kind":' * 100_000, "the body is nested too deeply (more than 500 levels)"),
    "an integer of 100,000 digits": (b"9" * 100_000, "the body is not JSON: Exceeds the limit"),
    "a list": ([], "the body is not an AdmissionReview"),
    "null": (None, "the body is not an AdmissionReview"),
    "a number": (7, "the body is not an AdmissionReview"),
    "another kind": ({"apiVersion": "v1", "kind": "Pod"}, "the body is not an AdmissionReview"),
    "another version": (
        GOOD | {"apiVersion": "admission.k8s.io/v2"},
        "apiVersion 'admission.k8s.io/v2' is not one of admission.k8s.io/v1, admission.k8s.io/v1beta1",
    ),
    "a version that is no string": (GOOD | {"apiVersion": ["admission.k8s.io/v1"]}, "apiVersion ['admission.k8s.io"),
    "request null": (GOOD | {"request": None}, "the AdmissionReview has no request"),
    "request absent": (
        {key: value for key, value in GOOD.items() if key != "request"},
        "the AdmissionReview has no request",
    ),
    "request a list": (GOOD | {"request": []}, "the AdmissionReview has no request"),
    "no uid": (without("uid"), "request.uid must be a string that is not empty"),
    "an empty uid": (review(pods.pod(), uid=""), "request.uid must be a string that is not empty"),
    "a uid of 257 characters": (review(pods.pod(), uid="u" * 257), "request.uid is longer than 256 characters"),
    "no kind": (without("kind"), "request.kind must be an object"),
    "a kind that is a string": (review(pods.pod(), kind="Pod"), "request.kind must be an object"),
    "no object": (without("object"), "request.object is missing"),
    "object null": (review(None), "request.object is missing"),
    "object a string": (review(pods.pod(), object="cG9k"), "request.object must be an object"),
    "a name that is a number": (review(pods.pod(), name=3), "request.name must be a string"),
}


@pytest.mark.parametrize(("body", "message"), BODIES.values(), ids=BODIES.keys())
async def test_a_body_that_is_no_admission_review_is_400(webhook: Webhook, body: Any, message: str) -> None:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    for path in ("/mutate", "/validate"):
        response = await webhook.request("POST", path, sent, Content_Type=JSON)
        assert response.status == 400
        assert response.headers["content-type"] == "text/plain; charset=utf-8"
        assert response.text.startswith(message)
        assert response.text.count("\n") == 1


@pytest.mark.parametrize("path", ["/mutate", "/validate"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":[', "]}]")])
async def test_a_pod_as_deep_as_is_read_is_answered(
    webhook: Webhook, events: Events, path: str, opening: str, closing: str
) -> None:
    """What json reads at its limit, a later step may not be able to print: the limit is lower, on every Python."""
    management = '"auto-management/bitfusion": '
    given = json.dumps(review(pods.pod())).replace(f'{management}"all"', f"{management}@")
    above = given[: given.index("@")].count("{") - given[: given.index("@")].count("}")
    levels = len(opening) - opening.count('"a":') * 4
    deepest = (500 - above) // levels
    async with webhook.connect() as connection:
        for count in (deepest - 1, deepest, deepest + 1, deepest + 2, 1_000, 9_000):
            response = await connection.post(path, given.replace("@", f"{opening * count}0{closing * count}").encode())
            status = 200 if count <= deepest else 400
            assert (response.status, "nested too deeply" in response.text) == (status, status == 400)
    assert not events("defect in admission, please report it")


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param("x", id="spec a string"),
        pytest.param({"containers": {}}, id="containers an object"),
        pytest.param({"containers": [1]}, id="a container a number"),
        pytest.param({"containers": [{"resources": {"limits": [1]}}]}, id="limits a list"),
        pytest.param({"containers": [pods.container(command="x")]}, id="command a string"),
    ],
)
async def test_a_pod_of_wrong_types_is_a_wrong_pod_and_no_broken_request(webhook: Webhook, spec: object) -> None:
    """The old /validate answered 200 with an empty body."""
    for path in ("/mutate", "/validate"):
        answer = await webhook.ask(path, review(pods.pod() | {"spec": spec}))
        assert answer["response"]["allowed"] is False
        assert answer["response"]["status"]["message"].startswith(("spec", "the pod opted in but was not injected"))


def padded(size: int) -> bytes:
    """A good request of exactly ``size`` bytes."""
    return json.dumps(review(pods.pod())).encode().ljust(size)


def chunks(body: bytes, size: int = 2**16) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


CHUNKED = head("POST", "/mutate", {"Content-Type": JSON, "Transfer-Encoding": "chunked"})


def sized(length: int) -> bytes:
    return head("POST", "/mutate", {"Content-Type": JSON, "Content-Length": str(length)})


async def test_a_body_of_exactly_the_limit_is_read(webhook: Webhook) -> None:
    async with webhook.connect() as connection:
        await connection.send(sized(LIMIT) + padded(LIMIT))
        assert (await connection.response()).review["response"]["allowed"] is True
        await connection.send(CHUNKED + chunks(padded(LIMIT)))
        assert (await connection.response()).review["response"]["allowed"] is True


@pytest.mark.parametrize("extra", [1, 3 * 2**20], ids=["by a byte", "by 3 MiB"])
async def test_a_body_over_the_limit_is_413(webhook: Webhook, extra: int) -> None:
    async with webhook.connect() as connection:
        await connection.send(sized(LIMIT + extra) + padded(LIMIT + extra))
        response = await connection.response()
        assert (response.status, response.text) == (413, TOO_LARGE)
        await connection.send(CHUNKED + chunks(padded(LIMIT + extra)))
        response = await connection.response()
        assert (response.status, response.text) == (413, TOO_LARGE)


async def test_a_body_in_many_small_chunks_is_413_and_the_connection_ends(webhook: Webhook) -> None:
    """Read one by one they take a second a megabyte, and most of fifty bytes each, from whoever else wants to ask."""
    body = padded(2 * conversation.MOST_CHUNKS)
    async with webhook.connect() as connection:
        await connection.send(CHUNKED + chunks(body, 2))
        assert (await connection.response()).review["response"]["allowed"] is True
        await connection.send(CHUNKED + chunks(body + b" ", 2))
        response = await connection.response()
        assert (response.status, response.headers["connection"]) == (413, "close")
        assert response.text == "the body has more than 512 chunks: send a Content-Length\n"


async def test_a_head_of_many_short_lines_is_431_and_the_connection_ends(webhook: Webhook) -> None:
    """4,000 of them in 16 KiB take a megabyte until they are answered, in each of 400 connections."""
    start = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
    async with webhook.connect() as connection:
        await connection.send(start + b"a:\r\n" * (conversation.MOST_LINES - 2) + b"\r\n")
        assert (await connection.response()).status == 200
        await connection.send(start + b"a:\r\n" * (conversation.MOST_LINES - 1) + b"\r\n")
        response = await connection.response()
        assert (response.status, response.headers["connection"]) == (431, "close")
        assert response.text == "the head of the request has more than 100 lines\n"


@pytest.mark.parametrize("chunked", [False, True], ids=["Content-Length", "chunked"])
async def test_a_body_without_end_is_413_and_the_connection_ends(webhook: Webhook, chunked: bool) -> None:
    async with webhook.connect() as connection:
        await connection.send(CHUNKED if chunked else sized(2**40))
        data = b" " * 2**18
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.pour, chunks(data)[: -len(chunks(b""))] if chunked else data)
            response = await connection.response()
            assert (response.status, response.text) == (413, TOO_LARGE)
            await connection.rest()


async def test_expect_100_continue_is_answered_before_the_body(webhook: Webhook) -> None:
    body = padded(1000)
    async with webhook.connect() as connection:
        headers = {"Content-Type": JSON, "Content-Length": str(len(body)), "Expect": "100-continue"}
        await connection.send(head("POST", "/mutate", headers))
        assert (await connection.response()).status == 100
        await connection.send(body)
        assert (await connection.response()).review["response"]["allowed"] is True


@pytest.mark.parametrize("drips", [False, True], ids=["that stops", "that drips"])
async def test_a_slow_body_is_408_after_the_deadline(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, drips: bool
) -> None:
    """The deadline is for the request as a whole: a byte now and then does not buy more time."""
    monkeypatch.setattr(conversation, "REQUEST_SECONDS", 0.3)
    async with webhook.connect() as connection:
        await connection.send(sized(1000) + b"{")

        async def drip() -> None:
            while drips:
                await connection.send(b" ")
                await trio.sleep(0.05)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            with trio.fail_after(5):
                response = await connection.response()
            nursery.cancel_scope.cancel()
        assert (response.status, response.text) == (408, "the request did not arrive within 0.3 s\n")
        assert await connection.rest() == b""
    monkeypatch.undo()


@pytest.mark.parametrize("sent", [b"POST /mutate HTTP/1.1\r\nHos", b"P"])
async def test_a_slow_head_is_408_after_the_deadline(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(conversation, "REQUEST_SECONDS", 0.3)
    async with webhook.connect() as connection:
        await connection.send(sent)
        with trio.fail_after(5):
            assert (await connection.response()).status == 408
        assert await connection.rest() == b""
    monkeypatch.undo()


async def test_nor_does_a_body_that_was_asked_for_buy_more_time(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "REQUEST_SECONDS", 0.3)
    async with webhook.connect() as connection:
        headers = {"Content-Type": JSON, "Content-Length": "1000", "Expect": "100-continue"}
        await connection.send(head("POST", "/mutate", headers))
        assert (await connection.response()).status == 100
        with trio.fail_after(5):
            assert (await connection.response()).status == 408
    monkeypatch.undo()


async def test_a_large_body_that_waits_for_memory_is_408_after_the_deadline(
    run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODIES", 300_000)
    async with run_webhook() as webhook, webhook.connect() as stalled, webhook.connect() as late:
        await stalled.send(sized(400_000) + b" " * 399_999)
        await webhook.still_answers()
        monkeypatch.setattr(conversation, "REQUEST_SECONDS", 0.3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(late.send, sized(200_000) + padded(200_000)[:199_999])
            with trio.fail_after(5):
                assert (await late.response()).status == 408
            nursery.cancel_scope.cancel()
        monkeypatch.undo()


async def test_large_bodies_that_stall_hold_up_no_large_review(webhook: Webhook) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(20):
            stalled = await stack.enter_async_context(webhook.connect())
            await stalled.send(sized(200_000) + b" " * 140_000)
        began = trio.current_time()
        async with webhook.connect() as connection:
            assert (await connection.post("/mutate", padded(180_000))).review["response"]["allowed"] is True
        assert trio.current_time() - began < 3


async def test_a_large_body_waits_where_others_hold_the_memory_and_gets_what_they_leave(
    run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODIES", 300_000)
    statuses: list[int] = []

    async def ask(webhook: Webhook) -> None:
        # Sending waits too: what is not read fills the buffers of the kernel.
        async with webhook.connect() as connection:
            statuses.append((await connection.post("/mutate", padded(200_000))).status)

    async with run_webhook() as webhook, trio.open_nursery() as asking, webhook.connect() as stalled:
        await stalled.send(sized(400_000) + b" " * 399_999)
        await webhook.still_answers()  # a small one has nothing to do with it
        asking.start_soon(ask, webhook)
        await trio.sleep(0.5)
        assert statuses == []
    assert statuses == [200]


async def test_large_bodies_that_come_together_never_wait_for_each_other_in_a_circle(
    run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "BODIES", 600_000)
    statuses: list[int] = []

    async def ask(webhook: Webhook) -> None:
        async with webhook.connect() as connection:
            statuses.append((await connection.post("/mutate", padded(500_000))).status)

    async with run_webhook() as webhook:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(ask, webhook)
        assert statuses == [200] * 10


async def test_a_log_line_does_not_grow_with_what_a_client_sends(webhook: Webhook, events: Events) -> None:
    long = "x" * 100_000
    spec = {"containers": [pods.container(name=long)]}
    await webhook.ask("/mutate", review(pods.pod() | {"spec": spec}, namespace=long, name=long))
    body = json.dumps(GOOD | {"apiVersion": long}).encode()
    assert (await webhook.request("POST", "/mutate", body, Content_Type=JSON)).status == 400
    lines = [*events("admission"), *events("bad request")]
    assert len(lines) == 2
    assert all(len(str(value)) <= 1024 for line in lines for value in line.values())


async def test_a_client_that_goes_away_in_the_middle_is_nothing_special(webhook: Webhook, events: Events) -> None:
    body = padded(100_000)
    for length in (0, 1, 50, 5000, 99_999):
        async with webhook.connect() as connection:
            await connection.send((sized(len(body)) + body)[:length])
    async with webhook.connect() as connection:
        await connection.send(sized(len(body)) + body[:10])
        await connection.stream.aclose()
    await webhook.still_answers()
    assert not [line for line in events() if line["level"] == "ERROR"]
    assert not events("bad request")
    assert not events("broken HTTP")


async def test_a_broken_request_does_not_end_its_connection(webhook: Webhook) -> None:
    async with webhook.connect() as connection:
        for _ in range(3):
            assert (await connection.post("/mutate", b"{")).status == 400
            assert (await connection.request("GET", "/nowhere")).status == 404
            assert (await connection.ask("/mutate", review(pods.pod()))).status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET /mutate HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20 + b"\r\n\r\n", 400, id="TLS inside TLS"),
        pytest.param(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, id="negative length"),
        pytest.param(b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 1e3\r\n\r\n", 400, id="length of 1e3"),
        pytest.param(
            b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, id="two lengths"
        ),
        pytest.param(
            b"POST /mutate HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="a length and chunks",
        ),
        pytest.param(b"POST /mutate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, id="gzip"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 2**20 + b"\r\n\r\n", 431, id="a header of 1 MiB"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 50_000 + b"\r\n", 431, id="50,000 headers"),
        pytest.param(b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431, id="a path of 1 MiB"),
    ],
)
async def test_what_is_no_http_gets_a_4xx_or_501_and_the_connection_ends(
    webhook: Webhook, sent: bytes, status: int, events: Events
) -> None:
    async with webhook.connect() as connection:
        await connection.send(sent + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        response = await connection.response()
        assert (response.status, response.headers["connection"]) == (status, "close")
        with pytest.raises(HungUpError):
            await connection.response()
    (line,) = events("broken HTTP")
    assert (line["level"], line["status"], line["number"]) == ("WARNING", status, 1)


async def test_much_broken_http_is_counted_and_gets_a_line_now_and_then(
    webhook: Webhook, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks() -> None:
        async with webhook.connect() as connection:
            await connection.send(b"GET /mutate HTTP/1.1\r\n\r\n")
            assert (await connection.response()).status == 400

    for _ in range(5):
        await breaks()
    assert [line["number"] for line in events("broken HTTP")] == [1]
    is_due = Repeats.is_due
    monkeypatch.setattr(Repeats, "is_due", lambda repeats, now: is_due(repeats, now + 10))
    await breaks()
    assert [line["number"] for line in events("broken HTTP")] == [1, 5]
    metrics = (await webhook.get("/metrics")).text
    counter = 'bitfusiond_admission_requests_total{endpoint="none",reason="400",verdict="bad_request"}'
    assert f"{counter} 6.0" in metrics
