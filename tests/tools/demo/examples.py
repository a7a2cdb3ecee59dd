"""The README's pods, and what has to come of each: written down here, never computed by the code that is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from bitfusiond.core.objects import Pod
from tests import EXAMPLES as DIRECTORY

NAMESPACE = "tensorflow-benchmark"
TOTAL_GPU_MEMORY = 16000  # MB, as in the README
CLIENT_OS, CLIENT_VERSION = "ubuntu18", "450"


@dataclass(frozen=True, slots=True)
class Example:
    """One file of manifests/examples."""

    file: str
    wants: str
    shares: int  # of bitfusion.io/gpu; 100 = one GPU
    asked: str  # what the client is asked for
    runs: bool = True  # whether the demo runs its command too


EXAMPLES = (
    Example("pod.yaml", "half of one GPU", 50, "run -n 1 -p 0.500000"),
    Example("pod-memory.yaml", "8000 MB of one GPU", 50, "run -n 1 -m 8000"),
    Example(
        "pod-filter.yaml",
        "half of one GPU of a certain server",
        50,
        "run -n 1 -p 0.500000 --filter server.hostname=bf-server --filter server.addr=192.168.1.1",
    ),
    Example(
        "pod-injection.yaml",
        "half of one GPU; its command, which calls the client itself, stays",
        50,
        "run -n 1 -p 0.5",
    ),
    Example("deployment.yaml", "a quarter of a GPU for each replica", 25, "run -n 1 -p 0.250000", runs=False),
    Example("job.yaml", "a quarter of a GPU", 25, "run -n 1 -p 0.250000", runs=False),
)


def pod(file: str) -> Pod:
    """The pod of an example: itself, or the one that the controller of a Deployment or a Job makes from its template.

    A controller's pod has no name of its own, only the beginning of one, and it names no namespace.
    """
    document: Pod = yaml.safe_load((DIRECTORY / file).read_text("utf-8"))
    if document["kind"] == "Pod":
        return document
    template = document["spec"]["template"]
    name = document["metadata"]["name"]
    owner, prefix = ("ReplicaSet", f"{name}-6d5f4c7b9-") if document["kind"] == "Deployment" else ("Job", f"{name}-")
    metadata = {
        "generateName": prefix,
        **template["metadata"],
        "ownerReferences": [
            {
                "apiVersion": "apps/v1" if owner == "ReplicaSet" else "batch/v1",
                "kind": owner,
                "name": prefix.removesuffix("-"),
                "uid": "6f0d5a2e-8f5c-4c0b-9b55-1d1a0f6f3c11",
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def gpu_container(given: Pod) -> dict[str, Any]:
    """The examples have one container each."""
    container: dict[str, Any] = given["spec"]["containers"][0]
    return container
