"""A device plugin directory with a short name, and the plugin running in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from bitfusiond import settings
from bitfusiond.plugin import service

RunPlugin = Callable[..., AbstractAsyncContextManager[trio.Event]]
Events = Callable[..., list[dict[str, Any]]]

STOP_SECONDS = 10.0


@pytest.fixture
def directory() -> Iterator[Path]:
    """pytest's own temporary paths can be longer than a unix socket's path may be."""
    path = Path(tempfile.mkdtemp(prefix="dp-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def run_plugin(directory: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlugin:
    """``async with run_plugin(resource_nums="20") as stop``: the plugin of this process, stopped at the end.

    It looks at the sockets more often than on a node, so that the tests wait less.
    """
    monkeypatch.setattr(service, "POLL_SECONDS", 0.05)

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


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Events:
    """What was logged so far: every line, or those of one event, as its fields and ``event``."""
    caplog.set_level("INFO", "bitfusiond")

    def lines(event: str | None = None) -> list[dict[str, Any]]:
        found = [
            {"event": record.getMessage(), "level": record.levelname, **getattr(record, "fields", {})}
            for record in caplog.records
            if record.name.startswith("bitfusiond.")
        ]
        return [line for line in found if event in {None, line["event"]}]

    return lines


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition()`` is true. Raises trio.TooSlowError."""
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.01)
