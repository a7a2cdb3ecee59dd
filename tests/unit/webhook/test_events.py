"""Events for refused pods: only where a controller owns the pod, and never twice in a row."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import trio
import trio.testing

from bitfusiond.core.admission.review import Review, parse
from bitfusiond.kube import EVENTS, UnavailableError
from bitfusiond.webhook.events import QUIET_SECONDS, Events
from tests.fakes.cluster import FakeCluster
from tests.fakes.https_client import review

OWNER = {"apiVersion": "batch/v1", "kind": "Job", "name": "train", "uid": "1-2", "controller": True}


def request_of(owners: Any, *, dry_run: bool = False, namespace: str = "team") -> Review:
    pod = {"metadata": {"generateName": "train-", "ownerReferences": owners}}
    return parse(json.dumps(review(pod, namespace, dryRun=dry_run)).encode())


async def _written(events: Events, cluster: FakeCluster) -> list[dict[str, Any]]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.run, cluster)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return [dict(each) for each in cluster.all(EVENTS)]


@pytest.fixture
def cluster() -> FakeCluster:
    fake = FakeCluster()
    fake.add_namespace("team")
    return fake


async def test_the_owner_of_a_refused_pod_gets_an_event(cluster: FakeCluster) -> None:
    events = Events(lambda _: True)
    events.refused(request_of([{"kind": "Other", "uid": "9"}, OWNER]), "because")
    (event,) = await _written(events, cluster)
    assert event["involvedObject"] == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "name": "train",
        "uid": "1-2",
        "namespace": "team",
    }
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "BitfusionRefused", "because")
    assert event["metadata"]["namespace"] == "team"


@pytest.mark.parametrize("owners", [None, [], "x", [7], [{"kind": "Job", "uid": "1"}]])
async def test_without_a_controller_there_is_none(cluster: FakeCluster, owners: Any) -> None:
    events = Events(lambda _: True)
    events.refused(request_of(owners), "because")
    assert await _written(events, cluster) == []


async def test_a_dry_run_leaves_nothing(cluster: FakeCluster) -> None:
    events = Events(lambda _: True)
    events.refused(request_of([OWNER], dry_run=True), "because")
    assert await _written(events, cluster) == []


async def test_the_same_refusal_is_said_again_only_after_a_while(
    cluster: FakeCluster, autojump_clock: trio.testing.MockClock
) -> None:
    events = Events(lambda _: True)
    for _ in range(5):
        events.refused(request_of([OWNER]), "because")
    events.refused(request_of([OWNER]), "something else")
    assert len(await _written(events, cluster)) == 2
    await trio.sleep(QUIET_SECONDS + 1)
    events.refused(request_of([OWNER]), "because")
    assert len(await _written(events, cluster)) == 3


async def test_a_long_message_is_cut_and_a_full_queue_drops(cluster: FakeCluster) -> None:
    events = Events(lambda _: True)
    for number in range(150):
        events.refused(request_of([OWNER]), f"{number} " + "x" * 2000)
    written = await _written(events, cluster)
    assert len(written) == 100
    assert {len(event["message"]) for event in written} == {1024}


async def test_an_api_server_that_fails_ends_nothing(cluster: FakeCluster) -> None:
    events = Events(lambda _: True)
    cluster.fail_with(UnavailableError("down"), 1)
    events.refused(request_of([OWNER]), "lost")
    events.refused(request_of([OWNER]), "written")
    assert [event["message"] for event in await _written(events, cluster)] == ["written"]


async def test_what_a_client_made_up_is_not_kept(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """No namespace is that long, and whoever makes up owners has the oldest of them forgotten."""
    monkeypatch.setattr("bitfusiond.webhook.events._REMEMBERED", 3)
    events = Events(lambda _: True)
    events.refused(dataclasses.replace(request_of([OWNER]), namespace="x" * 64), "because")
    assert await _written(events, cluster) == []
    for number in range(5):
        events.refused(request_of([{**OWNER, "uid": str(number)}]), "because")
    assert len(events._said) == 3
