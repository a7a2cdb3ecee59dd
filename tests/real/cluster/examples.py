"""manifests/examples on the tests' node: another image, and a directory of this machine with a stand-in benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from tests import EXAMPLES, ROOT
from tests.real.harness.cluster import Object

SCRIPT = "/benchmark/scripts/tf_cnn_benchmarks/tf_cnn_benchmarks.py"
_PROGRAM = ROOT / "tests/tools/demo/programs/benchmark.py"


class Benchmarks:
    """What the README's pods find on the node: ``/home/benchmarks``, and a ``python`` for the image."""

    def __init__(self, directory: Path, image: str) -> None:
        self._directory = directory
        self._image = image
        program = directory / Path(SCRIPT).relative_to("/benchmark")
        program.parent.mkdir(parents=True)
        shutil.copy(_PROGRAM, program)
        python = directory / "python"
        python.write_text('#!/bin/sh\nexec python3 "$@"\n')
        python.chmod(0o755)

    def example(self, name: str) -> Object:
        """The file of manifests/examples as it is, but for the image and the node's directory."""
        document: Object = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
        spec = document["spec"]
        if document["kind"] == "Pod":
            spec["restartPolicy"] = "Never"
        self._fit(spec["template"]["spec"] if "template" in spec else spec)
        return document

    def _fit(self, spec: dict[str, Any]) -> None:
        spec["terminationGracePeriodSeconds"] = 1
        for container in spec["containers"]:
            container["image"] = self._image
            container["volumeMounts"].append({"name": "python", "mountPath": "/usr/local/bin/python"})
        for volume in spec["volumes"]:
            volume["hostPath"] = {"path": str(self._directory)}
        spec["volumes"].append({"name": "python", "hostPath": {"path": f"{self._directory}/python"}})


def pod(name: str, namespace: str, command: list[str], image: str, **limits: Any) -> Object:
    """A pod that opted in, with ``command`` as it is and ``limits`` below ``bitfusion.io/``."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {
                "auto-management/bitfusion": "all",
                "bitfusion-client/os": "ubuntu18",
                "bitfusion-client/version": "450",
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": command,
                    "resources": {"limits": {f"bitfusion.io/gpu-{key}": value for key, value in limits.items()}},
                }
            ],
        },
    }
