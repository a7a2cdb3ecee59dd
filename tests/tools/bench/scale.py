"""Pods created through a real API server: with no webhook, with one replica of ours, with one that allows everything.

Control plane only: no scheduler and no kubelet, pods are admitted and stored. All configurations are there all the
time and choose pods by a label, so that windows of each kind take turns without anything being changed in between.
API server, etcd, webhook and clients share the machine's cores: where these are few, a webhook takes from the API
server what on a control plane of its own it would not. The CPU time of each process does not depend on that.

Needs the programs in ``KUBEBUILDER_ASSETS``.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from tests.fakes.processes import wait_until
from tests.real.harness.webhook import Replica
from tests.tools.bench.clients import Result
from tests.tools.bench.measure import Figure, own_cpu_seconds, paired, peak_megabytes, resident_megabytes
from tests.tools.bench.scale_cluster import FLOOR, NOBODY, OURS, ScaleCluster, cluster, floor

CONNECTIONS = (1, 8)
MORE_CONNECTIONS = 32  # so many at once that the API server has to connect to the webhook again
# Short, so that the windows that are compared meet the same neighbours on a machine that does other work too.
WINDOW_SECONDS = 1.0
IDLE_SECONDS = 10.0
HEARTBEATS = 1000
SETTLE_SECONDS = 2.0
_ASSETS = "KUBEBUILDER_ASSETS"
_PROGRAMS = ("kube-apiserver", "etcd")


def figures() -> Iterator[Figure]:
    """1,000 nodes and 100 namespaces: less than three minutes."""
    return _measured(nodes=1_000, namespaces=100, rounds=4)


def full_figures() -> Iterator[Figure]:
    """5,000 nodes and 500 namespaces: some six minutes."""
    return _measured(nodes=5_000, namespaces=500, rounds=14)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Pods of one kind: which webhook is asked about them, and whether they opted in."""

    asked: str
    opted_in: bool


_OURS = _Kind(OURS, opted_in=True)
_FLOOR = _Kind(FLOOR, opted_in=True)
_NONE = _Kind(NOBODY, opted_in=True)
_OURS_PLAIN = _Kind(OURS, opted_in=False)
_NONE_PLAIN = _Kind(NOBODY, opted_in=False)
_KINDS = (_NONE, _OURS, _FLOOR, _NONE_PLAIN, _OURS_PLAIN)
_BASELINES = {_NONE: "no webhook", _NONE_PLAIN: "no webhook", _FLOOR: "one that allows everything"}


@dataclass(frozen=True, slots=True)
class _Window:
    """What one window gave; CPU time in milliseconds of each pod."""

    result: Result
    api_server: float
    etcd: float
    webhook: float
    waited: dict[str, float] = field(default_factory=dict)
    """By path, the milliseconds of one call by the API server's clock."""


def _measured(nodes: int, namespaces: int, rounds: int) -> Iterator[Figure]:
    assets = os.environ.get(_ASSETS, "")
    if missing := [program for program in _PROGRAMS if not (Path(assets) / program).is_file()]:
        where = f"{_ASSETS}={assets} has none" if assets else f"set {_ASSETS} to a directory that has them"
        print(f"scale is left out, it needs {' and '.join(missing)}: {where}", file=sys.stderr)
        return
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scale-")))
        try:
            on = stack.enter_context(cluster(directory, namespaces))
            with on.replica() as replica:
                time.sleep(SETTLE_SECONDS)
                empty = resident_megabytes(replica.process.pid)
        except pytest.skip.Exception as skipped:  # the tests' word for what this machine cannot do
            print(f"scale is left out: {skipped}", file=sys.stderr)
            return
        on.make_nodes(nodes)
        on.make_namespaces()
        on.configure_floor(*stack.enter_context(floor(directory)))
        replica = stack.enter_context(on.replica())
        time.sleep(SETTLE_SECONDS)
        pid = replica.process.pid
        start = own_cpu_seconds(pid)
        known = paired(f"resident, {nodes} nodes known", "MB", [(resident_megabytes(pid), empty)], "no nodes")
        on.installation.publish()
        wait_until(on.injects, "a pod that is injected")

        yield from _first_pods(on, namespaces)
        asked = on.asked_for()
        pods = 0
        for connections in CONNECTIONS:
            # What the first round does besides is to connect.
            taken = [{kind: _window(on, pid, kind, connections) for kind in _KINDS} for _ in range(rounds + 1)]
            pods += sum(len(each[kind].result.milliseconds) for each in taken for kind in (_OURS, _OURS_PLAIN))
            yield from _rows(taken[1:], connections)
        made = on.asked_for() - asked
        yield Figure(f"requests of ours for {pods} pods", "", made["others"], aim=1)
        yield Figure("requests of ours by the clock meanwhile", "", made["by the clock"])
        yield known
        yield Figure(f"resident after {pods} pods", "MB", resident_megabytes(pid))
        yield Figure("resident, the most until then", "MB", peak_megabytes(pid))
        yield Figure("CPU of a start, all nodes listed", "s", start)
        yield from _at_rest(on, pid, min(nodes, HEARTBEATS))
        yield from _later_replica(on, replica)


def _first_pods(on: ScaleCluster, namespaces: int) -> Iterator[Figure]:
    """What it costs to bring the tokens into every namespace."""
    before = on.asked_for()
    first = on.create_first_pods()
    requests = (on.asked_for() - before)["others"]
    yield Figure("requests of ours for a namespace's first pod", "", requests / namespaces)
    yield Figure("half of the namespaces' first pods within", "ms", first.percentile(0.5))
    yield Figure("99 % of the namespaces' first pods within", "ms", first.percentile(0.99))


