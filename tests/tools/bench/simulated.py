"""Webhook and plugin beside a cluster that no machine of ours could hold: nodes, pods, GPUs by the thousand.

The API server is a stand-in (``tests/fakes/cluster_server.py``), so memory, CPU, what is asked for and how many bytes
that moves are ours alone; of the seconds of a start most are the stand-in's. Every size is measured small; then each in
turn five times as large, while the others stay; then all of them. A ratio of 5 is linear, one of 1 is no matter of that
size. A pool without shares for all the pods is one that no scheduler makes: it is there to see what pods alone cost.

Pods live an hour here: in the minute that is watched a sixtieth of them ends and as many are admitted and placed. Every
kubelet writes its Node once in five minutes.
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

import trio

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.tokens.copies import TOKENS
from bitfusiond.kube import (
    CLAIM_TEMPLATES,
    CLAIMS,
    MUTATING,
    NAMESPACES,
    NODES,
    RESOURCE_SLICES,
    SECRETS,
    VALIDATING,
)
from bitfusiond.settings.values import address
from tests.fakes import dra_kubelet, pool
from tests.fakes.cluster import FakeCluster
from tests.fakes.cluster_server import Server, Taken
from tests.fakes.daemons import daemon
from tests.fakes.dra_kubelet import Claim
from tests.fakes.https_client import review
from tests.fakes.processes import accepting, running, wait_until
from tests.pods import example
from tests.real.harness.webhook import CONFIGURATIONS, SERVICE, Replica
from tests.tools.bench.load import Load
from tests.tools.bench.measure import Figure, own_cpu_seconds, peak_megabytes, resident_megabytes
from tests.tools.bench.scale_cluster import node

MINUTE_SECONDS = 60.0
SETTLE_SECONDS = 2.0
HEARTBEAT_SECONDS = 300.0
POD_SECONDS = 3600.0
PODS_OF_A_NODE = 110
GPUS_OF_A_SERVER = 10
_LIST_MINUTES = 10  # all is listed anew so often
_CONNECTIONS = 8
_SERVICE_HOST = f"{SERVICE}.{names.NAMESPACE}.svc"
_TICK_SECONDS = 0.1
_REVIEWS_AT_ONCE = 20_000  # over connections that are made anew each time: the webhook ends old ones
# Once a minute the webhook looks at its certificates.
_BY_THE_CLOCK = {f"get {each.plural}" for each in (SECRETS, MUTATING, VALIDATING)}


@dataclass(frozen=True, slots=True)
class Size:
    """Of a cluster, and of its pool: each pod has one claim, with one share of a GPU."""

    nodes: int
    namespaces: int
    pods: int
    gpus: int


SMALL = Size(nodes=1_000, namespaces=200, pods=20_000, gpus=200)
LARGE = Size(nodes=5_000, namespaces=1_000, pods=100_000, gpus=1_000)

# By what is measured: its unit, and how much of it there was.
Measured = dict[str, tuple[str, float]]


def figures() -> Iterator[Figure]:
    """Some ten minutes."""
    small = measured(SMALL)
    for each in fields(Size):
        much = getattr(LARGE, each.name)
        one = measured(replace(SMALL, **{each.name: much}))
        yield from _rows(f"{much:,} {each.name}", one, f"{getattr(SMALL, each.name):,}", small)
    yield from _rows("all of these", measured(LARGE), "a fifth of each", small)


def _rows(name: str, large: Measured, baseline: str, small: Measured) -> Iterator[Figure]:
    for what, (unit, ours) in large.items():
        theirs = small[what][1]
        ratio = ours / theirs if theirs else None
        yield Figure(f"{name}: {what}", unit, ours, baseline, theirs, ratio, ratio, ratio)


def measured(size: Size) -> Measured:
    """A webhook and a plugin beside a cluster of ``size``."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        port = stack.enter_context(accepting("0.0.0.0"))
        (directory / "pool.yaml").write_text(json.dumps(_inventory(size, port)))
        server = stack.enter_context(Server(FakeCluster(), directory).running())
        server.write_kubeconfig(directory / "kubeconfig")
        server.do(partial(_furnish, size=size))
        with _webhook(directory, "first") as first:
            wait_until(partial(_is_synced, first), "all lists", 600)
            _admit_first_pods(first, size.namespaces)
        server.do(FakeCluster.expire)  # what happened until now is known to whoever lists
        return {**_webhook_figures(server, directory, size), **trio.run(_plugin_figures, server, directory)}


