"""The only ``trio.run`` and the only signal receiver: a daemon runs until it is told to stop, then gets to finish."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from bitfusiond import logs
from bitfusiond.errors import Failure

SettingsT = TypeVar("SettingsT")
_log = logs.Log("supervise")


def run(service: Callable[[SettingsT, trio.Event], Awaitable[None]], settings: SettingsT) -> int:
    """Run ``service(settings, stop)`` to its end; return 0.

    The first SIGTERM or SIGINT sets ``stop``: the service drains in its own time and returns. A second one cancels it
    at once. Raises the Failure that ended the service, out of however many exception groups it came in.
    """
    try:
        trio.run(_supervised, service, settings)
    except BaseExceptionGroup as group:
        # Siblings of a nursery that fail together: the first failure that a person can mend is the one to show.
        failures, others = group.split(Failure)
        if failures is None or others is not None:
            raise
        raise _first(failures) from None
    return 0


async def _supervised(service: Callable[[SettingsT, trio.Event], Awaitable[None]], settings: SettingsT) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        # Receiving starts before the service does, so that no early SIGTERM kills a half-started daemon.
        await nursery.start(_receive_signals, stop, nursery.cancel_scope)
        await service(settings, stop)
        nursery.cancel_scope.cancel()


async def _receive_signals(
    stop: trio.Event,
    everything: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if stop.is_set():
                _log.warning("stopping at once", signal=name)
                everything.cancel()
                return
            _log.info("stopping", signal=name)
            stop.set()


def _first(group: BaseExceptionGroup[Failure]) -> Failure:
    """The first Failure, out of however many groups it lies in."""
    each: BaseException = group
    while isinstance(each, BaseExceptionGroup):
        each = each.exceptions[0]
    assert isinstance(each, Failure)  # noqa: S101 - split() kept nothing else
    return each
