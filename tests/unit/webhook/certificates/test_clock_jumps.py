"""Clocks that are set, under certificates that a replica keeps itself."""

from __future__ import annotations

import math
import ssl

import pytest
import trio
from trio.testing import MockClock

from bitfusiond.kube import UnavailableError
from tests.fakes.handshakes import shake
from tests.unit.webhook.certificates.configured import Cluster
from tests.unit.webhook.certificates.replicas import LIVES, POLL, Time, accepted, bundles, running, serving

PAST_THE_END = LIVES.leaf + 30


@pytest.mark.parametrize("jump", [-86400.0, -10.0, 10.0, 70.0, 500.0, 86400.0])
async def test_after_a_jump_of_the_clock_all_is_well_within_two_seconds(
    cluster: Cluster, clock: Time, autojump_clock: MockClock, jump: float
) -> None:
    async with serving(cluster, clock, 2) as replicas:
        clock.offset += jump
        await trio.sleep(2)
        assert [replica.ready_reason() for replica in replicas] == [None, None]
        accepted(cluster, clock, *replicas)


async def test_a_clock_that_jumps_past_the_certificate_refuses_no_handshake_by_the_clock_before_or_after(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    before = Time()
    clock.offset = before.offset
    async with serving(cluster, clock) as (replica,):
        (bundle,) = set(bundles(cluster))
        first = shake(replica.context, bundle, clock())
        with cluster.failing(UnavailableError("no connection")):
            cluster.disconnect()
            clock.offset += PAST_THE_END
            for _ in range(10):
                assert shake(replica.context, bundle, before()) == first
                assert replica.ready_reason() is None
                await trio.sleep(1)
        await trio.sleep(POLL + 1)
        second = shake(replica.context, bundle, clock())
        assert second != first
        for _ in range(30):
            assert shake(replica.context, bundle, before()) == second
            await trio.sleep(1)
        clock.offset = before.offset
        await trio.sleep(2)
        assert replica.ready_reason() is None
        assert shake(replica.context, bundle, before()) != second


async def test_a_certificate_that_outlives_a_jump_of_the_clock_still_ends_with_its_own_life(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    async with serving(cluster, clock) as (replica,):
        cluster.fail_with(UnavailableError("no connection"), math.inf)
        cluster.disconnect()
        clock.offset += PAST_THE_END
        await trio.sleep(LIVES.leaf - 5)
        assert replica.ready_reason() is None
        await trio.sleep(10)
        assert "the serving certificate has expired" in str(replica.ready_reason())
        with pytest.raises(ssl.SSLError):
            shake(replica.context, bundles(cluster)[0], clock() - PAST_THE_END - 10)


async def test_clocks_that_disagree_by_years_do_not_make_cas_as_fast_as_they_can(
    cluster: Cluster, clock: Time, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = Time()
    wrong.offset += 1e6
    async with running(cluster, clock), running(cluster, wrong):
        await trio.sleep(100)
    assert len([each for each in cluster.requests if each.verb == "update"]) < 2 * 100 / POLL + 4
    assert "is a clock of a node wrong?" in caplog.text
