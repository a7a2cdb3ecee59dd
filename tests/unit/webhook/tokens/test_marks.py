"""Copies follow their source where we wrote them, and nobody else can make one that does."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond.core import names
from bitfusiond.core.tokens import marks
from bitfusiond.kube import SECRETS, ConflictError, Object, UnavailableError
from bitfusiond.webhook.tokens import replication
from tests.fakes.cluster import FakeCluster
from tests.unit.conftest import Events
from tests.unit.webhook.tokens.cluster import CA, HOME, put_sources, running, secret, value, values, writes


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster("team", "kube-public")
    put_sources(cluster)
    return cluster


@pytest.fixture
def metrics() -> CollectorRegistry:
    return CollectorRegistry()


def bait(**annotations: str) -> Object:
    """An empty Secret that says that it is a copy of ours."""
    made = secret(CA.secret)
    written = {names.COPIED_FROM: f"{HOME}/{CA.secret}", **annotations}
    made["metadata"] |= {"labels": {names.MANAGED_BY: names.MANAGED_BY_US}, "annotations": written}
    return made


def key_of(cluster: FakeCluster) -> bytes:
    stored = cluster.find(SECRETS, "bwki", names.MARK_SECRET)
    assert stored is not None
    return base64.b64decode(stored["data"][marks.KEY])


def mark_of(cluster: FakeCluster, namespace: str = "team") -> Any:
    stored = cluster.find(SECRETS, namespace, CA.secret)
    assert stored is not None
    return stored["metadata"]["annotations"].get(names.MARK)


def unmark(cluster: FakeCluster, value: str | None = None) -> None:
    """As the version before wrote it, with another content where a ``value`` is given."""
    stored = cluster.find(SECRETS, "team", CA.secret)
    assert stored is not None
    del stored["metadata"]["annotations"][names.MARK]
    if value is not None:
        stored["data"]["ca.crt"] = base64.b64encode(value.encode()).decode()
    cluster.put(SECRETS, stored)


@pytest.mark.parametrize("namespace", ["team", "kube-public"])
@pytest.mark.parametrize("forged", [{}, {names.MARK: ""}, {names.MARK: "0" * 64}])
async def test_a_secret_that_calls_itself_a_copy_is_not_filled_by_a_rotation_and_is_told(
    cluster: FakeCluster,
    metrics: CollectorRegistry,
    events: Events,
    namespace: str,
    forged: dict[str, str],
    autojump_clock: MockClock,
) -> None:
    cluster.put(SECRETS, bait(**forged), namespace)
    async with running(cluster, metrics):
        put_sources(cluster, "b: 2")
        await trio.sleep(1200)
        stored = cluster.find(SECRETS, namespace, CA.secret)
        assert stored is not None
        assert not stored.get("data")
        state = {"team": "unproven", "kube-public": "not_allowed"}[namespace]
        assert metrics.get_sample_value("bitfusiond_token_copies", {"state": state}) == 1
        assert metrics.get_sample_value("bitfusiond_token_replication_lag_seconds") == 0
    assert writes(cluster) == []
    told = [line for line in events() if line["event"].startswith("labelled as token copies, but not written")]
    assert {str(line["secrets"]) for line in told} == ({f"['team/{CA.secret}']"} if namespace == "team" else set())
    assert len(told) <= 3, "seldom"


async def test_the_next_pod_of_the_namespace_takes_it_over(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    cluster.put(SECRETS, bait(), "team")
    async with running(cluster) as tokens:
        assert await tokens.ensure("team", dry_run=False) == []
        put_sources(cluster, "b: 2")
        await trio.sleep(1)
        assert values(cluster) == ["b: 2"] * 3


async def test_copies_of_the_version_before_get_their_mark_and_follow_and_an_old_one_is_left_until_a_pod_comes(
    cluster: FakeCluster, metrics: CollectorRegistry, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens:
        assert await tokens.ensure("team", dry_run=False) == []
        ours = mark_of(cluster)
    unmark(cluster)
    async with running(cluster, metrics):
        assert mark_of(cluster) == ours
        put_sources(cluster, "b: 2")
        await trio.sleep(1)
        assert values(cluster) == ["b: 2"] * 3
    unmark(cluster, "a: 1")  # a rotation that the version before did not come to
    async with running(cluster, metrics=(after := CollectorRegistry())) as tokens:
        assert values(cluster) == ["a: 1", "b: 2", "b: 2"]
        assert after.get_sample_value("bitfusiond_token_copies", {"state": "unproven"}) == 1
        assert await tokens.ensure("team", dry_run=False) == []
        assert values(cluster) == ["b: 2"] * 3
        assert mark_of(cluster) == ours


async def test_copies_follow_to_another_token_namespace_though_the_sources_of_before_are_still_there(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens:
        assert await tokens.ensure("team", dry_run=False) == []
    put_sources(cluster, "c: 3", "vault")
    async with running(cluster, token_namespace="vault"):
        await trio.sleep(1)
        assert values(cluster) == ["c: 3"] * 3


async def test_a_copy_that_is_deleted_while_a_rotation_is_about_to_write_it_does_not_come_back(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens:
        assert await tokens.ensure("team", dry_run=False) == []
        await trio.sleep(replication._RECENT_SECONDS + 1)
        release = cluster.hang(verb="update", namespace="team")
        put_sources(cluster, "b: 2")
        await trio.sleep(1)
        cluster.remove(SECRETS, "team", CA.secret)
        release()
        await trio.sleep(60)
        assert values(cluster) == [None, "b: 2", "b: 2"]


async def test_a_key_that_is_deleted_is_made_anew_and_equal_copies_get_the_new_mark(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens, running(cluster):
        assert await tokens.ensure("team", dry_run=False) == []
        key, mark = key_of(cluster), mark_of(cluster)
        cluster.remove(SECRETS, "bwki", names.MARK_SECRET)
        await trio.sleep(1)
        assert key_of(cluster) != key
        assert mark_of(cluster) == marks.mark(key_of(cluster), "team", CA.secret) != mark
        before = len(writes(cluster))
        await trio.sleep(600)
        assert len(writes(cluster)) == before, "two replicas do not fight over it"
        put_sources(cluster, "b: 2")
        await trio.sleep(1)
        assert values(cluster) == ["b: 2"] * 3


async def test_of_many_replicas_one_makes_the_key_and_all_use_it(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as one, running(cluster) as two, running(cluster) as three:
        for number, tokens in enumerate((one, two, three)):
            cluster.add_namespace(f"team-{number}")
            assert await tokens.ensure(f"team-{number}", dry_run=False) == []
            assert mark_of(cluster, f"team-{number}") == marks.mark(key_of(cluster), f"team-{number}", CA.secret)
        put_sources(cluster, "b: 2")
        await trio.sleep(1)
        assert {word for number in range(3) for word in values(cluster, f"team-{number}")} == {"b: 2"}


async def test_while_the_key_cannot_be_had_no_pod_without_tokens_is_admitted_and_the_reason_is_told(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    with cluster.failing(UnavailableError("no route"), verb="create", namespace="bwki"):
        async with running(cluster) as tokens:
            assert tokens.ready_reason() == "tokens: Secrets not listed yet: bwki-token-mark (no route)"
            (problem,) = await tokens.ensure("team", dry_run=False)
            assert problem.endswith("(no route): try again")
    assert [each for each in writes(cluster) if each != "create"] == []
    assert values(cluster) == [None] * 3


async def test_a_key_secret_without_a_key_is_told_and_the_last_good_one_holds(
    cluster: FakeCluster, events: Events, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens:
        assert await tokens.ensure("team", dry_run=False) == []
        key = key_of(cluster)
        cluster.put(SECRETS, {"metadata": {"name": names.MARK_SECRET}, "data": {"key": "eA=="}}, "bwki")
        await trio.sleep(1)
        (line,) = [line for line in events() if "holds no key" in line["event"]]
        assert line["event"] == "Secret bwki/bwki-token-mark holds no key: delete it, and bitfusiond makes another"
        put_sources(cluster, "b: 2")
        await trio.sleep(1)
        assert value(cluster, "team", CA) == "b: 2"
        assert mark_of(cluster) == marks.mark(key, "team", CA.secret)


async def test_a_create_that_comes_second_waits_for_the_key_of_the_first(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    with cluster.failing(ConflictError("already exists"), verb="create", namespace="bwki"):
        async with running(cluster) as tokens:
            assert "bwki-token-mark" in (tokens.ready_reason() or "")
            data = {marks.KEY: base64.b64encode(b"k" * 32).decode()}
            cluster.put(SECRETS, {"metadata": {"name": names.MARK_SECRET}, "data": data}, "bwki")
            await trio.sleep(0.1)
            assert tokens.ready_reason() is None
            assert await tokens.ensure("team", dry_run=False) == []
            assert mark_of(cluster) == marks.mark(b"k" * 32, "team", CA.secret)
