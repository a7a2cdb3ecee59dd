"""One pool for the cluster: the scheduler places pods on remote GPUs, and the GPU that it chose is the one they use."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
import yaml

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Patch
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.pool import claims
from bitfusiond.files import config
from bitfusiond.operate import checks
from bitfusiond.webhook.events import SERVER_GONE
from tests import ROOT
from tests.real.cluster import other_node, remote_servers
from tests.real.cluster.conftest import NAMESPACE
from tests.real.cluster.examples import pod
from tests.real.cluster.times import Watcher
from tests.real.harness.cluster import Cluster
from tests.tools import remote

Object = dict[str, Any]
_SERVERS = ("gpu-a", "gpu-b")
_MARK = "allocated: "
# What a program was given, and the peers of its connections, after it has computed.
_TELL = f"""
import os
print("{_MARK}" + os.environ["BITFUSIOND_ALLOCATION"], flush=True)
"""


@pytest.fixture(scope="module")
def pool(deployed: Cluster, assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Two servers with a GPU each, known to the cluster; the address of each."""
    deployed.since(checks.ONE_POOL[1], "pool that is counted once")
    before = deployed.started(pod("earlier", NAMESPACE, ["sleep", "1000"], deployed.pod_image, amount=1, percent=10))
    with remote_servers.running(deployed, NAMESPACE, assets, _SERVERS) as addresses:
        file = tmp_path_factory.mktemp("pool") / "pool.yaml"
        file.write_text(yaml.safe_dump(_inventory(addresses)))
        done = deployed.just("deploy", POOL=str(file))  # nodes that offer more: only claims can be missing
        assert done.status == 0, done.output
        yield dict(zip(_SERVERS, addresses, strict=True))
    if deployed.find("configmap", names.POOL_CONFIGMAP, names.NAMESPACE) is not None:  # some tests were left out
        assert deployed.just("deploy", POOL="none").status == 0
    # There and back, a pod that was there before runs on.
    assert deployed.life("earlier", NAMESPACE) == before
    deployed.clear(NAMESPACE)


@pytest.fixture
def namespace(pool: dict[str, str], deployed: Cluster) -> Iterator[str]:
    yield NAMESPACE
    _clear(deployed)


def _inventory(addresses: list[str]) -> Object:
    gpu = {"id": "0", "name": "A CPU", "memory": "16000M"}
    return {
        "servers": [
            {"name": name, "address": address, "attributes": {"cuda-version": "12.4"}, "gpus": [gpu]}
            for name, address in zip(_SERVERS, addresses, strict=True)
        ]
    }


def _asking(name: str, image: str, percent: int, client: str = "pocl", filters: str = "") -> Object:
    """A pod that says what it was given; with ``client`` pocl it computes there, else it sleeps."""
    program = ["python3", "-c", _TELL + remote.DOUBLE.read_text(), "300"]
    command = program if client == "pocl" else ["sleep", "300"]
    given = pod(name, NAMESPACE, command, image, amount=1, percent=percent)
    given["metadata"]["labels"] = {"of": "test-pool"}
    of = given["metadata"]["annotations"]
    if client != "bitfusion":
        for key in (names.CLIENT_OS, names.CLIENT_VERSION):
            of.pop(key)
        of[names.CLIENT_NAME] = client
    if filters:
        of[names.CLIENT_FILTER] = filters
    return given


def _phase(cluster: Cluster, name: str) -> str:
    return str(cluster.get("pod", name, NAMESPACE)["status"].get("phase"))


def _server(cluster: Cluster, pod: str) -> str:
    """The server that the scheduler chose for a pod, by its claim."""
    (status,) = cluster.get("pod", pod, NAMESPACE)["status"]["resourceClaimStatuses"]
    claim = cluster.get("resourceclaim", status["resourceClaimName"], NAMESPACE)
    (result,) = claim["status"]["allocation"]["devices"]["results"]
    return str(result["pool"])


def _log(cluster: Cluster, name: str) -> str:
    return cluster.run("logs", name, "-n", NAMESPACE).output


