"""One object of the pool as it is to be and as it is stored, and when that is worth a write. It makes no requests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bitfusiond.core.fields import Json
from bitfusiond.core.pool.inventory import Server
from bitfusiond.core.pool.slices import Stored
from bitfusiond.kube import Resource
from bitfusiond.pacing import Backoff

# The kubelet's sync period of a minute, and as long again for its cache of ConfigMaps.
SETTLE_SECONDS = 120.0
DROPPED_SECONDS = 3600.0  # until what the API server dropped is tried again
_RETRY_SECONDS = (0.5, 60.0)

Make = Callable[[int, str | None], Json]  # an object out of its generation and the time of its taint


@dataclass(slots=True, eq=False)
class Record:
    """An object of ours, as it is to be and as it is. ``make`` None: it is not to be."""

    resource: Resource
    name: str
    server: Server | None = None
    make: Make | None = None
    wanted: str | None = None
    """What stands for the content that it is to have; None: not worked out yet."""
    stored: Stored | None = None
    is_own_change: bool = False
    """Our own file made the difference."""
    differs_since: float = 0.0
    differs_as: str | None = None
    is_being_written: bool = False
    """What comes of the write under way is not known: an apply may bring back what was not to be meanwhile."""
    taint: bool | None = None
    """Whether to taint it, or to take the taint away; None: it stays as it is."""
    answers: int = 0
    is_down: bool = False
    accepted: tuple[str, str] | None = None
    """A content as it was sent and as it was stored."""
    accepted_at: float = 0.0
    dropped: tuple[str, ...] = ()
    error: str | None = None
    retry_at: float = 0.0
    backoff: Backoff = field(default_factory=lambda: Backoff(*_RETRY_SECONDS))

    def want(self, make: Make | None, server: Server | None, *, is_own_change: bool) -> None:
        self.make, self.server = make, server
        self.wanted = self.accepted = None
        self.is_own_change = self.is_own_change or is_own_change

    def observe(self, stored: Stored | None, now: float) -> None:
        """It is stored so."""
        if (stored and stored.tainted) != (self.stored and self.stored.tainted):
            self.answers = 0
        if stored and (stored.tainted or (self.accepted and stored.content != self.accepted[1])):
            self.dropped = ()  # the API server takes it by now
        self.stored = stored
        self.note_difference(now)

    def note_difference(self, now: float) -> None:
        """Note since when it has differed as it does now."""
        if self.taint is not None and self.stored is not None and self.taint == (self.stored.tainted is not None):
            self.taint = None
        if not self.differs(now):
            self.differs_as = None
            self.is_own_change = self.is_own_change and self.is_being_written
            if self.stored is None or (
                self.stored.content == self.wanted and now >= self.accepted_at + DROPPED_SECONDS
            ):
                self.dropped = ()  # a taint, which nobody tries again until a server goes down
            if self.taint is None:
                self.succeeded()
            return
        differs_as = "" if self.stored is None else self.stored.content
        if differs_as != self.differs_as:
            self.differs_as, self.differs_since = differs_as, now

    def differs(self, now: float) -> bool:
        if self.make is None or self.stored is None:
            return (self.make is None) != (self.stored is None)
        return self.stored.content != self.wanted and not self._is_accepted(now)

    def due_at(self, now: float) -> float | None:
        """When to write it; None: not until something changes."""
        if self.make is not None and self.stored is None:
            due = now
        elif self.differs(now):
            due = now if self.is_own_change else self.differs_since + SETTLE_SECONDS
        elif self.taint is not None:
            due = now
        else:
            return None
        return max(due, self.retry_at)

    def accept(self, content: str, dropped: Iterable[str], now: float) -> None:
        """The API server made ``content`` of what was sent."""
        self.dropped = tuple(dropped)
        self.accepted, self.accepted_at = (str(self.wanted), content), now

    def failed(self, error: str | None, now: float) -> None:
        """A write failed; ``error`` None: for nothing that is worth a word."""
        self.error = error
        self.retry_at = now + self.backoff.failed()

    def succeeded(self) -> None:
        self.error = None
        self.retry_at = 0.0
        self.backoff.reset()

    def _is_accepted(self, now: float) -> bool:
        assert self.stored is not None  # noqa: S101 - differs() looked
        return self.accepted == (self.wanted, self.stored.content) and now < self.accepted_at + DROPPED_SECONDS
