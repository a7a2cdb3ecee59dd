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

from tests.cluster.apiserver import APIServer, Refused

Json = dict[str, Any]

APPS = "/apis/apps/v1"
WEBHOOK = f"{APPS}/namespaces/bwki/deployments/bitfusion-webhook-deployment"
PLUGIN = f"{APPS}/namespaces/kube-system/daemonsets/bitfusion-device-plugin"
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

    def run(self, command: str, *arguments: str, **variables: str) -> Result:
        environment = {
            **{key: value for key, value in os.environ.items() if key in {"PATH", "HOME"}},
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECTL": str(self.kubectl),
            "TIMEOUT": "20",
            **variables,
        }
        done = subprocess.run(
            [sys.executable, "-m", "bitfusiond.operate", command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        return Result(done.returncode, done.stdout, done.stderr)


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
            _patch(api, path, {"metadata": {"finalizers": None}})
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
