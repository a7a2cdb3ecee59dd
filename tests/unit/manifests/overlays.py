"""The kustomizations of manifests/, read without kubectl: what it would print of them."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

import yaml

from bitfusiond.core.fields import Json
from tests import MANIFESTS

OVERLAYS = ("community", "legacy", "tkgi")


def directory(overlay: str) -> Path:
    return MANIFESTS / "overlays" / overlay


@cache
def _documents(of: Path) -> str:
    kustomization = yaml.safe_load((of / "kustomization.yaml").read_text())
    found: list[Json] = []
    for name in (*kustomization.get("bases", ()), *kustomization.get("resources", ())):
        path = of / name
        if path.is_dir():
            found += documents(path.resolve())
        else:
            found += yaml.safe_load_all(path.read_text())
    options = kustomization.get("generatorOptions", {})
    for generator in kustomization.get("configMapGenerator", ()):
        labels = {"labels": options["labels"]}
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": generator["name"], "namespace": generator["namespace"], **labels},
                "data": {Path(file).name: (of / file).read_text() for file in generator["files"]},
            }
        )
    return json.dumps(found)


def documents(of: Path) -> list[Json]:
    """All objects of the kustomization in this directory, each time anew."""
    found: list[Json] = json.loads(_documents(of))
    return found


def overlay(name: str) -> list[Json]:
    return documents(directory(name))


def one(documents: list[Json], kind: str, name: str) -> Json:
    """The only object of that kind and name."""
    (found,) = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod(documents: list[Json], kind: str, name: str) -> Json:
    """The pod template of a Deployment or DaemonSet."""
    found: Json = one(documents, kind, name)["spec"]["template"]
    return found


def kustomize(kubectl: str, place: Path) -> str:
    """What it prints. Raises CalledProcessError with its words in ``stderr``."""
    return subprocess.run([kubectl, "kustomize", str(place)], capture_output=True, check=True, text=True).stdout
