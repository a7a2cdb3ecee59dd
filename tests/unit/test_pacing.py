"""When to try again, and when to say again that it failed."""

from __future__ import annotations

from bitfusiond import pacing
from bitfusiond.pacing import Backoff, Outages, Repeats


def test_pauses_double_up_to_the_longest_and_are_cut_by_up_to_a_half() -> None:
    longest, shortest = Backoff(chance=lambda: 0.0), Backoff(chance=lambda: 1.0)
    pauses = [longest.failed() for _ in range(40)]
    assert pauses[:4] == [0.2, 0.4, 0.8, 1.6]
    assert pauses[-1] == pacing.LONGEST_SECONDS
    assert [shortest.failed() for _ in range(40)] == [pause / 2 for pause in pauses]
    longest.reset()
    assert longest.failed() == 0.2


def test_what_comes_and_goes_every_second_is_one_story() -> None:
    outages = Outages()
    said = 0
    for second in range(120):
        said += outages.failed(second)
        said += outages.succeeded(second + 0.5) is not None
    assert said == 4


def test_what_happens_often_is_said_with_the_number_of_times_since_the_line_before() -> None:
    repeats = Repeats(10)
    said = [(second, repeats.number) for second in range(25) if repeats.is_due(second)]
    assert said == [(0, 1), (10, 10), (20, 10)]


def test_other_words_are_said_at_once_and_the_same_after_a_reset() -> None:
    repeats = Repeats(10)
    assert [repeats.is_due(0, each) for each in "aaba"] == [True, False, True, True]
    repeats.reset()
    assert repeats.is_due(0, "a")
