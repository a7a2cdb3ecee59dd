"""When to try again, and when to say again that it failed."""

from __future__ import annotations

from bitfusiond import pacing
from bitfusiond.pacing import Backoff, Outages


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
