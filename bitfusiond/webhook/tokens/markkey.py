"""The key of the marks, in a Secret of our own namespace that all replicas share; whoever comes first makes it."""

from __future__ import annotations

import base64
from collections.abc import Callable

import trio

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.tokens import marks
from bitfusiond.kube import SECRETS, Change, Cluster, ConflictError, Object
from bitfusiond.kube.follow import WatchState, follow

_log = logs.Log("tokens")


class MarkKey:
    """Tells ``use`` the key, and each one that comes later.

    A Secret that is deleted is made anew, with another key: so an operator changes it. One without a good key is left
    alone and told; the last good key holds.
    """

    def __init__(self, cluster: Cluster, namespace: str, use: Callable[[bytes], None]) -> None:
        self.watch = WatchState()
        self._cluster = cluster
        self._namespace = namespace
        self._use = use

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with the Secret until cancelled; raises nothing that a cluster can cause."""
        task_status.started()
        await follow(
            self._cluster,
            SECRETS,
            namespace=self._namespace,
            name=names.MARK_SECRET,
            listed=self._listed,
            changed=self._changed,
            state=self.watch,
        )

    async def _listed(self, secrets: list[Object]) -> None:
        if secrets:
            self._take(secrets[0])
        else:
            await self._make()

    async def _changed(self, change: Change) -> None:
        if change.type == "DELETED":
            await self._make()
        else:
            self._take(change.object)

    async def _make(self) -> None:
        metadata = {"name": names.MARK_SECRET, "labels": {names.MANAGED_BY: names.MANAGED_BY_US}}
        data = {marks.KEY: base64.b64encode(marks.new_key()).decode()}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
        try:
            self._take(await self._cluster.create(SECRETS, self._namespace, secret))
        except ConflictError:
            return  # another replica was first: the watch brings its Secret
        _log.info("key for the marks of token copies made", secret=f"{self._namespace}/{names.MARK_SECRET}")

    def _take(self, secret: Object) -> None:
        key = marks.key_of(secret.get("data"))
        if key is None:
            where = f"{self._namespace}/{names.MARK_SECRET}"
            _log.error(f"Secret {where} holds no key: delete it, and bitfusiond makes another")
            return
        self._use(key)
