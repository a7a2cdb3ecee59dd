"""Tables for people: with rich on a terminal where it is installed, else in plain text.

What objects say goes to a terminal: no sign of theirs may move its cursor, or change its title.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = "  "


@dataclass(frozen=True, slots=True)
class Table:
    """Each row has a cell for each of ``columns``; ``numbers`` are the columns that stand to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str] = frozenset()


def printable(text: str) -> str:
    """``text`` without signs that a terminal obeys, or that change the direction of writing."""
    return "".join(each if each.isprintable() else "?" for each in text)


def show(tables: Sequence[Table], lines: Sequence[str]) -> None:
    """Print the tables that have rows, then the lines."""
    filled = [_printable(each) for each in tables if each.rows]
    if not (sys.stdout.isatty() and _with_rich(filled)):
        for table in filled:
            sys.stdout.write("\n".join([*plain(table), "", ""]))
    for line in lines:
        sys.stdout.write(f"{printable(line)}\n")
    sys.stdout.flush()


def _printable(table: Table) -> Table:
    return Table(table.columns, [[printable(cell) for cell in row] for row in table.rows], table.numbers)


def plain(table: Table) -> list[str]:
    """Lines, a heading first; nothing behind the last word of one."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.columns))]
    lines = []
    for row in rows:
        cells = zip(table.columns, row, widths, strict=True)
        aligned = [cell.rjust(width) if name in table.numbers else cell.ljust(width) for name, cell, width in cells]
        lines.append(_GAP.join(aligned).rstrip())
    return lines


def _with_rich(tables: Sequence[Table]) -> bool:
    """Whether rich printed them. It goes by NO_COLOR itself."""
    try:
        from rich import box, console, table, text  # noqa: PLC0415 - not everybody has installed it
    except ImportError:
        return False
    screen = console.Console(highlight=False, markup=False, emoji=False)
    for each in tables:
        made = table.Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        for name in each.columns:
            made.add_column(name, justify="right" if name in each.numbers else "left", overflow="fold")
        for row in each.rows:
            made.add_row(*(text.Text(cell) for cell in row))
        screen.print(made)
    return True
