"""When certificates change, so that no client is ever shown one that it does not trust. Decisions only, as values.

The replicas of a webhook share one certificate authority through a Secret, and nobody leads them. The order that keeps
every handshake good:

1. A CA that is two thirds through its life gets a successor: :class:`AddNext`. It is trusted and signs nothing.
2. Every replica writes the Secret's trusted CAs into every ``caBundle``.
3. Once all of them have held the successor for a while, it becomes the one that signs: :class:`Promote`.
4. Each replica changes to a serving certificate of the new CA, and no serving certificate of the old one outlives its
   own few days: then the old CA is no longer trusted: :class:`Drop`.

Any replica may take any step, since each is one write of the Secret that fails where another was faster. Times are
seconds since the epoch; ``now`` is the caller's clock, which may jump.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

DAY = 86400.0
RENEW_AT = 2 / 3
# CAs that a new start takes over. Reached only where Secrets break again and again, or clocks disagree.
MOST_TAKEN_OVER = 7

Bundles = Mapping[str, frozenset[str] | None]
"""Which CAs the ``caBundle`` of each configuration holds; None for a configuration that does not exist."""


@dataclass(frozen=True, slots=True)
class Lives:
    """How long things last, in seconds. ``backdate`` is how far other clocks may be behind that of the signer."""

    ca: float = 365 * DAY
    leaf: float = 7 * DAY
    backdate: float = 15 * 60.0
    # API servers learn of a new caBundle by watches of their own, a moment after it is written.
    settle: float = 5 * 60.0


@dataclass(frozen=True, slots=True)
class Span:
    """The validity of a certificate."""

    not_before: float
    not_after: float

    def covers(self, now: float) -> bool:
        return self.not_before <= now < self.not_after

    def due(self, now: float) -> bool:
        """Whether two thirds of it are over."""
        return now >= self.not_before + (self.not_after - self.not_before) * RENEW_AT

    def fault(self, now: float) -> str | None:
        if now < self.not_before:
            return "is not valid yet"
        return "has expired" if now >= self.not_after else None


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA by its fingerprint."""

    id: str
    span: Span


@dataclass(frozen=True, slots=True)
class Leaf:
    """A serving certificate, and the CA that signed it."""

    authority: str
    span: Span


@dataclass(frozen=True, slots=True)
class Keyring:
    """What the Secret holds: the CAs to trust, which of them signs and since when, and which will sign next."""

    trusted: tuple[Authority, ...]
    signing: str
    next: str | None = None
    signing_since: float | None = None

    def find(self, identity: str | None) -> Authority | None:
        return next((each for each in self.trusted if each.id == identity), None)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(each.id for each in self.trusted)

    @property
    def retired(self) -> frozenset[str]:
        """Trusted for the sake of what they signed; their keys are gone."""
        return self.ids - {self.signing, self.next}


@dataclass(frozen=True, slots=True)
class StartOver:
    """Make a CA that signs at once. All CAs that are known stay trusted, for replicas that still show their work."""

    why: str
    # Because of the time: two replicas whose clocks disagree could do this in turns.
    by_clock: bool = False


@dataclass(frozen=True, slots=True)
class AddNext:
    """Make a CA that will sign later, and trust it from now on."""


@dataclass(frozen=True, slots=True)
class Promote:
    """Let the next CA sign. The key of the one before is forgotten."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Trust these no longer."""

    ids: frozenset[str]


Step = StartOver | AddNext | Promote | Drop


def secret_step(keyring: Keyring | None, now: float, settled: Collection[str], lives: Lives) -> Step | None:
    """What to do with the Secret next; None if all is well.

    ``settled``: the CAs that every caBundle has held for ``lives.settle``.
    """
    signing = keyring.find(keyring.signing) if keyring else None
    if keyring is None or signing is None:
        return StartOver("there is none")
    following = keyring.find(keyring.next)
    usable = following is not None and following.span.covers(now)
    fault = signing.span.fault(now)
    if usable and (fault or keyring.next in settled):
        return Promote()
    if fault:
        return StartOver(f"it {fault}", by_clock=True)
    if signing.span.due(now) and not usable:
        return AddNext()
    return _drop(keyring, now, lives)


