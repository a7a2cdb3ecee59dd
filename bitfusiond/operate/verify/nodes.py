"""The nodes: whether each has its devices, and what its plugin says of itself and of the servers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from bitfusiond.core import names
from bitfusiond.core.objects import Node, Pod
from bitfusiond.operate.delivery import has_clients
from bitfusiond.operate.kubectl import Kubectl, KubectlError
from bitfusiond.operate.report import NOTE, OK, WRONG, Row
from bitfusiond.operate.rollout import condition

# Metrics are asked of so many plugins at most: each is a call through the API server.
MOST_ASKED = 50
_AT_ONCE = 4

_SAMPLE = re.compile(r"^(?P<name>bitfusiond_plugin_\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Samples = dict[tuple[str, str], float]
"""(metric, value of its first label or empty) -> value"""


def ask(kubectl: Kubectl, pods: Sequence[Pod]) -> dict[str, str | None]:
    """The metrics of each plugin by node, through the API server's proxy; None where it may not or cannot."""

    def metrics(pod: Pod) -> str | None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        try:
            return kubectl.raw(f"/api/v1/namespaces/{namespace}/pods/{name}:9090/proxy/metrics")
        except KubectlError:
            return None

    running = [pod for pod in pods if condition(pod, "Ready")][:MOST_ASKED]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip((pod["spec"]["nodeName"] for pod in running), pool.map(metrics, running), strict=True))


def samples(text: str) -> tuple[Samples, str]:
    """The plugin's metrics, and the reason that ``bitfusiond_plugin_health`` gives."""
    found: Samples = {}
    reason = ""
    for match in _SAMPLE.finditer(text):
        labels = dict(_LABEL.findall(match["labels"] or ""))
        found[match["name"], next(iter(labels.values()), "")] = float(match["value"])
        if match["name"] == "bitfusiond_plugin_health" and float(match["value"]) == 1:
            reason = labels.get("reason", "")
    return found, reason


def check(nodes: Iterable[Node], pods: Sequence[Pod], metrics: Mapping[str, str | None]) -> list[Row]:
    """A row for each node that has something wrong, and one for all that have not."""
    by_node = {pod["spec"].get("nodeName"): pod for pod in pods}
    good, others, silent, rows = 0, 0, [], []
    for node in nodes:
        if not has_clients(node):
            others += 1
            continue
        name = node["metadata"]["name"]
        row = _node(node, by_node.get(name), metrics.get(name))
        if row is None:
            good += 1
        else:
            rows.append(row)
        if name in metrics and metrics[name] is None:
            silent.append(name)
    if good:
        rows.insert(0, Row("nodes", OK, f"{good} with {names.GPU} and a plugin that is registered"))
    if silent:
        detail = f"not seen on {', '.join(silent)}: a NetworkPolicy or the kubelet keeps the API server from port 9090"
        rows.append(Row("metrics of the plugin", NOTE, detail))
    if not rows:
        rows.append(Row("nodes", WRONG, "there is none for linux on amd64", "kubectl get nodes --show-labels"))
    if others:
        rows.append(Row("other nodes", NOTE, f"{others}, without GPUs: there are clients for linux on amd64 only"))
    return rows


def _node(node: Node, pod: Pod | None, text: str | None) -> Row | None:
    name = node["metadata"]["name"]
    what = f"node {name}"
    if not condition(node, "Ready"):
        return Row(what, NOTE, "not ready: nothing is expected of it")
    shares = (node.get("status", {}).get("allocatable") or {}).get(names.GPU)
    if pod is None:
        detail = "no pod of the plugin: a taint, a label or a quota keeps it away"
        fix = "kubectl describe daemonset bitfusion-device-plugin -n kube-system"
        return Row(what, NOTE if shares is None else WRONG, detail, fix)
    problem = _plugin(pod, text) or _registration(pod, shares)
    return Row(what, WRONG, *problem) if problem else None


def _plugin(pod: Pod, text: str | None) -> tuple[str, str] | None:
    """What the plugin's pod and its metrics say is wrong, and the next command."""
    name = pod["metadata"]["name"]
    if not condition(pod, "Ready"):
        return f"the plugin ({name}) is not ready", f"kubectl describe pod {name} -n kube-system"
    if text is None:
        return None
    found, reason = samples(text)
    reachable, unreachable = (int(found.get(("bitfusiond_plugin_servers", key), 0)) for key in ("true", "false"))
    if found.get(("bitfusiond_plugin_registered", ""), 1) == 0:
        return f"the plugin ({name}) is not registered with the kubelet", _logs(name)
    if unreachable:
        return (
            f"{unreachable} of {unreachable + reachable} Bitfusion servers cannot be reached: {reason}",
            "check the network from the node to the servers in servers.conf (TCP), and that they run",
        )
    if found.get(("bitfusiond_plugin_servers_conf_errors_total", ""), 0) and not reachable:
        return f"the plugin ({name}) cannot use servers.conf", _logs(name)
    return None


def _registration(pod: Pod, shares: str | None) -> tuple[str, str] | None:
    """What the node says of its devices."""
    name = pod["metadata"]["name"]
    if shares is None:
        return f"it has no {names.GPU}: the plugin ({name}) is not registered with its kubelet", _logs(name)
    if shares == "0":
        return f"{names.GPU}: 0 allocatable: the plugin's devices are unhealthy or gone", _logs(name)
    return None


def _logs(pod: str) -> str:
    return f"kubectl logs -n kube-system {pod} --since=1h"
