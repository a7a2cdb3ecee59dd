"""What a review says of its namespace is believed as far as the cluster bears it out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond.core import names
from bitfusiond.kube import EVENTS, NAMESPACES, SECRETS, ForbiddenError, Object
from bitfusiond.pacing import Allowance
from bitfusiond.webhook.events import Events
from bitfusiond.webhook.flights import ENSURE_SECONDS
from bitfusiond.webhook.namespaces import APPEAR_SECONDS, Namespaces
from bitfusiond.webhook.tokens.replication import Replication
from tests.fakes.cluster import FakeCluster
from tests.unit.webhook.test_events import OWNER, request_of
from tests.unit.webhook.tokens.cluster import CA, put_sources, running, values, writes


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster("team", "kube-public")
    put_sources(cluster)
    return cluster


@pytest.mark.parametrize(
    ("namespace", "words"),
    [
        ("nowhere", "bitfusiond sees no namespace nowhere in the cluster: try again"),
        ("kube-public", "metadata.namespace: no tokens are copied into kube-public: use a namespace of your own"),
        ("left-alone", "it has the label bitfusion.io/admission=ignore: `kubectl label namespace left-alone"),
        ("../team", "metadata.namespace: ../team is not the name of a namespace"),
        ("", 'metadata.namespace: "" is not the name of a namespace'),
        ("x" * 100_000, f"metadata.namespace: {'x' * 77}... is not the name of a namespace"),
    ],
)
async def test_a_namespace_that_gets_no_pods_of_ours_gets_no_tokens(
    cluster: FakeCluster, namespace: str, words: str, autojump_clock: MockClock
) -> None:
    cluster.add_namespace("left-alone", bitfusion__io_admission="ignore")
    metrics = CollectorRegistry()
    async with running(cluster, metrics) as tokens:
        (problem,) = await tokens.ensure(namespace, dry_run=False)
        assert words in problem
    assert writes(cluster) == []
    counted = metrics.get_sample_value("bitfusiond_token_copy_failures_total", {"reason": "namespace"})
    assert counted == (None if namespace == "kube-public" else 1), "that one is never served, whatever the watch says"


async def test_a_label_that_comes_and_goes_holds_at_once(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(cluster) as tokens:
        cluster.add_namespace("team", bitfusion__io_admission="ignore")
        await trio.sleep(0.1)
        assert "has the label" in (await tokens.ensure("team", dry_run=False))[0]
        cluster.add_namespace("team")
        await trio.sleep(0.1)
        assert await tokens.ensure("team", dry_run=False) == []


async def test_the_first_pod_of_a_namespace_that_was_made_a_moment_ago_waits_for_the_news_of_it(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens, trio.open_nursery() as nursery:
        nursery.start_soon(partial(_after, APPEAR_SECONDS / 2, partial(cluster.add_namespace, "new")))
        assert await tokens.ensure("new", dry_run=False) == []
        assert values(cluster, "new") == ["a: 1"] * 3


async def _after(seconds: float, do: Callable[[], object]) -> None:
    await trio.sleep(seconds)
    do()


async def test_without_the_permission_pods_that_have_their_tokens_are_admitted_and_others_are_told(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    """An image that is newer than the ClusterRole."""
    async with running(cluster) as tokens:
        assert await tokens.ensure("team", dry_run=False) == []
    cluster.add_namespace("other")
    with cluster.failing(ForbiddenError("namespaces is forbidden"), verb="list", resource=NAMESPACES):
        namespaces = Namespaces(names.EXEMPT_NAMESPACES)
        async with trio.open_nursery() as nursery:
            await nursery.start(namespaces.run, cluster)
            await trio.sleep(1)
            assert namespaces.ready_reason() == "namespaces: not listed yet (namespaces is forbidden)"
            assert not namespaces.serves("team")
            tokens = Replication(
                cluster, CollectorRegistry(), namespaces, namespace="bwki", token_namespace="kube-system"
            )
            await nursery.start(tokens.run)
            assert await tokens.ensure("team", dry_run=False) == []
            (problem,) = await tokens.ensure("other", dry_run=False)
            assert problem == (
                "bitfusiond is not ready yet, namespaces: not listed yet (namespaces is forbidden): try again"
            )
            nursery.cancel_scope.cancel()


# --- how many, how fast -----------------------------------------------------------------------------------------------


def test_an_allowance_gives_what_it_has_at_once_and_then_at_its_pace() -> None:
    allowance = Allowance(3, 10.0)
    assert [allowance.take(5.0, 1.0) for _ in range(5)] == pytest.approx([0, 0, 0, 0.1, 0.2])
    assert allowance.take(5.0, 0.2) is None
    assert allowance.take(5.0, 0.4) == pytest.approx(0.3), "what was refused was not taken"
    refused = [allowance.take(1000.0, 0.05) is None for _ in range(4)]
    assert refused == [False, False, False, True], "no more is saved than three"


async def test_a_cluster_whose_pods_all_start_at_once_waits_for_seconds_and_a_flood_is_told_to_try_again(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    teams = [f"team-{number}" for number in range(700)]
    cluster.add_namespace(*teams)
    answers: dict[str, list[str]] = {}
    metrics = CollectorRegistry()

    async def ask(tokens: Replication, team: str) -> None:
        answers[team] = await tokens.ensure(team, dry_run=False)

    async with running(cluster, metrics) as tokens:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for team in teams:
                nursery.start_soon(ask, tokens, team)
        assert trio.current_time() - began <= ENSURE_SECONDS
        refused = [team for team in teams if answers[team]]
        assert 535 <= len(teams) - len(refused) <= 541, "500 at once, and 20 a second for as long as one may wait"
        assert all(answers[team][0].endswith("20 new namespaces a second: try again") for team in refused)
        assert metrics.get_sample_value("bitfusiond_token_copy_failures_total", {"reason": "rate"}) == len(refused)
        await trio.sleep(10)
        async with trio.open_nursery() as nursery:
            for team in refused:
                nursery.start_soon(ask, tokens, team)
        assert not [team for team in teams if answers[team]], "ten seconds later all have theirs"


async def test_whoever_proves_to_be_the_api_server_need_not_wait(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    teams = [f"team-{number}" for number in range(700)]
    cluster.add_namespace(*teams)
    async with running(cluster, is_proven=True) as tokens, trio.open_nursery() as nursery:
        for team in teams:
            nursery.start_soon(tokens.ensure, team, False)
    assert len(cluster.all(SECRETS, name=CA.secret)) == 1 + 700


async def test_of_namespaces_that_are_not_there_or_are_gone_nothing_is_kept(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as tokens, trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(tokens.ensure, f"made-up-{number}", False)
    assert not tokens._admitted
    async with running(cluster) as tokens:
        for number in range(20):
            cluster.add_namespace(f"short-{number}")
            assert await tokens.ensure(f"short-{number}", dry_run=False) == []
            cluster.remove_namespace(f"short-{number}")
            await trio.sleep(1)
        assert len(tokens._admitted) <= 1


# --- Events -----------------------------------------------------------------------------------------------------------


async def test_an_event_goes_to_namespaces_that_are_served_and_to_no_other(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    cluster.add_namespace("left-alone", bitfusion__io_admission="ignore")
    namespaces = Namespaces(names.EXEMPT_NAMESPACES)
    events = Events(namespaces.serves)
    async with trio.open_nursery() as nursery:
        await nursery.start(namespaces.run, cluster)
        nursery.start_soon(events.run, cluster)
        await trio.sleep(1)
        for namespace in ("nowhere", "left-alone", "kube-public", "x" * 1000, "team"):
            events.refused(request_of([OWNER], namespace=namespace), "because")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    created = [each for each in cluster.requests if each.verb == "create"]
    assert [each.namespace for each in created] == ["team"]
    written: list[Object] = cluster.all(EVENTS)
    assert [each["involvedObject"]["namespace"] for each in written] == ["team"]
