"""The manifests as they are in the checkout, or in what pip installed: overlays built by kustomize, parts by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bitfusiond.core import names
from bitfusiond.core.objects import Namespace, Object
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import yaml_documents
from bitfusiond.operate.kubectl import Kubectl, KubectlError, Ref, ref
from bitfusiond.operate.settings import COMMUNITY, LEGACY

# A link to the directory of the checkout; what pip installs has a copy there.
OVERLAYS = Path(__file__).parents[1] / "manifests" / "overlays"
IN_CHECKOUT = (Path(__file__).parents[2] / "justfile").is_file()
GUARD = OVERLAYS.parent / "guard"
# What a webhook needs that looks images up.
IMAGE_LOOKUP_PERMISSIONS = OVERLAYS.parent / "image-lookup" / "permissions.yaml"
# What webhook and nodes need where the pool is counted once.
POOL_PERMISSIONS = OVERLAYS.parent / "pool" / "permissions.yaml"
POOL_NODES = OVERLAYS.parent / "pool" / "device-plugin.yaml"
# ValidatingAdmissionPolicy is stable from here on.
POLICIES = (1, 30)

# A namespace with this label, value "ignore", is one about whose pods the API server does not ask.
IGNORED = names.ADMISSION_LABEL
SYSTEM_NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.KUBE_SYSTEM}}


def overlay(kubectl: Kubectl, platform: str) -> list[Object]:
    """The manifests of a platform as they are in the checkout.

    Raises ConfigurationError where this is not run from a checkout, KubectlError where kustomize fails.
    """
    directory = OVERLAYS / platform
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not there: install bitfusiond by pip, or run this from a checkout")
    try:
        return yaml_documents.load(kubectl.run("kustomize", str(directory)))
    except KubectlError as error:
        raise KubectlError(
            f"{error} (by kubectl {_version(kubectl)}; the overlay {COMMUNITY} needs 1.21 or later, for a cluster of"
            f" Kubernetes 1.20 to 1.27 the overlay is {LEGACY}: K8S_PLATFORM)"
        ) from None


def shipped() -> list[Ref]:
    """Everything that the manifests of this checkout make in a cluster, whichever of them were applied; no Namespace.

    By reading the files: who uninstalls needs no kubectl that can build them all.
    """
    found: list[Ref] = []
    for file in sorted(OVERLAYS.parent.rglob("*.yaml")):
        if "examples" in file.parts or "config" in file.parts:
            continue
        for document in yaml_documents.load(file.read_text("utf-8")):
            if document["kind"] in {"Kustomization", "Component"}:
                generated = document.get("configMapGenerator") or []
                found += [Ref("ConfigMap", each["name"], each["namespace"]) for each in generated]
            elif document["kind"] != "Namespace":
                found.append(ref(document))
    return list(dict.fromkeys(found))


def _version(kubectl: Kubectl) -> str:
    version = json.loads(kubectl.run("version", "--client", "-o", "json")).get("clientVersion") or {}
    return str(version.get("gitVersion") or "of an unknown version")


def fitting(documents: Sequence[Object], platform: str, version: tuple[int, int]) -> list[Object]:
    """``documents`` of an overlay, and what an API server of this version wants besides.

    Before 1.21 no namespace is labelled with its name, by which the webhook configurations leave kube-system alone.
    From 1.21 on there is the PodDisruptionBudget that the overlay legacy cannot have, from 1.30 on the policies of
    manifests/guard.
    """
    if version >= POLICIES:
        documents = [*documents, *documents_of(GUARD / "secrets.yaml"), *documents_of(GUARD / "pods.yaml")]
    if version < (1, 21):
        return [
            *documents,
            {**SYSTEM_NAMESPACE, "metadata": {"name": names.KUBE_SYSTEM, "labels": {IGNORED: "ignore"}}},
        ]
    if platform != LEGACY:
        return list(documents)
    budgets = yaml_documents.load((OVERLAYS / COMMUNITY / "disruption-budget.yaml").read_text("utf-8"))
    if version < (1, 26):
        for budget in budgets:  # a server-side apply takes no field that the API server does not know
            del budget["spec"]["unhealthyPodEvictionPolicy"]
    return [*documents, *budgets]


def documents_of(file: Path) -> list[Object]:
    return yaml_documents.load(file.read_text("utf-8"))


def pool_permissions() -> list[Ref]:
    return [ref(each) for each in documents_of(POOL_PERMISSIONS)]


def ignored(namespace: Namespace | None) -> bool:
    """Whether the API server is told by a label not to ask about the pods of this namespace."""
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    return bool(labels.get(IGNORED) == "ignore")
