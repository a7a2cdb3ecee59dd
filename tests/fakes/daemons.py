"""The executable as a process of its own, and what it logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

SECONDS = 20.0


class Daemon:
    """A running process and the lines that it has logged."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._news = trio.Event()

    async def read(self) -> None:
        buffer = b""
        assert self.process.stderr is not None
        async for chunk in self.process.stderr:
            *lines, buffer = (buffer + chunk).split(b"\n")
            self.lines += [json.loads(line) for line in lines]
            self._news.set()
            self._news = trio.Event()

    async def event(self, name: str, number: int = 1) -> dict[str, Any]:
        """The ``number``-th line of that event, as soon as it is there."""
        with trio.fail_after(SECONDS):
            while len(found := [line for line in self.lines if line["event"] == name]) < number:
                await self._news.wait()
        return found[number - 1]

    async def ended(self) -> int:
        """The exit status."""
        with trio.fail_after(SECONDS):
            return await self.process.wait()

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal; return the exit status."""
        self.process.send_signal(number)
        return await self.ended()


@asynccontextmanager
async def daemon(command: Sequence[str], variables: Mapping[str, str] | None = None) -> AsyncIterator[Daemon]:
    """Run ``command`` with more ``variables`` of the environment; it is killed where it still runs at the end."""
    environment = {**os.environ, **(variables or {})}
    process = await trio.lowlevel.open_process(list(command), stderr=subprocess.PIPE, env=environment)
    running = Daemon(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.read)
        try:
            yield running
        finally:
            if process.returncode is None:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


async def refused(command: Sequence[str], variables: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The exit status of a daemon that does not run, and the only line that it prints."""
    environment = {**os.environ, **(variables or {})}
    with trio.fail_after(SECONDS):
        result = await trio.run_process(
            list(command), check=False, capture_stderr=True, capture_stdout=True, env=environment
        )
    assert result.stdout == b""
    (line,) = result.stderr.decode().splitlines()
    return result.returncode, line
