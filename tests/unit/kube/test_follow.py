"""List and watch, kept up over everything that an API server can do to them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from bitfusiond import pacing
from bitfusiond.kube import NODES, SECRETS, Change, ForbiddenError, Object, Resource, UnavailableError
from bitfusiond.kube.follow import PROVEN_SECONDS, RESYNC_SECONDS, WatchState, follow
from tests.fakes.cluster import FakeCluster

AWAY = UnavailableError("connection refused")


class View:
    """What a follower was told, as a consumer would keep it."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.changes: list[str] = []
        self.state = WatchState()
        self.last: Object = {}

    def listed(self, objects: list[Object]) -> None:
        self.names = {each["metadata"]["name"] for each in objects}

    async def changed(self, change: Change) -> None:
        await trio.lowlevel.checkpoint()
        name = change.object["metadata"]["name"]
        self.changes.append(f"{change.type} {name}")
        self.last = change.object
        (self.names.discard if change.type == "DELETED" else self.names.add)(name)

    @asynccontextmanager
    async def following(
        self, cluster: FakeCluster, resource: Resource = SECRETS, started: bool = True, **more: Any
    ) -> AsyncIterator[None]:
        callbacks = {"listed": self.listed, "changed": self.changed, **more}
        run = partial(follow, cluster, resource, state=self.state, **callbacks)
        async with trio.open_nursery() as nursery:
            if started:
                await nursery.start(run)
            else:
                nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            yield
            nursery.cancel_scope.cancel()


def secret(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "namespace": "default", "labels": labels}}


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.put(SECRETS, secret("one"))
    return cluster


@pytest.fixture
def view() -> View:
    return View()


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What the follower logs; caplog begins a new list when the test itself starts."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("bitfusiond.follow")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def is_connected(view: View) -> bool:
    return view.state.connected


def lists(cluster: FakeCluster) -> int:
    return [request.verb for request in cluster.requests].count("list")