def _drop(keyring: Keyring, now: float, lives: Lives) -> Drop | None:
    """CAs of which no serving certificate can be alive.

    Not at their own expiry: a replica whose clock is years ahead would take the trust away from all the others.
    """
    if keyring.signing_since is not None:
        last_leaf = keyring.signing_since + lives.leaf
        gone = keyring.retired if now >= last_leaf + lives.backdate else frozenset[str]()
    else:
        gone = frozenset(
            each.id for each in keyring.trusted if each.id in keyring.retired and each.span.not_after <= now
        )
    return Drop(gone) if gone else None


def span_of_ca(now: float, lives: Lives) -> Span:
    return Span(now - lives.backdate, now + lives.ca)


def span_of_leaf(now: float, signing: Authority, lives: Lives) -> Span:
    """Never beyond the CA's own end: what it signed dies with it."""
    return Span(now - lives.backdate, min(now + lives.leaf, signing.span.not_after))


def reason_to_sign(
    leaf: Leaf | None, keyring: Keyring, now: float, held: Collection[str], settled: Collection[str], lives: Lives
) -> str | None:
    """Why this replica needs a new serving certificate now, signed by the CA that signs; None if it does not.

    ``held``: the CAs that every caBundle holds at this moment.
    """
    signing = keyring.find(keyring.signing)
    if signing is None or not signing.span.covers(now):
        return None
    if leaf is None:
        return "there is none"
    if fault := leaf.span.fault(now):
        return f"it {fault}"
    if leaf.authority != signing.id:
        return _reason_to_change(leaf, keyring, held, settled)
    # Near the end of its CA a new one would end no later, and each would be due at once.
    gains = span_of_leaf(now, signing, lives).not_after > leaf.span.not_after
    return "two thirds of its life are over" if gains and leaf.span.due(now) else None


def _reason_to_change(leaf: Leaf, keyring: Keyring, held: Collection[str], settled: Collection[str]) -> str | None:
    if keyring.signing in settled:
        return "another CA signs now"
    if leaf.authority not in held and (keyring.signing in held or leaf.authority not in keyring.ids):
        return "its CA is no longer trusted"
    return None


def held_by_all(ids: Collection[str], bundles: Bundles) -> frozenset[str]:
    """Those of ``ids`` that every caBundle holds.

    A configuration that does not exist holds nothing back: the API server calls nobody on its account, and when it
    is made its caBundle is written whole.
    """
    return frozenset(ids).intersection(*(bundle for bundle in bundles.values() if bundle is not None))


@dataclass(slots=True)
class Settling:
    """Since when every caBundle holds which CA, on a clock that never jumps."""

    since: dict[str, float] = field(default_factory=dict)

    def saw(self, held: Collection[str], elapsed: float) -> None:
        """One look at all caBundles: a CA that is missing in one of them starts from nothing."""
        self.since = {each: self.since.get(each, elapsed) for each in held}

    def settled(self, elapsed: float, lives: Lives) -> frozenset[str]:
        return frozenset(each for each, since in self.since.items() if elapsed - since >= lives.settle)


def distrust(leaf: Leaf | None, now: float, bundles: Bundles) -> str | None:
    """Why the API server would not trust this replica now; None if it does."""
    if leaf is None:
        return "there is no serving certificate yet"
    if fault := leaf.span.fault(now):
        return f"the serving certificate {fault}"
    missing = [name for name, bundle in bundles.items() if bundle is not None and leaf.authority not in bundle]
    return f"the CA of the serving certificate is not in the caBundle of {' and '.join(missing)}" if missing else None


def taken_over(known: Collection[Authority]) -> tuple[Authority, ...]:
    """Which CAs stay trusted over a new start: the newest."""
    return tuple(sorted(known, key=lambda each: (-each.span.not_before, each.id))[:MOST_TAKEN_OVER])