def _window(on: ScaleCluster, pid: int, kind: _Kind, connections: int) -> _Window:
    programs = {**_children(), "webhook": pid}
    asked_before = on.webhook_seconds() if kind is _OURS else {}
    before = {program: own_cpu_seconds(each) for program, each in programs.items()}
    result = on.create_pods(kind.asked, opted_in=kind.opted_in, connections=connections, seconds=WINDOW_SECONDS)
    count = len(result.milliseconds)
    cpu = {program: (own_cpu_seconds(each) - before[program]) / count * 1e3 for program, each in programs.items()}
    waited = {}
    for path, (seconds, calls) in asked_before.items():
        seconds_now, calls_now = on.webhook_seconds()[path]
        waited[path] = (seconds_now - seconds) / (calls_now - calls) * 1e3
    return _Window(result, cpu["kube-apiserver"], cpu["etcd"], cpu["webhook"], waited)


def _rows(rounds: list[dict[_Kind, _Window]], connections: int) -> Iterator[Figure]:
    where = _over(connections)

    def row(
        name: str,
        unit: str,
        measure: Callable[[_Window], float],
        ours: _Kind = _OURS,
        against: _Kind = _NONE,
    ) -> Figure:
        pairs = [(measure(each[ours]), measure(each[against])) for each in rounds]
        return paired(f"{name}, {where}", unit, pairs, _BASELINES[against])

    def median(name: str, unit: str, measure: Callable[[dict[_Kind, _Window]], float]) -> Figure:
        return Figure(f"{name}, {where}", unit, statistics.median(measure(each) for each in rounds))

    yield row("pods", "/s", lambda window: window.result.rate)
    yield row("pods", "/s", lambda window: window.result.rate, against=_FLOOR)
    yield row("pods that did not opt in", "/s", lambda window: window.result.rate, _OURS_PLAIN, _NONE_PLAIN)
    pooled = {kind: Result.of([each[kind].result for each in rounds]) for kind in _KINDS}
    for share, words in ((0.5, "half of them"), (0.99, "99 % of them")):
        within = {kind: result.percentile(share) for kind, result in pooled.items()}
        for ours, against, name in (
            (_OURS, _NONE, words),
            (_OURS, _FLOOR, words),
            (_OURS_PLAIN, _NONE_PLAIN, f"did not opt in, {words}"),
        ):
            yield Figure(f"{name} within, {where}", "ms", within[ours], _BASELINES[against], within[against])
        yield Figure(f"added to {words}, {where}", "ms", within[_OURS] - within[_NONE])
    for path in rounds[0][_OURS].waited:
        yield median(f"{path} by the API server's clock", "ms", partial(_waited, path))
    yield row("CPU of the API server", "ms/pod", lambda window: window.api_server)
    yield row("the same with one that allows everything", "ms/pod", lambda window: window.api_server, _FLOOR)
    yield row("CPU of etcd", "ms/pod", lambda window: window.etcd)
    yield median("CPU of the webhook", "ms/pod", lambda each: each[_OURS].webhook)
    yield median("CPU of the webhook, did not opt in", "ms/pod", lambda each: each[_OURS_PLAIN].webhook)


def _at_rest(on: ScaleCluster, pid: int, heartbeats: int) -> Iterator[Figure]:
    """What the watches cost: with nothing happening, and with kubelets that write their nodes."""
    time.sleep(SETTLE_SECONDS)
    before = own_cpu_seconds(pid)
    time.sleep(IDLE_SECONDS)
    idle = (own_cpu_seconds(pid) - before) / IDLE_SECONDS
    yield Figure("CPU of the webhook at rest", "% core", idle * 100)
    before, began = own_cpu_seconds(pid), time.monotonic()
    on.heartbeats(heartbeats)
    time.sleep(SETTLE_SECONDS)
    used = own_cpu_seconds(pid) - before - idle * (time.monotonic() - began)
    yield Figure("CPU of the webhook for a node's heartbeat", "ms", used / heartbeats * 1e3)
    yield Figure("a node's heartbeat on the watch", "kB", on.node_bytes() / 1e3)


def _later_replica(on: ScaleCluster, first: Replica) -> Iterator[Figure]:
    """How much comes to a second replica: the API server keeps the connections that it has."""
    with on.replica() as second:
        on.installation.publish()
        time.sleep(SETTLE_SECONDS)
        for connections in (*CONNECTIONS, MORE_CONNECTIONS):
            before = _answered(first), _answered(second)
            on.create_pods(OURS, opted_in=True, connections=connections, seconds=WINDOW_SECONDS)
            more = [now - then for now, then in zip((_answered(first), _answered(second)), before, strict=True)]
            share = more[1] / sum(more) * 100
            yield Figure(f"calls to a replica that came later, {_over(connections)}", "%", share)


def _answered(replica: Replica) -> float:
    lines = replica.get("/metrics")[1].splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("bitfusiond_admission_requests_total")
    )


def _over(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def _waited(path: str, windows: dict[_Kind, _Window]) -> float:
    return windows[_OURS].waited[path]


def _children() -> dict[str, int]:
    """The API server and etcd, which are children of this process."""
    pids = Path("/proc/self/task").glob("*/children")
    named = {
        Path(f"/proc/{pid}/comm").read_text().strip(): int(pid) for each in pids for pid in each.read_text().split()
    }
    return {program: named[program] for program in _PROGRAMS}
