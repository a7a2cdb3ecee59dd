"""Copies of token Secrets follow their sources, come back when they are needed, and are whose they say they are."""

from __future__ import annotations

import math

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond.core import names
from bitfusiond.core.tokens.copies import TOKENS
from bitfusiond.kube import SECRETS, UnavailableError
from bitfusiond.webhook.tokens import replication
from tests.fakes.cluster import FakeCluster
from tests.unit.conftest import Events
from tests.unit.webhook.tokens.cluster import (
    CA,
    CLIENT,
    HOME,
    SERVERS,
    put_sources,
    running,
    secret,
    serving,
    value,
    values,
    writes,
)

# --- rotation -------------------------------------------------------------------------------------------------------


async def test_every_copy_follows_its_source_within_seconds(
    cluster: FakeCluster, metrics: CollectorRegistry, events: Events, autojump_clock: MockClock
) -> None:
    spaces = [f"team-{index}" for index in range(200)]
    cluster.add_namespace(*spaces)
    async with running(cluster, metrics) as tokens:
        for space in spaces:
            assert await tokens.ensure(space, dry_run=False) == []
        put_sources(cluster, "secret-word: 2")
        await trio.sleep(1)
        assert {word for space in spaces for word in values(cluster, space)} == {"secret-word: 2"}
        assert metrics.get_sample_value("bitfusiond_token_copies", {"state": "current"}) == 600
        assert metrics.get_sample_value("bitfusiond_token_replication_lag_seconds") == 0
        (line,) = events("token copies written")
        assert (line["namespaces"], line["written"], line["tokens"]) == (200, 600, sorted(names.TOKEN_FILES))
    assert "secret-word" not in str(events())


async def test_a_rotation_that_fails_is_tried_again_and_the_lag_shows_it(
    cluster: FakeCluster, metrics: CollectorRegistry, events: Events, autojump_clock: MockClock
) -> None:
    async with serving(cluster, metrics):
        with cluster.failing(UnavailableError("no route"), verb="update"):
            put_sources(cluster, "b: 2")
            await trio.sleep(100)
            lag = metrics.get_sample_value("bitfusiond_token_replication_lag_seconds")
            assert lag == pytest.approx(100, abs=1)
            assert metrics.get_sample_value("bitfusiond_token_copies", {"state": "stale"}) == 3
            tried = writes(cluster).count("update")
            assert 10 < tried < 60
            assert len([line for line in events("token copies written") if line["level"] == "WARNING"]) < 5
        await trio.sleep(61)
        assert values(cluster) == ["b: 2"] * 3
        assert metrics.get_sample_value("bitfusiond_token_replication_lag_seconds") == 0


