"""Whether what was applied has come to life, and if not: which pod, for which reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Event, Node, Object, Pod, ReplicaSet, Workload
from bitfusiond.core.text import one_line
from bitfusiond.errors import Failure
from bitfusiond.operate import waiting
from bitfusiond.operate.kubectl import Kubectl, KubectlError, Ref
from bitfusiond.operate.report import Say

POLL_SECONDS = 2.0
_REVISION = "deployment.kubernetes.io/revision"


class Progress(NamedTuple):
    """How many pods of a Deployment or DaemonSet are up to date and available, how many there should be, and whether
    that is all.
    """

    ready: int
    wanted: int
    done: bool


def progress(workload: Workload) -> Progress:
    """By the status of ``workload``. One that is older than the spec says nothing."""
    status, wanted = mapping(workload, "status"), _wanted(workload)
    is_current = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    available = status.get("numberAvailable" if _is_daemon_set(workload) else "availableReplicas", 0)
    ready = min(_updated(workload), available) if is_current else 0
    surplus = not _is_daemon_set(workload) and status.get("replicas", 0) > wanted
    return Progress(ready, wanted, is_current and ready >= wanted and not surplus)


def _is_daemon_set(workload: Workload) -> bool:
    return bool(workload["kind"] == "DaemonSet")


def _wanted(workload: Workload) -> int:
    if _is_daemon_set(workload):
        return int(mapping(workload, "status").get("desiredNumberScheduled", 0))
    return int(workload["spec"].get("replicas", 1))


def _updated(workload: Workload) -> int:
    key = "updatedNumberScheduled" if _is_daemon_set(workload) else "updatedReplicas"
    return int(mapping(workload, "status").get(key, 0))


def wait(kubectl: Kubectl, what: Ref, timeout: float, say: Say) -> None:
    """Until all pods of ``what`` are up to date and available, but for those of nodes that are not ready.

    Raises Failure after ``timeout`` seconds that names each pod in the way and its reason.
    """
    last = None
    for expired in waiting.rounds(timeout, POLL_SECONDS):
        workload = kubectl.get(what)
        if workload is None:
            raise Failure(f"{what} is not there any more: somebody deleted it meanwhile, deploy again")
        ready, wanted, done = progress(workload)
        if done:
            say(f"{what}: {ready}/{wanted} ready")
            return
        if (ready, wanted) != last:
            last = (ready, wanted)
            say(f"{what}: {ready}/{wanted} ready, waiting")
        if expired or _is_daemon_set(workload):
            state = snapshot(kubectl, workload)
            excused = absent_nodes(state.pods, kubectl.all("Node") if _is_daemon_set(workload) else [])
            if excused and wanted and ready + len(excused) >= wanted:
                say(f"{what}: {ready}/{wanted} ready; not waiting for nodes that are not ready: {', '.join(excused)}")
                return
            if expired:
                raise Failure(_too_late(what, ready, wanted, timeout, explain(workload, state)))


def _too_late(what: Ref, ready: int, wanted: int, timeout: float, reasons: Sequence[str]) -> str:
    why = "; ".join(reasons) or "no pod says why"
    return (
        f"{what}: {ready} of {wanted} pods ready after {timeout:g} s: {why}. Look at `kubectl describe {what.words}`,"
        " then deploy again: it goes on where it was (TIMEOUT=SECONDS waits longer)"
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Of a Deployment or DaemonSet: its pods but those that are ending, the warnings about them and about what makes
    them, and the name of what makes the pods of today's template: the DaemonSet, or a ReplicaSet (empty: none yet).
    """

    pods: list[Pod]
    events: list[Event]
    maker: str


