"""Token Secrets in every namespace that needs them: there before a pod is admitted, and current ever after.

What is decided about a copy, and whose it is, is in :mod:`bitfusiond.core.tokens.copies`. Any number of replicas do
this at once, without a leader: each sees the same and does the same, and whoever comes second finds it done.

Five watches feed the memory that admissions are answered from. Three are of one name in all namespaces and bring the
sources as well as the copies, the fourth is of the earlier Secret in the token namespace, the fifth of the key of marks
in our own. A watch by ``metadata.name`` is what RBAC can limit by ``resourceNames``: no other Secret can be read. Where
--allow-namespaces names namespaces, the three are of the token namespace alone, and there are three more for each of
those: so that no permission has to reach further. An admission does not wait for these: what they have not told yet,
the API server's answer to the first write does.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

import trio
from prometheus_client import CollectorRegistry

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.tokens import copies
from bitfusiond.core.tokens.copies import TOKENS, Content, Leave, Missing, Refuse, Token
from bitfusiond.kube import SECRETS, Change, Cluster, Object
from bitfusiond.kube.follow import WatchState, follow
from bitfusiond.pacing import Backoff, Repeats
from bitfusiond.webhook.flights import ENSURE_SECONDS, LISTED_SECONDS, Flights, Problem, RateLimit, patiently
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.tokens import contents
from bitfusiond.webhook.tokens.copying import ensure_copy
from bitfusiond.webhook.tokens.inventory import SOURCE_NAMES, Inventory, Key
from bitfusiond.webhook.tokens.markkey import MarkKey
from bitfusiond.webhook.tokens.metrics import Metrics

# Namespaces that get their first copies, where nobody proves to be the API server: far above what people make, and so
# that a cluster whose pods all start at once waits for seconds.
FIRST_COPIES_AT_ONCE = 500
FIRST_COPIES_PER_SECOND = 20.0
_NOT_YET = f"bitfusiond copies tokens into {FIRST_COPIES_PER_SECOND:g} new namespaces a second: try again"
_AT_ONCE_FOR_PODS = 48
_AT_ONCE_FOR_ROTATION = 12  # of the 16 requests that the client sends at a time: pods must get theirs through
_GATHER_SECONDS = 0.1  # three Secrets that are applied together make one rotation
_RETRY_SECONDS = (0.5, 60.0)
_REPEAT_SECONDS = 600.0  # between two warnings of the same failures
# A watch that stalls is noticed by follow() within a few minutes. For so long a pod may have been admitted on the word
# of a copy that was deleted meanwhile, so a deleted copy comes back without another pod's asking.
_RECENT_SECONDS = 300.0
# A namespace that is being deleted loses its Secrets first; and without a source there is nothing to bring back.
_LOST_FOR_GOOD = frozenset({"terminating", "not_found", "refused"})
_UNPROVEN = "labelled as token copies, but not written by bitfusiond and not equal to their source: they follow nothing"
_MOST_TOLD = 20  # Secrets in a log line

_log = logs.Log("tokens")


class _Retry:
    """When a copy that could not be written is tried again."""

    def __init__(self) -> None:
        self.backoff = Backoff(*_RETRY_SECONDS)
        self.due_at = 0.0


class Replication:
    """The copies of the token Secrets.

    ``run`` must be running for anything to happen; until its first lists are there, ``ensure`` says so to whoever
    asks. ``allow_namespaces`` are globs; copies in namespaces that they do not cover, or that are ``exempt``, follow
    nothing. ``is_proven``: whoever asks is the API server. ``watches`` tells how each watch is doing, by the name of
    its Secret, those of one namespace by NAMESPACE/NAME; it changes as namespaces come and go.
    """

    def __init__(
        self,
        cluster: Cluster,
        metrics: CollectorRegistry,
        namespaces: Namespaces,
        *,
        namespace: str,
        token_namespace: str,
        allow_namespaces: tuple[str, ...] = ("*",),
        exempt: frozenset[str] = names.EXEMPT_NAMESPACES,
        is_proven: bool = False,
    ) -> None:
        self._cluster = cluster
        self._namespaces = namespaces
        self._globs = allow_namespaces
        self._first_copies = RateLimit(FIRST_COPIES_AT_ONCE, FIRST_COPIES_PER_SECOND, is_proven=is_proven)
        served = partial(copies.served, globs=allow_namespaces, exempt=exempt)
        self._followed = copies.followed(allow_namespaces, exempt)
        self._inventory = Inventory(token_namespace, served, trio.current_time, self._followed)
        self._metrics = Metrics(metrics, self._inventory)
        self._mark_key = MarkKey(cluster, namespace, self._use_mark_key)
        self.watches = {name: WatchState() for name in SOURCE_NAMES} | {names.MARK_SECRET: self._mark_key.watch}
        self._not_listed = set(self.watches)
        self._listed = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._flights: Flights[str] = Flights()
        self._for_pods = trio.CapacityLimiter(_AT_ONCE_FOR_PODS)
        self._admitted: dict[str, float] = {}
        self._lost: set[Key] = set()
        self._retries: dict[Key, _Retry] = {}
        self._wake = trio.Event()
        self._told: dict[Token, Content | Missing] = {}
        self._repeats = Repeats(_REPEAT_SECONDS)
        self._unproven_repeats = Repeats(_REPEAT_SECONDS)

    # --- for admissions -----------------------------------------------------------------------------------------------

    async def ensure(self, namespace: str, dry_run: bool) -> list[str]:
        """Have all three tokens in ``namespace``; what a pod would lack there, and nothing where it lacks nothing.

        Asks the API server for nothing while all is as it should be. Takes ENSURE_SECONDS at most, raises nothing. A
        dry run writes nothing, and is refused for what no write could mend.
        """
        if not copies.allowed(namespace, self._globs):
            return [copies.not_allowed(namespace, self._globs)]
        with trio.move_on_after(ENSURE_SECONDS):
            with trio.move_on_after(LISTED_SECONDS):
                await self._listed.wait()
            if not self._listed.is_set():
                return [] if dry_run else [f"bitfusiond is not ready yet, {self.ready_reason()}: try again"]
            decisions = [self._inventory.decide(Key(namespace, token)) for token in TOKENS]
            refusals = [decision.problem for decision in decisions if isinstance(decision, Refuse)]
            if refusals or dry_run:
                return list(dict.fromkeys(refusals))
            is_there = all(isinstance(decision, Leave) for decision in decisions)
            if not is_there and (problem := await self._namespaces.problem(namespace)):
                self._metrics.failures.labels("namespace").inc()
                return [problem]
            # Bounded by the namespaces that there are: one that has all three is there too.
            self._admitted[namespace] = trio.current_time()
            work = partial(self._ensure_namespace, namespace)
            return [] if is_there else await self._flights.join(namespace, work).landed()
        return [f"the token Secrets could not be copied into namespace {namespace} in {ENSURE_SECONDS:g} s: try again"]

    def ready_reason(self) -> str | None:
        """Why no pod can be admitted yet; None from the first lists on, also while the API server is away later."""
        if not self._not_listed:
            return None
        errors = sorted({state.last_error for state in self.watches.values() if state.last_error})
        why = f" ({'; '.join(errors)})" if errors else ""
        return f"tokens: Secrets not listed yet: {', '.join(sorted(self._not_listed))}{why}"

    async def _ensure_namespace(self, namespace: str) -> list[str]:
        problems: dict[Token, str] = {}

        async def ensure_one(token: Token) -> None:
            key = Key(namespace, token)
            async with self._for_pods:
                try:
                    await patiently(partial(ensure_copy, self._cluster, self._inventory, key, self._inventory.decide))
                except Problem as problem:
                    self._metrics.failures.labels(problem.reason).inc()
                    problems[token] = str(problem)

        with trio.move_on_after(ENSURE_SECONDS) as deadline:
            if self._has_first_copies(namespace) and not await self._first_copies.wait():
                self._metrics.failures.labels("rate").inc()
                return [_NOT_YET]
            async with trio.open_nursery() as nursery:
                for token in TOKENS:
                    nursery.start_soon(ensure_one, token)
        if deadline.cancelled_caught:
            self._metrics.failures.labels("unavailable").inc()
            problems[TOKENS[0]] = f"the API server did not take the token Secrets for {namespace} in time: try again"
        return list(dict.fromkeys(problems[token] for token in TOKENS if token in problems))

    def _has_first_copies(self, namespace: str) -> bool:
        """Whether any of the copies that the namespace needs is its first."""
        due = [key for key in (Key(namespace, token) for token in TOKENS) if key not in self._inventory.stale()]
        return not all(isinstance(self._inventory.decide(key), Leave) for key in due)

    # --- for ever -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch, and bring every copy up to date whenever its source changes, until cancelled.

        Needs nothing to be there when it starts, and raises nothing that a cluster can cause: it logs, and tries again.
        """
        async with trio.open_nursery() as nursery:
            self._nursery = self._flights.nursery = nursery
            try:
                for name in SOURCE_NAMES:
                    nursery.start_soon(self._watch_sources, name)
                for namespace in (self._followed or frozenset()) - {self._inventory.token_namespace}:
                    nursery.start_soon(self._watch_copies, namespace)
                nursery.start_soon(self._mark_key.run)
                task_status.started()
                await self._listed.wait()
                while True:
                    await self._keep_current()
            finally:
                self._nursery = self._flights.nursery = None

    async def _watch_sources(self, name: str) -> None:
        """Where all namespaces are followed, copies too."""
        is_everywhere = self._followed is None and name != names.EARLIER_TOKEN_SECRET
        namespace = None if is_everywhere else self._inventory.token_namespace
        await self._watch(name, namespace, self.watches[name])

    async def _watch_copies(self, namespace: str) -> None:
        """Whenever there is such a namespace."""
        while True:
            uid = await self._namespaces.another(namespace, None)
            states = {f"{namespace}/{token.secret}": WatchState() for token in TOKENS}
            self.watches |= states
            async with trio.open_nursery() as nursery:
                for token, state in zip(TOKENS, states.values(), strict=True):
                    nursery.start_soon(self._watch, token.secret, namespace, state)
                await self._namespaces.another(namespace, uid)
                nursery.cancel_scope.cancel()
            for token, watch in zip(TOKENS, states, strict=True):
                self._inventory.replace(token.secret, [], namespace)
                del self.watches[watch]

    async def _watch(self, name: str, namespace: str | None, state: WatchState) -> None:
        def listed(secrets: list[Object]) -> None:
            before = {key for key in self._recently_admitted(name) if self._inventory.exists(key)}
            self._inventory.replace(name, secrets, namespace)
            self._lost.update(key for key in before if not self._inventory.exists(key))
            if namespace in (None, self._inventory.token_namespace):
                self._has_listed(name)
            self._read_sources()

        def changed(change: Change) -> None:
            metadata = change.object["metadata"]
            if change.type == "DELETED":
                self._inventory.forget(metadata["namespace"], name, metadata["resourceVersion"])
                self._lost.update(
                    key
                    for key in self._recently_admitted(name)
                    if key.namespace == metadata["namespace"] and not self._inventory.exists(key)
                )
            else:
                self._inventory.observe(change.object)
            self._read_sources()

        await follow(
            self._cluster, SECRETS, namespace=namespace, name=name, listed=listed, changed=changed, state=state
        )

    def _has_listed(self, name: str) -> None:
        self._not_listed.discard(name)
        if not self._not_listed:
            self._listed.set()

    def _use_mark_key(self, key: bytes) -> None:
        self._inventory.use_mark_key(key)
        self._has_listed(names.MARK_SECRET)
        self._read_sources()

    def _recently_admitted(self, name: str) -> Iterable[Key]:
        token = copies.BY_SECRET.get(name)
        if token is None:
            return []
        since = trio.current_time() - _RECENT_SECONDS
        self._admitted = {
            namespace: when
            for namespace, when in self._admitted.items()
            if when >= since and self._namespaces.knows(namespace)
        }
        return [Key(namespace, token) for namespace in self._admitted]

    def servers(self) -> Sequence[str]:
        """The servers that servers.conf names, HOST:PORT; none where it is missing, wrong or very large."""
        for token, source in self._inventory.contents.items():
            if token.file == names.SERVERS_CONF and isinstance(source, Content):
                return contents.servers(source.data)
        return ()

    def _read_sources(self) -> None:
        """Say what became of the sources, and have the copies follow."""
        self._wake.set()
        if self._not_listed:
            return
        self._tell_of_unproven()
        if self._told == self._inventory.contents:
            return
        self._retries.clear()
        self._repeats.reset()
        before, self._told = self._told, self._inventory.contents
        for token, source in self._told.items():
            if source == before.get(token):
                continue
            if isinstance(source, Missing):
                _log.warning("token source missing", token=token.file, message=source.message)
            else:
                _log.info("token source", token=token.file, secret=source.origin)
                if token.file != names.CA_CRT and self._nursery is not None:
                    self._nursery.start_soon(contents.check_yaml, token, source)

    def _tell_of_unproven(self) -> None:
        unproven = self._inventory.unproven()
        if not unproven or not self._unproven_repeats.is_due(trio.current_time()):
            return
        secrets = sorted(f"{key.namespace}/{key.token.secret}" for key in unproven)
        _log.warning(_UNPROVEN, secrets=secrets[:_MOST_TOLD], number=len(secrets))

    async def _keep_current(self) -> None:
        """Wait until copies must be written, and write them once."""
        self._wake = trio.Event()
        now = trio.current_time()
        stale = self._inventory.stale()
        behind = {*stale, *self._lost}
        self._retries = {key: retry for key, retry in self._retries.items() if key in behind}
        due_at = {key: self._retries[key].due_at if key in self._retries else now for key in behind}
        if not any(due <= now for due in due_at.values()):
            with trio.move_on_at(min(due_at.values(), default=float("inf"))):
                await self._wake.wait()
            await trio.sleep(_GATHER_SECONDS)
            return
        due = [key for key in behind if due_at[key] <= now]
        # Each replica in an order of its own: they share the work instead of racing for every copy.
        random.shuffle(due)
        await self._write_all(due)

    async def _write_all(self, due: list[Key]) -> None:
        began = trio.current_time()
        outcomes: Counter[str] = Counter()
        problems: dict[str, str] = {}
        rest = iter(due)

        async def work() -> None:
            for key in rest:
                try:
                    outcomes["written" if await self._write_one(key) else "already_current"] += 1
                except Problem as problem:
                    outcomes[problem.reason] += 1
                    problems.setdefault(problem.reason, str(problem))

        async with trio.open_nursery() as nursery:
            for _ in range(min(_AT_ONCE_FOR_ROTATION, len(due))):
                nursery.start_soon(work)
        now = trio.current_time()
        if problems and not self._repeats.is_due(now, " ".join(sorted(problems))):
            return
        say = _log.warning if problems else _log.info
        say(
            "token copies written",
            tokens=sorted({key.token.file for key in due}),
            namespaces=len({key.namespace for key in due}),
            **outcomes,
            **({"problems": list(problems.values())} if problems else {}),
            seconds=round(now - began, 3),
        )

    async def _write_one(self, key: Key) -> bool:
        # One that is deleted meanwhile comes back when a pod needs it.
        is_lost = key in self._lost and not self._inventory.exists(key)
        try:
            decide = self._inventory.decide if is_lost else self._inventory.upkeep
            wrote = await ensure_copy(self._cluster, self._inventory, key, decide)
        except Problem as problem:
            if key in self._lost and problem.reason in _LOST_FOR_GOOD:
                self._lost.discard(key)
                return False
            self._metrics.failures.labels(problem.reason).inc()
            retry = self._retries.setdefault(key, _Retry())
            retry.due_at = trio.current_time() + retry.backoff.failed()
            raise
        self._lost.discard(key)
        self._retries.pop(key, None)
        return wrote
