"""What the watches said about token Secrets, kept in memory so that an admission needs no request to the API server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bitfusiond.core import names
from bitfusiond.core.tokens import copies, marks
from bitfusiond.core.tokens.copies import BY_SECRET, TOKENS, Content, Copy, Decision, Missing, State, Summary, Token
from bitfusiond.kube import Object, is_older

SOURCE_NAMES = (*BY_SECRET, names.EARLIER_TOKEN_SECRET)


class Key(NamedTuple):
    """One copy."""

    namespace: str
    token: Token


class Inventory:
    """Sources with their content, copies without; and since when each copy of ours has been behind its source.

    Fed by watches, and by the answers to our own writes, which arrive before the watch's news of them: whatever is
    older than what is known already is ignored. ``followed`` are the namespaces that the watches are about, beside the
    token namespace; None: all.
    """

    def __init__(
        self,
        token_namespace: str,
        served: Callable[[str], bool],
        now: Callable[[], float],
        followed: frozenset[str] | None = None,
    ) -> None:
        self.token_namespace = token_namespace
        self._followed = followed
        self._served = served
        self._now = now
        self._sources: dict[str, Object] = {}
        self._contents: dict[Token, Content | Missing] = {}
        self._stored: dict[str, dict[str, Summary]] = {token.secret: {} for token in TOKENS}
        self._stale: dict[Key, float] = {}
        self._unproven: set[Key] = set()
        self._mark_key: bytes | None = None
        self._refresh_sources()

    # --- what happened --------------------------------------------------------------------------------------------

    def replace(self, name: str, secrets: list[Object], within: str | None = None) -> None:
        """All Secrets of ``name``, as listed; ``within`` is the namespace that was asked for, None: all.

        One that we wrote while the list was on its way is lost by this until the watch brings it; at worst a create is
        then answered with 409, and we look again.
        """
        there = {secret["metadata"]["namespace"] for secret in secrets}
        known = [namespace for namespace in self._namespaces(name) if within in (None, namespace)]
        for namespace in known:
            if namespace not in there:
                self.forget(namespace, name)
        for secret in secrets:
            self.observe(secret)

    def observe(self, secret: Object) -> None:
        """A Secret as it is, or was a moment ago."""
        metadata = secret["metadata"]
        name, namespace = metadata["name"], metadata["namespace"]
        if is_older(metadata["resourceVersion"], self._version(namespace, name)):
            return
        if name in BY_SECRET:
            self._stored[name][namespace] = copies.summarize(secret, BY_SECRET[name])
        if namespace == self.token_namespace:
            # managedFields and the like would only take memory.
            kept = {key: value for key, value in metadata.items() if key != "managedFields"}
            self._sources[name] = {"metadata": kept, "data": secret.get("data")}
            self._refresh_sources()
        if name in BY_SECRET:
            self._refresh_staleness(Key(namespace, BY_SECRET[name]))

    def forget(self, namespace: str, name: str, resource_version: str | None = None) -> None:
        """There is no such Secret, or was none at ``resource_version``."""
        if resource_version is not None and is_older(resource_version, self._version(namespace, name)):
            return
        if name in BY_SECRET:
            self._stored[name].pop(namespace, None)
            self._refresh_staleness(Key(namespace, BY_SECRET[name]))
        if namespace == self.token_namespace and self._sources.pop(name, None) is not None:
            self._refresh_sources()

    def use_mark_key(self, key: bytes) -> None:
        """Marks are made and known by ``key`` from now on. Until the first one nothing is stale."""
        if key == self._mark_key:
            return
        self._mark_key = key
        for token in TOKENS:
            for namespace in self._stored[token.secret]:
                self._refresh_staleness(Key(namespace, token))

    # --- what is ----------------------------------------------------------------------------------------------------

    @property
    def contents(self) -> dict[Token, Content | Missing]:
        """What copies of each token must hold; a new dict whenever a source changes."""
        return self._contents

    def decide(self, key: Key) -> Decision:
        """What a pod in the namespace needs."""
        return copies.decide(self._copy(key))

    def upkeep(self, key: Key) -> Decision:
        """What the copy needs while no pod asks for it."""
        return copies.upkeep(self._copy(key))

    def exists(self, key: Key) -> bool:
        return key.namespace in self._stored[key.token.secret]

    def stale(self) -> dict[Key, float]:
        """Copies that are behind their source or lack our mark, and since when."""
        return self._stale

    def unproven(self) -> set[Key]:
        """Secrets that are labelled as our copies and were not written by us."""
        return self._unproven

    def states(self) -> Counter[State]:
        """How many Secrets of the tokens' names are in which state, the sources left out."""
        return Counter(
            copies.state(self._copy(Key(namespace, token)))
            for token in TOKENS
            for namespace in self._stored[token.secret]
            if namespace != self.token_namespace
        )

    # --- inside -----------------------------------------------------------------------------------------------------

    def _namespaces(self, name: str) -> Iterator[str]:
        if name in BY_SECRET:
            yield from self._stored[name]
        elif name in self._sources:
            yield self.token_namespace

    def _version(self, namespace: str, name: str) -> str | None:
        found = self._stored[name].get(namespace) if name in BY_SECRET else None
        if found is not None:
            return found.resource_version
        if namespace == self.token_namespace and name in self._sources:
            return str(self._sources[name]["metadata"]["resourceVersion"])
        return None

    def _copy(self, key: Key) -> Copy:
        stored = self._stored[key.token.secret].get(key.namespace)
        source = self._contents[key.token]
        lives = stored is None or self._origin_lives(stored)
        mark = None if self._mark_key is None else marks.mark(self._mark_key, key.namespace, key.token.secret)
        is_served = self._served(key.namespace)
        return Copy(key.token, key.namespace, stored, source, self.token_namespace, mark, lives, is_served)

    def _origin_lives(self, stored: Summary) -> bool:
        namespace, _, name = (stored.origin or "").partition("/")
        # The earlier Secret is watched in our token namespace only, others perhaps in few: elsewhere it may be there.
        return name not in BY_SECRET or not self._sees(namespace) or namespace in self._stored[name]

    def _sees(self, namespace: str) -> bool:
        return self._followed is None or namespace in self._followed or namespace == self.token_namespace

    def _refresh_sources(self) -> None:
        contents = {token: copies.content(token, self._sources, self.token_namespace) for token in TOKENS}
        changed = [token for token in TOKENS if contents[token] != self._contents.get(token)]
        if not changed:
            return
        self._contents = contents
        for token in changed:
            for namespace in self._stored[token.secret]:
                self._refresh_staleness(Key(namespace, token))

    def _refresh_staleness(self, key: Key) -> None:
        state = copies.state(self._copy(key)) if self.exists(key) and self._mark_key is not None else None
        if state in copies.FOLLOWING:
            self._stale.setdefault(key, self._now())
        else:
            self._stale.pop(key, None)
        if state is State.UNPROVEN:
            self._unproven.add(key)
        else:
            self._unproven.discard(key)