def _webhook_figures(server: Server, directory: Path, size: Size) -> Measured:
    before, began = server.taken(), time.monotonic()
    with _webhook(directory, "second") as replica:
        pid = replica.process.pid
        wait_until(replica.ready, "a replica that is ready", 60)
        ready = time.monotonic() - began
        wait_until(partial(_is_synced, replica), "all lists", 600)
        synced, cpu, listed = time.monotonic() - began, own_cpu_seconds(pid), server.taken() - before
        time.sleep(SETTLE_SECONDS)
        known, settled = resident_megabytes(pid), server.taken()
        for first in range(0, size.pods, _REVIEWS_AT_ONCE):
            _load(server, directory, replica, requests=min(_REVIEWS_AT_ONCE, size.pods - first)).run()
        admitted = (server.taken() - settled).requests
        after = resident_megabytes(pid)
        minute, used, seconds = _minute(server, directory, replica, size)
        _list_anew(server)
        return {
            "webhook, start to ready": ("s", ready),
            "webhook, start until all is listed": ("s", synced),
            "webhook, CPU of that": ("s", cpu),
            "webhook, requests of that": ("", sum(listed.requests.values())),
            "webhook, bytes of that": ("MB", listed.bytes / 1e6),
            "webhook, memory": ("MB", known),
            "webhook, memory after all pods were admitted": ("MB", after),
            "webhook, requests while they were": (
                "",
                sum(count for what, count in admitted.items() if what not in _BY_THE_CLOCK),
            ),
            # With the share of the lists that come every ten minutes.
            "webhook, requests a minute": (
                "",
                sum(minute.requests.values()) / seconds * 60 + sum(listed.requests.values()) / _LIST_MINUTES,
            ),
            "webhook, bytes a minute": (
                "kB",
                (minute.bytes / seconds * 60 + listed.bytes / _LIST_MINUTES) / 1e3,
            ),
            "webhook, CPU": ("% core", used / seconds * 100),
            "webhook, memory after all was listed anew": ("MB", resident_megabytes(pid)),
            "webhook, its peak": ("MB", peak_megabytes(pid)),
        }


def _list_anew(server: Server) -> None:
    """Have all watches end such that everything is listed again, and wait until it is."""
    server.do(lambda cluster: cluster.requests.clear())
    server.do(FakeCluster.expire)
    kinds = (NODES, NAMESPACES, SECRETS, CLAIMS, CLAIM_TEMPLATES, RESOURCE_SLICES)

    def is_done(cluster: FakeCluster) -> bool:
        return {each.resource for each in cluster.requests if each.verb == "watch"} >= set(kinds)

    wait_until(lambda: server.do(is_done), "all to be listed anew", 600)


def _minute(server: Server, directory: Path, replica: Replica, size: Size) -> tuple[Taken, float, float]:
    """What was asked for in a minute of the cluster's life, the CPU time of that, and how many seconds it took."""
    before, cpu = server.taken(), own_cpu_seconds(replica.process.pid)
    pause = _CONNECTIONS * POD_SECONDS / size.pods
    threads = ThreadPoolExecutor(1)
    pods = threads.submit(_load(server, directory, replica, pause=pause, seconds=MINUTE_SECONDS).run)
    began, beats, placed = time.monotonic(), 0.0, 0.0
    numbers = itertools.count()
    while (passed := time.monotonic() - began) < MINUTE_SECONDS:
        for _ in range(int(passed * size.nodes / HEARTBEAT_SECONDS - beats)):
            server.do(partial(_heartbeat, number=int(beats) % size.nodes, beat=int(beats)))
            beats += 1
        for _ in range(int(passed * size.pods / POD_SECONDS - placed)):
            server.do(partial(_another_pod, size=size, number=next(numbers)))
            placed += 1
        time.sleep(_TICK_SECONDS)
    pods.result()
    seconds = time.monotonic() - began
    return server.taken() - before, own_cpu_seconds(replica.process.pid) - cpu, seconds