def _computes(cluster: Cluster, name: str) -> bool:
    return "numbers doubled" in _log(cluster, name)


def test_gpus_fill_up_and_who_does_not_fit_waits_until_one_ends(
    deployed: Cluster, namespace: str, pool: dict[str, str]
) -> None:
    for name, percent in (("p60a", 60), ("p60b", 60), ("p40a", 40), ("p40b", 40)):
        created = deployed.create(_asking(name, deployed.pod_image, percent))
        assert created.status == 0, created.output
        deployed.wait(partial(_computes, deployed, name), f"{name} computes")
    placed = {name: _server(deployed, name) for name in ("p60a", "p60b", "p40a", "p40b")}
    assert sorted([placed["p60a"], placed["p60b"]]) == sorted([placed["p40a"], placed["p40b"]]) == list(_SERVERS)
    for name, server in placed.items():
        # What the program was told, what it has a connection to, and what it has none to.
        told = json.loads(_log(deployed, name).partition(_MARK)[2].splitlines()[0])
        assert [each["server"] for each in told["gpus"]] == [server]
        assert [each["address"] for each in told["gpus"]] == [pool[server]]
        assert [each for each in _SERVERS if remote_servers.serves(deployed, namespace, each, name)] == [server]
    created = deployed.create(_asking("fifth", deployed.pod_image, 40))
    assert created.status == 0, created.output
    deployed.wait(lambda: "cannot allocate all claims" in _scheduling(deployed, "fifth"), "the scheduler's words")
    assert _phase(deployed, "fifth") == "Pending"
    _is_told_that_the_pool_is_full(deployed, "fifth")
    deployed.delete("pod", "p40a", namespace)
    deployed.wait(partial(_computes, deployed, "fifth"), "the fifth computes")
    assert _server(deployed, "fifth") == placed["p40a"]


def _is_told_that_the_pool_is_full(cluster: Cluster, waiting: str) -> None:
    why = cluster.bitfusion("why", waiting, "-n", NAMESPACE)
    assert why.status == 1
    assert "WRONG  the pool has not what it asks for (40 shares in all): " in why.answer
    assert "note   the most that is free on one GPU of the pool is 0 shares" in why.answer
    status = json.loads(cluster.bitfusion("status", "-n", NAMESPACE, "-o", "json").answer)
    assert (status["counted"], status["used"], status["free"], status["waiting"]) == ("pool", 200, 0, 40)
    holders = [each["pod"] for server in status["servers"] for each in server["gpus"][0]["holders"]]
    assert sorted(holders) == ["p40a", "p40b", "p60a", "p60b"]
    runs = cluster.bitfusion("why", "p60a", "-n", NAMESPACE)
    assert runs.status == 0
    assert "ok     it was given 60 shares of GPU 0 of gpu-" in runs.answer


def _scheduling(cluster: Cluster, name: str) -> str:
    return other_node.why(cluster, name, NAMESPACE)


def test_bitfusion_is_told_of_the_chosen_server_alone(deployed: Cluster, namespace: str, pool: dict[str, str]) -> None:
    given = _asking("documented", deployed.pod_image, 50, "bitfusion", "server.hostname=gpu-b")
    created = deployed.create(given)
    assert created.status == 0, created.output
    deployed.wait(lambda: _phase(deployed, "documented") == "Running", "the pod runs")
    assert _server(deployed, "documented") == "gpu-b"
    seen = ("exec", "documented", "-n", namespace, "-c", "main", "--", "cat", "/etc/bitfusion/servers.conf")
    assert yaml.safe_load(deployed.kubectl(*seen)) == {"servers": [{"addresses": [pool["gpu-b"]]}]}


