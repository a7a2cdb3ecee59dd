"""The README's pods, from ``kubectl create`` to their end, under a stand-in client that checks what it was given."""

from __future__ import annotations

import copy
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.real.cluster.conftest import NAMESPACE
from tests.real.cluster.examples import Benchmarks, pod
from tests.real.harness.cluster import Cluster

_PROGRAM = ["--local_parameter_device=gpu", "--batch_size=32", "--model=inception3"]
_GPU = "bitfusion.io/gpu"


@pytest.fixture(scope="module")
def benchmarks(deployed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Benchmarks:
    directory = tmp_path_factory.mktemp("benchmarks")
    for each in (directory, *directory.parents[:2]):
        each.chmod(0o755)  # pods of other users read it
    return Benchmarks(directory, deployed.pod_image)


@pytest.mark.parametrize(
    ("example", "asked", "shares"),
    [
        ("pod", "run -n 1 -p 0.500000", "50"),
        ("pod-memory", "run -n 1 -m 8000", "50"),
        (
            "pod-filter",
            "run -n 1 -p 0.500000 --filter server.hostname=bf-server --filter server.addr=192.168.1.1",
            "50",
        ),
        ("pod-injection", "run -n 1 -p 0.5", "50"),
    ],
)
def test_a_pod_of_the_readme_runs_to_its_end_under_the_client(
    deployed: Cluster, namespace: str, benchmarks: Benchmarks, example: str, asked: str, shares: str
) -> None:
    document = benchmarks.example(example)
    assert deployed.create(document).status == 0
    name = document["metadata"]["name"]
    log = deployed.ended(name, namespace, re.escape(f"arguments: {json.dumps(_PROGRAM)}"))
    assert f"bitfusion: {asked} -- python /benchmark/" in log
    assert "token files and libraries are in place\n" in log
    resources = deployed.get("pod", name, namespace)["spec"]["containers"][0]["resources"]
    assert resources["limits"][_GPU] == resources["requests"][_GPU] == shares


def test_a_deployment_and_a_job_of_the_readme_run_under_the_client(
    deployed: Cluster, namespace: str, benchmarks: Benchmarks
) -> None:
    for example in ("deployment", "job"):
        assert deployed.create(benchmarks.example(example)).status == 0
    deployed.wait(lambda: _succeeded(deployed, "bf-job"), "the Job's end")
    deployed.wait(lambda: _runs(deployed, "app=share-gpu"), "the Deployment's pod has run")
    for selector in ("job-name=bf-job", "app=share-gpu"):
        (found,) = deployed.every("pod", NAMESPACE, selector)
        # The benchmark ends, and a Deployment begins it again: its log is the last run's or the one before.
        name = found["metadata"]["name"]
        log = deployed.kubectl("logs", name, "-n", NAMESPACE)
        if not log:
            log = deployed.kubectl("logs", name, "-n", NAMESPACE, "--previous")
        assert "bitfusion: run -n 1 -p 0.250000 -- python /benchmark/" in log


def _succeeded(cluster: Cluster, job: str) -> bool:
    return bool(cluster.get("job", job, NAMESPACE)["status"].get("succeeded"))


def _runs(cluster: Cluster, selector: str) -> bool:
    statuses = [
        status
        for each in cluster.every("pod", NAMESPACE, selector)
        for status in each["status"].get("containerStatuses") or []
    ]
    return any(
        status["restartCount"] or "running" in status["state"] or "terminated" in status["state"] for status in statuses
    )


def test_libraries_of_opt_are_not_copied_a_second_time(deployed: Cluster, namespace: str) -> None:
    """Both paths lead to one file; where opt is a link to a directory, as the kubelet lets it be, that has one name."""
    script = "stat -c %d,%i /opt/bitfusion/VERSION /bitfusion/*/opt/bitfusion/VERSION; echo both seen"
    assert deployed.create(pod("inodes", namespace, ["sh", "-c", script], deployed.pod_image, amount=1)).status == 0
    # kubectl keeps no order among the logs of several containers.
    first, second = re.findall(r"^\d+,\d+$", deployed.ended("inodes", namespace, "both seen"), re.MULTILINE)
    assert first == second


def test_while_the_webhook_is_away_only_pods_that_opted_in_are_refused(deployed: Cluster, namespace: str) -> None:
    plain = pod("plain", namespace, ["true"], deployed.pod_image)
    del plain["metadata"]["annotations"]
    plain["spec"]["containers"][0]["resources"] = {}
    plain["spec"]["automountServiceAccountToken"] = False  # its volume has another name in each pod
    opted_in = pod("opted-in", namespace, ["true"], deployed.pod_image, amount=1, percent=50)
    opted_in["metadata"]["labels"] = {"auto-management/bitfusion": "all"}
    assert deployed.create(plain).status == 0
    before = _own(deployed.get("pod", "plain", namespace))
    deployed.ended("plain", namespace)
    deployed.delete("pod", "plain", namespace)
    deployed.scale_webhook(0)
    try:
        assert deployed.create(plain).status == 0
        assert _own(deployed.get("pod", "plain", namespace)) == before
        deployed.ended("plain", namespace)
        asked = "bwkimua" if deployed.match_conditions else "bwkimua-labelled"
        words = f'failed calling webhook "{asked}.bitfusion.io"'
        refused = ("create", "--dry-run=server", "-f", "-")
        deployed.wait(lambda: words in deployed.run(*refused, given=opted_in).output, "the API server asks nobody")
    finally:
        deployed.scale_webhook(2)
    assert deployed.create(opted_in).status == 0
    deployed.ended("opted-in", namespace)


def test_a_pod_that_did_not_opt_in_costs_a_call_only_where_there_are_no_match_conditions(
    deployed: Cluster, namespace: str
) -> None:
    plain = pod("plain", namespace, ["true"], deployed.pod_image)
    before = _calls(deployed)
    plain["metadata"]["annotations"] = {"auto-management/bitfusion": "none"}
    plain["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "100m"}}
    assert deployed.create(plain).status == 0
    assert _calls(deployed) - before == (0 if deployed.match_conditions else 2)
    opted_in = pod("opted-in", namespace, ["true"], deployed.pod_image, amount=1, percent=50)
    before = _calls(deployed)
    assert deployed.create(opted_in).status == 0
    assert _calls(deployed) - before == (1 if deployed.match_conditions else 2), "/mutate, and /validate if it must be"
    volumes = deployed.get("pod", "opted-in", namespace)["spec"]["volumes"]
    assert any("token" in each["name"] or "kube-api-access" in each["name"] for each in volumes), (
        "of the ServiceAccount"
    )


def _calls(cluster: Cluster) -> int:
    """How many pods both replicas were asked about, in their own count."""
    replicas = cluster.every("pod", "bwki", "app.kubernetes.io/name=bitfusion-webhook")
    count = 0.0
    for each in replicas:
        path = f"/api/v1/namespaces/bwki/pods/{each['metadata']['name']}:9090/proxy/metrics"
        lines = cluster.kubectl("get", "--raw", path).splitlines()
        count += sum(float(line.split()[-1]) for line in lines if line.startswith(f"{_REQUESTS}{{"))
    return int(count)


_REQUESTS = "bitfusiond_admission_requests_total"


def _own(document: dict[str, Any]) -> dict[str, Any]:
    """A pod as it was created: without what the API server and the node say of it."""
    kept = copy.deepcopy(document["spec"])
    kept.pop("nodeName", None)
    meta = {key: document["metadata"].get(key) for key in ("annotations", "labels")}
    return {"spec": kept, **meta}


def test_from_created_to_started_in_parts(deployed: Cluster, namespace: str, tmp_path: Path) -> None:
    """Printed for docs/figures.md, where other pods ran before; fails only where a part is far out of hand."""
    moments: dict[str, float] = {}
    script = "date +%s.%N; sleep 1; echo slept"
    watcher = threading.Thread(target=_watch, args=(deployed, namespace, moments))
    document = pod("timed", namespace, ["sh", "-c", script], deployed.pod_image, amount=1, percent=10)
    began = time.time()
    assert deployed.create(document).status == 0
    moments["admitted and stored"] = time.time()
    watcher.start()
    log = deployed.ended("timed", namespace, "slept")
    watcher.join(30)
    populate = [
        json.loads(line) for line in deployed.kubectl("logs", "timed", "-n", namespace, "-c", "populate").splitlines()
    ]
    moments["workload started"] = float(next(line for line in log.splitlines() if line[:1].isdecimal()))
    last = began
    for name, moment in sorted(moments.items(), key=lambda each: each[1]):
        print(f"{name:32} {moment - last:6.3f} s, {moment - began:6.3f} s in all")
        last = moment
    done = next(line for line in populate if line["event"] == "done")
    print(f"{'init itself, by its own clock':32} {done['seconds']:6.3f} s")
    assert done["seconds"] < 2
    assert moments["workload started"] - began < 30


def _watch(cluster: Cluster, namespace: str, moments: dict[str, float]) -> None:
    """When each part was first seen, by asking every few milliseconds."""
    while "populate ended" not in moments:
        found = cluster.find("pod", "timed", namespace)
        now = time.time()
        status = (found or {}).get("status", {})
        for condition in status.get("conditions") or []:
            if condition["type"] == "PodScheduled" and condition["status"] == "True":
                moments.setdefault("scheduled", now)
        for each in status.get("initContainerStatuses") or []:
            if "running" in each["state"] or "terminated" in each["state"]:
                moments.setdefault("populate seen running", now)
            if "terminated" in each["state"]:
                moments.setdefault("populate ended", now)
