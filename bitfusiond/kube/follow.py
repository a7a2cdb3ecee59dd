"""A list and a watch, kept up for ever: what our view of the cluster rests on."""

from __future__ import annotations

import inspect
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import trio

from bitfusiond import logs
from bitfusiond.kube import NO_LABELS, Change, Cluster, ClusterError, ExpiredError, Object, Resource, UnavailableError
from bitfusiond.pacing import Backoff, Outages

_log = logs.Log("follow")

# Watches stall: a proxy that forgot the connection, an API server whose cache stopped. A list finds what was missed.
RESYNC_SECONDS = 600.0
# A watch that stood for so long, or brought anything, works.
PROVEN_SECONDS = 5.0

Listed = Callable[[list[Object]], Awaitable[None] | None]
Changed = Callable[[Change], Awaitable[None] | None]


@dataclass(slots=True)
class WatchState:
    """How a :func:`follow` is doing, for metrics and readiness. Times are those of trio's clock."""

    synced_at: float | None = None
    """When the last list was complete; None: never yet."""
    last_event_at: float | None = None
    """When the watch last said anything, be it a bookmark."""
    connected: bool = False
    """Whether a watch is open now."""
    failures: int = 0
    """Requests and callbacks that ended in a ClusterError; not 410, which is the API server's way of saying: list."""

    last_error: str | None = None
    """Why the last try failed; None once a list is complete."""

    @property
    def synced(self) -> bool:
        return self.synced_at is not None


async def follow(
    cluster: Cluster,
    resource: Resource,
    *,
    namespace: str | None = None,
    name: str | None = None,
    labels: Mapping[str, str] = NO_LABELS,
    listed: Listed,
    changed: Changed,
    state: WatchState,
    keep: Callable[[Object], Object] | None = None,
    resync_seconds: float = RESYNC_SECONDS,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Tell ``listed`` all objects, then ``changed`` every ADDED, MODIFIED and DELETED after that. Never returns.

    ``listed`` is called again whenever changes may have been missed, at the latest every ``resync_seconds``: what it
    is given then is all there is. Neither callback is called while the other or itself runs, nor cancelled for a
    resync. ``keep`` makes of each object what is handed on. ``started()`` comes after the first ``listed``.

    Outages are waited out with a growing back-off and said once, then seldom, then once that they are over. A
    ClusterError out of a callback counts as one: after the pause everything is listed again. So does any other
    exception, with its traceback in the log: what somebody put into the cluster must not end the daemon.
    """
    follower = _Follower(cluster, resource, namespace, name, labels, listed, changed, state, keep)
    while True:
        try:
            version = await follower.list()
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await follower.watch(version, trio.current_time() + resync_seconds * random.uniform(0.9, 1.1))  # noqa: S311
        except ExpiredError:
            await follower.expired()
        except ClusterError as error:
            await follower.failed(error)
        except _CallbackError as failed:
            await follower.failed(failed.error)
        except Exception as error:  # noqa: BLE001 - see above
            _log.exception("defect in following the cluster, please report it", resource=resource.plural)
            await follower.failed(UnavailableError(f"{type(error).__name__} in bitfusiond"))


@dataclass(slots=True)
class _Follower:
    """The parts of :func:`follow`, and what they have in common."""

    cluster: Cluster
    resource: Resource
    namespace: str | None
    name: str | None
    labels: Mapping[str, str]
    listed: Listed
    changed: Changed
    state: WatchState
    keep: Callable[[Object], Object] | None
    backoff: Backoff = field(default_factory=Backoff)
    outages: Outages = field(default_factory=Outages)

    async def list(self) -> str:
        """List everything; the resourceVersion from which to watch."""
        listing = await self.cluster.list(self.resource, self.namespace, self.name, labels=self.labels, keep=self.keep)
        await _finished(self.listed(listing.items))
        self.state.synced_at = trio.current_time()
        self.state.last_error = None
        return listing.resource_version

    async def watch(self, version: str, until: float) -> None:
        """Watch from ``version`` on, over as many watches as it takes. Returns at ``until``.

        Raises ExpiredError, what refuses a watch for good, and _CallbackError.
        """
        while trio.current_time() < until:
            began, heard = trio.current_time(), False
            try:
                async with self.cluster.watch(
                    self.resource, version, self.namespace, self.name, labels=self.labels
                ) as changes:
                    self._opened()
                    while (change := await _next(changes, until)) is not None:
                        heard = True
                        version = change.object["metadata"]["resourceVersion"]
                        await self._tell(change)
            except UnavailableError as error:
                await self.failed(error)
                continue
            finally:
                self.state.connected = False
            if heard or trio.current_time() - began >= PROVEN_SECONDS:
                self.backoff.reset()
            else:
                # Something between us and the API server ends watches as soon as they begin.
                await trio.sleep(self.backoff.failed())

    async def failed(self, error: ClusterError) -> None:
        """Note a failure, and pause."""
        self.state.failures += 1
        self.state.last_error = str(error)
        if self.outages.failed(trio.current_time()):
            _log.warning("cannot follow", **self._names(), message=str(error), failures=self.state.failures)
        await trio.sleep(self.backoff.failed())

    async def expired(self) -> None:
        """410: list again. At once, if there is no row of them."""
        if self.state.synced_at is not None and trio.current_time() - self.state.synced_at < PROVEN_SECONDS:
            await trio.sleep(self.backoff.failed())

    def _opened(self) -> None:
        self.state.connected = True
        outage = self.outages.succeeded(trio.current_time())
        if outage is not None:
            _log.info("following again", **self._names(), seconds=round(outage.seconds, 1), failures=outage.failures)

    async def _tell(self, change: Change) -> None:
        self.state.last_event_at = trio.current_time()
        if change.type == "BOOKMARK":
            return
        kept = change if self.keep is None else Change(change.type, self.keep(change.object))
        try:
            await _finished(self.changed(kept))
        except ClusterError as error:
            raise _CallbackError(error) from error

    def _names(self) -> dict[str, str]:
        given = {"resource": self.resource.plural, "namespace": self.namespace, "name": self.name}
        return {key: value for key, value in given.items() if value is not None}


class _CallbackError(Exception):
    """A callback failed, not the watch: to go on with the watch would lose the change."""

    def __init__(self, error: ClusterError) -> None:
        super().__init__(str(error))
        self.error = error


async def _next(changes: AsyncIterator[Change], until: float) -> Change | None:
    """The next change; None at the end of the watch, and at ``until``."""
    with trio.move_on_at(until):
        return await anext(changes, None)
    return None


async def _finished(result: Awaitable[None] | None) -> None:
    if inspect.isawaitable(result):
        await result
