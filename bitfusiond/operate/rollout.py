"""Whether what was applied has come to life, and if not: which pod, for which reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bitfusiond.errors import Failure
from bitfusiond.operate.kubectl import Json, Kubectl, KubectlError, Ref

POLL_SECONDS = 2.0

Say = Callable[[str], None]


def progress(workload: Mapping[str, Any]) -> tuple[int, int, bool]:
    """Of a Deployment or DaemonSet: pods that are up to date and available, pods there should be, whether all is done.

    A status that is older than the spec says nothing.
    """
    status: Mapping[str, Any] = workload.get("status") or {}
    if workload["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        updated, available = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
        surplus = False
    else:
        wanted = workload["spec"].get("replicas", 1)
        updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
        surplus = status.get("replicas", 0) > wanted
    seen = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    ready = min(updated, available) if seen else 0
    return ready, wanted, seen and ready >= wanted and not surplus


def wait(kubectl: Kubectl, what: Ref, timeout: float, say: Say) -> None:
    """Until all pods of ``what`` are up to date and available, but for those of nodes that are not ready.

    Raises Failure after ``timeout`` seconds that names each pod in the way and its reason.
    """
    deadline = time.monotonic() + timeout
    told = None
    while True:
        workload = kubectl.get(what)
        if workload is None:
            raise Failure(f"{what} is not there any more: somebody deleted it meanwhile, deploy again")
        ready, wanted, done = progress(workload)
        if done:
            say(f"{what}: {ready}/{wanted} ready")
            return
        if (ready, wanted) != told:
            told = (ready, wanted)
            say(f"{what}: {ready}/{wanted} ready, waiting")
        expired = time.monotonic() > deadline
        if expired or workload["kind"] == "DaemonSet":
            pods, events = of_workload(kubectl, workload)
            excused = absent_nodes(pods, kubectl.all("Node") if workload["kind"] == "DaemonSet" else [])
            if excused and wanted and ready + len(excused) >= wanted:
                say(f"{what}: {ready}/{wanted} ready; not waiting for nodes that are not ready: {', '.join(excused)}")
                return
            if expired:
                raise Failure(_too_late(what, ready, wanted, timeout, explain(pods, events)))
        time.sleep(POLL_SECONDS)


def _too_late(what: Ref, ready: int, wanted: int, timeout: float, reasons: Sequence[str]) -> str:
    why = "; ".join(reasons) or "no pod says why"
    return (
        f"{what}: {ready} of {wanted} pods ready after {timeout:g} s: {why}. Look at `kubectl describe {what.words}`,"
        " then deploy again: it goes on where it was (TIMEOUT=SECONDS waits longer)"
    )


def of_workload(kubectl: Kubectl, workload: Json) -> tuple[list[Json], list[Json]]:
    """The pods of a Deployment or DaemonSet, and the warnings about them and about what makes them."""
    namespace = workload["metadata"]["namespace"]
    labels = ",".join(f"{key}={value}" for key, value in workload["spec"]["selector"]["matchLabels"].items())
    pods = kubectl.all("Pod", "-l", labels, namespace=namespace)
    try:
        events = kubectl.all("Event", "--field-selector", "type=Warning", namespace=namespace)
    except KubectlError:
        events = []  # they only explain
    prefix = f"{workload['metadata']['name']}-"
    about = {pod["metadata"]["name"] for pod in pods}
    concerning = [
        each
        for each in events
        if each["involvedObject"].get("name") in about
        or each["involvedObject"].get("name", "").startswith(prefix)
        or each["involvedObject"].get("name") == workload["metadata"]["name"]
    ]
    return pods, concerning


def absent_nodes(pods: Iterable[Json], nodes: Iterable[Json]) -> list[str]:
    """The nodes that are not ready and have a pod that is not: nothing that a deploy can wait for."""
    away = {node["metadata"]["name"] for node in nodes if not condition(node, "Ready")}
    return sorted({pod["spec"].get("nodeName", "") for pod in pods if not condition(pod, "Ready")} & away)


def condition(document: Mapping[str, Any], kind: str) -> bool:
    conditions = (document.get("status") or {}).get("conditions") or []
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def explain(pods: Iterable[Json], events: Iterable[Json]) -> list[str]:
    """Why pods are not ready, one line each: what the containers say, else the last warning about the pod.

    Where there are no pods at all: the last warning about what should make them (a quota, a policy).
    """
    pods, events = list(pods), sorted(events, key=_when)
    lines = []
    for pod in pods:
        if condition(pod, "Ready"):
            continue
        name = pod["metadata"]["name"]
        last = [each for each in events if each["involvedObject"].get("name") == name]
        reason = _waiting(pod) or (_event(last[-1]) if last else f"{_phase(pod)}, no container says why")
        node = pod["spec"].get("nodeName")
        lines.append(f"pod {name}{f' on {node}' if node else ''}: {reason}")
    if not pods and events:
        lines.append(_event(events[-1]))
    return lines


def _waiting(pod: Json) -> str | None:
    status = pod.get("status") or {}
    for each in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        state = each.get("state") or {}
        last = ((each.get("lastState") or {}).get("terminated")) or {}
        for kind in ("waiting", "terminated"):
            found = state.get(kind) or {}
            if found.get("reason") and found["reason"] not in {"ContainerCreating", "PodInitializing", "Completed"}:
                ended = f", its last exit status was {last['exitCode']}" if "exitCode" in last else ""
                return " ".join(f"{found['reason']}{ended}: {found.get('message', '')}".rstrip(": ").split())
    for each in status.get("conditions") or []:
        if each["type"] == "PodScheduled" and each["status"] == "False":
            return f"{each.get('reason', 'Unschedulable')}: {each.get('message', '')}"
    return None


def _phase(pod: Json) -> str:
    phase: str = (pod.get("status") or {}).get("phase", "Pending")
    return phase


def _when(event: Json) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or "")


def _event(event: Json) -> str:
    return " ".join(f"{event.get('reason', '')}: {event.get('message', '')}".split())