async def _plugin_figures(server: Server, directory: Path) -> Measured:
    """A node that has all the pods that a kubelet takes, and they are all ours."""
    for name in ("device-plugins", "plugins", "registry"):
        (directory / name).mkdir()
    options = {
        "--device-plugin-dir": directory / "device-plugins",
        "--dra-driver": names.DRIVER,
        "--plugins-dir": directory / "plugins",
        "--registry-dir": directory / "registry",
        "--cdi-dir": directory / "cdi",
        "--kubeconfig": directory / "kubeconfig",
        "--observe": "none",
    }
    words = [str(word) for pair in options.items() for word in pair]
    claims = await trio.to_thread.run_sync(server.do, _some_claims)
    before, began = await trio.to_thread.run_sync(server.taken), time.monotonic()
    async with (
        dra_kubelet.running(directory / "registry") as kubelet,
        daemon([sys.executable, "-m", "bitfusiond", "--role", "plugin", *words]) as process,
    ):
        await kubelet.wait_registered()
        registered = time.monotonic() - began
        for claim in claims:
            answer = await kubelet.prepare(claim)
            assert [each.error for each in answer.claims.values()] == [""]
        taken = await trio.to_thread.run_sync(server.taken) - before
        await trio.sleep(SETTLE_SECONDS)
        assert await trio.to_thread.run_sync(server.taken) - before == taken
        return {
            "plugin, start to registered": ("s", registered),
            "plugin, memory": ("MB", resident_megabytes(process.process.pid)),
            f"plugin, requests for {PODS_OF_A_NODE} pods": ("", sum(taken.requests.values())),
            "plugin, bytes of that": ("kB", taken.bytes / 1e3),
        }


@contextmanager
def _webhook(directory: Path, name: str) -> Iterator[Replica]:
    arguments = [
        *[sys.executable, "-m", "bitfusiond", "--role", "webhook", "--kubeconfig", str(directory / "kubeconfig")],
        *["--listen", "127.0.0.1:0", "--observe", "127.0.0.1:0", "--drain-seconds", "0"],
        *["--total-gpu-memory", "16000", "--pool", str(directory / "pool.yaml")],
    ]
    with running(arguments, directory / f"{name}.log") as process:
        yield Replica(process, directory / f"{name}.log")


def _is_synced(replica: Replica) -> bool:
    lines = [line for line in replica.get("/metrics")[1].splitlines() if line.startswith("bitfusiond_watch_synced{")]
    return bool(lines) and all(line.endswith(" 1.0") for line in lines)


def _load(
    server: Server, directory: Path, replica: Replica, seconds: float = 0, requests: int | None = None, pause: float = 0
) -> Load:
    """Reviews of a pod of the first namespace, as the API server asks."""
    configuration = server.do(lambda cluster: cluster.find(MUTATING, None, CONFIGURATIONS[0][2]))
    assert configuration is not None
    (directory / "webhook-ca.crt").write_bytes(
        base64.b64decode(configuration["webhooks"][0]["clientConfig"]["caBundle"])
    )
    (directory / "review.json").write_text(json.dumps(review(example("pod"), _team(0))))
    files = [str(directory / name) for name in ("webhook-ca.crt", "review.json")]
    at = address(replica.address)
    return Load(
        at, files[0], "/mutate", files[1], replica.process.pid, _CONNECTIONS, seconds, requests, pause, _SERVICE_HOST
    )


