"""Which namespaces there are, kept up by a watch: what a review says of its namespace is a claim of whoever sent it."""

from __future__ import annotations

import re

import trio

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.text import shown
from bitfusiond.core.tokens import copies
from bitfusiond.kube import NAMESPACES, Change, Cluster, Object
from bitfusiond.kube.follow import WatchState, follow

APPEAR_SECONDS = 2.0  # for a namespace that was made a moment ago; the news of it take some milliseconds
_LABEL = re.compile(names.LABEL)


class Namespaces:
    """The names of all namespaces, and which of them have the label ``bitfusion.io/admission: ignore``.

    ``exempt`` are served in no case. ``watch`` tells how the watch is doing.
    """

    def __init__(self, exempt: frozenset[str]) -> None:
        self.watch = WatchState()
        self._exempt = exempt
        self._ignored: dict[str, bool] = {}
        self._uids: dict[str, str] = {}
        self._changed = trio.Event()

    def knows(self, name: str) -> bool:
        """Whether there is such a namespace."""
        return name in self._ignored

    def serves(self, name: str) -> bool:
        """Whether there is such a namespace, and the API server asks about its pods."""
        return self._ignored.get(name) is False and name not in self._exempt

    async def another(self, name: str, uid: str | None) -> str | None:
        """Wait while the namespace of that name is the one of ``uid`` (None: none); the uid of the one there is then.

        One that was made anew, be it at once or while the API server was away, has another.
        """
        while (found := self._uids.get(name)) == uid:
            await self._changed.wait()
        return found

    async def problem(self, name: str) -> str | None:
        """Why nothing is to be written into the namespace; waits APPEAR_SECONDS for one that is not there yet."""
        if not _LABEL.fullmatch(name):
            return f"metadata.namespace: {shown(name)} is not the name of a namespace"
        with trio.move_on_after(APPEAR_SECONDS):
            await self.another(name, None)
        if self.serves(name):
            return None
        if not self.watch.synced:
            return f"bitfusiond is not ready yet, {self.ready_reason()}: try again"
        if not self.knows(name):
            return f"bitfusiond sees no namespace {name} in the cluster: try again"
        if name in self._exempt:
            return copies.not_served(name)
        return (
            f"metadata.namespace: no tokens are copied into {name}, as it has the label"
            f" {names.ADMISSION_LABEL}=ignore: `kubectl label namespace {name} {names.ADMISSION_LABEL}-` takes it away"
        )

    def ready_reason(self) -> str | None:
        """Why no namespace is known yet; None from the first list on."""
        if self.watch.synced:
            return None
        why = f" ({self.watch.last_error})" if self.watch.last_error else ""
        return f"namespaces: not listed yet{why}"

    async def run(self, cluster: Cluster, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep up with the cluster until cancelled; raises nothing that a cluster can cause."""
        task_status.started()
        await follow(cluster, NAMESPACES, listed=self._list, changed=self._change, state=self.watch, keep=_keep)

    def _list(self, namespaces: list[Object]) -> None:
        self._ignored = {each["metadata"]["name"]: _is_ignored(each) for each in namespaces}
        self._uids = {each["metadata"]["name"]: each["metadata"]["uid"] for each in namespaces}
        self._tell()

    def _change(self, change: Change) -> None:
        name = change.object["metadata"]["name"]
        if change.type == "DELETED":
            self._ignored.pop(name, None)
            self._uids.pop(name, None)
        else:
            self._ignored[name] = _is_ignored(change.object)
            self._uids[name] = change.object["metadata"]["uid"]
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _keep(namespace: Object) -> Object:
    """Nothing but the name, the uid and the one label."""
    metadata = namespace["metadata"]
    label = mapping(metadata, "labels").get(names.ADMISSION_LABEL)
    return {"metadata": {"name": metadata["name"], "uid": metadata["uid"], "labels": {names.ADMISSION_LABEL: label}}}


def _is_ignored(namespace: Object) -> bool:
    return bool(namespace["metadata"]["labels"][names.ADMISSION_LABEL] == "ignore")
