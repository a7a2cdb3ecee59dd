"""What a cluster does by itself, played by the tests, as nothing but an API server runs here; and the operator."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.harness.apiserver import APIServer, Refused

Json = dict[str, Any]

APPS = "/apis/apps/v1"
WEBHOOK = f"{APPS}/namespaces/bwki/deployments/bitfusion-webhook-deployment"
PLUGIN = f"{APPS}/namespaces/kube-system/daemonsets/bitfusion-device-plugin"
REPLICA_SETS = f"{APPS}/namespaces/bwki/replicasets"
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True, slots=True)
class Result:
    """What a command printed, and how it ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody at a machine with a checkout, kubectl and a kubeconfig."""

    kubeconfig: Path
    kubectl: Path

    @classmethod
    def of_environment(cls, kubeconfig: Path) -> Operator:
        """With the kubectl that lies beside the API server's program."""
        kubectl = Path(os.environ["KUBEBUILDER_ASSETS"]) / "kubectl"
        if not kubectl.exists():
            pytest.skip("KUBEBUILDER_ASSETS holds no kubectl: put one there to run this")
        return cls(kubeconfig, kubectl)

    def start(self, command: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {
            **{key: value for key, value in os.environ.items() if key in {"PATH", "HOME"}},
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECTL": str(self.kubectl),
            "TIMEOUT": "20",
            **variables,
        }
        words = [sys.executable, "-m", "bitfusiond.operate", command, *arguments]
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, command: str, *arguments: str, **variables: str) -> Result:
        return ended(self.start(command, *arguments, **variables))


def ended(process: subprocess.Popen[str]) -> Result:
    """What became of a command."""
    with process:
        out, err = process.communicate(timeout=180)
    return Result(process.returncode, out, err)


def found(api: APIServer, path: str) -> Json | None:
    try:
        answer: Json = api.request("GET", path)
    except Refused as refused:
        if refused.code != 404:
            raise
        return None
    return answer


def rolled_out(api: APIServer, *, nodes: int = 1) -> None:
    """One round of the controllers: both workloads have all pods they want, and deletions come to their end."""
    for path in (WEBHOOK, PLUGIN):
        workload = found(api, path)
        if workload is None:
            continue
        if "deletionTimestamp" in workload["metadata"]:
            _orphan(api, path, workload)
            continue
        generation = workload["metadata"]["generation"]
        status: Json = {"observedGeneration": generation}
        if workload["kind"] == "Deployment":
            count = workload["spec"]["replicas"]
            status |= dict.fromkeys(("replicas", "updatedReplicas", "availableReplicas", "readyReplicas"), count)
        else:
            of = ("currentNumberScheduled", "desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable")
            status |= dict.fromkeys((*of, "numberReady"), nodes) | {"numberMisscheduled": 0}
        if any(workload["status"].get(key) != value for key, value in status.items()):
            _patch(api, f"{path}/status", {"status": status})


def _orphan(api: APIServer, path: str, workload: Json) -> None:
    """The garbage collector: what the workload made stays, and forgets it."""
    if path == WEBHOOK:
        for each in api.request("GET", REPLICA_SETS)["items"]:
            if any(
                owner["uid"] == workload["metadata"]["uid"] for owner in each["metadata"].get("ownerReferences", [])
            ):
                _patch(api, f"{REPLICA_SETS}/{each['metadata']['name']}", {"metadata": {"ownerReferences": None}})
    _patch(api, path, {"metadata": {"finalizers": None}})


def _patch(api: APIServer, path: str, body: Mapping[str, Any]) -> None:
    try:
        api.request("PATCH", path, body, _MERGE)
    except Refused as refused:
        assert refused.code == 404  # noqa: PT017 - deleted meanwhile


@contextmanager
def controllers(api: APIServer) -> Iterator[None]:
    """The controllers, for as long as the block lasts."""
    over = threading.Event()

    def follow() -> None:
        while not over.is_set():
            rolled_out(api)
            time.sleep(0.2)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
