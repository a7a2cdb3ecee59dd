"""Kubernetes Events for refused pods of controllers: their owner is the one place where somebody will look.

A person who creates a pod reads the refusal at once; a Deployment's pods are created by nobody, and fail in silence.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import trio

from bitfusiond import logs
from bitfusiond.core.admission.review import Owner, Review
from bitfusiond.core.text import cut
from bitfusiond.kube import EVENTS, Cluster, ClusterError, Object

REASON = "BitfusionRefused"
# A controller tries again for ever, every time with the same answer: one Event in so many seconds is enough.
QUIET_SECONDS = 600.0
# Events beyond are dropped: an admission never waits for one.
QUEUE = 100
_REMEMBERED = 10_000
_LONGEST_MESSAGE = 1024  # characters; the API server refuses longer ones

_log = logs.Log("events")


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
            self._send.send_nowait(self._event(request.namespace, owner, message, key))
        except trio.WouldBlock:
            _log.warning("event dropped", namespace=request.namespace, owner=owner.name)

    async def run(self, cluster: Cluster) -> None:
        """Write what was noted, for ever. A failure is logged: an Event is worth no second try."""
        async for event in self._receive:
            namespace = event["metadata"]["namespace"]
            try:
                await cluster.create(EVENTS, namespace, event)
            except ClusterError as error:
                _log.warning("event not written", namespace=namespace, message=str(error))

    def _event(self, namespace: str, owner: Owner, message: str, key: str) -> Object:
        """Source of its form: Kubernetes' reference for Event v1 of the core group."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"bitfusiond-{key}-", "namespace": namespace},
            "involvedObject": {
                "apiVersion": owner.api_version,
                "kind": owner.kind,
                "name": owner.name,
                "uid": owner.uid,
                "namespace": namespace,
            },
            "type": "Warning",
            "reason": REASON,
            "message": cut(message, _LONGEST_MESSAGE),
            "source": {"component": self._component},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
