"""The whole executable while its API server is away, hangs or comes back, and how it ends then."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bitfusiond.core.fields import Json
from tests.fakes.processes import wait_until
from tests.pods import pod
from tests.real.harness.apiserver import APIServer
from tests.real.harness.webhook import Installation, Replica, copies, put_sources, routed

ADMISSION_SECONDS = 6.0  # less than the 10 s that the API server gives a webhook


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with routed(tmp_path_factory.mktemp("routed")) as server:
        yield server


@pytest.fixture(scope="module")
def installation(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation(api, tmp_path_factory.mktemp("webhook"))
    put_sources(api, made.tokens)
    made.register()
    return made


def failures(replica: Replica) -> Counter[tuple[object, ...]]:
    """What went wrong, by how often it was said: each watch, and the certificates, are things of their own."""
    lines = [line for line in replica.said() if line["level"] in {"warning", "error"}]
    return Counter((line["event"], line.get("resource"), line.get("name")) for line in lines)


def test_without_an_api_server_it_runs_says_so_once_and_is_ready_when_there_is_one(
    api: APIServer, installation: Installation
) -> None:
    team = api.namespace("early")
    with ExitStack() as stack:
        with api.stopped():
            replica = stack.enter_context(installation.replica())
            time.sleep(6)
            assert replica.process.poll() is None
            assert replica.get("/healthz")[0] == 200
            status, reason = replica.get("/readyz")
            assert status == 503
            assert "Secrets not listed yet" in reason
            said = failures(replica)
            assert said
            assert set(said.values()) == {1}, said
            assert any("refused" in line.get("message", "") for line in replica.said())
        wait_until(replica.ready, "the webhook, once there is an API server")
        assert replica.review(pod(), team)["allowed"] is True
        assert len(copies(api, team)) == 3


def test_an_api_server_that_hangs_refuses_what_needs_a_copy_in_time_and_nothing_else(
    api: APIServer, installation: Installation
) -> None:
    served, new = api.namespace("served"), api.namespace("new")
    with installation.ready_replica() as replica:
        assert replica.review(pod(), served)["allowed"] is True
        with api.frozen():
            began = time.monotonic()
            assert replica.review(pod(), served)["allowed"] is True
            assert time.monotonic() - began < 1
            answer = replica.review(pod(), new)
            assert time.monotonic() - began < ADMISSION_SECONDS
            assert replica.ready(), "what the API server trusted it trusts when it is back"
        assert answer["allowed"] is False
        assert "try again" in answer["status"]["message"]
        wait_until(lambda: bool(replica.review(pod(), new)["allowed"]), "a copy, once the API server answers")


@contextmanager
def in_flight(replica: Replica, of: str) -> Iterator[list[Json]]:
    """An admission that waits for the API server; its answer, afterwards."""
    answers: list[Json] = []
    thread = threading.Thread(target=lambda: answers.append(replica.review(pod(), of)))
    thread.start()
    time.sleep(0.5)
    yield answers
    thread.join()


def test_it_ends_in_time_while_an_api_server_hangs_and_still_answers_what_waits_for_it(
    api: APIServer, installation: Installation
) -> None:
    waiting = api.namespace("waiting")
    with installation.ready_replica("--drain-seconds", "1") as replica, api.frozen():
        with in_flight(replica, waiting) as answers:
            began = time.monotonic()
            replica.process.send_signal(signal.SIGTERM)
            assert replica.process.wait(15) == 0
            assert time.monotonic() - began < 1 + ADMISSION_SECONDS
        assert answers[0]["allowed"] is False
        assert "try again" in answers[0]["status"]["message"]


def test_it_ends_in_time_where_there_never_was_an_api_server(api: APIServer, installation: Installation) -> None:
    with api.stopped(), installation.replica("--drain-seconds", "0.5") as replica:
        began = time.monotonic()
        replica.process.send_signal(signal.SIGTERM)
        assert replica.process.wait(10) == 0
        assert time.monotonic() - began < 3


def test_while_it_drains_it_is_not_ready_and_admits_all_the_same(api: APIServer, installation: Installation) -> None:
    team = api.namespace("draining")
    with installation.ready_replica("--drain-seconds", "3") as replica:
        began = time.monotonic()
        replica.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not replica.ready(), "a replica that is not ready", 2)
        assert replica.get("/readyz") == (503, "not ready: stopping\n")
        assert replica.review(pod(), team)["allowed"] is True
        assert len(copies(api, team)) == 3, "its watches and its client serve until the end"
        with pytest.raises(subprocess.TimeoutExpired):
            replica.process.wait(0.01)
        assert replica.process.wait(10) == 0
        assert 3 <= time.monotonic() - began < 6
