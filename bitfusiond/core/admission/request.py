"""What a pod asks for: its annotations and its containers' resources, or every problem with them at once."""

from __future__ import annotations

import enum
import shlex
from dataclasses import dataclass
from typing import Any, NamedTuple

from bitfusiond.core import names, quantity, raw


class Mode(enum.Enum):
    """What ``auto-management/bitfusion`` says."""

    ALL = "all"
    INJECTION = "injection"
    NONE = "none"


_MODES = {
    **dict.fromkeys(("all", "y", "yes", "true", "on"), Mode.ALL),
    "injection": Mode.INJECTION,
    **dict.fromkeys(("none", "n", "no", "false", "off", ""), Mode.NONE),
}

_FILTER_KEYS = {
    key: key
    for key in (
        "server.addr",
        "server.hostname",
        "server.has-rdma",
        "server.cuda-version",
        "server.driver-version",
        "device.id",
        "device.name",
        "device.phy-memory",
    )
} | {"server.dirver-version": "server.driver-version"}  # as the README of the 0.4 integration spells it

_LONGEST_FILTER = 4096  # characters; shlex takes time that grows with the square of a word's length

_ARCHITECTURE_LABELS = ("kubernetes.io/arch", "beta.kubernetes.io/arch")
_OS_LABELS = ("kubernetes.io/os", "beta.kubernetes.io/os")


@dataclass(frozen=True, slots=True)
class Demand:
    """What one GPU container asks for. ``percent`` and ``memory`` (bytes of each GPU) exclude each other."""

    amount: int
    percent: int | None
    memory: int | None
    shares: int


_SOME = Demand(1, 100, None, 100)


@dataclass(frozen=True, slots=True)
class GpuContainer:
    """A container that asks for GPUs: ``raw`` is ``spec.<group>[index]`` of the pod."""

    group: str
    index: int
    raw: dict[str, Any]
    demand: Demand

    @property
    def path(self) -> str:
        return f"spec.{self.group}[{self.index}]"

    @property
    def pointer(self) -> str:
        return f"/spec/{self.group}/{self.index}"


@dataclass(frozen=True, slots=True)
class PodRequest:
    """``os`` and ``version`` are None where the pod names neither."""

    os: str | None
    version: str | None
    filters: tuple[str, ...]
    containers: tuple[GpuContainer, ...]


def mode(annotations: dict[str, Any], problems: list[str]) -> Mode | None:
    """Whether and how the pod opted in; no annotation is NONE, an unknown value is a problem and None."""
    value = annotations.get(names.MANAGEMENT)
    if value is None:
        return Mode.NONE
    if not isinstance(value, str):
        _not_a_string(names.MANAGEMENT, value, problems)
        return None
    found = _MODES.get(value.lower())
    if found is None:
        problems.append(
            f"metadata.annotations[{names.MANAGEMENT}]: {raw.shown(value)} is not one of all, injection, none"
        )
    return found


def parse(
    annotations: dict[str, Any], spec: dict[str, Any], total_megabytes: int, problems: list[str], warnings: list[str]
) -> PodRequest:
    """The request of a pod that opted in.

    ``total_megabytes`` is what the Bitfusion servers manage for one GPU, 0 = not known. Everything wrong is appended
    to ``problems`` (``FIELD: what is wrong and what is allowed``); the result then serves to find further problems,
    with one GPU in place of a demand that is wrong.
    """
    containers: list[GpuContainer] = []
    before = len(problems)
    for group in ("initContainers", "containers"):
        for index, container in enumerate(raw.objects(spec, group, f"spec.{group}", problems)):
            path = f"spec.{group}[{index}]"
            demand = _demand(container, path, total_megabytes, problems, warnings)
            if demand is not None:
                containers.append(GpuContainer(group, index, container, demand))
    if not containers and len(problems) == before:
        problems.append(
            f"spec.containers: no container asks for {names.GPU_AMOUNT} in resources.limits, as"
            f" {names.MANAGEMENT} wants: add it, or set the annotation to none"
        )
    _platform(spec, problems)
    return PodRequest(
        _client_annotation(annotations, names.CLIENT_OS, problems),
        _client_annotation(annotations, names.CLIENT_VERSION, problems),
        _filters(annotations, problems),
        tuple(containers),
    )


