"""What deploy applies: the overlay of the platform as kustomize builds it, with the operator's values put in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitfusiond import manifest
from bitfusiond.configfiles import CATALOGUE, load_yaml
from bitfusiond.core import catalogue
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate.kubectl import Json, Kubectl, Ref, ref
from bitfusiond.operate.settings import DEFAULT_REPO

OVERLAYS = Path(__file__).parents[2] / "manifests" / "overlays"

CATALOGUE_MAP = Ref("ConfigMap", "bwki-bitfusion-client-configmap", "bwki")
# On that ConfigMap: its content came from CLIENTS, so a deploy without CLIENTS leaves it.
CLIENTS_GIVEN = "bitfusion.io/clients-given"

TOTAL_GPU_MEMORY = "TOTAL_GPU_MEMORY"
RESOURCE_NUMS = "RESOURCE_NUMS"
_VARIABLE_OF = {"Deployment": TOTAL_GPU_MEMORY, "DaemonSet": RESOURCE_NUMS}

_OUR_IMAGE = re.compile(rf"{re.escape(DEFAULT_REPO)}/(bitfusiond|bitfusion-client)(?::[A-Za-z0-9_.-]+)?")
_CONFIGURATIONS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


@dataclass(frozen=True, slots=True)
class Values:
    """``clients`` is the text of a catalogue; None = the one of the manifests."""

    image_repo: str
    image_tag: str
    total_gpu_memory: int
    resource_nums: int
    clients: str | None = None


@dataclass(frozen=True, slots=True)
class Stages:
    """The manifests in the order of a deploy.

    The API server must not ask a webhook that is not ready: it would refuse every pod that opted in. So what makes it
    ask comes last, and the Service before it.
    """

    base: list[Json]
    services: list[Json]
    configurations: list[Json]

    @property
    def all(self) -> list[Json]:
        return [*self.base, *self.services, *self.configurations]


def build(kubectl: Kubectl, platform: str, values: Values) -> Stages:
    """Raises ConfigurationError where this is not run from a checkout, KubectlError where kustomize fails."""
    directory = OVERLAYS / platform
    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is not there: run this from a checkout of bitfusiond")
    documents = manifest.load(kubectl.run("kustomize", str(directory)))
    return stages([substituted(document, values) for document in documents])


def stages(documents: list[Json]) -> Stages:
    """What pods need (accounts, ConfigMaps, priority classes) comes before what makes pods."""

    def of(*kinds: str) -> list[Json]:
        return [each for each in documents if each["kind"] in kinds]

    later = ("Service", *_VARIABLE_OF, *_CONFIGURATIONS)
    needed = [each for each in documents if each["kind"] not in later]
    return Stages([*needed, *of(*_VARIABLE_OF)], of("Service"), of(*_CONFIGURATIONS))


def substituted(document: Json, values: Values) -> Json:
    """``document`` with our images, the two variables and the catalogue as ``values`` has them."""
    result: Json = _images(document, values)
    variable = _VARIABLE_OF.get(result["kind"])
    if variable is not None:
        number = values.total_gpu_memory if variable == TOTAL_GPU_MEMORY else values.resource_nums
        for container in result["spec"]["template"]["spec"]["containers"]:
            container["env"] = with_variable(container.get("env") or [], variable, str(number))
    if ref(result) == CATALOGUE_MAP and values.clients is not None:
        result["data"] = {**(result.get("data") or {}), CATALOGUE: values.clients}
        result["metadata"].setdefault("annotations", {})[CLIENTS_GIVEN] = "true"
    return result


def with_variable(variables: list[Json], name: str, value: str) -> list[Json]:
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
        return _OUR_IMAGE.sub(lambda found: f"{values.image_repo}/{found[1]}:{values.image_tag}", value)
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


def containers(document: Mapping[str, Any]) -> Iterator[Json]:
    """The containers of a workload."""
    yield from document["spec"]["template"]["spec"]["containers"]


def variable(document: Mapping[str, Any] | None, name: str) -> str | None:
    """The value of an environment variable in a workload's containers, or None."""
    for container in containers(document) if document else ():
        for each in container.get("env") or []:
            if each["name"] == name:
                value: str | None = each.get("value")
                return value
    return None
