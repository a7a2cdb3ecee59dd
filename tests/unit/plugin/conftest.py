"""The plugin of this process, in a device plugin directory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from bitfusiond import settings
from bitfusiond.plugin import service, sockets

RunPlugin = Callable[..., AbstractAsyncContextManager[trio.Event]]

STOP_SECONDS = 10.0


@pytest.fixture
def run_plugin(directory: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlugin:
    """``async with run_plugin(resource_nums="20") as stop``: the plugin of this process, stopped at the end.

    It looks at the sockets more often than on a node, so that the tests wait less.
    """
    monkeypatch.setattr(sockets, "POLL_SECONDS", 0.05)

    @asynccontextmanager
    async def run(**flags: str) -> AsyncIterator[trio.Event]:
        chosen = settings.resolve(settings.Plugin, {"device_plugin_dir": str(directory), "observe": "none"} | flags, {})
        assert isinstance(chosen, settings.Plugin)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.serve, chosen, stop)
            yield stop
            stop.set()
            nursery.cancel_scope.deadline = trio.current_time() + STOP_SECONDS
        assert not nursery.cancel_scope.cancelled_caught, "the plugin did not stop"

    return run
