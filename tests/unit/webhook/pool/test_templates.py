"""ResourceClaimTemplates are where pods need them before the pods are admitted, and go when nothing needs them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond.core import names
from bitfusiond.core.pool.claims import ClaimTemplate
from bitfusiond.kube import (
    CLAIM_TEMPLATES,
    ClusterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from bitfusiond.webhook.flights import ENSURE_SECONDS
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.pool import templates as module
from bitfusiond.webhook.pool.templates import MOST, REFRESH_SECONDS, UNUSED_SECONDS, Templates
from tests.fakes.cluster import FakeCluster
from tests.unit.webhook.pool.cluster import asked, clock, names_of, writes

HOUR = 3600.0


def template(name: str = "bitfusion-1", shares: int = 50) -> ClaimTemplate:
    exactly = {"deviceClassName": "bitfusion.io", "capacity": {"requests": {"shares": str(shares)}}}
    return ClaimTemplate(name, {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}})


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster("team")


@asynccontextmanager
async def running(cluster: FakeCluster, **options: Any) -> AsyncIterator[Templates]:
    """A replica that has listed everything it can."""
    namespaces = Namespaces(names.EXEMPT_NAMESPACES)
    options.setdefault("metrics", CollectorRegistry())
    replica = Templates(cluster, namespaces=namespaces, clock=clock, **options)
    async with trio.open_nursery() as nursery:
        await nursery.start(namespaces.run, cluster)
        await nursery.start(replica.run)
        await trio.sleep(1)
        yield replica
        nursery.cancel_scope.cancel()


def stored(cluster: FakeCluster, name: str = "bitfusion-1", namespace: str = "team") -> dict[str, Any]:
    found = cluster.find(CLAIM_TEMPLATES, namespace, name)
    assert found is not None
    return found


async def test_an_admission_finds_its_templates_and_the_next_one_asks_the_api_server_for_nothing(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    wanted = [template(), template("bitfusion-2", 60), template()]
    async with running(cluster) as templates:
        assert templates.ready_reason() is None
        assert not templates.known("team", "bitfusion-1")
        assert await templates.ensure("team", wanted, dry_run=False) == []
        assert templates.known("team", "bitfusion-1")
        assert writes(cluster) == {"patch": 2}
        assert stored(cluster)["spec"]["spec"]["devices"]["requests"][0]["exactly"] == {
            "deviceClassName": "bitfusion.io",
            "capacity": {"requests": {"shares": "50"}},
            "allocationMode": "ExactCount",
            "count": 1,
        }
        before = len(cluster.requests)
        for seconds in (0, 0, 5):
            await trio.sleep(seconds)
            assert await templates.ensure("team", wanted, dry_run=False) == []
        assert len(cluster.requests) == before


async def test_admissions_of_one_shape_share_the_work_and_one_that_goes_away_leaves_it(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as templates:
        release = cluster.hang(verb="patch", namespace="team")
        results: list[list[str]] = []

        async def admit() -> None:
            results.append(await templates.ensure("team", [template()], dry_run=False))

        with trio.move_on_after(1):
            await admit()
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(admit)
            await trio.sleep(1)
            release()
        assert results == [[]] * 50
        assert writes(cluster) == {"patch": 1}


async def test_a_dry_run_writes_nothing(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(cluster) as templates:
        assert await templates.ensure("team", [template()], dry_run=True) == []
        assert writes(cluster) == {}


async def test_a_replica_writes_each_shape_once_and_believes_the_watch_in_other_namespaces(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    cluster.add_namespace("other")
    async with running(cluster) as first, running(cluster) as second:
        for namespace in ("team", "other"):
            assert await first.ensure(namespace, [template()], dry_run=False) == []
        await trio.sleep(1)
        assert writes(cluster) == {"patch": 2}
        assert second.known("other", "bitfusion-1")
        for namespace in ("team", "other"):
            assert await second.ensure(namespace, [template()], dry_run=False) == []
        assert writes(cluster) == {"patch": 3}


async def test_nothing_is_written_where_no_pod_could_be(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    cluster.add_namespace("ignored", bitfusion__io_admission="ignore")
    async with running(cluster) as templates:
        for namespace, words in (
            ("nowhere", "sees no namespace nowhere"),
            ("kube-system", "use a namespace of your own"),
            ("ignored", "has the label"),
            ("Team", "is not the name of a namespace"),
        ):
            (problem,) = await templates.ensure(namespace, [template()], dry_run=False)
            assert words in problem
    assert writes(cluster) == {}


async def test_a_template_in_use_stays_with_one_write_in_twelve_hours_and_one_that_is_not_goes(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as templates, running(cluster):
        assert await templates.ensure("team", [template(), template("bitfusion-2", 60)], dry_run=False) == []
        before = writes(cluster)["patch"]
        for _ in range(48):
            await trio.sleep(HOUR)
            assert await templates.ensure("team", [template()], dry_run=False) == []
        assert writes(cluster)["patch"] - before <= 48 * HOUR / REFRESH_SECONDS
        assert names_of(cluster.all(CLAIM_TEMPLATES)) == ["bitfusion-1"]
        await trio.sleep(UNUSED_SECONDS + HOUR)
        assert cluster.all(CLAIM_TEMPLATES) == []
        assert writes(cluster)["delete"] <= 4, "two replicas, two templates"
        assert await templates.ensure("team", [template()], dry_run=False) == []
        assert names_of(cluster.all(CLAIM_TEMPLATES)) == ["bitfusion-1"]


async def test_an_hour_without_pods_asks_nothing_but_the_watch(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(cluster) as templates:
        assert await templates.ensure("team", [template()], dry_run=False) == []
        cluster.requests.clear()
        await trio.sleep(HOUR)
        assert not {verb for verb, _ in asked(cluster)} & {"patch", "create", "delete", "update", "get"}
        assert asked(cluster)["list", "resourceclaimtemplates"] <= 7


async def test_one_that_is_used_again_while_it_is_deleted_stays(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    """The delete names the version that it means."""
    async with running(cluster) as templates:
        assert await templates.ensure("team", [template()], dry_run=False) == []
        cluster.stall()
        await trio.sleep(UNUSED_SECONDS - 60)
        async with running(cluster) as other:
            assert await other.ensure("team", [template()], dry_run=False) == []
            await trio.sleep(300)
            assert names_of(cluster.all(CLAIM_TEMPLATES)) == ["bitfusion-1"]


async def test_an_expired_one_is_written_before_the_pod_is_admitted(
    cluster: FakeCluster, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some replica may be deleting it at this moment."""
    monkeypatch.setattr(module, "CLEAN_SECONDS", math.inf)
    async with running(cluster) as templates:
        assert await templates.ensure("team", [template()], dry_run=False) == []
        await trio.sleep(UNUSED_SECONDS + 1)
        with cluster.failing(UnavailableError("down"), verb="patch"):
            (problem,) = await templates.ensure("team", [template()], dry_run=False)
            assert "ResourceClaimTemplate team/bitfusion-1 cannot be written at the moment, try again" in problem
        assert await templates.ensure("team", [template()], dry_run=False) == []


