"""Pauses that grow, differ and are bounded; words that are not repeated."""

from __future__ import annotations

import trio
import trio.testing

from bitfusiond.plugin.retry import FIRST_SECONDS, LONGEST_SECONDS, REPEAT_SECONDS, Retry


async def test_pauses_double_up_to_the_longest_and_are_cut_at_random(autojump_clock: trio.testing.MockClock) -> None:
    retry = Retry()
    pauses = []
    for _ in range(2000):
        before = trio.current_time()
        await retry.pause()
        pauses.append(trio.current_time() - before)
    for index, pause in enumerate(pauses):
        longest = min(FIRST_SECONDS * 2 ** min(index, 20), LONGEST_SECONDS)
        assert longest / 2 <= pause + 1e-6
        assert pause <= longest + 1e-6
    assert len({round(pause, 3) for pause in pauses[-10:]}) > 1


async def test_after_a_reset_the_pause_is_the_shortest_again(autojump_clock: trio.testing.MockClock) -> None:
    retry = Retry()
    for _ in range(10):
        await retry.pause()
    retry.reset()
    before = trio.current_time()
    await retry.pause()
    assert trio.current_time() - before <= FIRST_SECONDS + 1e-6


async def test_the_same_problem_is_said_once_and_then_seldom(autojump_clock: trio.testing.MockClock) -> None:
    retry = Retry()
    assert [retry.is_due(each) for each in "aabba"] == [True, False, True, False, True]
    await trio.sleep(REPEAT_SECONDS)
    assert [retry.is_due(each) for each in "aa"] == [True, False]
    retry.reset()
    assert retry.is_due("a")
