"""What a cluster does by itself, played by the tests, as nothing but an API server runs here; and the operator."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bitfusiond.core.fields import Json
from tests.fakes.processes import repeating
from tests.real.harness import programs
from tests.real.harness.apiserver import APIServer, Refused

APPS = "/apis/apps/v1"
WEBHOOK = f"{APPS}/namespaces/bwki/deployments/bitfusion-webhook-deployment"
PLUGIN = f"{APPS}/namespaces/kube-system/daemonsets/bitfusion-device-plugin"
REPLICA_SETS = f"{APPS}/namespaces/bwki/replicasets"


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
        return cls(kubeconfig, programs.kubectl())

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


def rolled_out(api: APIServer, *, nodes: int = 1) -> None:
    """One round of the controllers: both workloads have all pods they want, and deletions come to their end."""
    for path in (WEBHOOK, PLUGIN):
        workload = api.find(path)
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


def _patch(api: APIServer, path: str, body: Json) -> None:
    try:
        api.merge(path, body)
    except Refused as refused:
        assert refused.code == 404  # noqa: PT017 - deleted meanwhile


@contextmanager
def controllers(api: APIServer) -> Iterator[None]:
    """The controllers, for as long as the block lasts."""
    with repeating(partial(rolled_out, api), 0.2):
        yield
