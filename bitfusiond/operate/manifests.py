"""What deploy applies: the overlay of the platform as kustomize builds it, with the operator's values put in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.clients import catalogue
from bitfusiond.core.objects import Container, EnvVar, Namespace, Object, Workload
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import yaml_documents
from bitfusiond.files.read import CATALOGUE, load_yaml
from bitfusiond.operate.kubectl import Kubectl, KubectlError, Ref, ref
from bitfusiond.operate.settings import COMMUNITY, DEFAULT_REPO, LEGACY

OVERLAYS = Path(__file__).parents[2] / "manifests" / "overlays"

CATALOGUE_MAP = Ref("ConfigMap", names.CATALOGUE_CONFIGMAP, names.NAMESPACE)
TEMPLATE_MAP = Ref("ConfigMap", names.TEMPLATE_CONFIGMAP, names.NAMESPACE)
# On that ConfigMap: the digest of the packaged catalogue. A content that does not fit it came from CLIENTS or was
# edited, and a deploy without CLIENTS leaves it.
PACKAGED = "bitfusion.io/packaged-sha256"

PART_OF = ("app.kubernetes.io/part-of", "bitfusiond")
# A namespace with this label, value "ignore", is one about whose pods the API server does not ask.
IGNORED = names.ADMISSION_LABEL
SYSTEM_NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.KUBE_SYSTEM}}

TOTAL_GPU_MEMORY = "TOTAL_GPU_MEMORY"
RESOURCE_NUMS = "RESOURCE_NUMS"
_VARIABLE_OF = {"Deployment": TOTAL_GPU_MEMORY, "DaemonSet": RESOURCE_NUMS}

_OUR_IMAGE = re.compile(rf"{re.escape(DEFAULT_REPO)}/(bitfusiond|bitfusion-client)(?::[A-Za-z0-9_.-]+)?")
_CONFIGURATIONS = names.CONFIGURATION_KINDS


@dataclass(frozen=True, slots=True)
class Values:
    """``clients`` is the text of a catalogue; None = the one of the manifests. ``digests`` by NAME:TAG of an image."""

    image_repo: str
    image_tag: str
    total_gpu_memory: int
    resource_nums: int
    clients: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)

    def image(self, name: str) -> str:
        """As a manifest names it. Beside a digest the tag is for people: what is pulled has that digest."""
        tagged = f"{self.image_repo}/{name}:{self.image_tag}"
        return f"{tagged}@{self.digests[tagged]}" if tagged in self.digests else tagged


@dataclass(frozen=True, slots=True)
class Stages:
    """The manifests in the order of a deploy.

    The API server must not ask a webhook that is not ready: it would refuse every pod that opted in. So what makes it
    ask comes last, and the Service before it. The plugin comes when the webhook runs from the same image: an image that
    no node can pull then costs nobody the plugin that works.
    """

    base: list[Object]
    plugin: list[Object]
    services: list[Object]
    configurations: list[Object]

    @property
    def all(self) -> list[Object]:
        return [*self.base, *self.plugin, *self.services, *self.configurations]


def overlay(kubectl: Kubectl, platform: str) -> list[Object]:
    """The manifests of a platform as they are in the checkout.

    Raises ConfigurationError where this is not run from a checkout, KubectlError where kustomize fails.
    """
    directory = OVERLAYS / platform
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not there: run this from a checkout of bitfusiond")
    try:
        return yaml_documents.load(kubectl.run("kustomize", str(directory)))
    except KubectlError as error:
        raise KubectlError(
            f"{error} (by kubectl {_version(kubectl)}; the overlay {COMMUNITY} needs 1.21 or later, for a cluster of"
            f" Kubernetes 1.20 to 1.27 the overlay is {LEGACY}: K8S_PLATFORM)"
        ) from None


def _version(kubectl: Kubectl) -> str:
    version = json.loads(kubectl.run("version", "--client", "-o", "json")).get("clientVersion") or {}
    return str(version.get("gitVersion") or "of an unknown version")


def fitting(documents: Sequence[Object], platform: str, version: tuple[int, int]) -> list[Object]:
    """``documents`` of an overlay, and what an API server of this version wants besides.

    Before 1.21 no namespace is labelled with its name, by which the webhook configurations leave kube-system alone.
    From 1.21 on there is the PodDisruptionBudget that the overlay legacy cannot have.
    """
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


def ignored(namespace: Namespace | None) -> bool:
    """Whether the API server is told by a label not to ask about the pods of this namespace."""
    labels = ((namespace or {}).get("metadata") or {}).get("labels") or {}
    return bool(labels.get(IGNORED) == "ignore")


def build(documents: Iterable[Object], values: Values) -> Stages:
    """The manifests with the operator's values, in stages."""
    return stages([substituted(document, values) for document in documents])


def stages(documents: list[Object]) -> Stages:
    """What pods need (accounts, ConfigMaps, priority classes) comes before what makes pods."""

    def of(*kinds: str) -> list[Object]:
        return [each for each in documents if each["kind"] in kinds]

    later = ("Service", *_VARIABLE_OF, *_CONFIGURATIONS)
    needed = [each for each in documents if each["kind"] not in later]
    return Stages([*needed, *of("Deployment")], of("DaemonSet"), of("Service"), of(*_CONFIGURATIONS))


def substituted(document: Object, values: Values) -> Object:
    """``document`` with our images, the two variables and the catalogue as ``values`` has them."""
    result: Object = _images(document, values)
    variable = _VARIABLE_OF.get(result["kind"])
    if variable is not None:
        number = values.total_gpu_memory if variable == TOTAL_GPU_MEMORY else values.resource_nums
        for container in result["spec"]["template"]["spec"]["containers"]:
            container["env"] = with_variable(container.get("env") or [], variable, str(number))
    if ref(result) == CATALOGUE_MAP:
        if values.clients is None:
            result["metadata"].setdefault("annotations", {})[PACKAGED] = digest(result["data"][CATALOGUE])
        else:
            result["data"] = {**(result.get("data") or {}), CATALOGUE: values.clients}
    return result


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def with_variable(variables: list[EnvVar], name: str, value: str) -> list[EnvVar]:
    """A container's ``env`` with this variable, in its place or at the end."""
    ours = {"name": name, "value": value}
    if all(each["name"] != name for each in variables):
        return [*variables, ours]
    return [ours if each["name"] == name else each for each in variables]


def _images(value: Any, values: Values) -> Any:
    """Image names stand in the containers, and inside the text of the injection template."""
    if isinstance(value, dict):
        return {key: _images(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [_images(each, values) for each in value]
    if isinstance(value, str):
        return _OUR_IMAGE.sub(lambda match: values.image(match[1]), value)
    return value


def catalogue_text(path: Path) -> str:
    """The catalogue that CLIENTS names. Raises ConfigurationError where the webhook would not take it."""
    try:
        text = path.read_text("utf-8")
        catalogue.parse(load_yaml(text))
    except OSError as error:
        raise ConfigurationError(f"CLIENTS: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"CLIENTS: {path}: {error}") from None
    return text


def containers(workload: Workload) -> Iterator[Container]:
    yield from workload["spec"]["template"]["spec"]["containers"]


def variable(workload: Workload | None, name: str) -> str | None:
    """The value of an environment variable in a workload's containers, or None."""
    for container in containers(workload) if workload else ():
        for each in container.get("env") or []:
            if each["name"] == name:
                value: str | None = each.get("value")
                return value
    return None