def _admit_first_pods(replica: Replica, namespaces: int) -> None:
    """One pod in each namespace, again until it is admitted: what is first there has a rate."""

    def admit(number: int) -> None:
        wait_until(
            lambda: bool(replica.review(example("pod"), _team(number))["allowed"]), f"a pod in {_team(number)}", 300
        )

    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        list(threads.map(admit, range(namespaces)))


# --- the cluster ------------------------------------------------------------------------------------------------------


def _furnish(cluster: FakeCluster, size: Size) -> None:
    """All that is there before the webhook is."""
    for _, kind, name, webhook, path in CONFIGURATIONS:
        client = {"service": {"namespace": names.NAMESPACE, "name": SERVICE, "path": path, "port": 443}}
        entry = {"name": webhook, "clientConfig": client, "sideEffects": "None", "admissionReviewVersions": ["v1"]}
        cluster.put(
            MUTATING if kind == MUTATING.kind else VALIDATING, {"metadata": {"name": name}, "webhooks": [entry]}
        )
    for token in TOKENS:
        cluster.put(
            SECRETS, {"metadata": {"name": token.secret}, "stringData": {token.file: "a: 1\n" * 200}}, "kube-system"
        )
    cluster.add_namespace(*map(_team, range(size.namespaces)))
    for number in range(size.nodes):
        cluster.put(NODES, node(number))
    for number in range(size.pods):
        cluster.put(CLAIMS, _claim(size, number))


def _inventory(size: Size, port: int) -> Json:
    gpus = [{"id": str(number), "name": "Tesla V100-PCIE-16GB", "memory": "16G"} for number in range(GPUS_OF_A_SERVER)]
    # Each answers at an address of its own of this machine.
    return {
        "servers": [
            {
                "name": _gpu_server(number),
                "address": f"127.0.{1 + number // 250}.{1 + number % 250}:{port}",
                "gpus": gpus,
            }
            for number in range(size.gpus // GPUS_OF_A_SERVER)
        ]
    }


def _claim(size: Size, number: int) -> Json:
    """As the scheduler leaves the claim of a pod that has one share."""
    gpu = number % size.gpus
    result = pool.result(_gpu_server(gpu // GPUS_OF_A_SERVER), f"gpu-{gpu % GPUS_OF_A_SERVER}", 1)
    uid = f"5f0c6b1e-3f0a-4d0e-8a61-{number:012d}"
    made = pool.claim(f"train-{number}-bitfusion-0", result, uid=uid)
    made["metadata"]["namespace"] = _team(number % size.namespaces)
    made["status"]["reservedFor"] = [{"resource": "pods", "name": f"train-{number}", "uid": uid}]
    return made


def _another_pod(cluster: FakeCluster, size: Size, number: int) -> None:
    """The oldest pod ends; a new one is placed: its claim is made, then allocated."""
    old, new = _claim(size, number), _claim(size, size.pods + number)
    cluster.remove(CLAIMS, old["metadata"]["namespace"], old["metadata"]["name"])
    cluster.put(CLAIMS, {key: value for key, value in new.items() if key != "status"})
    cluster.put(CLAIMS, new)


def _heartbeat(cluster: FakeCluster, number: int, beat: int) -> None:
    body = node(number)
    for condition in body["status"]["conditions"]:
        condition["lastHeartbeatTime"] = f"beat {beat}"
    cluster.put(NODES, body)


def _some_claims(cluster: FakeCluster) -> list[Claim]:
    """The claims of the pods of one node."""
    found = itertools.islice(cluster.all(CLAIMS), PODS_OF_A_NODE)
    return [(each["metadata"]["namespace"], each["metadata"]["name"], each["metadata"]["uid"]) for each in found]


def _team(number: int) -> str:
    return f"team-{number:04}"


def _gpu_server(number: int) -> str:
    return f"gpu-{number:03}"