def snapshot(kubectl: Kubectl, workload: Workload) -> Snapshot:
    """What there is of a workload now."""
    name, namespace = workload["metadata"]["name"], workload["metadata"]["namespace"]
    labels = ",".join(f"{key}={value}" for key, value in workload["spec"]["selector"]["matchLabels"].items())
    pods = [pod for pod in kubectl.all("Pod", "-l", labels, namespace=namespace) if not is_ending(pod)]
    maker = name
    if workload["kind"] == "Deployment":
        maker = newest(workload, kubectl.all("ReplicaSet", "-l", labels, namespace=namespace))
    try:
        events = kubectl.all("Event", "--field-selector", "type=Warning", namespace=namespace)
    except KubectlError:
        events = []  # they only explain
    about = {name, *(pod["metadata"]["name"] for pod in pods)}
    concerning = [
        each
        for each in events
        if each["involvedObject"].get("name") in about or each["involvedObject"].get("name", "").startswith(f"{name}-")
    ]
    return Snapshot(pods, sorted(concerning, key=_when), maker)


def is_ending(document: Object) -> bool:
    return "deletionTimestamp" in document["metadata"]


def newest(deployment: Workload, replica_sets: Iterable[ReplicaSet]) -> str:
    """The name of the ReplicaSet of the Deployment's template, by the revision that the controller writes into both."""
    today = mapping(deployment, "metadata", "annotations").get(_REVISION)
    for each in replica_sets:
        if today is not None and mapping(each, "metadata", "annotations").get(_REVISION) == today:
            name: str = each["metadata"]["name"]
            return name
    return ""


def absent_nodes(pods: Iterable[Pod], nodes: Iterable[Node]) -> list[str]:
    """The nodes that are not ready and have a pod that is not: nothing that a deploy can wait for."""
    away = {node["metadata"]["name"] for node in nodes if not condition(node, "Ready")}
    return sorted({pod["spec"].get("nodeName", "") for pod in pods if not condition(pod, "Ready")} & away)


def condition(document: Object, kind: str) -> bool:
    conditions = mapping(document, "status").get("conditions") or []
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def explain(workload: Workload, state: Snapshot) -> list[str]:
    """Why pods are not ready, one line each: what the containers say, else the last warning about the pod.

    Where there are fewer pods than there should be: the last word of what makes them (a quota, a policy), and how many
    pods of an earlier template serve meanwhile.
    """
    lines = []
    for pod in state.pods:
        if condition(pod, "Ready"):
            continue
        name = pod["metadata"]["name"]
        last = [each for each in state.events if each["involvedObject"].get("name") == name]
        reason = _waiting(pod) or (_event(last[-1]) if last else f"{_phase(pod)}, no container says why")
        node = pod["spec"].get("nodeName")
        lines.append(f"pod {name}{f' on {node}' if node else ''}: {reason}")
    if _updated(workload) < _wanted(workload):
        failed = [
            each
            for each in state.events
            if each.get("reason") == "FailedCreate" and each["involvedObject"].get("name") == state.maker
        ]
        lines += [_event(each) for each in failed[-1:]]
    if not state.pods and not lines:
        lines += [_event(each) for each in state.events[-1:]]
    if old := sum(condition(pod, "Ready") and not _made_by(pod, state.maker) for pod in state.pods):
        lines.append(f"{old} old pod{'s still serve' if old > 1 else ' still serves'}")
    return lines


def _made_by(pod: Pod, maker: str) -> bool:
    return any(owner["name"] == maker for owner in pod["metadata"].get("ownerReferences") or [])


def _waiting(pod: Pod) -> str | None:
    """The reason that a container of ``pod``, or the scheduler, gives in its status."""
    status = mapping(pod, "status")
    for each in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        last = mapping(each, "lastState", "terminated")
        for kind in ("waiting", "terminated"):
            details = mapping(each, "state", kind)
            reason = details.get("reason")
            if reason and reason not in {"ContainerCreating", "PodInitializing", "Completed"}:
                ended = f", its last exit status was {last['exitCode']}" if "exitCode" in last else ""
                return one_line(f"{reason}{ended}: {details.get('message', '')}".rstrip(": "))
    for each in status.get("conditions") or []:
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"{each.get('reason', 'Unschedulable')}: {each.get('message', '')}"
    return None


def _phase(pod: Pod) -> str:
    phase: str = mapping(pod, "status").get("phase", "Pending")
    return phase


def _when(event: Event) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _event(event: Event) -> str:
    return one_line(f"{event.get('reason', '')}: {event.get('message', '')}")
