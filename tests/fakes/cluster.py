"""A ``Cluster`` in memory. It answers as an API server does, and as one does that is failing.

A test sets the scene with ``put``, ``remove``, ``add_namespace`` and ``terminate_namespace``, which are nobody's
requests; looks at it with ``find`` and ``all``; reads in ``requests`` what the code under test asked for; and breaks
things with ``fail_with``, ``failing``, ``hang``, ``disconnect``, ``stall``, ``expire`` and ``drop``.

The same assertions hold for it and for a real API server: ``tests/real/apiserver/test_cluster_contract.py``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import trio

from bitfusiond.kube import (
    MUTATING,
    NAMESPACES,
    NO_LABELS,
    VALIDATING,
    Change,
    ClusterError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    Listing,
    NotFoundError,
    Object,
    Resource,
)
from tests.fakes import fieldsets
from tests.fakes.cluster_faults import Faults
from tests.fakes.cluster_rules import Key, encode_string_data, qualified, type_of, validate

# How the fake names the writer of a create or a replace in managedFields; the real API server takes the User-Agent.
MANAGER = "bitfusiond"


@dataclass(frozen=True, slots=True)
class _Selector:
    """Which objects a list or a watch is about."""

    resource: Resource
    namespace: str | None
    name: str | None
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS, hash=False)

    def takes(self, key: Key) -> bool:
        return (
            key.resource == self.resource and self.namespace in (None, key.namespace) and self.name in (None, key.name)
        )

    def is_labelled(self, document: Object) -> bool:
        return self.labels.items() <= (document.get("metadata", {}).get("labels") or {}).items()

    def seen(self, change: Change, before: Object) -> Change | None:
        """``change`` for whoever watches by labels: an object that comes to have them is added, one without is gone."""
        was = bool(before) and self.is_labelled(before)
        if change.type == "DELETED" or not self.is_labelled(change.object):
            return Change("DELETED", change.object) if was else None
        return Change("MODIFIED" if was else "ADDED", change.object)


@dataclass(slots=True)
class _Stored:
    document: Object
    owners: fieldsets.Owners = field(default_factory=dict)


@dataclass(slots=True)
class _Watch:
    selector: _Selector
    channel: trio.MemorySendChannel[Change | ClusterError]
    stalled: bool = False


class FakeCluster(Faults):
    """Objects, their history, and who watches them. Only the namespaces that were named exist."""

    def __init__(self, *namespaces: str) -> None:
        super().__init__()
        self._terminating: set[str] = set()
        self._stored: dict[Key, _Stored] = {}
        self._history: list[tuple[int, Key, Change, Object]] = []
        self._version = 100
        self._forgotten = 0
        self._watches: list[_Watch] = []
        self._dropping: list[tuple[Resource, Callable[[Object], None]]] = []
        self.add_namespace("default", "kube-system", "bwki", *namespaces)

    # --- the scene ------------------------------------------------------------------------------------------------

    def add_namespace(self, *names: str, **labels: str) -> None:
        """Make namespaces, or label them anew: ``bitfusion__io_admission`` is ``bitfusion.io/admission``."""
        written = {key.replace("__", ".").replace("_", "/"): value for key, value in labels.items()}
        for name in names:
            self.put(NAMESPACES, {"metadata": {"name": name, "labels": written}})

    def terminate_namespace(self, name: str) -> None:
        """As after ``kubectl delete namespace``, while its objects go: nothing new can be created in it."""
        self._terminating.add(name)

    def remove_namespace(self, name: str) -> None:
        """The namespace is gone, and all in it."""
        for key in [key for key in self._stored if key.namespace == name]:
            self.remove(*key)
        self.remove(NAMESPACES, None, name)
        self._terminating.discard(name)

    def put(self, resource: Resource, body: Object, namespace: str | None = None, manager: str = "kubectl") -> Object:
        """Create or replace an object as somebody else, who is always allowed to; give it as it is stored.

        ``namespace`` is that of ``body`` where none is given. A ``stringData`` becomes ``data``.
        """
        namespace = namespace or body["metadata"].get("namespace")
        if namespace is not None and self.find(NAMESPACES, None, namespace) is None:
            self.add_namespace(namespace)
        return self._write(Key(resource, namespace, body["metadata"]["name"]), body, manager)

    def remove(self, resource: Resource, namespace: str | None, name: str) -> None:
        """Delete an object as somebody else."""
        key = Key(resource, namespace, name)
        document = self._stored.pop(key).document
        gone = {**document, "metadata": {**document["metadata"], "resourceVersion": str(self._next_version())}}
        self._publish(key, Change("DELETED", gone), document)

    def find(self, resource: Resource, namespace: str | None, name: str) -> Object | None:
        """A copy of the object as it is stored, None where there is none."""
        stored = self._stored.get(Key(resource, namespace, name))
        return None if stored is None else copy.deepcopy(stored.document)

    def all(self, resource: Resource, namespace: str | None = None, name: str | None = None) -> list[Object]:
        """Copies of all objects of a kind, of one namespace, of one name, ordered as an API server does."""
        return [copy.deepcopy(each) for each in self._ordered(_Selector(resource, namespace, name))]

    def watching(self, resource: Resource, namespace: str | None = None, name: str | None = None) -> int:
        """How many watches of exactly this are open."""
        return [each.selector for each in self._watches].count(_Selector(resource, namespace, name))

    # --- what can go wrong ----------------------------------------------------------------------------------------

    def disconnect(self) -> None:
        """Every open watch ends: after its timeoutSeconds, or with the API server. What is asked next is answered."""
        self._end_watches(None)

    def stall(self) -> None:
        """Every open watch stays open and says nothing more, as after a connection that was lost on the way."""
        for watch in self._watches:
            watch.stalled = True

    def bookmark(self) -> None:
        """Tell every open watch the present resourceVersion."""
        for watch in self._watches:
            metadata = {"resourceVersion": str(self._version), "creationTimestamp": None}
            self._send(watch, Change("BOOKMARK", {**type_of(watch.selector.resource), "metadata": metadata}))

    def expire(self) -> None:
        """etcd was compacted: 410 for every open watch, and for one from any resourceVersion given so far."""
        self._forgotten = self._next_version()
        self._history.clear()
        self._end_watches(ExpiredError(f"too old resource version (before {self._forgotten})"))

    def drop(self, resource: Resource, drop: Callable[[Object], None]) -> None:
        """As with a feature gate off: ``drop`` takes fields out of what is written, and nobody is told."""
        self._dropping.append((resource, drop))

    # --- Cluster --------------------------------------------------------------------------------------------------

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object:
        await self.asked("get", resource, namespace, name)
        return copy.deepcopy(self._existing(Key(resource, namespace, name)).document)

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        name: str | None = None,
        *,
        labels: Mapping[str, str] = NO_LABELS,
        keep: Callable[[Object], Object] | None = None,
    ) -> Listing:
        found = await self.read(resource, namespace, name, labels=labels)
        items = copy.deepcopy(found.items)
        for item in items:  # a list says once what its items are
            del item["apiVersion"], item["kind"]
        return found._replace(items=[keep(item) for item in items] if keep else items)

    async def read(
        self,
        resource: Resource,
        namespace: str | None = None,
        name: str | None = None,
        *,
        labels: Mapping[str, str] = NO_LABELS,
    ) -> Listing:
        """A list of the objects as they are stored, no copies: only for whoever changes nothing in them."""
        await self.asked("list", resource, namespace, name)
        selector = _Selector(resource, namespace, name, labels)
        return Listing([each for each in self._ordered(selector) if selector.is_labelled(each)], str(self._version))

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str | None = None,
        name: str | None = None,
        *,
        labels: Mapping[str, str] = NO_LABELS,
    ) -> AsyncIterator[AsyncIterator[Change]]:
        await self.asked("watch", resource, namespace, name)
        if int(resource_version) < self._forgotten:
            raise ExpiredError(f"too old resource version: {resource_version} ({self._forgotten})")
        sending, receiving = trio.open_memory_channel[Change | ClusterError](math.inf)
        watch = _Watch(_Selector(resource, namespace, name, labels), sending)
        for version, key, change, before in self._history:
            if version > int(resource_version):
                self._tell(watch, key, change, before)
        self._watches.append(watch)
        try:
            async with aclosing(_changes(receiving)) as changes:
                yield changes
        finally:
            if watch in self._watches:
                self._watches.remove(watch)
            sending.close()
            receiving.close()

    async def create(self, resource: Resource, namespace: str | None, body: Object, *, dry_run: bool = False) -> Object:
        metadata = body.get("metadata", {})
        name = metadata.get("name")
        await self.asked("create", resource, namespace, name)
        if name is None and "generateName" in metadata:
            name = f"{metadata['generateName']}{self._version:05x}"
        if not name:
            raise InvalidError(f"{resource.kind} is invalid: metadata.name: Required value: name or generateName")
        self._check_namespace(resource, namespace, name)
        key = Key(resource, namespace, name)
        if key in self._stored:
            raise ConflictError(f'{qualified(resource)} "{name}" already exists')
        if "resourceVersion" in metadata:
            raise InvalidError("resourceVersion should not be set on objects to be created")
        return self._write(key, body, MANAGER, dry_run=dry_run)

    async def replace(self, resource: Resource, namespace: str | None, name: str, body: Object) -> Object:
        await self.asked("update", resource, namespace, name)
        key = Key(resource, namespace, name)
        if body.get("metadata", {}).get("name") != name:
            raise InvalidError("the name of the object does not match the name on the URL")
        metadata = self._existing(key).document["metadata"]
        given = body["metadata"].get("resourceVersion")
        if given is None and resource in (MUTATING, VALIDATING):
            raise InvalidError(f'{resource.kind} "{name}" is invalid: metadata.resourceVersion: must be specified')
        if given not in (None, metadata["resourceVersion"]):
            raise ConflictError(f'Operation cannot be fulfilled on {resource.plural} "{name}": the object was modified')
        if body["metadata"].get("uid") not in (None, metadata["uid"]):
            raise ConflictError(f'Operation cannot be fulfilled on {resource.plural} "{name}": another uid')
        return self._write(key, body, MANAGER)

    async def apply(
        self, resource: Resource, namespace: str | None, name: str, body: Object, *, field_manager: str
    ) -> Object:
        await self.asked("patch", resource, namespace, name)
        key = Key(resource, namespace, name)
        given = body.get("metadata", {}).get("resourceVersion")
        if key not in self._stored:
            self._check_namespace(resource, namespace, name)
        elif given not in (None, self._stored[key].document["metadata"]["resourceVersion"]):
            raise ConflictError(f'Operation cannot be fulfilled on {resource.plural} "{name}": the object was modified')
        return self._write(key, body, field_manager, applied=True)

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, resource_version: str | None = None
    ) -> None:
        await self.asked("delete", resource, namespace, name)
        metadata = self._existing(Key(resource, namespace, name)).document["metadata"]
        if resource_version not in (None, metadata["resourceVersion"]):
            raise ConflictError(f'Operation cannot be fulfilled on {resource.plural} "{name}": the object was modified')
        self.remove(resource, namespace, name)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _ordered(self, selector: _Selector) -> Iterator[Object]:
        for key in sorted(filter(selector.takes, self._stored), key=lambda key: (key[1] or "", key[2])):
            yield self._stored[key].document

    def _existing(self, key: Key) -> _Stored:
        if key not in self._stored:
            raise NotFoundError(f'{qualified(key.resource)} "{key.name}" not found')
        return self._stored[key]

    def _check_namespace(self, resource: Resource, namespace: str | None, name: str) -> None:
        if namespace is not None and self.find(NAMESPACES, None, namespace) is None:
            raise NotFoundError(f'namespaces "{namespace}" not found')
        if namespace in self._terminating:
            reason = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise ForbiddenError(f'{qualified(resource)} "{name}" is forbidden: {reason}')

    def _write(self, key: Key, body: Object, manager: str, *, applied: bool = False, dry_run: bool = False) -> Object:
        stored = copy.deepcopy(self._stored.get(key, _Stored({})))
        before = copy.deepcopy(stored.document)
        if applied:
            fieldsets.apply(stored.document, stored.owners, manager, copy.deepcopy(body))
        else:
            stored.document = copy.deepcopy(body)
            encode_string_data(stored.document)
            fieldsets.update(before, stored.document, stored.owners, manager)
        for resource, drop in self._dropping:
            if resource == key.resource:
                drop(stored.document)
        self._stamp(key, stored, before.get("metadata", {}))
        validate(key, before, stored.document)
        # A write that changes nothing is no write: same resourceVersion, no event.
        if stored.document == before or dry_run:
            return stored.document
        stored.document["metadata"]["resourceVersion"] = str(self._next_version())
        self._stored[key] = stored
        self._publish(key, Change("MODIFIED" if before else "ADDED", stored.document), before)
        return copy.deepcopy(stored.document)

    def _stamp(self, key: Key, stored: _Stored, before: Object) -> None:
        """What the API server itself writes into every object."""
        metadata = stored.document.setdefault("metadata", {})
        metadata["name"] = key.name
        if key.namespace is not None:
            metadata["namespace"] = key.namespace
        metadata["uid"] = before.get("uid", f"00000000-0000-0000-0000-{self._version:012d}")
        metadata["creationTimestamp"] = before.get("creationTimestamp", "2026-01-01T00:00:00Z")
        metadata.pop("resourceVersion", None)
        if "resourceVersion" in before:
            metadata["resourceVersion"] = before["resourceVersion"]
        type_ = type_of(key.resource)
        metadata["managedFields"] = fieldsets.managed_fields(stored.owners, type_["apiVersion"])
        stored.document.update(type_)

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _publish(self, key: Key, change: Change, before: Object) -> None:
        self._history.append((self._version, key, copy.deepcopy(change), before))
        for watch in self._watches:
            self._tell(watch, key, change, before)

    def _tell(self, watch: _Watch, key: Key, change: Change, before: Object) -> None:
        if watch.selector.takes(key) and (seen := watch.selector.seen(change, before)) is not None:
            self._send(watch, seen)

    def _send(self, watch: _Watch, change: Change) -> None:
        if not watch.stalled:
            watch.channel.send_nowait(copy.deepcopy(change))

    def _end_watches(self, error: ClusterError | None) -> None:
        for watch in self._watches:
            if error is not None:
                watch.channel.send_nowait(error)
            watch.channel.close()
        self._watches.clear()


async def _changes(receiving: trio.MemoryReceiveChannel[Change | ClusterError]) -> AsyncGenerator[Change, None]:
    async for each in receiving:
        if isinstance(each, ClusterError):
            raise each
        yield each
