"""What is printed: progress, and problems."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def count(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def reason(error: OSError) -> str:
    return ": ".join(str(part) for part in (error.filename, error.strerror) if part)


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def complain(line: str) -> None:
    print(f"distros: {line}", file=sys.stderr)  # noqa: T201
