"""Where --allow-namespaces holds only names, the webhook looks for copies in these namespaces and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond import settings
from bitfusiond.core import names
from bitfusiond.core.tokens.copies import TOKENS
from bitfusiond.kube import NAMESPACES, SECRETS, ForbiddenError
from bitfusiond.webhook.cluster_view import InCluster, WatchMetrics
from tests.fakes.cluster import FakeCluster
from tests.unit.webhook.tokens.cluster import CA, HOME, put_sources, running, secret, serving, value, values

FORBIDDEN = ForbiddenError('secrets is forbidden: User "w" cannot list resource "secrets"')


def looked_at(cluster: FakeCluster) -> set[str | None]:
    """The namespaces that Secrets were listed or watched in; None: all of them at once."""
    of = [each for each in cluster.requests if each.resource == SECRETS and each.verb in {"list", "watch"}]
    return {each.namespace for each in of} - {names.NAMESPACE}


async def rotated(cluster: FakeCluster, content: str) -> None:
    put_sources(cluster, content)
    await trio.sleep(5)


@pytest.mark.parametrize(
    ("allowed", "where"),
    [
        (("team", "other"), {HOME, "team", "other"}),
        (("team", "absent"), {HOME, "team"}),
        (("team", HOME), {HOME, "team"}),
        (("team", "other*"), {None, HOME}),
    ],
)
async def test_it_looks_no_further_than_the_names(
    cluster: FakeCluster, autojump_clock: MockClock, allowed: tuple[str, ...], where: set[str | None]
) -> None:
    cluster.add_namespace("other")
    async with serving(cluster, allow_namespaces=allowed) as tokens:
        assert values(cluster) == ["a: 1"] * 3
        await rotated(cluster, "b: 2")
        assert values(cluster) == ["b: 2"] * 3
        cluster.remove(SECRETS, "team", CA.secret)
        await trio.sleep(5)
        assert value(cluster, "team", CA) == "b: 2", "a pod was admitted on its word"
        assert set(tokens.watches) >= {CA.secret, names.MARK_SECRET}
        assert all(state.connected for state in tokens.watches.values())
    assert looked_at(cluster) == where


async def test_a_namespace_that_comes_later_goes_and_comes_again_gets_its_copies_each_time(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster, allow_namespaces=("team", "later")) as tokens:
        for content in ("b: 2", "c: 3"):
            assert not [each for each in tokens.watches if each.startswith("later/")]
            cluster.add_namespace("later")
            await trio.sleep(5)
            assert await tokens.ensure("later", dry_run=False) == []
            await rotated(cluster, content)
            assert values(cluster, "later") == [content] * 3
            assert tokens.watches[f"later/{CA.secret}"].connected
            cluster.remove_namespace("later")
            await trio.sleep(5)


@pytest.mark.parametrize("missed", [False, True])
async def test_copies_that_were_in_a_namespace_before_it_was_made_anew_are_not_believed_in(
    cluster: FakeCluster, autojump_clock: MockClock, missed: bool
) -> None:
    """Without the permission there the new one is not listed, and a pod would wait for its Secrets for ever."""
    async with serving(cluster, allow_namespaces=("team",)) as tokens:
        with cluster.failing(FORBIDDEN, resource=SECRETS, namespace="team"):
            if missed:
                cluster.stall()
            cluster.remove(NAMESPACES, None, "team")  # the news of this may come before those of its Secrets
            await trio.sleep(5)
            cluster.add_namespace("team")
            for token in TOKENS:
                cluster.remove(SECRETS, "team", token.secret)
            if missed:
                cluster.expire()
            await trio.sleep(5)
            (problem, *_) = await tokens.ensure("team", dry_run=False)
            assert "the API server does not permit it to bitfusiond" in problem
            assert problem.endswith("the cluster's administrator must give bitfusiond its permissions (`just deploy`)")
            assert tokens.ready_reason() is None, "all others are served"
        await trio.sleep(60)
        assert await tokens.ensure("team", dry_run=False) == []
        await rotated(cluster, "b: 2")
        assert values(cluster) == ["b: 2"] * 3


async def test_an_admission_finds_out_what_no_list_has_told_yet(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    theirs = secret(CA.secret, ca_crt="theirs")
    cluster.put(SECRETS, theirs, "team")
    with cluster.failing(FORBIDDEN, verb="list", resource=SECRETS, namespace="team"):
        async with running(cluster, allow_namespaces=("team",)) as tokens:
            assert await tokens.ensure("team", dry_run=False) == []
    assert values(cluster) == ["theirs", "a: 1", "a: 1"]


async def test_a_copy_by_another_installation_whose_source_cannot_be_seen_is_left_alone(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    copy: dict[str, Any] = secret(CA.secret, ca_crt="of another")
    copy["metadata"] |= {
        "labels": {names.MANAGED_BY: names.MANAGED_BY_US},
        "annotations": {names.COPIED_FROM: f"elsewhere/{CA.secret}"},
    }
    cluster.put(SECRETS, secret(CA.secret, ca_crt="of another"), "elsewhere")
    cluster.put(SECRETS, copy, "team")
    async with running(cluster, allow_namespaces=("team",)) as tokens:
        assert await tokens.ensure("team", dry_run=False) == []
        await rotated(cluster, "b: 2")
        assert values(cluster) == ["of another", "b: 2", "b: 2"]


async def test_the_watches_of_a_namespace_are_among_the_metrics_as_long_as_it_is_there(
    cluster: FakeCluster, metrics: CollectorRegistry, autojump_clock: MockClock
) -> None:
    given = settings.resolve(settings.Webhook, {"allow_namespaces": "team"}, {})
    assert isinstance(given, settings.Webhook)
    view = InCluster(cluster, given, metrics)
    WatchMetrics(view.watches, metrics)

    def connected(watch: str) -> float | None:
        return metrics.get_sample_value("bitfusiond_watch_connected", {"watch": watch})

    async with trio.open_nursery() as nursery:
        await nursery.start(view.run)
        await trio.sleep(1)
        assert connected("namespaces") == connected(CA.secret) == connected(f"team/{CA.secret}") == 1
        cluster.remove_namespace("team")
        await trio.sleep(1)
        assert connected(f"team/{CA.secret}") is None
        nursery.cancel_scope.cancel()
