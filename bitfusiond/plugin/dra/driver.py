"""Claims prepared and unprepared: what the API server says of one, made a file for the container runtime.

The kubelet asks again until a claim is prepared, and may ask for one that is; nor is it told when we or it are started
anew. The files are all that is kept, so that they outlive us.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from bitfusiond import logs
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import ResourceClaim, ResourceSlice
from bitfusiond.core.pool import allocation, cdi, slices
from bitfusiond.core.pool.allocation import AllocationError
from bitfusiond.core.pool.cdi import ClaimRef, Prepared
from bitfusiond.core.text import one_line
from bitfusiond.kube import CLAIMS, RESOURCE_SLICES, Cluster, ClusterError, ForbiddenError, NotFoundError
from bitfusiond.plugin.dra.cdifiles import CdiFiles
from bitfusiond.plugin.metrics import DriverMetrics
from bitfusiond.plugin.retry import Retry

# A node has some hundred pods; what is above this is looked at when the plugin is started again.
MOST_FILES = 4096
# Of one call of the kubelet, which gives it 45 s: a pod of 64 containers has its answer though no request gets one.
CLAIMS_AT_ONCE = 8
_LONGEST_ERROR = 800  # characters: an Event has 1024, the kubelet's own words among them
_DELETE = "delete the pod: one that is made in its place gets a claim of its own"

_log = logs.Log("dra")


class Driver:
    """One of the kubelet's calls for a claim waits for another for the same claim, and for no others."""

    def __init__(self, cluster: Cluster, files: CdiFiles, metrics: DriverMetrics) -> None:
        self._cluster = cluster
        self._files = files
        self._metrics = metrics
        self._busy: dict[str, trio.Lock] = {}

    async def prepare(self, claims: Sequence[ClaimRef]) -> dict[str, Prepared | str]:
        """By UID: a claim as it is prepared now, or why it is not, in one line for the pod's user."""
        found: dict[str, Prepared | str] = {}
        limit = trio.CapacityLimiter(CLAIMS_AT_ONCE)

        async def one(claim: ClaimRef) -> None:
            async with limit, self._alone(claim.uid):
                found[claim.uid] = await self._prepare_or_say(claim)

        async with trio.open_nursery() as nursery:
            for claim in claims:
                nursery.start_soon(one, claim)
        return found

    async def unprepare(self, claims: Sequence[ClaimRef]) -> dict[str, str]:
        """By UID: empty, or why a claim is still prepared. That it is not prepared at all is no error."""
        found: dict[str, str] = {}
        for claim in claims:
            async with self._alone(claim.uid):
                found[claim.uid] = self._unprepare_or_say(claim)
        return found

    async def clean_up(self) -> None:
        """Remove the files of claims that are not there any more: these ended while no plugin ran here.

        Ends when the API server has answered for each file of the beginning. Raises nothing of its own.
        """
        retry = Retry()
        uids: list[str] | None = None
        while uids is None or uids:
            try:
                if uids is None:
                    uids = self._left()
                    continue
                await self._remove_if_gone(uids[-1])
                uids.pop()
            except (ClusterError, OSError) as error:
                if retry.is_due(str(error)):
                    _log.warning("cannot look for claims that are gone", error=str(error))
                await retry.pause()

    # --- prepare ------------------------------------------------------------------------------------------------------

    async def _prepare_or_say(self, claim: ClaimRef) -> Prepared | str:
        began = trio.current_time()
        try:
            prepared = await self._prepare(claim)
        except (ClusterError, AllocationError) as error:
            return self._failed("prepare", claim, str(error))
        except OSError as error:
            return self._failed("prepare", claim, f"cannot write {self._files.path(claim.uid)}: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - a defect of ours: the pod waits with a reason, all others go on
            _log.exception("claim not prepared", namespace=claim.namespace, claim=claim.name)
            return self._failed("prepare", claim, f"a defect of bitfusiond: {type(error).__name__}")
        finally:
            self._metrics.seconds.observe(trio.current_time() - began)
        self._metrics.prepared.inc()
        return prepared

    async def _prepare(self, ref: ClaimRef) -> Prepared:
        """Raises ClusterError, AllocationError, OSError."""
        there = self._files.read(ref.uid)
        is_there = there is not None and there.claim == ref
        try:
            claim = await self._claim(ref)
        except ClusterError:
            if there is not None and is_there:  # the API server is away: what was true when we were asked before
                _log.info("claim is prepared already", namespace=ref.namespace, claim=ref.name, uid=ref.uid)
                return there
            raise
        # One that a user made outlives its pods, and may have been allocated anew.
        if there is not None and is_there and there.results == allocation.results(claim):
            _log.info("claim is prepared already", namespace=ref.namespace, claim=ref.name, uid=ref.uid)
            return there
        pools = dict.fromkeys(result.pool for result in allocation.results(claim))
        prepared = cdi.prepared(ref, claim, {pool: await self._slice(pool) for pool in pools})
        self._files.write(prepared)
        gpus = [f"{result.pool}/{result.device}: {result.shares}" for result in prepared.results]
        _log.info("claim prepared", namespace=ref.namespace, claim=ref.name, uid=ref.uid, shares=gpus)
        return prepared

    async def _claim(self, ref: ClaimRef) -> ResourceClaim:
        """The claim that the kubelet means. Raises ClusterError, AllocationError."""
        try:
            claim = await self._cluster.get(CLAIMS, ref.namespace, ref.name)
        except NotFoundError:
            raise AllocationError(f"it is gone from the API server; {_DELETE}") from None
        except ForbiddenError as error:
            raise AllocationError(f"the plugin of this node may not read it (RBAC): {error}") from None
        uid = mapping(claim, "metadata").get("uid")
        if uid != ref.uid:
            raise AllocationError(f"another claim has its name by now, with the UID {uid}; {_DELETE}")
        return claim

    async def _slice(self, pool: str) -> ResourceSlice:
        """What the pool says of a server. Raises ClusterError, AllocationError."""
        name = slices.slice_name(pool)
        try:
            return await self._cluster.get(RESOURCE_SLICES, None, name)
        except NotFoundError:
            raise AllocationError(
                f"the server {pool} is not in the pool any more (no ResourceSlice {name}); {_DELETE}"
            ) from None
        except ForbiddenError as error:
            raise AllocationError(f"the plugin of this node may not read ResourceSlices (RBAC): {error}") from None

    # --- unprepare ----------------------------------------------------------------------------------------------------

    def _unprepare_or_say(self, claim: ClaimRef) -> str:
        try:
            removed = self._files.remove(claim.uid)
        except OSError as error:
            return self._failed("unprepare", claim, f"cannot remove {self._files.path(claim.uid)}: {error.strerror}")
        self._metrics.unprepared.inc()
        _log.info("claim unprepared", namespace=claim.namespace, claim=claim.name, uid=claim.uid, was_prepared=removed)
        return ""

    def _left(self) -> list[str]:
        """The UIDs of claims that have a file, at most MOST_FILES. Raises OSError."""
        self._files.remove_partial()
        uids = list(self._files.uids())
        if len(uids) > MOST_FILES:
            _log.warning("more files of claims than are looked at", files=len(uids), looked_at=MOST_FILES)
        return uids[:MOST_FILES]

    async def _remove_if_gone(self, uid: str) -> None:
        """Raises ClusterError, OSError."""
        async with self._alone(uid):
            prepared = self._files.read(uid)
            if prepared is None:  # of another version of ours, or broken: it goes when the claim is unprepared
                return
            claim = prepared.claim
            try:
                found = await self._cluster.get(CLAIMS, claim.namespace, claim.name)
            except NotFoundError:
                found = {}
            if mapping(found, "metadata").get("uid") != uid:
                self._files.remove(uid)
                _log.info("file of a claim that is gone removed", namespace=claim.namespace, claim=claim.name, uid=uid)

    # --- both ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self, uid: str) -> AsyncIterator[None]:
        lock = self._busy.setdefault(uid, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._busy.pop(uid, None)

    def _failed(self, call: str, claim: ClaimRef, error: str) -> str:
        error = one_line(error, _LONGEST_ERROR) or "it failed without a word"  # to a kubelet an empty one is none
        self._metrics.failures.labels(call).inc()
        _log.warning(f"claim not {call}d", namespace=claim.namespace, claim=claim.name, uid=claim.uid, error=error)
        return error
