"""Token Secrets are where pods need them before the pods are admitted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond.core import names
from bitfusiond.core.tokens.copies import TOKENS
from bitfusiond.kube import SECRETS, ConflictError, ForbiddenError, InvalidError, UnavailableError
from bitfusiond.webhook.flights import ENSURE_SECONDS
from bitfusiond.webhook.tokens.replication import Replication
from tests.fakes.cluster import FakeCluster
from tests.unit.webhook.tokens.cluster import (
    CA,
    CLIENT,
    HOME,
    put_sources,
    running,
    secret,
    serving,
    value,
    values,
    writes,
)

# --- before a pod is admitted ---------------------------------------------------------------------------------------


async def test_an_admission_finds_all_three_copies_and_the_next_one_asks_the_api_server_for_nothing(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens:
        assert tokens.ready_reason() is None
        assert await tokens.ensure("team", dry_run=False) == []
        assert values(cluster) == ["a: 1"] * 3
        assert writes(cluster) == ["create"] * 3
        for seconds in (0, 0, 5):
            await trio.sleep(seconds)
            before = len(cluster.requests)
            assert await tokens.ensure("team", dry_run=False) == []
            assert len(cluster.requests) == before


async def test_admissions_of_one_namespace_share_the_work(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(cluster) as tokens:
        release = cluster.hang(verb="create", namespace="team")
        results: list[list[str]] = []

        async def admit() -> None:
            results.append(await tokens.ensure("team", dry_run=False))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(admit)
            await trio.sleep(1)
            release()
        assert results == [[]] * 50
        assert writes(cluster) == ["create"] * 3


async def test_an_admission_that_goes_away_does_not_take_the_work_with_it(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens:
        release = cluster.hang(verb="create", namespace="team")
        with trio.move_on_after(1):
            await tokens.ensure("team", dry_run=False)
        release()
        await trio.sleep(1)
        assert values(cluster) == ["a: 1"] * 3


async def test_a_dry_run_writes_nothing_and_is_refused_only_for_what_no_write_could_mend(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    """The 0.4 integration created the Secrets of a dry run."""
    async with running(cluster, allow_namespaces=("team*",)) as tokens:
        assert await tokens.ensure("team", dry_run=True) == []
        assert await tokens.ensure("team-that-is-not-there", dry_run=True) == []
        assert "--allow-namespaces" in (await tokens.ensure("other", dry_run=True))[0]
        cluster.remove(SECRETS, HOME, CA.secret)
        await trio.sleep(1)
        assert "is missing" in (await tokens.ensure("team", dry_run=True))[0]
    assert writes(cluster) == []


async def test_a_missing_source_refuses_pods_until_it_is_there_and_copies_stay(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with serving(cluster) as tokens:
        cluster.remove(SECRETS, HOME, CA.secret)
        await trio.sleep(1)
        (problem,) = await tokens.ensure("team", dry_run=False)
        assert f"{HOME}/{CA.secret} with the key ca.crt is missing: create it with `kubectl create secret" in problem
        assert values(cluster) == ["a: 1"] * 3
        cluster.put(SECRETS, secret(CA.secret, ca_crt="b"), HOME)
        await trio.sleep(1)
        assert await tokens.ensure("team", dry_run=False) == []
        assert value(cluster, "team", CA) == "b"


async def test_all_missing_sources_are_named_at_once(autojump_clock: MockClock) -> None:
    cluster = FakeCluster("team")
    async with running(cluster) as tokens:
        problems = await tokens.ensure("team", dry_run=False)
        assert len(problems) == 3
        assert all(token.secret in problem for token, problem in zip(TOKENS, problems, strict=True))


async def test_the_earlier_single_secret_serves_until_the_three_are_there(autojump_clock: MockClock) -> None:
    cluster = FakeCluster("team")
    cluster.put(SECRETS, secret(names.EARLIER_TOKEN_SECRET, ca_crt="old", client_yaml="old", servers_conf="old"), HOME)
    async with serving(cluster):
        assert values(cluster) == ["old"] * 3
        cluster.put(SECRETS, secret(CLIENT.secret, client_yaml="new"), HOME)
        await trio.sleep(1)
        assert values(cluster) == ["old", "new", "old"]


async def test_pods_of_a_namespace_that_is_not_allowed_get_nothing(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    bait = secret(CA.secret, ca_crt="bait")
    bait["metadata"] |= {
        "labels": {names.MANAGED_BY: names.MANAGED_BY_US},
        "annotations": {names.COPIED_FROM: f"{HOME}/{CA.secret}"},
    }
    cluster.put(SECRETS, bait, "outside")
    async with running(cluster, allow_namespaces=("team",)) as tokens:
        (problem,) = await tokens.ensure("outside", dry_run=False)
        assert "pods of outside may not receive Bitfusion tokens, --allow-namespaces of bitfusiond is team" in problem
        put_sources(cluster, "b: 2")
        await trio.sleep(60)
    assert value(cluster, "outside", CA) == "bait"
    assert writes(cluster) == []


async def test_an_unlabelled_secret_is_left_alone_and_used(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    cluster.put(SECRETS, secret(CLIENT.secret, client_yaml="theirs"), "team")
    async with serving(cluster):
        put_sources(cluster, "b: 2")
        await trio.sleep(5)
        assert values(cluster) == ["b: 2", "theirs", "b: 2"]


async def test_pods_of_the_token_namespace_use_the_sources_themselves(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens:
        assert await tokens.ensure(HOME, dry_run=False) == []
    assert writes(cluster) == []


# --- what can go wrong ----------------------------------------------------------------------------------------------

_QUOTA = 'secrets "x" is forbidden: exceeded quota: few, requested: count/secrets=1, used: count/secrets=1, limited: 1'


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (ForbiddenError('User "w" cannot create resource "secrets"'), "forbidden", ["does not permit", "just deploy"]),
        (ForbiddenError(_QUOTA), "quota", ["ResourceQuota", "exceeded quota: few", "raise the quota"]),
        (InvalidError("data: too long"), "invalid", ["does not take it: data: too long"]),
        (UnavailableError("connection refused"), "unavailable", ["try again (connection refused)"]),
    ],
)
async def test_an_error_of_the_api_server_refuses_the_pod_in_words_and_the_next_pod_is_fine(
    cluster: FakeCluster,
    metrics: CollectorRegistry,
    error: Exception,
    reason: str,
    words: list[str],
    autojump_clock: MockClock,
) -> None:
    """The 0.4 integration ignored all of these and admitted pods that then hung."""
    async with running(cluster, metrics) as tokens:
        with cluster.failing(error, verb="create"):  # type: ignore[arg-type]
            problems = await tokens.ensure("team", dry_run=False)
        assert len(problems) == 3
        for problem, token in zip(problems, TOKENS, strict=True):
            assert f"Secret team/{token.secret} cannot be copied" in problem
            assert all(word in problem for word in words)
        assert metrics.get_sample_value("bitfusiond_token_copy_failures_total", {"reason": reason}) == 3
        assert await tokens.ensure("team", dry_run=False) == []


async def test_a_namespace_that_is_being_deleted_or_not_there_is_told_once(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens:
        cluster.terminate_namespace("team")
        assert await tokens.ensure("team", dry_run=False) == [
            "namespace team is being deleted: nothing can be created in it"
        ]
        assert await tokens.ensure("nowhere", dry_run=False) == [
            "bitfusiond sees no namespace nowhere in the cluster: try again"
        ]


async def test_one_failure_in_passing_is_no_refusal(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(cluster) as tokens:
        cluster.fail_with(UnavailableError("429"), 2, verb="create")
        assert await tokens.ensure("team", dry_run=False) == []


async def test_an_api_server_that_does_not_answer_refuses_the_pod_in_time(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    """The 0.4 integration gave no answer within 12 s."""
    async with running(cluster) as tokens:
        cluster.hang(verb="create", namespace="team")
        for _ in range(2):
            began = trio.current_time()
            problems = await tokens.ensure("team", dry_run=False)
            assert trio.current_time() - began <= ENSURE_SECONDS
            assert problems
            assert all("try again" in problem for problem in problems)


async def test_before_the_first_lists_a_pod_waits_shortly_and_is_told_to_try_again(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    with cluster.failing(UnavailableError("connection refused"), verb="list"):
        async with running(cluster) as tokens:
            assert "not listed yet" in (tokens.ready_reason() or "")
            began = trio.current_time()
            (problem,) = await tokens.ensure("team", dry_run=False)
            assert trio.current_time() - began == pytest.approx(2)
            assert problem.startswith("bitfusiond is not ready yet")
            assert problem.endswith("try again")
            assert await tokens.ensure("team", dry_run=True) == []


async def test_a_pod_that_comes_a_moment_before_the_first_lists_is_admitted(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    release = cluster.hang(verb="list")
    async with running(cluster) as tokens, trio.open_nursery() as nursery:
        nursery.start_soon(partial(_after, 1, release))
        assert await tokens.ensure("team", dry_run=False) == []


async def _after(seconds: float, do: Callable[[], object]) -> None:
    await trio.sleep(seconds)
    do()


async def test_two_replicas_and_a_person_at_once_end_with_one_current_copy(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as one, running(cluster) as other, trio.open_nursery() as nursery:
        results: list[list[str]] = []

        async def admit(tokens: Replication) -> None:
            results.append(await tokens.ensure("team", dry_run=False))

        for tokens in (one, other):
            nursery.start_soon(admit, tokens)
        await trio.sleep(5)
        assert results == [[], []]
        put_sources(cluster, "b: 2")
        await trio.sleep(5)
        assert values(cluster) == ["b: 2"] * 3


async def test_conflicts_without_end_are_told_as_such(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(cluster) as tokens:
        with cluster.failing(ConflictError("already exists"), verb="create"):
            problems = await tokens.ensure("team", dry_run=False)
        assert all("changes all the time" in problem and "try again" in problem for problem in problems)
        assert len(problems) == 3
