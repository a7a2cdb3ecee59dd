"""The life of a daemon: stop at the first signal, end at the second, one failure to show."""

from __future__ import annotations

import os
import signal

import pytest
import trio

from bitfusiond import supervise
from bitfusiond.errors import ConfigurationError, Failure


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_the_service_to_stop_and_waits_for_it(number: signal.Signals) -> None:
    steps: list[str] = []

    async def service(settings: str, stop: trio.Event) -> None:
        steps.append(settings)
        os.kill(os.getpid(), number)
        await stop.wait()
        await trio.sleep(0.05)
        steps.append("drained")

    assert supervise.run(service, "settings") == 0
    assert steps == ["settings", "drained"]


def test_a_second_signal_ends_it_at_once() -> None:
    async def service(_: None, stop: trio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        await trio.sleep_forever()

    assert supervise.run(service, None) == 0


def test_a_service_that_ends_by_itself_ends_well() -> None:
    async def service(_: None, __: trio.Event) -> None:
        await trio.lowlevel.checkpoint()

    assert supervise.run(service, None) == 0


def test_signals_are_pythons_own_again_afterwards() -> None:
    async def service(_: None, __: trio.Event) -> None:
        await trio.lowlevel.checkpoint()

    before = signal.getsignal(signal.SIGTERM)
    supervise.run(service, None)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("failure", [Failure("a busy port"), ConfigurationError("a wrong option")])
@pytest.mark.parametrize("depth", [0, 1, 5])
def test_a_failure_comes_out_of_whatever_nurseries_it_ended(failure: Failure, depth: int) -> None:
    async def service(level: int, _: trio.Event) -> None:
        if level == 0:
            raise failure
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(service, level - 1, _)

    with pytest.raises(type(failure)) as caught:
        supervise.run(service, depth)
    assert caught.value is failure


def test_of_two_failures_one_is_shown() -> None:
    async def fail(message: str) -> None:
        raise Failure(message)

    async def service(_: None, __: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "one")
            nursery.start_soon(fail, "other")

    with pytest.raises(Failure, match=r"one|other"):
        supervise.run(service, None)


def test_a_defect_beside_a_failure_is_not_hidden() -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def service(_: None, __: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, Failure("one"))
            nursery.start_soon(fail, RuntimeError("boom"))

    with pytest.RaisesGroup(pytest.RaisesExc(Failure), pytest.RaisesExc(RuntimeError), flatten_subgroups=True):
        supervise.run(service, None)
