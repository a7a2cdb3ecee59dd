"""Kubernetes Events: for refused pods of controllers, and for pods of whose GPUs there is something to say.

A person who creates a pod reads the refusal at once; a Deployment's pods are created by nobody, and fail in silence:
their owner is the one place where somebody will look.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Protocol

import trio

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.admission.review import Review
from bitfusiond.core.text import cut
from bitfusiond.kube import EVENTS, Cluster, ClusterError, ConflictError, Object, UnavailableError

REASON = names.EVENT_REFUSED
SERVER_GONE = names.EVENT_SERVER_GONE
# A controller tries again for ever, every time with the same answer: one Event in so many seconds is enough.
QUIET_SECONDS = 600.0
# Events beyond are dropped: an admission never waits for one.
QUEUE = 100
_REMEMBERED = 10_000
_LONGEST_MESSAGE = 1024  # characters; the API server refuses longer ones
_LONGEST_POD = 200  # characters of a pod's name, of the 253 of an Event's

_log = logs.Log("events")


class PodReference(Protocol):
    """Which pod, of those that ever were."""

    @property
    def namespace(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def uid(self) -> str: ...


class Events:
    """Writes Events in its own time; :meth:`refused` only leaves a note.

    ``serves(namespace)``: whether Events are written there at all.
    """

    def __init__(self, serves: Callable[[str], bool], component: str = "bitfusiond") -> None:
        self._serves = serves
        self._component = component
        self._said: dict[str, float] = {}
        self._send, self._receive = trio.open_memory_channel[Object](QUEUE)

    def refused(self, request: Review, message: str) -> None:
        """Note that the pod of ``request`` was refused. Nothing is written for a dry run, or without a controller."""
        owner = request.owner
        if owner is None or request.dry_run or not self._serves(request.namespace):
            return
        key = hashlib.sha256(f"{owner.uid} {message}".encode(errors="replace")).hexdigest()[:16]
        now = trio.current_time()
        if now < self._said.get(key, -QUIET_SECONDS) + QUIET_SECONDS:
            return
        self._said.pop(key, None)
        if len(self._said) >= _REMEMBERED:
            del self._said[next(iter(self._said))]  # the oldest
        self._said[key] = now
        try:
            involved = {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
            }
            metadata = {"generateName": f"bitfusiond-{key}-", "namespace": request.namespace}
            self._send.send_nowait(self._event(metadata, involved, REASON, message))
        except trio.WouldBlock:
            _log.warning("event dropped", namespace=request.namespace, owner=owner.name)

    async def of_pod(self, cluster: Cluster, pod: PodReference, message: str, *, reason: str) -> bool:
        """Write an Event about a pod; whether that is settled, and needs no other try.

        Its name comes of what it says, so that several replicas that say it make one.
        """
        if not self._serves(pod.namespace):
            return True
        key = hashlib.sha256(f"{pod.uid} {reason} {message}".encode(errors="replace")).hexdigest()[:16]
        metadata = {"name": f"{pod.name[:_LONGEST_POD]}.{key}", "namespace": pod.namespace}
        involved = {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}
        try:
            await cluster.create(EVENTS, pod.namespace, self._event(metadata, involved, reason, message))
        except ConflictError:
            pass  # another replica said it
        except ClusterError as error:
            _log.warning("event not written", namespace=pod.namespace, message=str(error))
            return not isinstance(error, UnavailableError)
        return True

    async def run(self, cluster: Cluster) -> None:
        """Write what was noted, for ever. A failure is logged: an Event is worth no second try."""
        async for event in self._receive:
            namespace = event["metadata"]["namespace"]
            try:
                await cluster.create(EVENTS, namespace, event)
            except ClusterError as error:
                _log.warning("event not written", namespace=namespace, message=str(error))

    def _event(self, metadata: Object, involved: Object, reason: str, message: str) -> Object:
        """Source of its form: Kubernetes' reference for Event v1 of the core group."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": metadata,
            "involvedObject": {**involved, "namespace": metadata["namespace"]},
            "type": "Warning",
            "reason": reason,
            "message": cut(message, _LONGEST_MESSAGE),
            "source": {"component": self._component},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
