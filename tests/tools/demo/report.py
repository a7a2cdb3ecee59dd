"""What a person reads: numbered steps, a line for each thing that happened, and a table of how long it took."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol, TextIO

import trio

_CODES = {"green": "32", "red": "31", "cyan": "36", "bold": "1", "dim": "2"}
_TAIL = 15  # lines of a log
_LAST_WORDS_SECONDS = 0.2  # what a process has just logged is on its way


class StepFailed(Exception):  # noqa: N818 - it says what it is
    """A step did not do what it should."""

    def __init__(self, expected: str, got: object) -> None:
        super().__init__(f"expected {expected}; got {got}")
        self.expected = expected
        self.got = got


class DemoStoppedError(Exception):
    """A step failed, that has been printed, and the steps behind it cannot do without it."""


def expect(got: object, wanted: object, what: str) -> None:
    """Raises StepFailed unless ``got`` is ``wanted``."""
    if got != wanted:
        raise StepFailed(f"{what}: {wanted}", got)


def require(condition: bool, expected: str, got: object) -> None:
    """Raises StepFailed unless ``condition`` holds."""
    if not condition:
        raise StepFailed(expected, got)


class HasLog(Protocol):
    """A process whose last words help to see why a step failed."""

    name: str
    lines: list[str]


@dataclass
class Step:
    """One numbered step, while it runs."""

    number: int
    title: str
    meaning: str
    report: Report
    processes: list[HasLog] = field(default_factory=list)
    seconds: float = 0.0
    outcome: str = "not run"

    def leans_on(self, *processes: HasLog) -> None:
        """Show the end of their logs if this step fails."""
        self.processes += processes

    def done(self, line: str) -> None:
        """Say in one line what happened."""
        self.report.line(f"   {self.report.check} {line}", "green", of=self.report.check)

    def show(self, lines: Iterable[str]) -> None:
        """Output of somebody else, set off from what the demo says itself."""
        for line in lines:
            text = line.rstrip("\n")
            self.report.line(f"     | {text}", {"+": "green", "-": "red", "@": "cyan"}.get(text[:1], "dim"))


class Report:
    """Prints to ``out``; colours only where a terminal shows them.

    ``titles`` of the steps: what happens, in a few words, and in a sentence what it is for.
    """

    def __init__(self, out: TextIO, titles: Iterable[tuple[str, str]]) -> None:
        self._out = out
        self._colours = out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"
        self.check, self.cross = ("✓", "✗") if _can_print("✓✗", out) else ("ok", "FAILED")
        self.steps = [Step(number, *title, self) for number, title in enumerate(titles, 1)]
        self._began = time.perf_counter()

    @property
    def failed(self) -> bool:
        return any(step.outcome != "done" for step in self.steps)

    def line(self, text: str = "", colour: str | None = None, of: str | None = None) -> None:
        """Print a line, all of it or the first ``of`` in it in ``colour``."""
        part = text if of is None else of
        if self._colours and colour and part:
            text = text.replace(part, f"\x1b[{_CODES[colour]}m{part}\x1b[0m", 1)
        print(text, file=self._out, flush=True)

    @asynccontextmanager
    async def step(self, number: int) -> AsyncIterator[Step]:
        """Step ``number``, from 1. Raises DemoStoppedError after a failure, which it prints."""
        step = self.steps[number - 1]
        self.line(f"\n{number}. {step.title}", "bold")
        self.line(f"   {step.meaning}", "dim")
        began = time.perf_counter()
        try:
            yield step
        except StepFailed as failure:
            await self._failure(step, failure.expected, str(failure.got))
            raise DemoStoppedError from None
        except Exception as error:
            await self._failure(step, "no error", f"{type(error).__name__}: {error}")
            raise DemoStoppedError from error
        else:
            step.outcome = "done"
        finally:
            step.seconds = time.perf_counter() - began

    async def _failure(self, step: Step, expected: str, got: str) -> None:
        step.outcome = "FAILED"
        await trio.sleep(_LAST_WORDS_SECONDS)
        self.line(f"   {self.cross} {step.title}", "red")
        for label, text in (("expected", expected), ("got", got)):
            first, *others = text.splitlines() or [""]
            self.line(f"     {label + ':':10}{first}")
            for line in others:
                self.line(f"{'':15}{line}")
        for process in step.processes:
            self.line(f"     the end of the log of {process.name}:")
            step.show(process.lines[-_TAIL:] or ["(nothing)"])

    def table(self) -> None:
        """How long each step took, and the verdict."""
        width = max(len(step.title) for step in self.steps)
        self.line(f"\n   {'step':{width}}  {'seconds':>7}")
        for step in self.steps:
            took = f"{step.seconds:7.2f}" if step.outcome != "not run" else f"{'-':>7}"
            note = "" if step.outcome == "done" else f"  {step.outcome}"
            self.line(f"{step.number}. {step.title:{width}}  {took}{note}")
        self.line(f"   {'all':{width}}  {time.perf_counter() - self._began:7.2f}")
        done = sum(step.outcome == "done" for step in self.steps)
        verdict = f"{done} of {len(self.steps)} steps did what they should."
        mark, colour = (self.cross, "red") if self.failed else (self.check, "green")
        self.line(f"\n{mark} {verdict}", colour, of=mark)


def _can_print(text: str, out: TextIO) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