async def test_an_admission_never_gets_a_copy_that_is_behind(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with serving(cluster) as tokens:
        cluster.fail_with(UnavailableError("no route"), 3, verb="update")
        put_sources(cluster, "b: 2")
        await trio.sleep(0.3)
        assert values(cluster) == ["a: 1"] * 3
        assert await tokens.ensure("team", dry_run=False) == []
        assert values(cluster) == ["b: 2"] * 3


async def test_a_copy_that_somebody_edits_is_put_right(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with serving(cluster):
        edited = cluster.find(SECRETS, "team", CA.secret)
        assert edited is not None
        edited["data"]["ca.crt"] = "eA=="
        cluster.put(SECRETS, edited)
        await trio.sleep(1)
        assert values(cluster) == ["a: 1"] * 3


async def test_a_deleted_copy_comes_back_when_it_is_needed(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with serving(cluster) as tokens:
        await trio.sleep(replication._RECENT_SECONDS + 1)
        cluster.remove(SECRETS, "team", CA.secret)
        await trio.sleep(60)
        assert value(cluster, "team", CA) is None
        assert await tokens.ensure("team", dry_run=False) == []
        assert value(cluster, "team", CA) == "a: 1"


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_copy_deleted_at_the_moment_of_an_admission_comes_back_by_itself(
    cluster: FakeCluster, stalled: bool, autojump_clock: MockClock
) -> None:
    """The admission was answered from memory, before the watch told of the deletion."""
    async with serving(cluster) as tokens:
        await trio.sleep(10)
        if stalled:
            cluster.stall()
        cluster.remove(SECRETS, "team", CA.secret)
        assert await tokens.ensure("team", dry_run=False) == []
        if stalled:
            await trio.sleep(100)
            assert await tokens.ensure("team", dry_run=False) == []
            cluster.disconnect()
            cluster.expire()
        await trio.sleep(10)
        assert values(cluster) == ["a: 1"] * 3


async def test_a_namespace_that_goes_takes_its_copies_along_in_silence(
    cluster: FakeCluster, metrics: CollectorRegistry, events: Events, autojump_clock: MockClock
) -> None:
    async with serving(cluster, metrics):
        cluster.terminate_namespace("team")
        for token in TOKENS:
            cluster.remove(SECRETS, "team", token.secret)
        await trio.sleep(60)
        assert writes(cluster).count("create") <= 6
        assert metrics.get_sample_value("bitfusiond_token_copies", {"state": "current"}) == 0
    assert not [line for line in events() if line["level"] != "INFO"]


async def test_a_watch_that_was_lost_during_a_rotation_finds_it_again(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with serving(cluster):
        cluster.fail_with(UnavailableError("restarting"), 20)
        cluster.disconnect()
        put_sources(cluster, "b: 2")
        cluster.expire()
        await trio.sleep(180)
        assert values(cluster) == ["b: 2"] * 3


async def test_a_copy_nobody_can_update_is_told_seldom_and_stops_nothing_else(
    cluster: FakeCluster, events: Events, autojump_clock: MockClock
) -> None:
    async with serving(cluster) as tokens:
        frozen = cluster.find(SECRETS, "team", CA.secret)
        assert frozen is not None
        cluster.put(SECRETS, {**frozen, "immutable": True})
        put_sources(cluster, "b: 2")
        await trio.sleep(300)
        assert values(cluster) == ["a: 1", "b: 2", "b: 2"]
        (line,) = [line for line in events("token copies written") if line["level"] == "WARNING"]
        assert "is immutable: delete it" in str(line["problems"])
        assert "is immutable: delete it" in (await tokens.ensure("team", dry_run=False))[0]


# --- two installations ----------------------------------------------------------------------------------------------


async def test_two_installations_that_serve_one_namespace_leave_each_others_copies_alone(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    put_sources(cluster, "of: vault", "vault")
    async with running(cluster) as ours, serving(cluster, namespace="vault", token_namespace="vault"):
        assert await ours.ensure("team", dry_run=False) == []
        put_sources(cluster, "ours: 2")
        await trio.sleep(5)
        assert values(cluster) == ["of: vault"] * 3
        put_sources(cluster, "of: vault2", "vault")
        await trio.sleep(5)
        assert values(cluster) == ["of: vault2"] * 3
        assert values(cluster, HOME) == ["ours: 2"] * 3


async def test_the_copies_of_an_installation_that_is_gone_are_taken_over_when_a_pod_needs_them(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    put_sources(cluster, "of: vault", "vault")
    async with running(cluster, namespace="vault", token_namespace="vault") as theirs:
        assert await theirs.ensure("team", dry_run=False) == []
    async with running(cluster) as ours:
        cluster.remove_namespace("vault")
        await trio.sleep(60)
        assert values(cluster) == ["of: vault"] * 3
        assert await ours.ensure("team", dry_run=False) == []
        assert values(cluster) == ["a: 1"] * 3


# --- what is logged -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [("user: [sensitive", "is not YAML"), ("sensitive words", "not a mapping"), ("a: \x01sensitive", "characters")],
)
async def test_a_token_that_is_not_yaml_is_copied_with_a_warning_that_shows_nothing_of_it(
    cluster: FakeCluster, events: Events, text: str, problem: str, autojump_clock: MockClock
) -> None:
    cluster.put(SECRETS, secret(CLIENT.secret, client_yaml=text), HOME)
    async with serving(cluster):
        assert value(cluster, "team", CLIENT) == text
        with trio.move_on_after(math.inf):
            while not events("token is not YAML, copied all the same"):
                await trio.sleep(0.01)
    (line,) = events("token is not YAML, copied all the same")
    assert problem in line["problem"]
    assert line["secret"] == f"{HOME}/{CLIENT.secret}"
    assert "sensitive" not in str(events())


async def test_a_source_with_an_empty_key_is_named_in_the_log_and_to_the_pod(
    cluster: FakeCluster, events: Events, autojump_clock: MockClock
) -> None:
    cluster.put(SECRETS, secret(SERVERS.secret, servers_conf=""), HOME)
    async with running(cluster) as tokens:
        (problem,) = await tokens.ensure("team", dry_run=False)
    assert f"Secret {HOME}/{SERVERS.secret} has nothing under the key servers.conf" in problem
    assert [line["message"] for line in events("token source missing")] == [problem]