@pytest.mark.parametrize(
    "word",
    [
        "server.addr={host}",
        "server.hostname=gpu-b",
        "server.cuda-version=12.4",
        "device.id=0",
        "device.name=A",
        "device.phy-memory=16000",
    ],
)
def test_the_scheduler_understands_each_key_of_the_filter(
    deployed: Cluster, namespace: str, pool: dict[str, str], word: str
) -> None:
    given = _asking("filtered", deployed.pod_image, 1, "bitfusion", word.format(host=pool["gpu-b"].partition(":")[0]))
    created = deployed.create(given)
    assert created.status == 0, created.output
    deployed.wait(lambda: "nodeName" in deployed.get("pod", "filtered", namespace)["spec"], "a node for the pod")
    if "gpu-b" in word or "host" in word:
        assert _server(deployed, "filtered") == "gpu-b"


def _taints(cluster: Cluster, server: str) -> list[str]:
    devices = cluster.get("resourceslice", f"{names.DRIVER}-{server}")["spec"]["devices"]
    return [taint["key"] for device in devices for taint in device.get("taints") or []]


def test_a_server_that_is_gone_gets_no_more_pods_until_it_is_back(deployed: Cluster, namespace: str) -> None:
    on_b = _asking("victim", deployed.pod_image, 10, "bitfusion", "server.hostname=gpu-b")
    before = deployed.started(on_b)
    deployed.kubectl("scale", "deployment/gpu-b", "-n", namespace, "--replicas=0")
    deployed.wait(lambda: _taints(deployed, "gpu-b") == [names.UNREACHABLE], "the taint", 120)
    assert _taints(deployed, "gpu-a") == []
    created = deployed.create(_asking("waits", deployed.pod_image, 10, "bitfusion", "server.hostname=gpu-b"))
    assert created.status == 0, created.output
    deployed.wait(lambda: "cannot allocate all claims" in _scheduling(deployed, "waits"), "the scheduler's words")
    about = f"involvedObject.name=victim,reason={SERVER_GONE}"
    deployed.wait(
        lambda: "gpu-b" in deployed.kubectl("get", "events", "-n", namespace, "--field-selector", about), "the Event"
    )
    assert deployed.life("victim", namespace) == before
    for pod_name, told in (("victim", "WRONG  GPU server gpu-b ("), ("waits", "note   GPU server gpu-b (")):
        why = deployed.bitfusion("why", pod_name, "-n", namespace)
        assert (why.status, told in why.answer) == (1, True)
    deployed.kubectl("scale", "deployment/gpu-b", "-n", namespace, "--replicas=1")
    deployed.wait(lambda: _phase(deployed, "waits") == "Running", "the pod that waited runs", 180)
    assert _taints(deployed, "gpu-b") == []


def test_no_pod_is_placed_on_a_node_of_another_processor(deployed: Cluster, namespace: str) -> None:
    """The pool's GPUs are in reach of all nodes; the shares, which pods ask for too, are not."""
    with other_node.arm64(deployed):
        other_node.takes_no_gpu_pod(deployed, _asking("elsewhere", deployed.pod_image, 10))


def test_a_server_is_drained_by_a_rule(deployed: Cluster, namespace: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "pool.md").read_text()
    (rule,) = (each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "DeviceTaintRule" in each)
    file = tmp_path / "rule.yaml"
    file.write_text(rule)
    deployed.kubectl("create", "-f", str(file))
    try:
        created = deployed.create(_asking("elsewhere", deployed.pod_image, 10, "bitfusion"))
        assert created.status == 0, created.output
        deployed.wait(lambda: _phase(deployed, "elsewhere") == "Running", "the pod runs")
        assert _server(deployed, "elsewhere") == "gpu-b"
    finally:
        deployed.kubectl("delete", "-f", str(file))


def _rendered(name: str, image: str, pool: Path | None) -> list[Object]:
    """A pod as the webhook makes it, but for the annotations, so that nobody is asked about it; its template first."""
    rules = config.load(None, None, 16000, frozenset(), pool=pool)
    given = _asking(name, image, 1, "bitfusion")
    verdict = mutate(given, NAMESPACE, rules)
    assert isinstance(verdict, Patch), verdict
    made: Object = jsonpatch.apply_patch(given, verdict.operations)
    del made["metadata"]["annotations"]
    made["spec"]["initContainers"][0]["image"] = _client_image()
    return [*(claims.document(each, NAMESPACE) for each in verdict.claims), made]


