"""What the webhook does to a pod: reads like "What a pod says" and "What becomes of the command" of the README.

pod -> Patch | Refusal | Untouched. Nothing is changed in place; the same pod always gets the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitfusiond.core import names, raw
from bitfusiond.core.admission import command, injection, patch, populate_container, request
from bitfusiond.core.admission.patch import Operation, pointer
from bitfusiond.core.admission.request import GpuContainer, Mode, PodRequest
from bitfusiond.core.admission.template import Template
from bitfusiond.core.clients.catalogue import Catalogue, Client, UnknownClientError

_STATUS = pointer("metadata", "annotations", names.STATUS)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the operator decided: clients, template, megabytes of one GPU (0 = not known), namespaces left alone."""

    catalogue: Catalogue
    template: Template
    total_gpu_memory: int
    exempt_namespaces: frozenset[str] = names.EXEMPT_NAMESPACES


@dataclass(frozen=True, slots=True)
class Patch:
    """The pod is admitted with these RFC 6902 operations."""

    operations: list[Operation]
    warnings: list[str]


class Refusal:
    """The pod is wrong; every problem names its field, the value and what is allowed. Each is there once."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = list(dict.fromkeys(problems))


@dataclass(frozen=True, slots=True)
class Untouched:
    """Not ours to change; ``reason`` is a short phrase, one of few."""

    reason: str


Verdict = Patch | Refusal | Untouched


def mutate(pod: dict[str, Any], namespace: str, configuration: Configuration) -> Verdict:
    """The verdict on a pod that is being created in ``namespace``.

    ``pod`` is raw JSON: fields that no version of this code knows survive. Applied to the patched pod it gives
    Untouched.
    """
    if namespace in configuration.exempt_namespaces:
        return Untouched("exempt namespace")
    problems: list[str] = []
    warnings: list[str] = []
    metadata = raw.mapping(pod, "metadata", "metadata", problems)
    annotations = raw.mapping(metadata, "annotations", "metadata.annotations", problems)
    if annotations.get(names.STATUS) == names.STATUS_INJECTED:
        return Untouched("already injected")
    mode = request.mode(annotations, problems)
    if mode is Mode.NONE:
        return Refusal(problems) if problems else Untouched("not opted in")
    # Something wrong is no reason to stop: what else is wrong is said with it, and the operations are thrown away.
    spec = raw.mapping(pod, "spec", "spec", problems)
    wanted = request.parse(annotations, spec, configuration.total_gpu_memory, problems, warnings)
    client = _client(wanted, configuration.catalogue, problems)
    operations = (
        _operations(spec, wanted, client, mode, configuration.template, problems, warnings) if wanted.containers else []
    )
    if problems:
        return Refusal(problems)
    return Patch(operations, warnings)


def _client(wanted: PodRequest, catalogue: Catalogue, problems: list[str]) -> Client:
    """The client that the pod asks for; any, with a problem, where there is none such."""
    any_client = next(iter(catalogue.clients.values()))
    os, version = wanted.os, wanted.version
    if os is None and version is None and catalogue.default is not None:
        os, version = catalogue.default
    if os is None or version is None:
        missing = [key for key, value in ((names.CLIENT_OS, os), (names.CLIENT_VERSION, version)) if value is None]
        problems += [f"metadata.annotations[{key}]: must be set; {catalogue.choices()}" for key in missing]
        return any_client
    try:
        return catalogue.find(os, version)
    except UnknownClientError as error:
        problems.append(f"metadata.annotations[{names.CLIENT_OS}, {names.CLIENT_VERSION}]: {error}")
        return any_client


def _operations(
    spec: dict[str, Any],
    wanted: PodRequest,
    client: Client,
    mode: Mode | None,
    template: Template,
    problems: list[str],
    warnings: list[str],
) -> list[Operation]:
    """In this order, as each path must hold when its turn comes: `populate` moves the other initContainers last."""
    renamed = injection.volume_names(template, spec, problems)
    operations = [patch.add(_STATUS, names.STATUS_INJECTED)]
    for container in wanted.containers:
        if mode is not Mode.INJECTION:
            operations += _command(container, client, wanted.filters, problems, warnings)
        operations += injection.gpu_container(container, client, template, renamed, problems)
    operations += injection.volumes(template, spec, renamed)
    operations += populate_container.init_containers(
        spec, wanted.containers, client, template, renamed, problems, warnings
    )
    return operations


def _command(
    container: GpuContainer, client: Client, filters: tuple[str, ...], problems: list[str], warnings: list[str]
) -> list[Operation]:
    before = len(problems)
    words = raw.strings(container.raw, "command", f"{container.path}.command", problems)
    args = raw.strings(container.raw, "args", f"{container.path}.args", problems)
    if len(problems) > before:
        return []
    try:
        wrapped = command.wrap(words, args, command.client_words(client.binary_path, container.demand, filters))
    except command.CommandError as error:
        problems.append(f"{container.path}.{error.field}: {error}")
        return []
    if command.calls_client_inside(words, args):
        warnings.append(f"{container.path}.command: calls bitfusion inside; to call it yourself use mode injection")
    base = container.pointer
    operations = [patch.replace(f"{base}/command", wrapped.command)]
    if "args" in container.raw and not wrapped.keeps_args:
        operations.append(patch.remove(f"{base}/args"))
    return operations
