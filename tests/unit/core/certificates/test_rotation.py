"""Rotation: single decisions, and replicas in a world where everything may happen at a bad moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusiond.core.certificates import rotation
from bitfusiond.core.certificates.rotation import (
    AddNext,
    Authority,
    Drop,
    Keyring,
    Leaf,
    Lives,
    Promote,
    Settling,
    Span,
    StartOver,
    distrust,
    held_by_all,
    reason_to_sign,
    secret_step,
)

LIVES = Lives(ca=9000, leaf=900, backdate=100, settle=60)
NOW = 1_000_000.0


def ca(name: str, born: float = NOW, life: float = LIVES.ca) -> Authority:
    return Authority(name, Span(born - LIVES.backdate, born + life))


OLD, NEW = ca("old"), ca("new", NOW + 6000)
ONE = Keyring((OLD,), "old", signing_since=NOW)
BOTH = Keyring((OLD, NEW), "old", "new", NOW)
CHANGED = Keyring((NEW, OLD), "new", None, NOW + 6100)


@pytest.mark.parametrize(
    ("keyring", "after", "settled", "step"),
    [
        pytest.param(None, 0, "", StartOver("there is none"), id="nothing there"),
        pytest.param(replace(ONE, signing="lost"), 0, "", StartOver("there is none"), id="the signing CA is not there"),
        pytest.param(ONE, 5900, "old", None, id="young"),
        pytest.param(ONE, 5999, "old", AddNext(), id="two thirds over"),
        pytest.param(BOTH, 6001, "old", None, id="the next CA is not everywhere yet"),
        pytest.param(BOTH, 6001, "old new", Promote(), id="the next CA is everywhere"),
        pytest.param(BOTH, 9000, "", Promote(), id="the signing CA has expired: the next one has to do"),
        pytest.param(BOTH, 20000, "", StartOver("it has expired", by_clock=True), id="both have expired"),
        pytest.param(ONE, 9000, "old", StartOver("it has expired", by_clock=True), id="expired"),
        pytest.param(ONE, -101, "old", StartOver("it is not valid yet", by_clock=True), id="the clock went back"),
        pytest.param(ONE, -99, "old", None, id="the clock went back a little"),
        pytest.param(replace(BOTH, trusted=(OLD, ca("new", NOW + 8000))), 6200, "new", AddNext(), id="next not valid"),
        pytest.param(CHANGED, 7099, "new", None, id="what the old CA signed may be alive"),
        pytest.param(CHANGED, 7100, "new", Drop(frozenset({"old"})), id="what the old CA signed is dead"),
        pytest.param(replace(CHANGED, signing_since=None), 8999, "new", None, id="since when is not known"),
        pytest.param(
            replace(CHANGED, signing_since=None), 9000, "new", Drop(frozenset({"old"})), id="not known, but expired"
        ),
    ],
)
def test_what_is_next_for_the_secret(
    keyring: Keyring | None, after: float, settled: str, step: rotation.Step | None
) -> None:
    assert secret_step(keyring, NOW + after, settled.split(), LIVES) == step


def leaf(authority: str, born: float) -> Leaf:
    return Leaf(authority, Span(NOW + born - LIVES.backdate, NOW + born + LIVES.leaf))


@pytest.mark.parametrize(
    ("mine", "keyring", "after", "held", "settled", "reason"),
    [
        pytest.param(None, ONE, 0, "", "", "there is none", id="none"),
        pytest.param(None, ONE, 9000, "old", "old", None, id="nothing to sign with: the CA has expired"),
        pytest.param(leaf("old", 0), ONE, 560, "old", "old", None, id="young"),
        pytest.param(leaf("old", 0), ONE, 570, "old", "old", "two thirds of its life are over", id="due"),
        pytest.param(leaf("old", 0), ONE, 570, "", "", "two thirds of its life are over", id="due, caBundles empty"),
        pytest.param(leaf("old", 0), ONE, 900, "old", "old", "it has expired", id="expired"),
        pytest.param(leaf("old", 900), ONE, 0, "old", "old", "it is not valid yet", id="the clock went back"),
        pytest.param(leaf("old", 6090), CHANGED, 6101, "old new", "old", None, id="the new CA has not settled here"),
        pytest.param(leaf("old", 6090), CHANGED, 6200, "old new", "new", "another CA signs now", id="it has"),
        pytest.param(leaf("old", 6090), CHANGED, 6101, "new", "", "its CA is no longer trusted", id="old CA gone"),
        pytest.param(leaf("old", 6090), CHANGED, 6101, "", "", None, id="caBundles empty: both come back together"),
        pytest.param(leaf("lost", 6090), CHANGED, 6101, "", "", "its CA is no longer trusted", id="CA forgotten"),
        pytest.param(
            Leaf("old", Span(NOW + 8000, NOW + 9000)), ONE, 8990, "old", "old", None, id="ends with its CA anyway"
        ),
    ],
)
def test_when_a_replica_signs_anew(
    mine: Leaf | None, keyring: Keyring, after: float, held: str, settled: str, reason: str | None
) -> None:
    assert reason_to_sign(mine, keyring, NOW + after, held.split(), settled.split(), LIVES) == reason


def test_a_serving_certificate_ends_with_its_ca_at_the_latest() -> None:
    assert rotation.span_of_leaf(NOW + 8500, OLD, LIVES).not_after == OLD.span.not_after


def test_a_configuration_that_does_not_exist_holds_nothing_back() -> None:
    assert held_by_all(["old"], {"mutating": None, "validating": frozenset({"old"})}) == {"old"}
    assert held_by_all(["old"], {"mutating": frozenset(), "validating": None}) == frozenset()
    assert distrust(leaf("old", 0), NOW, {"mutating": None, "validating": None}) is None


def test_not_ready_says_which_configuration_lacks_the_ca() -> None:
    bundles = {"mutating": frozenset({"old"}), "validating": frozenset({"new"})}
    assert distrust(leaf("old", 0), NOW, bundles) == (
        "the CA of the serving certificate is not in the caBundle of validating"
    )
    assert distrust(leaf("old", 0), NOW + 900, bundles) == "the serving certificate has expired"
    assert distrust(None, NOW, bundles) == "there is no serving certificate yet"


def test_a_ca_that_left_a_ca_bundle_settles_from_the_start_again() -> None:
    settling = Settling()
    settling.saw({"old"}, 0)
    settling.saw({"old"}, 60)
    assert settling.settled(60, LIVES) == {"old"}
    settling.saw(set(), 61)
    settling.saw({"old"}, 62)
    assert settling.settled(121, LIVES) == frozenset()
    assert settling.settled(122, LIVES) == {"old"}


def test_a_new_start_carries_over_the_newest_and_not_without_end() -> None:
    kept = rotation.taken_over([ca(str(number), NOW + number) for number in range(20)])
    assert [each.id for each in kept] == [str(number) for number in range(19, 12, -1)]


# --- replicas ----------------------------------------------------------------------------------------------------

SHORT = Lives(ca=2400, leaf=900, backdate=100, settle=60)
# How long reading may take: a request that has had no answer for so long is given up.
DEADLINE = 5.0
# How long an API server may go on with a caBundle that has been replaced.
LAG = 50.0
SKEW = SHORT.backdate / 4


@dataclass
class World:
    """A Secret, two caBundles, and the API servers that may be LAG behind."""

    now: float = NOW
    checked: bool = True
    secret: Keyring | None = None
    version: int = 0
    made: int = 0
    bundles: dict[str, frozenset[str] | None] = field(default_factory=lambda: {"m": frozenset(), "v": frozenset()})
    versions: dict[str, int] = field(default_factory=lambda: {"m": 0, "v": 0})
    spans: dict[str, Span] = field(default_factory=dict)
    replaced: list[tuple[float, frozenset[str]]] = field(default_factory=list)

    def write_bundle(self, name: str, ids: frozenset[str] | None) -> None:
        before = self.bundles[name]
        if before:
            self.replaced.append((self.now, before))
        self.bundles[name] = ids
        self.versions[name] += 1

    def seen_by_api_servers(self) -> Iterator[frozenset[str]]:
        yield from (bundle for bundle in self.bundles.values() if bundle)
        yield from (bundle for at, bundle in self.replaced if self.now - at <= LAG)

    def perform(self, step: rotation.Step, keyring: Keyring | None, now: float) -> Keyring:
        """What the edge does with a step, on values."""
        match step, keyring:
            case Promote(), Keyring(next=str(following)):
                return replace(keyring, signing=following, next=None, signing_since=now)
            case Drop(ids), Keyring():
                return replace(keyring, trusted=tuple(each for each in keyring.trusted if each.id not in ids))
        self.made += 1
        made = Authority(str(self.made), rotation.span_of_ca(now, SHORT))
        self.spans[made.id] = made.span
        if isinstance(step, AddNext) and keyring is not None:
            return replace(keyring, trusted=(*keyring.trusted, made), next=made.id)
        known = (keyring.ids if keyring else frozenset()).union(*(bundle or () for bundle in self.bundles.values()))
        others = rotation.taken_over([Authority(each, self.spans[each]) for each in known])
        return Keyring((made, *others), made.id, None, now)


class Replica:
    """One replica, that can be stopped between any two of its requests."""

    def __init__(self, world: World, skew: float) -> None:
        self.world = world
        self.skew = skew
        self.leaf: Leaf | None = None
        self.settling = Settling()
        self.work = self._look()
        self.reading = False
        self.asked_at = world.now
        self.ready_since: float | None = None

    @property
    def now(self) -> float:
        return self.world.now + self.skew

    def step(self) -> None:
        """Go on up to the next request."""
        if self.reading and self.world.now - self.asked_at > DEADLINE:
            self.work = self._look()
        reading = next(self.work, None)
        if reading is None:
            self.work = self._look()
            reading = next(self.work)
        self.reading = reading
        self.asked_at = self.world.now

    def _look(self) -> Iterator[bool]:
        """Gives control back before each request is answered; True for those that read. A write may come very late."""
        world = self.world
        bundles = dict(world.bundles)
        versions = dict(world.versions)
        yield True
        keyring, version = world.secret, world.version
        yield True
        held = held_by_all(keyring.ids if keyring else (), bundles)
        self.settling.saw(held, world.now)
        settled = self.settling.settled(world.now, SHORT)
        step = secret_step(keyring, self.now, settled, SHORT)
        if step is not None:
            after = world.perform(step, keyring, self.now)
            yield False
            if world.version == version:
                world.secret, world.version = after, version + 1
            return
        assert keyring is not None
        if reason_to_sign(self.leaf, keyring, self.now, held, settled, SHORT):
            signing = keyring.find(keyring.signing)
            assert signing is not None
            self.leaf = Leaf(signing.id, rotation.span_of_leaf(self.now, signing, SHORT))
        for name, bundle in bundles.items():
            if bundle is not None and bundle != keyring.ids:
                yield False
                if world.versions[name] == versions[name]:
                    world.write_bundle(name, keyring.ids)

    @property
    def serves(self) -> bool:
        return self.leaf is not None and self.leaf.span.covers(self.world.now)

    def check(self) -> None:
        """Once it was ready for as long as API servers lag, none of them ever refuses what it shows."""
        world = self.world
        if not world.checked:
            return
        # One whose end has come by a replica's own clock is replaced, trusted or not: nobody could serve with it long.
        if self.leaf is None or not self.leaf.span.covers(world.now + SKEW):
            self.ready_since = None
            return
        if self.ready_since is None and distrust(self.leaf, self.now, world.bundles) is None:
            self.ready_since = world.now
        if self.ready_since is None or world.now - self.ready_since <= LAG:
            return
        assert world.spans[self.leaf.authority].covers(world.now), "an expired CA"
        for bundle in world.seen_by_api_servers():
            assert self.leaf.authority in bundle, f"{self.leaf.authority} is not among {sorted(bundle)}"


REPLICAS = 3
EVENTS = st.one_of(
    st.tuples(st.just("step"), st.integers(0, REPLICAS - 1)),
    st.tuples(st.just("steps"), st.integers(1, 40)),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 4.0, 30.0, 61.0])),
    st.tuples(st.just("alone"), st.integers(0, REPLICAS - 1)),
    st.tuples(st.just("sleep"), st.sampled_from([200.0, 500.0, 1500.0])),
    st.tuples(st.just("restart"), st.integers(0, REPLICAS - 1)),
    st.tuples(st.just("secret deleted"), st.just(0)),
)


def happen(world: World, replicas: list[Replica], event: tuple[str, float], lost: list[int]) -> None:
    match event:
        case "step", who:
            replicas[int(who)].step()
        case "steps", count:
            for number in range(int(count)):
                replicas[number % REPLICAS].step()
                check_all(replicas)
        case "alone", who:
            for _ in range(20):
                replicas[int(who)].step()
                check_all(replicas)
        case "wait" | "sleep", seconds:
            world.now += seconds
        case "restart", who:
            replicas[int(who)] = Replica(world, replicas[int(who)].skew)
        case "secret deleted", _ if len(lost) < 4:
            lost.append(1)
            world.secret, world.version = None, world.version + 1


def check_all(replicas: list[Replica]) -> None:
    for replica in replicas:
        replica.check()


@settings(max_examples=400, deadline=None)
@given(st.lists(EVENTS, max_size=120), st.tuples(*[st.floats(-SKEW, SKEW)] * REPLICAS))
def test_no_api_server_ever_refuses_a_replica_that_it_was_told_is_ready(
    events: list[tuple[str, float]], skews: tuple[float, ...]
) -> None:
    world = World()
    replicas = [Replica(world, skew) for skew in skews]
    lost: list[int] = []
    for event in events:
        happen(world, replicas, event, lost)
        check_all(replicas)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            EVENTS,
            st.tuples(st.just("configuration"), st.sampled_from([0, 1, 2])),
            st.tuples(st.just("jump"), st.sampled_from([-20000.0, -1000.0, 1000.0, 20000.0])),
        ),
        max_size=60,
    )
)
def test_after_any_trouble_all_replicas_are_trusted_again_with_one_ca(events: list[tuple[str, float]]) -> None:
    world = World(checked=False)
    replicas = [Replica(world, 0) for _ in range(REPLICAS)]
    for event in events:
        match event:
            case "configuration", what:
                world.write_bundle("m", [None, frozenset[str](), frozenset({"strange"})][int(what)])
                world.spans.setdefault("strange", Span(0, 1))
            case "jump", seconds:
                world.now = max(0.0, world.now + seconds)
            case _:
                happen(world, replicas, event, [1] * 4 if event[0] == "secret deleted" else [])
    if world.bundles["m"] is None:
        world.write_bundle("m", frozenset())
    for _ in range(60):
        world.now += 3
        for replica in replicas * 6:
            replica.step()
    assert [distrust(replica.leaf, world.now, world.bundles) for replica in replicas] == [None] * REPLICAS
    assert world.secret is not None
    assert {replica.leaf.authority for replica in replicas if replica.leaf} == {world.secret.signing}


def test_over_years_replicas_that_look_regularly_always_serve_and_make_one_ca_at_a_time() -> None:
    world = World()
    replicas = [Replica(world, skew) for skew in (-SKEW, 0.0, SKEW)]
    signed = set()
    while world.now < NOW + 10 * SHORT.ca:
        for replica in replicas * 8:
            replica.step()
            replica.check()
        if world.now > NOW:
            assert all(replica.serves for replica in replicas)
            assert world.secret is not None
            assert len(world.secret.trusted) <= 2
            signed.add(world.secret.signing)
        world.now += 20
    assert len(signed) == pytest.approx(10 * 1.5, abs=1)
