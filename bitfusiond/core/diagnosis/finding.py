"""What a diagnosis says: lines of plain English, each with the next command where there is one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from bitfusiond.core.text import cut, one_line

_LONGEST = 600  # characters of a line; a scheduler's message about many nodes may be longer


class State(Enum):
    """GOOD: nothing to do here. BAD: this is in the way. UNKNOWN: it could not be seen, or decides nothing."""

    GOOD = "good"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """``next`` is a command, or what to do in a few words; empty where there is nothing to do."""

    state: State
    line: str
    next: str = ""


def good(line: str) -> Finding:
    return Finding(State.GOOD, cut(one_line(line), _LONGEST))


def bad(line: str, following: str) -> Finding:
    return Finding(State.BAD, cut(one_line(line), _LONGEST), following)


def unknown(line: str, following: str = "") -> Finding:
    return Finding(State.UNKNOWN, cut(one_line(line), _LONGEST), following)


def is_bad(findings: Iterable[Finding]) -> bool:
    return any(each.state is State.BAD for each in findings)


@dataclass(frozen=True, slots=True)
class Unread:
    """In the place of something that could not be read. ``what`` is a plural: nodes, secrets in kube-system.

    ``why`` is empty where this account may not read it.
    """

    what: str
    why: str = ""

    @property
    def words(self) -> str:
        return f"cannot read {self.what}: {self.why}" if self.why else f"may not read {self.what}: ask the operator"

    @property
    def finding(self) -> Finding:
        return unknown(self.words)
