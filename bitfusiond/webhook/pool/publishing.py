"""The pool's servers as ResourceSlices, and the DeviceClass by which claims ask for them, written by any replica.

There is no leader. Each replica follows what is stored and writes what its inventory wants otherwise; whoever comes
second finds it done. The kubelets bring a changed inventory to the replicas up to two minutes apart, and one that still
has the old file must not undo what another wrote out of the new one. So a replica writes at once what its own file
changed and what is not there at all; a difference that others made it mends only when that has stood for
SETTLE_SECONDS. Every write and every delete names the version that was looked at.

An API server drops in silence what belongs to a feature gate that is off. Its answer is compared with what was sent:
then the stored object is taken for as good as it gets, and tried again an hour later.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.pool import slices
from bitfusiond.core.pool.inventory import Pool
from bitfusiond.core.pool.slices import Stored
from bitfusiond.kube import (
    DEVICE_CLASSES,
    RESOURCE_SLICES,
    Change,
    Cluster,
    ClusterError,
    ConflictError,
    NotFoundError,
    Object,
    Resource,
    is_older,
)
from bitfusiond.kube.follow import WatchState, follow
from bitfusiond.pacing import Repeats
from bitfusiond.webhook.pool.record import Make, Record

ANSWERS = 3  # in a row, until another replica's taint is taken away
_REPEAT_SECONDS = 600.0
_AT_ONCE = 8  # of the 16 requests that the client sends at a time: pods must get theirs through
_GATHER_SECONDS = 0.1
_POLL_SECONDS = 60.0
_MOST_TOLD = 5

_log = logs.Log("pool")


class Publishing:
    """The slices of ``pool()`` and the DeviceClass.

    ``run`` must be running for anything to happen; :meth:`take_up` tells it that the pool is another one, and
    :meth:`probed` how a server does. ``clock`` is the time of day.
    """

    def __init__(
        self,
        cluster: Cluster,
        metrics: CollectorRegistry,
        pool: Callable[[], Pool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.watches = {resource.plural: WatchState() for resource in (RESOURCE_SLICES, DEVICE_CLASSES)}
        self._cluster = cluster
        self._pool = pool
        self._clock = clock
        self._class = Record(DEVICE_CLASSES, names.DRIVER)
        self._class.want(lambda _generation, _tainted: slices.device_class(), None, is_own_change=False)
        self._slices: dict[str, Record] = {}
        self._listed = {each: trio.Event() for each in self.watches}
        self._wake = trio.Event()
        self._repeats = Repeats(_REPEAT_SECONDS)
        self._writes = Counter(
            "bitfusiond_pool_writes", "Writes of the pool's objects.", ["kind", "verb"], registry=metrics
        )
        self._failures = Counter(
            "bitfusiond_pool_write_failures", "Writes of the pool's objects that failed.", ["kind"], registry=metrics
        )
        self._dropped = Counter(
            "bitfusiond_pool_dropped_fields",
            "Answers in which fields of the pool's objects were missing that had been sent.",
            ["kind"],
            registry=metrics,
        )
        behind = Gauge(
            "bitfusiond_pool_behind", "Objects of the pool that are not as they should be.", registry=metrics
        )
        behind.set_function(self._behind)

    # --- what others ask and tell -------------------------------------------------------------------------------------

    def stored(self) -> Iterator[tuple[str, Stored]]:
        """What is published, by the names of servers."""
        for name, record in self._slices.items():
            if record.stored is not None:
                yield slices.server_name(name), record.stored

    def problem(self) -> str | None:
        """Why the pool is not published as it should be; None where it is, or soon will be."""
        for watch in self.watches.values():
            if not watch.synced and watch.last_error:
                return (
                    f"the pool is not published, what is there cannot be listed ({watch.last_error}): it takes"
                    " Kubernetes 1.36 or later, which serves resource.k8s.io/v1, and the permissions of `just deploy`"
                )
        records = list(self._records())
        if dropped := list(dict.fromkeys(path for record in records for path in record.dropped)):
            return (
                f"the pool cannot be counted, the API server drops {', '.join(dropped)}: its feature gates"
                " DRAConsumableCapacity and DRADeviceTaints must be on, as they are from Kubernetes 1.36 on"
            )
        failing = [record for record in records if record.error]
        if not failing:
            return None
        told = ", ".join(f"{each.resource.kind} {each.name}" for each in failing[:_MOST_TOLD])
        return f"{len(failing)} objects of the pool cannot be written ({failing[0].error}): {told}"

    def take_up(self) -> None:
        """The pool is another one than before."""
        self._want(is_own_change=True)

    def probed(self, server: str, *, answered: bool, went_down: bool) -> None:
        """What a probe of the server said; ``went_down``: for us it is down from now on, and was not before."""
        record = self._slices.get(slices.slice_name(server))
        if record is None:
            return
        if went_down:
            record.taint = record.is_down = True
        elif not answered:
            record.answers = 0
            record.taint = record.taint or None
        else:
            record.is_down = False
            record.answers += 1
            tainted = record.stored is not None and record.stored.tainted is not None
            record.taint = False if tainted and record.answers >= ANSWERS else None
        record.note_difference(trio.current_time())
        if record.taint is not None:
            self._wake.set()

    # --- for ever -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Publish, and keep published, until cancelled.

        Needs nothing to be there when it starts, and raises nothing that a cluster can cause: it says so, and tries
        again.
        """
        self._want(is_own_change=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_slices)
            nursery.start_soon(self._follow_class)
            task_status.started()
            while True:
                self._wake = trio.Event()
                await self._work_out()
                due, wait_until = self._due()
                if due:
                    await self._write_all(due)
                self._say()
                if not due:
                    with trio.move_on_at(min(wait_until, trio.current_time() + _POLL_SECONDS)):
                        await self._wake.wait()
                        await trio.sleep(_GATHER_SECONDS)

    async def _follow_slices(self) -> None:
        def listed(found: list[Object]) -> None:
            there = {each["stored"].name: each["stored"] for each in found if each["stored"] is not None}
            now = trio.current_time()
            for name in self._slices.keys() | there.keys():
                self._record(name).observe(there.get(name), now)
            self._has_listed(RESOURCE_SLICES)

        def changed(change: Change) -> None:
            metadata, stored = change.object["metadata"], change.object["stored"]
            self._news(self._record(metadata["name"]), None if change.type == "DELETED" else stored, metadata)

        await follow(
            self._cluster,
            RESOURCE_SLICES,
            labels=slices.LABELS,
            listed=listed,
            changed=changed,
            state=self.watches[RESOURCE_SLICES.plural],
            keep=_keep_slice,
        )

    async def _follow_class(self) -> None:
        def listed(found: list[Object]) -> None:
            self._class.observe(found[0]["stored"] if found else None, trio.current_time())
            self._has_listed(DEVICE_CLASSES)

        def changed(change: Change) -> None:
            stored = None if change.type == "DELETED" else change.object["stored"]
            self._news(self._class, stored, change.object["metadata"])

        await follow(
            self._cluster,
            DEVICE_CLASSES,
            name=names.DRIVER,
            listed=listed,
            changed=changed,
            state=self.watches[DEVICE_CLASSES.plural],
            keep=lambda document: {"metadata": document["metadata"], "stored": _summarize_class(document)},
        )

    def _has_listed(self, resource: Resource) -> None:
        self._listed[resource.plural].set()
        self._wake.set()

    def _news(self, record: Record, stored: Stored | None, metadata: Mapping[str, str]) -> None:
        """Of a watch; the answers to our own writes may have been here before."""
        known = None if record.stored is None else record.stored.resource_version
        if is_older(metadata["resourceVersion"], known):
            return
        record.observe(stored, trio.current_time())
        self._wake.set()

    # --- what is to be ------------------------------------------------------------------------------------------------

    def _want(self, *, is_own_change: bool) -> None:
        wanted = {slices.slice_name(server.name): server for server in self._pool().servers}
        for name in self._slices.keys() | wanted.keys():
            record, server = self._record(name), wanted.get(name)
            if server != record.server:
                make = None if server is None else partial(slices.resource_slice, server)
                if server is None or record.server is None or server.address != record.server.address:
                    record.is_down, record.taint = False, None
                record.want(make, server, is_own_change=is_own_change)
        self._wake.set()

    def _record(self, name: str) -> Record:
        return self._slices.setdefault(name, Record(RESOURCE_SLICES, name))

    def _records(self) -> Iterator[Record]:
        yield self._class
        yield from self._slices.values()

    async def _work_out(self) -> None:
        """What stands for the contents that are wanted; a large pool takes seconds, and pods wait meanwhile."""
        for record in list(self._records()):
            if record.make is None and record.stored is None and not record.is_being_written:
                self._slices.pop(record.name, None)
            elif record.make is not None and record.wanted is None:
                made = record.make(1, None)
                record.wanted = slices.content(made) if record.resource == RESOURCE_SLICES else _RIGHT_CLASS
                record.note_difference(trio.current_time())
                await trio.lowlevel.checkpoint()
            else:
                record.note_difference(trio.current_time())

    def _due(self) -> tuple[list[Record], float]:
        """What to write now, and when there will be more."""
        now, later, due = trio.current_time(), float("inf"), []
        for record in self._records():
            if not self._listed[record.resource.plural].is_set() or (record.make and record.wanted is None):
                continue
            at = record.due_at(now)
            if at is not None and at <= now:
                due.append(record)
            elif at is not None:
                later = min(later, at)
        return due, later

    def _behind(self) -> float:
        now = trio.current_time()
        return float(sum(record.differs(now) for record in self._records()))

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _write_all(self, due: list[Record]) -> None:
        # Each replica in an order of its own: they share the work instead of racing for every slice.
        random.shuffle(due)
        rest = iter(due)
        written: list[str] = []

        async def work() -> None:
            for record in rest:
                # News of another replica's write may have come since.
                at = record.due_at(trio.current_time())
                if at is not None and at <= trio.current_time() and await self._write(record):
                    written.append(f"{record.resource.kind} {record.name}")

        async with trio.open_nursery() as nursery:
            for _ in range(min(_AT_ONCE, len(due))):
                nursery.start_soon(work)
        if written:
            _log.info("pool published", objects=sorted(written)[:_MOST_TOLD], number=len(written))

    async def _write(self, record: Record) -> bool:
        """Whether it could be written."""
        verb = "delete" if record.make is None else "apply"
        record.is_being_written = True
        try:
            await (self._delete(record) if record.make is None else self._apply(record, record.make))
        except ConflictError:
            record.failed(None, trio.current_time())  # the watch will bring what another wrote
            return False
        except ClusterError as error:
            self._failures.labels(record.resource.kind).inc()
            record.failed(str(error), trio.current_time())
            return False
        finally:
            record.is_being_written = False
            record.note_difference(trio.current_time())
        record.succeeded()
        self._writes.labels(record.resource.kind, verb).inc()
        return True

    async def _delete(self, record: Record) -> None:
        if record.stored is None:
            return
        with contextlib.suppress(NotFoundError):  # another replica was first
            await self._cluster.delete(
                record.resource, None, record.name, resource_version=record.stored.resource_version
            )
        record.observe(None, trio.current_time())

    async def _apply(self, record: Record, make: Make) -> None:
        stored = record.stored
        tainted = self._taint_of(record)
        sent = make(1 if stored is None else stored.generation + 1, tainted)
        body = sent
        if stored is not None:
            body = {**sent, "metadata": {**sent["metadata"], "resourceVersion": stored.resource_version}}
        answer = await self._cluster.apply(record.resource, None, record.name, body, field_manager=slices.FIELD_MANAGER)
        summary = slices.summarize(answer) if record.resource == RESOURCE_SLICES else _summarize_class(answer)
        if dropped := slices.missing(sent, answer):
            self._dropped.labels(record.resource.kind).inc()
        if record.make is not make:
            record.observe(summary, trio.current_time())  # meanwhile another file came
            return
        if record.taint == (tainted is not None):
            record.taint = None  # also where the API server took none
        record.accept(summary.content, dropped, trio.current_time())
        record.observe(summary, trio.current_time())

    def _taint_of(self, record: Record) -> str | None:
        """Since when the devices are to be tainted; None: not."""
        known = None if record.stored is None else record.stored.tainted
        wanted = record.taint
        if wanted is None:
            wanted = record.is_down if record.stored is None else known is not None
        return (known or time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock()))) if wanted else None

    def _say(self) -> None:
        problem = self.problem()
        if problem is None:
            self._repeats.reset()
        elif self._repeats.is_due(trio.current_time(), problem):
            _log.error("the pool is not as it should be", message=problem)


_RIGHT_CLASS = "right"


def _summarize_class(document: Json) -> Stored:
    """Others may add to it: what counts is that it has what we write."""
    metadata = document["metadata"]
    lacks = slices.missing(slices.device_class(), document)
    return Stored(metadata["name"], metadata["resourceVersion"], 0, " ".join(lacks) or _RIGHT_CLASS, 0)


def _keep_slice(document: Json) -> Json:
    """A slice in few bytes; one of another driver has nothing stored for us."""
    metadata = {key: document["metadata"][key] for key in ("name", "resourceVersion")}
    return {"metadata": metadata, "stored": slices.summarize(document) if slices.is_ours(document) else None}