def _client_image() -> str:
    return f"{os.environ['BITFUSIOND_TEST_IMAGE_REPO']}/bitfusion-client:{os.environ['BITFUSIOND_TEST_IMAGE_TAG']}"


def test_what_a_claim_costs(deployed: Cluster, namespace: str, tmp_path: Path) -> None:
    """Printed for docs/figures.md; fails only where it is far out of hand."""
    file = tmp_path / "pool.yaml"
    file.write_text(deployed.get("configmap", names.POOL_CONFIGMAP, names.NAMESPACE)["data"]["pool.yaml"])
    (template, _) = _rendered("x", deployed.pod_image, file)
    deployed.kubectl("apply", "-f", "-", given=template)
    with Watcher(deployed.door(tmp_path)) as watcher:
        for number in map(int, os.environ.get("BITFUSIOND_TEST_PODS_AT_ONCE", "1,10").split(",")):
            plain, with_claims = (_run_at_once(deployed, watcher, number, each) for each in (None, file))
            more = {what: round(count / number, 1) for what, count in sorted((with_claims[1] - plain[1]).items())}
            print(f"{number:3} pods, requests of claims for one: {more}")
            print(f"{number:3} pods, ratio of the medians: {with_claims[0] / plain[0]:.2f}")
            assert with_claims[0] < 3 * plain[0] + 2


def _run_at_once(cluster: Cluster, watcher: Watcher, number: int, pool: Path | None) -> tuple[float, Counter[str]]:
    """When half of so many pods ran, and what the API server was asked meanwhile."""
    kind = "claims" if pool else "plain"
    made = [_rendered(f"{kind}-{number}-{each}", cluster.pod_image, pool)[-1] for each in range(number)]
    before = watcher.requests()
    took = watcher.until_running(made, NAMESPACE, 300)
    asked = watcher.requests() - before
    print(f"{number:3} pods, {kind:7} half after {took[number // 2]:6.2f} s, the last after {took[-1]:6.2f} s")
    _clear(cluster)
    return took[number // 2], asked


def _clear(cluster: Cluster) -> None:
    cluster.kubectl("delete", "pod", "-l", "of=test-pool", "-n", NAMESPACE, "--grace-period=1")
    cluster.wait(lambda: not cluster.every("resourceclaim", NAMESPACE), "the end of all claims")


def test_what_the_pool_can_never_give_is_refused(deployed: Cluster, namespace: str) -> None:
    refused = deployed.create(_asking("never", deployed.pod_image, 50, "bitfusion", "server.hostname=gpu-c"))
    assert refused.status != 0
    assert "gpu-c is no server.hostname of a server of the pool: choose of gpu-a, gpu-b" in refused.output


def test_verify_finds_nothing_wrong_with_the_pool(deployed: Cluster, pool: dict[str, str]) -> None:
    done = deployed.just("verify")
    assert done.status == 0, done.output


def test_a_pool_that_pods_use_is_neither_uninstalled_nor_taken_from_them(deployed: Cluster, namespace: str) -> None:
    """The last of this file, as there is no pool after it."""
    before = deployed.started(_asking("holder", deployed.pod_image, 50))
    refused = deployed.just("uninstall")
    assert refused.status != 0
    assert "1 pod holds GPUs of the pool or waits for them (tensorflow-benchmark/holder)" in refused.output
    done = deployed.just("deploy", POOL="none")
    assert done.status == 0, done.output
    assert "their nodes go on serving them" in done.output
    assert deployed.life("holder", namespace) == before
    deployed.delete("pod", "holder", namespace)
    deployed.wait(lambda: deployed.find("pod", "holder", namespace) is None, "the end of the pod")
    done = deployed.just("deploy", POOL="none")
    assert done.status == 0, done.output
    assert not deployed.every("resourceslice", "")
    assert deployed.find("deviceclass", names.DRIVER) is None
