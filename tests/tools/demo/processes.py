"""The real executable as processes: started, listened to, stopped; none outlives the nursery it was started in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tests.tools.demo.report import StepFailed

START_SECONDS = 20.0
RUN_SECONDS = 20.0
STOP_SECONDS = 10.0

# An operator's own catalogue and template can be tried in the demo; no other setting of the caller's may change it.
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "BITFUSIOND_CLIENTS", "BITFUSIOND_INJECTION")


def executable() -> list[str]:
    """The installed console script; the module where there is none."""
    script = Path(sys.executable).with_name("bitfusiond")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "bitfusiond"]


def environment() -> dict[str, str]:
    """What every process of the demo gets of the caller's environment."""
    return {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}


class Daemon:
    """One long-lived role, and what it has logged. Made by :meth:`start`."""

    def __init__(self, name: str, process: trio.Process, echo: Callable[[str], None]) -> None:
        self.name = name
        self.lines: list[str] = []
        self._process = process
        self._echo = echo
        self._ended = False
        self._news = trio.Event()

    @classmethod
    async def start(
        cls, nursery: trio.Nursery, name: str, arguments: Sequence[str], directory: Path, echo: Callable[[str], None]
    ) -> Daemon:
        """``bitfusiond --role NAME ARGUMENTS`` in ``nursery``, whose end ends it; it logs to ``directory/NAME.log``."""
        command = [*executable(), "--role", name, *arguments]
        process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                env=environment(),
                cwd=directory,
            )
        )
        daemon = cls(name, process, echo)
        nursery.start_soon(daemon._read, directory / f"{name}.log")
        return daemon

    async def event(self, wanted: str) -> dict[str, Any]:
        """The fields of the first log line with this ``event``. Raises StepFailed if it does not come."""
        expected = f"{self.name} logs the event {wanted!r} within {START_SECONDS:g} s"
        seen = 0
        with trio.move_on_after(START_SECONDS):
            while True:
                while seen < len(self.lines):
                    fields = _fields(self.lines[seen])
                    seen += 1
                    if fields.get("event") == wanted:
                        return fields
                if self._ended:
                    raise StepFailed(expected, f"it ended, exit status {await self._process.wait()}")
                await self._news.wait()
        raise StepFailed(expected, "it has not")

    def terminate(self) -> None:
        """Send SIGTERM, as a kubelet does to a container that is to end."""
        self._process.terminate()

    async def ended(self) -> int:
        """The exit status, after :meth:`terminate`. Raises StepFailed where it goes on."""
        with trio.move_on_after(STOP_SECONDS):
            return await self._process.wait()
        raise StepFailed(f"{self.name} ends within {STOP_SECONDS:g} s of SIGTERM", "it still runs")

    async def _read(self, log: Path) -> None:
        assert self._process.stdout is not None
        rest = b""
        with log.open("wb") as file:
            async for chunk in self._process.stdout:
                file.write(chunk)
                *lines, rest = (rest + bytes(chunk)).split(b"\n")
                self._heard(lines)
        self._ended = True
        self._heard([rest] if rest else [])

    def _heard(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self.lines.append(line.decode(errors="replace"))
            self._echo(f"{self.name}: {self.lines[-1]}")
        self._news.set()
        self._news = trio.Event()


class Finished:
    """A process that ran to its end."""

    def __init__(self, name: str, status: int, stdout: str, stderr: str) -> None:
        self.name = name
        self.status = status
        self.stdout = stdout
        self.lines = stderr.splitlines()


async def run(name: str, command: Sequence[str], directory: Path, variables: Mapping[str, str]) -> Finished:
    """Run ``command`` to its end. Raises StepFailed where it does not start or does not end in time."""
    try:
        with trio.fail_after(RUN_SECONDS):
            result = await trio.run_process(
                command,
                stdin=b"",
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=dict(variables),
                cwd=directory,
            )
    except trio.TooSlowError:
        raise StepFailed(f"{name} ends within {RUN_SECONDS:g} s", "it still ran and was killed") from None
    except OSError as error:
        raise StepFailed(f"{name} starts", f"{command[0]}: {error.strerror}") from None
    return Finished(name, result.returncode, result.stdout.decode(errors="replace"), result.stderr.decode())


def _fields(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