def _client_annotation(annotations: dict[str, Any], key: str, problems: list[str]) -> str | None:
    value = annotations.get(key)
    if value is not None and not isinstance(value, str):
        _not_a_string(key, value, problems)
        return str(value)  # what was meant, to find what else is wrong
    return value or None


def _not_a_string(key: str, value: object, problems: list[str]) -> None:
    """YAML reads ``450`` as a number and ``yes`` as a boolean; an annotation is neither."""
    problems.append(f"metadata.annotations[{key}]: {raw.shown(value)} is not a string: put it in quotation marks")


def _filters(annotations: dict[str, Any], problems: list[str]) -> tuple[str, ...]:
    """``key=value`` words of the filter annotation, in order, with their quoting taken off."""
    path = f"metadata.annotations[{names.CLIENT_FILTER}]"
    value = annotations.get(names.CLIENT_FILTER)
    if value is None:
        return ()
    if not isinstance(value, str):
        _not_a_string(names.CLIENT_FILTER, value, problems)
        return ()
    if len(value) > _LONGEST_FILTER:
        problems.append(f"{path}: has {len(value)} characters: at most {_LONGEST_FILTER} are allowed")
        return ()
    try:
        words = shlex.split(value)
    except ValueError:
        problems.append(f"{path}: {raw.shown(value)} has a quotation mark or backslash that is not closed")
        return ()
    found: list[str] = []
    for word in words:
        key, equals, wanted = word.partition("=")
        if not equals:
            problems.append(f"{path}: {raw.shown(word)} is not of the form key=value")
        elif not wanted:
            problems.append(f"{path}: {raw.shown(word)} has no value behind the =")
        elif key not in _FILTER_KEYS:
            allowed = ", ".join(sorted(set(_FILTER_KEYS.values())))
            problems.append(f"{path}: {raw.shown(key)} is not a filter key: allowed are {allowed}")
        else:
            found.append(f"{_FILTER_KEYS[key]}={wanted}")
    return tuple(found)


def _demand(
    container: dict[str, Any], path: str, total_megabytes: int, problems: list[str], warnings: list[str]
) -> Demand | None:
    resources = raw.mapping(container, "resources", f"{path}.resources", problems)
    sections = {
        section: raw.mapping(resources, section, f"{path}.resources.{section}", problems)
        for section in ("limits", "requests")
    }
    if names.REQUEST_RESOURCES.isdisjoint(sections["limits"]) and names.REQUEST_RESOURCES.isdisjoint(
        sections["requests"]
    ):
        _reserved(sections, path, "ask for", problems)
        return None
    before = len(problems)
    given = {
        key: field
        for key in (names.GPU_AMOUNT, names.GPU_NUM, names.GPU_PERCENT, names.GPU_MEMORY)
        if (field := _field(sections, key, f"{path}.resources", problems)) is not None
    }
    amount = _amount(given, path, problems)
    percent = _whole(given.get(names.GPU_PERCENT), 1, 100, problems)
    memory = _memory(given.get(names.GPU_MEMORY), total_megabytes, problems)
    if names.GPU_PERCENT in given and names.GPU_MEMORY in given:
        problems.append(
            f"{path}.resources: {names.GPU_PERCENT} and {names.GPU_MEMORY} exclude each other: give one of them"
        )
    _reserved(sections, path, "it is worked out from", problems)
    if len(problems) > before or amount is None:
        return _SOME
    if memory is not None:
        shares = quantity.shares_of_memory(memory, total_megabytes, amount)
    else:
        if percent is None:
            percent = 100
            warnings.append(f"{path}: neither gpu-percent nor gpu-memory is given: taking 100 percent of each GPU")
        shares = quantity.shares_of_percent(percent, amount)
    if shares > quantity.LARGEST:
        problems.append(f"{path}.resources: {amount} GPUs are more than {names.GPU} can count")
    return Demand(amount, percent, memory, shares)