async def test_a_refresh_that_fails_refuses_no_pod(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(cluster) as templates:
        assert await templates.ensure("team", [template()], dry_run=False) == []
        await trio.sleep(REFRESH_SECONDS + 1)
        with cluster.failing(UnavailableError("down"), verb="patch"):
            assert await templates.ensure("team", [template()], dry_run=False) == []
            await trio.sleep(5)


async def test_a_template_that_somebody_else_made_under_the_name_is_never_believed(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    labels = {names.MANAGED_BY: names.MANAGED_BY_US}
    for namespace, spec in (("small", template(shares=1).spec), ("more", template().spec)):
        more = {"devices": {**spec["devices"], "config": [{"opaque": {}}]}} if namespace == "more" else spec
        cluster.put(
            CLAIM_TEMPLATES,
            {"metadata": {"name": "bitfusion-1", "labels": labels}, "spec": {"spec": more}},
            namespace,
        )
    async with running(cluster) as templates:
        for _ in range(2):
            for namespace in ("small", "more"):
                (problem,) = await templates.ensure(namespace, [template()], dry_run=False)
                assert "is not as bitfusiond writes it: `kubectl delete resourceclaimtemplate bitfusion-1 -n" in problem
            assert await templates.ensure("team", [template()], dry_run=False) == []
        assert [templates.known(each, "bitfusion-1") for each in ("small", "more", "team")] == [False, False, True]
        cluster.remove(CLAIM_TEMPLATES, "small", "bitfusion-1")
        assert await templates.ensure("small", [template()], dry_run=False) == []


async def test_one_that_is_deleted_and_made_anew_by_hand_is_not_believed_either(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as templates:
        assert await templates.ensure("team", [template()], dry_run=False) == []
        forged = stored(cluster)
        forged["spec"] = {"spec": template(shares=1).spec}
        cluster.remove(CLAIM_TEMPLATES, "team", "bitfusion-1")
        cluster.put(CLAIM_TEMPLATES, forged, "team")
        await trio.sleep(1)
        assert not templates.known("team", "bitfusion-1")
        (problem,) = await templates.ensure("team", [template()], dry_run=False)
        assert "is not as bitfusiond writes it" in problem


async def test_a_deleted_one_comes_back_with_the_next_pod(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    async with running(cluster) as templates:
        assert await templates.ensure("team", [template()], dry_run=False) == []
        cluster.remove(CLAIM_TEMPLATES, "team", "bitfusion-1")
        await trio.sleep(1)
        assert not templates.known("team", "bitfusion-1")
        assert await templates.ensure("team", [template()], dry_run=False) == []
        assert templates.known("team", "bitfusion-1")


async def test_a_namespace_has_so_many_and_no_more(cluster: FakeCluster, autojump_clock: MockClock) -> None:
    metrics = CollectorRegistry()
    answers: list[list[str]] = []

    async with running(cluster, metrics=metrics) as templates:

        async def admit(number: int) -> None:
            answers.append(await templates.ensure("team", [template(f"bitfusion-{number}", number)], dry_run=False))

        async with trio.open_nursery() as nursery:
            for number in range(MOST + 50):
                nursery.start_soon(admit, number)
        assert len(cluster.all(CLAIM_TEMPLATES)) == MOST
        refused = [problem for answer in answers for problem in answer]
        assert len(refused) == 50
        assert refused[0].startswith(f"namespace team has {MOST} ResourceClaimTemplates of bitfusiond")
        assert (await templates.ensure("team", [template("another")], dry_run=True)) != []
        cluster.add_namespace("other")
        await trio.sleep(1)
        assert await templates.ensure("other", [template()], dry_run=False) == []
        name = names_of(cluster.all(CLAIM_TEMPLATES, "team"))[0]
        there = template(name, int(name.removeprefix("bitfusion-")))
        assert await templates.ensure("team", [there], dry_run=False) == []
        assert metrics.get_sample_value("bitfusiond_pool_templates") == MOST + 1
        assert metrics.get_sample_value("bitfusiond_pool_template_failures_total", {"reason": "bound"}) == 51


async def test_what_others_label_as_ours_is_kept_up_to_a_bound(
    cluster: FakeCluster, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 10)
    labels = {names.MANAGED_BY: names.MANAGED_BY_US}
    for number in range(30):
        body = {"metadata": {"name": f"t-{number}", "labels": labels}, "spec": {"spec": template().spec}}
        cluster.put(CLAIM_TEMPLATES, body, "team")
    metrics = CollectorRegistry()
    async with running(cluster, metrics=metrics):
        assert metrics.get_sample_value("bitfusiond_pool_templates") == 10
        await trio.sleep(4 * HOUR)
        assert cluster.all(CLAIM_TEMPLATES) == [], "they were made long ago, and no pod used them"


@pytest.mark.parametrize("is_proven", [False, True])
async def test_first_templates_are_limited_where_anybody_may_ask(is_proven: bool, autojump_clock: MockClock) -> None:
    teams = [f"team-{number}" for number in range(700)]
    cluster = FakeCluster(*teams)
    answers: list[list[str]] = []
    async with running(cluster, is_proven=is_proven) as templates:

        async def admit(team: str) -> None:
            answers.append(await templates.ensure(team, [template()], dry_run=False))

        async with trio.open_nursery() as nursery:
            for team in teams:
                nursery.start_soon(admit, team)
    refused = [problem for answer in answers for problem in answer]
    assert len(refused) == 0 if is_proven else 155 <= len(refused) <= 165
    assert all(problem == "bitfusiond writes 20 claim templates a second: try again" for problem in refused)


@pytest.mark.parametrize(
    ("error", "words", "times"),
    [
        (ForbiddenError("no"), "cannot be written, the API server does not permit it", 1),
        (ForbiddenError("exceeded quota: q"), "raise the quota or delete ResourceClaimTemplates", 1),
        (NotFoundError("the server could not find the requested resource"), "is not there", 1),
        (UnavailableError("connection refused"), "cannot be written at the moment, try again", 3),
        (ConflictError("modified"), "was changed at the same moment, try again", 3),
    ],
)
async def test_what_the_api_server_says_is_passed_on(
    cluster: FakeCluster, autojump_clock: MockClock, error: ClusterError, words: str, times: int
) -> None:
    async with running(cluster) as templates:
        with cluster.failing(error, verb="patch"):
            (problem,) = await templates.ensure("team", [template()], dry_run=False)
            assert words in problem
            assert writes(cluster) == {"patch": times}
        assert await templates.ensure("team", [template()], dry_run=False) == []


async def test_an_api_server_that_does_not_answer_refuses_in_time(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    async with running(cluster) as templates:
        cluster.hang(verb="patch")
        began = trio.current_time()
        (problem,) = await templates.ensure("team", [template()], dry_run=False)
        assert problem.endswith("try again")
        assert trio.current_time() - began <= ENSURE_SECONDS + 0.1


async def test_before_the_first_list_pods_are_refused_with_the_reason(autojump_clock: MockClock) -> None:
    cluster = FakeCluster("team")
    with cluster.failing(NotFoundError("the server could not find the requested resource"), resource=CLAIM_TEMPLATES):
        async with running(cluster) as templates:
            (problem,) = await templates.ensure("team", [template()], dry_run=False)
            assert "ResourceClaimTemplates not listed yet (the server could not find" in problem
            assert await templates.ensure("team", [template()], dry_run=True) == []


async def test_a_field_that_the_api_server_drops_refuses_the_pod_and_leaves_no_template(
    cluster: FakeCluster, autojump_clock: MockClock
) -> None:
    """Without its capacity a request would take whole GPUs."""
    cluster.drop(
        CLAIM_TEMPLATES,
        lambda document: document["spec"]["spec"]["devices"]["requests"][0]["exactly"].pop("capacity", None),
    )
    async with running(cluster) as templates:
        (problem,) = await templates.ensure("team", [template()], dry_run=False)
        assert "the API server drops spec.devices.requests[].exactly.capacity: its feature gates" in problem
        assert cluster.all(CLAIM_TEMPLATES) == []