async def test_it_starts_with_a_list_and_then_tells_every_change(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    async with view.following(cluster):
        assert view.names == {"one"}
        assert view.state.synced
        assert is_connected(view)
        cluster.put(SECRETS, secret("two"))
        cluster.put(SECRETS, secret("two", changed="yes"))
        cluster.remove(SECRETS, "default", "one")
        await trio.testing.wait_all_tasks_blocked()
        assert view.changes == ["ADDED two", "MODIFIED two", "DELETED one"]
        assert view.names == {"two"}
    assert lists(cluster) == 1
    assert not is_connected(view)


async def test_it_is_not_started_before_the_first_list_however_long_the_api_server_is_away(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    with cluster.failing(AWAY):
        async with trio.open_nursery() as nursery:
            run = partial(follow, cluster, SECRETS, listed=view.listed, changed=view.changed, state=view.state)
            with trio.move_on_after(3600) as patience:
                await nursery.start(run)
    assert patience.cancelled_caught
    assert not view.state.synced
    assert view.state.failures == pytest.approx(3600 / 22.5, rel=0.2)


async def test_changes_during_an_outage_are_found_by_watching_on_from_where_it_was(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    async with view.following(cluster):
        with cluster.failing(AWAY):
            cluster.disconnect()
            await trio.sleep(100)
            assert not is_connected(view)
            cluster.put(SECRETS, secret("meanwhile"))
        await trio.sleep(pacing.LONGEST_SECONDS)
        assert view.changes == ["ADDED meanwhile"]
        assert is_connected(view)
    assert lists(cluster) == 1


async def test_after_410_everything_is_listed_again_at_once(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    async with view.following(cluster):
        await trio.sleep(PROVEN_SECONDS)
        cluster.remove(SECRETS, "default", "one")
        cluster.put(SECRETS, secret("two"))
        cluster.expire()
        await trio.testing.wait_all_tasks_blocked()
        assert view.names == {"two"}
        assert is_connected(view)
        assert view.state.failures == 0
    assert lists(cluster) == 2


async def test_an_api_server_that_answers_410_to_every_watch_is_not_hammered(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    async with view.following(cluster):
        for _ in range(1000):
            cluster.expire()
            await trio.sleep(0.1)
    assert lists(cluster) < 60


async def test_a_stalled_watch_is_found_out_by_the_resync(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    async with view.following(cluster):
        cluster.stall()
        cluster.put(SECRETS, secret("unheard"))
        await trio.sleep(RESYNC_SECONDS * 0.85)
        assert view.names == {"one"}
        await trio.sleep(RESYNC_SECONDS * 0.3)
        assert view.names == {"one", "unheard"}
    assert cluster.watching(SECRETS) == 0


async def test_a_watch_that_ends_every_few_minutes_costs_no_pause_and_no_list(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    async with view.following(cluster):
        await trio.sleep(250)
        cluster.disconnect()
        await trio.testing.wait_all_tasks_blocked()
        assert is_connected(view)
        assert view.state.failures == 0
    assert lists(cluster) == 1


async def test_watches_that_end_as_soon_as_they_begin_are_taken_up_slower_and_slower(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    async with view.following(cluster):
        for _ in range(3000):
            cluster.disconnect()
            await trio.sleep(0.1)
    watches = [request.verb for request in cluster.requests].count("watch")
    assert watches < 40


async def test_after_a_bookmark_the_watch_goes_on_from_there(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    async with view.following(cluster):
        cluster.put(NODES, {"metadata": {"name": "elsewhere"}})
        cluster.bookmark()
        await trio.testing.wait_all_tasks_blocked()
        assert view.changes == []
        assert view.state.last_event_at == trio.current_time()


async def test_an_outage_is_said_once_then_seldom_then_that_it_is_over(
    autojump_clock: MockClock, cluster: FakeCluster, lines: list[logging.LogRecord], view: View
) -> None:
    with cluster.failing(ForbiddenError("secrets is forbidden")):
        async with view.following(cluster, started=False, namespace="default", name="one"):
            await trio.sleep(1)
            assert [line.getMessage() for line in lines] == ["cannot follow"]
            fields = vars(lines[0])["fields"]
            assert fields["message"] == "secrets is forbidden"
            assert (fields["resource"], fields["namespace"], fields["name"]) == ("secrets", "default", "one")
            await trio.sleep(600)
            assert 7 <= len(lines) <= 11
            cluster._faults.clear()
            await trio.sleep(pacing.LONGEST_SECONDS)
            assert [line.getMessage() for line in lines][-2:] == ["cannot follow", "following again"]


async def test_a_callback_that_fails_at_the_api_server_is_asked_again_with_a_whole_list(
    autojump_clock: MockClock, cluster: FakeCluster, view: View
) -> None:
    failures = [AWAY]

    async def changed(change: Change) -> None:
        if failures:
            raise failures.pop()
        await view.changed(change)

    async with view.following(cluster, changed=changed):
        cluster.put(SECRETS, secret("two"))
        await trio.sleep(1)
        assert view.names == {"one", "two"}
        assert view.changes == []
        assert view.state.failures == 1
    assert lists(cluster) == 2


async def test_another_exception_of_a_callback_is_logged_and_does_not_end_it(
    autojump_clock: MockClock, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """What somebody puts into the cluster must not end the daemon."""
    calls: list[int] = []

    def listed(items: list[Object]) -> None:
        calls.append(len(items))
        if len(calls) == 1:
            raise ZeroDivisionError

    async with View().following(cluster, listed=listed, started=False):
        await trio.sleep(60)
    assert len(calls) >= 2
    assert "defect in following the cluster" in caplog.text


async def test_only_what_is_kept_is_handed_on(autojump_clock: MockClock, cluster: FakeCluster, view: View) -> None:
    async with view.following(cluster, keep=lambda item: {"metadata": {"name": "kept " + item["metadata"]["name"]}}):
        assert view.names == {"kept one"}
        cluster.put(SECRETS, secret("two"))
        await trio.testing.wait_all_tasks_blocked()
        assert view.last == {"metadata": {"name": "kept two"}}
