"""Many clients at once leave the event loop to others in between."""

from __future__ import annotations

import json
import time
from collections import Counter

import pytest
import trio

from bitfusiond.core.admission.mutate import mutate
from bitfusiond.http.turns import AT_ONCE_SECONDS, Turns
from bitfusiond.webhook import admission
from tests import pods
from tests.fakes.https_client import review
from tests.unit.conftest import RunWebhook


async def test_much_work_is_done_one_after_the_other_with_other_tasks_in_between() -> None:
    turns, others = Turns(), 0
    done: Counter[int] = Counter()

    async def work() -> None:
        await turns.wait()
        done[others] += 1
        turns.worked(AT_ONCE_SECONDS)

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(work)
        while done.total() < 20:
            await trio.lowlevel.checkpoint()
            others += 1
    assert max(done.values()) <= 2


async def test_little_work_waits_for_nobody() -> None:
    turns = Turns()
    with trio.CancelScope() as scope:
        scope.cancel()  # whoever waits now ends here
        for _ in range(20):
            await turns.wait()
            turns.worked(AT_ONCE_SECONDS / 40)
    assert not scope.cancelled_caught


@pytest.mark.slow
async def test_what_else_runs_waits_for_a_few_requests_and_not_for_all(
    run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred reviews that take 20 ms each came at once: a probe would have waited for two seconds."""
    longest = 0.0
    body = json.dumps(review(pods.pod())).encode()
    answered = 0

    def slow(*arguments: object) -> object:
        time.sleep(0.02)
        return mutate(*arguments)  # type: ignore[arg-type]

    async def ask() -> None:
        nonlocal answered
        async with webhook.connect() as connection:
            ready.append(None)
            await begin.wait()
            assert (await connection.post("/mutate", body)).status == 200
            answered += 1

    ready: list[None] = []
    begin = trio.Event()
    async with run_webhook() as webhook:
        monkeypatch.setattr(admission, "mutate", slow)
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask)
            while len(ready) < 100:
                await trio.sleep(0.01)
            begin.set()
            while answered < 100:
                began = time.monotonic()
                await trio.lowlevel.checkpoint()
                longest = max(longest, time.monotonic() - began)
    assert longest < 1
