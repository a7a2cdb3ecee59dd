"""What the answer is written to: a terminal of any encoding, a file, or nothing at all."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bitfusiond.errors import Failure


def prepare() -> None:
    """No sign is an error where the terminal has none like it, and a stderr that is closed is a silent one."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the program runs
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flushed(run: Callable[[], int]) -> int:
    """What ``run()`` returns, when all that it wrote has arrived. Raises OSError, and Failure for a closed stdout."""
    if sys.stdout is None:
        raise Failure("the answer cannot be written: stdout is closed")
    try:
        return run()
    finally:
        sys.stdout.flush()


def forget() -> None:
    """What could not be written: Python would stumble over it once more when it closes stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