def _reserved(sections: dict[str, dict[str, Any]], path: str, instead: str, problems: list[str]) -> None:
    """Shares that the user asks for by themselves come with no client, and would be held by a program without a GPU."""
    problems += [
        f"{path}.resources.{section}[{names.GPU}]: is ours to write: remove it, {instead} {names.GPU_AMOUNT}"
        for section, values in sections.items()
        if names.GPU in values
    ]


class _Field(NamedTuple):
    path: str
    value: Any


def _field(sections: dict[str, dict[str, Any]], key: str, path: str, problems: list[str]) -> _Field | None:
    """One gpu-* value out of limits or requests; in both it must be the same, as for every extended resource.

    The API server copies limits into requests before it asks us, so a value usually stands in both.
    """
    found = [_Field(f"{path}.{name}[{key}]", values[key]) for name, values in sections.items() if key in values]
    if len(found) > 1 and not _same(found[0].value, found[1].value):
        problems.append(
            f"{found[1].path}: {raw.shown(found[1].value)} differs from limits ({raw.shown(found[0].value)}):"
            " give the same value, or limits alone"
        )
    return found[0] if found else None


def _same(one: object, other: object) -> bool:
    try:
        return one == other or quantity.parse(one) == quantity.parse(other)
    except ValueError:
        return False


def _amount(given: dict[str, _Field], path: str, problems: list[str]) -> int | None:
    both = [given[key] for key in (names.GPU_AMOUNT, names.GPU_NUM) if key in given]
    if len(both) > 1:
        problems.append(
            f"{path}.resources: {names.GPU_NUM} is the earlier name of {names.GPU_AMOUNT}: give one of them"
        )
    if not both:
        problems.append(
            f"{path}.resources: {' and '.join(given)} without {names.GPU_AMOUNT}: add {names.GPU_AMOUNT}, the number"
            " of GPUs"
        )
        return None
    return _whole(both[0], 1, None, problems)


def _whole(field: _Field | None, lowest: int, highest: int | None, problems: list[str]) -> int | None:
    if field is None:
        return None
    allowed = f"an integer from {lowest} to {highest}" if highest else f"an integer of at least {lowest}"
    try:
        number = quantity.integer(field.value)
    except ValueError:
        number = lowest - 1
    if number < lowest or (highest is not None and number > highest):
        problems.append(f"{field.path}: {raw.shown(field.value)} is not {allowed}")
        return None
    return number


def _memory(field: _Field | None, total_megabytes: int, problems: list[str]) -> int | None:
    if field is None:
        return None
    value = raw.shown(field.value)
    try:
        memory = quantity.integer(field.value)
    except ValueError:
        problems.append(f"{field.path}: {value} is not a whole number of bytes such as 8000M, 8Gi or 8000000000")
        return None
    total = total_megabytes * quantity.MEGABYTE
    if not total:
        problems.append(
            f"{field.path}: cannot be served, as the webhook does not know the GPUs' memory: set TOTAL_GPU_MEMORY, or"
            f" ask for {names.GPU_PERCENT}"
        )
    elif memory < quantity.MEGABYTE:
        problems.append(f"{field.path}: {value} is below 1M; the unit is bytes, so write for example 8000M or 8Gi")
    elif memory > total:
        problems.append(f"{field.path}: {value} is more than the {total_megabytes}M that one GPU has")
    else:
        return memory
    return None


def _platform(spec: dict[str, Any], problems: list[str]) -> None:
    """There are clients for Linux on amd64 only: a pod that can only run elsewhere would never find its program."""
    selector = raw.mapping(spec, "nodeSelector", "spec.nodeSelector", problems)
    os = raw.mapping(spec, "os", "spec.os", problems)
    found = [(f"spec.nodeSelector[{label}]", selector[label], "linux") for label in _OS_LABELS if label in selector]
    if "name" in os:
        found.append(("spec.os.name", os["name"], "linux"))
    found += [
        (f"spec.nodeSelector[{label}]", selector[label], "amd64") for label in _ARCHITECTURE_LABELS if label in selector
    ]
    problems += [
        f"{path}: {raw.shown(value)} has no Bitfusion client: there are clients for linux on amd64 only"
        for path, value, allowed in found
        if value != allowed
    ]
