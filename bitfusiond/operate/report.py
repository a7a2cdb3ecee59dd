"""What the commands print: of several problems each on a line; a table of what was looked at, with the next command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bitfusiond.core.text import one_line

Say = Callable[[str], None]
"""Prints a line, at once."""

OK, WRONG, NOTE = "ok", "WRONG", "note"


@dataclass(frozen=True, slots=True)
class Row:
    """``state`` is OK, WRONG or NOTE (nothing to mend, or nothing that could be seen); ``fix`` the next command."""

    what: str
    state: str
    detail: str = ""
    fix: str = ""


def table(rows: Sequence[Row]) -> list[str]:
    """Lines: object, state, detail; the fix of a row on a line below it, as long as it is."""
    width = max((len(row.what) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row.what:{width}}  {row.state:5}  {row.detail}".rstrip())
        if row.fix:
            lines.append(f"{'':{width}}         -> {row.fix}")
    return lines


def listed(heading: str, problems: Sequence[str]) -> str:
    """The message of a Failure that has several reasons: one behind the heading, more on a line each."""
    lines = [one_line(problem) for problem in problems]
    if len(lines) == 1:
        return f"{heading}: {lines[0]}"
    return "\n".join([f"{heading}:", *(f"  - {line}" for line in lines)])


def wrong(rows: Iterable[Row]) -> int:
    """How many rows are wrong."""
    return sum(row.state == WRONG for row in rows)
