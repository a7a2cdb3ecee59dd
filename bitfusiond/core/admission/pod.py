"""What a pod says, read once: whether it opted in, which client it names, what its containers ask for.

Here stand the bounds on what one pod may have. The API server has none but the size of an object, and work and answer
must not grow with whatever somebody sends.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.admission import calls, command, demand, hooks, mounts
from bitfusiond.core.admission.calls import Call
from bitfusiond.core.admission.demand import Demand, Resources
from bitfusiond.core.admission.hooks import Hook
from bitfusiond.core.clients import entries
from bitfusiond.core.clients.catalogue import Catalogue, UnknownClientError
from bitfusiond.core.clients.client import BITFUSION, Client
from bitfusiond.core.clients.entries import LONGEST_CLIENT_NAME
from bitfusiond.core.fields import Field, Json, strings
from bitfusiond.core.images.image import NONE, Image, Images, Unreadable
from bitfusiond.core.text import shown

MOST_CONTAINERS = 256  # init containers count apart; a node runs a few hundred in all of its pods
MOST_GPU_CONTAINERS = 64  # each makes the answer some kilobytes longer
_MOST_VOLUMES = 1024
_MOST_VARIABLES = 4096
_LONGEST_NAME = 253  # characters; of an object in Kubernetes
_LONGEST_FILTER = 4096  # characters; shlex takes time that grows with the square of a word's length
_LONGEST_SERVERS = 4096


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

_OS_LABELS = ("kubernetes.io/os", "beta.kubernetes.io/os")
_ARCHITECTURE_LABELS = ("kubernetes.io/arch", "beta.kubernetes.io/arch")


@dataclass(frozen=True, slots=True)
class OptIn:
    """Whether and how a pod opted in. ``mode`` is None where the annotation says something unknown.

    ``is_mirror``: the kubelet shows a pod that it runs from a file, and nothing said of it changes what runs.
    """

    mode: Mode | None
    is_injected: bool
    is_mirror: bool


@dataclass(frozen=True, slots=True)
class GpuContainer:
    """A container that asks for GPUs: ``field`` is ``spec.<group>[index]``, ``pointer`` the same for a patch.

    ``asked`` is None where it is wrong, ``program`` where it is wrong or not ours to touch (mode ``injection``, or a
    client that goes before no program). ``calls`` are those of the client that the user wrote, ``hooks`` mention it
    too, ``mounts`` are what is mounted and the block devices. ``image`` is None where
    nobody looked it up.
    """

    field: Field
    pointer: str
    asked: Demand | None
    program: command.Program | None
    calls: Sequence[Call]
    hooks: Sequence[Hook]
    env: list[Json]
    mounts: list[mounts.Mount]
    image: Image | Unreadable | None = None

    @property
    def raw(self) -> Json:
        """The container as it came."""
        container: Json = self.field.value
        return container

    @property
    def demand(self) -> Demand:
        """What it asks for, in a pod without problems."""
        if self.asked is None:
            raise ValueError(f"{self.field.path}: its demand is wrong")
        return self.asked


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that opted in. ``servers`` are those that it names itself, HOST:PORT."""

    annotations: Field
    spec: Field
    filters: tuple[str, ...]
    servers: tuple[str, ...]
    volumes: list[Json]
    init_containers: list[Field]
    containers: list[Field]
    gpu_containers: list[GpuContainer]


def opt_in(pod: Field, namespace: str) -> OptIn:
    """How ``pod``, of ``namespace``, opted in; no annotation is Mode.NONE."""
    metadata = pod["metadata"]
    metadata.mapping()
    annotations = metadata["annotations"]
    annotations.mapping()
    for field, longest in (
        (metadata["name"], _LONGEST_NAME),
        (metadata["generateName"], _LONGEST_NAME),
        (Field(namespace, "metadata.namespace", pod.problems), names.LONGEST_NAMESPACE),
    ):
        _is_short(field, longest)
    status = annotations.entry(names.STATUS).value
    is_mirror = annotations.entry(names.MIRROR).value is not None
    return OptIn(_mode(annotations.entry(names.MANAGEMENT)), status == names.STATUS_INJECTED, is_mirror)


def _mode(field: Field) -> Mode | None:
    """What the annotation says; None, with a problem, for an unknown word."""
    if field.value is None:
        return Mode.NONE
    text = _string(field)
    mode = None if text is None else _MODES.get(text.lower())
    if mode is None and text is not None:
        field.problem(f"{shown(text)} is not one of all, injection, none")
    return mode


def client(annotations: Field, catalogue: Catalogue) -> Client | None:
    """The client that a pod with these ``annotations`` asks for; None, with a problem, where there is none such."""
    asked = [_client_name(annotations.entry(key)) for key in (names.CLIENT_NAME, names.CLIENT_OS, names.CLIENT_VERSION)]
    name, os, version = asked
    if name not in {None, BITFUSION}:
        try:
            return catalogue.named(str(name), os, version)
        except UnknownClientError as error:
            annotations.entry(names.CLIENT_NAME).problem(str(error))
            return None
    if os is None and version is None and catalogue.default is not None:
        os, version = catalogue.default
    if os is None or version is None:
        for key, value in ((names.CLIENT_OS, os), (names.CLIENT_VERSION, version)):
            if value is None:
                annotations.entry(key).problem(f"must be set; {catalogue.choices()}")
        return None
    try:
        return catalogue.find(os, version)
    except UnknownClientError as error:
        annotations.entry(f"{names.CLIENT_OS}, {names.CLIENT_VERSION}").problem(str(error))
        return None


def read(pod: Field, mode: Mode | None, chosen: Client | None, total_megabytes: int, images: Images = NONE) -> Pod:
    """What ``pod``, which opted in, asks for; ``chosen`` is its client, None = it asked for a wrong one.

    ``total_megabytes`` is what the Bitfusion servers manage for one GPU, 0 = not known; ``images`` were looked up.
    """
    spec, annotations = pod["spec"], pod["metadata"]["annotations"]
    before = len(pod.problems)
    spec.mapping()
    groups = containers_of(spec)
    found = list(asking(groups))
    reads_commands = check_length(spec, [container for _, container, _ in found], images)
    volumes = spec["volumes"].objects(_MOST_VOLUMES)
    by_name = {name: each for each in volumes if isinstance(name := each.get("name"), str)}
    gpu_containers = [
        _gpu_container(*each, mode, chosen, total_megabytes, by_name, images, reads_command=reads_commands)
        for each in found
    ]
    _check_number(spec, len(found), is_sound=len(pod.problems) == before)
    _check_platform(spec)
    return Pod(
        annotations,
        spec,
        _filters(annotations.entry(names.CLIENT_FILTER)),
        _servers(annotations.entry(names.CLIENT_SERVERS)),
        volumes,
        groups["initContainers"],
        groups["containers"],
        gpu_containers,
    )


def asking(groups: Mapping[str, list[Field]]) -> Iterator[tuple[str, Field, Resources]]:
    """The containers that ask for GPUs: what a patch calls each, the container, and its resources."""
    for group, containers in groups.items():
        for index, container in enumerate(containers):
            resources = demand.resources(container)
            if resources.asks_for_gpus:
                yield f"/spec/{group}/{index}", container, resources
            else:
                resources.refuse_shares("ask for")


def _check_number(spec: Field, number: int, *, is_sound: bool) -> None:
    """``number`` is how many containers ask for GPUs: at least one must, and not too many may.

    Where the spec is not sound, what is wrong with it may be what would have asked.
    """
    if not number and is_sound:
        spec["containers"].problem(
            f"no container asks for {names.GPU_AMOUNT} in resources.limits, as {names.MANAGEMENT} wants: add it, or"
            " set the annotation to none"
        )
    if number > MOST_GPU_CONTAINERS:
        spec["containers"].problem(
            f"{number} containers ask for {names.GPU_AMOUNT}: bitfusiond takes at most {MOST_GPU_CONTAINERS}"
        )


def _gpu_container(
    pointer: str,
    container: Field,
    resources: Resources,
    mode: Mode | None,
    chosen: Client | None,
    total_megabytes: int,
    volumes: Mapping[str, Json],
    images: Images,
    *,
    reads_command: bool,
) -> GpuContainer:
    is_bitfusion = chosen is None or chosen.is_bitfusion
    # A whole line as the only word, as documented, needs a shell whoever the client is.
    is_wrapped = chosen is None or bool(chosen.wrap) or command.is_line(strings(container["command"].value))
    is_ours = mode is not Mode.INJECTION and is_wrapped
    image = _image(container, images)
    program = command.read(container, image, knows_bitfusion=is_bitfusion) if reads_command and is_ours else None
    if reads_command and not is_ours and is_bitfusion:
        own: Sequence[Call] = calls.anywhere(argv(container))
    else:
        own = program.calls if program else ()
    return GpuContainer(
        container,
        pointer,
        demand.read(resources, total_megabytes),
        program,
        own,
        hooks.read(container) if reads_command and is_bitfusion else (),
        container["env"].objects(_MOST_VARIABLES),
        mounts.read(container, volumes),
        image,
    )


def _image(container: Field, images: Images) -> Image | Unreadable | None:
    name = container["image"].value
    return images.get(name) if isinstance(name, str) else None


def argv(container: Field) -> list[str]:
    """The words of its command and args; what else may stand there is a problem that others tell."""
    return [*strings(container["command"].value), *strings(container["args"].value)]


def check_length(spec: Field, containers: Sequence[Field], images: Images = NONE) -> bool:
    """Whether the commands of ``containers``, and of their ``images``, are short enough to be read for calls of the
    client; a problem if not.
    """
    commands: list[Sequence[str]] = [argv(each) for each in containers]
    commands += [
        (*image.entrypoint, *image.cmd) for each in containers if isinstance(image := _image(each, images), Image)
    ]
    commands += [hook.words for each in containers for hook in hooks.read(each)]
    problem = calls.too_long(commands)
    if problem:
        spec["containers"].problem(f"{problem}; put the script into a file")
    return problem is None


def check_calls(
    container: Field, found: Iterable[Call], beside: Iterable[Hook], counted: int, total_megabytes: int
) -> None:
    """Note where a call asks for more than the ``counted`` shares of ``container``, or a quota would count nothing.

    ``found`` are those in its command, others are in the hooks ``beside`` it.
    """
    if problem := calls.excess(found, counted, total_megabytes):
        container["command"].problem(problem)
    for hook in beside:
        if problem := calls.excess(calls.anywhere(hook.words), counted, total_megabytes):
            hook.field.problem(problem)


def containers_of(spec: Field, more: int = 0) -> dict[str, list[Field]]:
    """The containers of a pod by the name of their list, init containers first; ``more`` of those may be ours."""
    return {
        "initContainers": spec["initContainers"].items(MOST_CONTAINERS + more),
        "containers": spec["containers"].items(MOST_CONTAINERS),
    }


def _string(field: Field) -> str | None:
    """An annotation's text. YAML reads ``450`` as a number and ``yes`` as a boolean; an annotation is neither."""
    if field.value is None or isinstance(field.value, str):
        return field.value
    field.problem(f"{shown(field.value)} is not a string: put it in quotation marks")
    return None


def _is_short(field: Field, longest: int) -> bool:
    """Whether a text has at most ``longest`` characters; a problem where it has more."""
    if isinstance(field.value, str) and len(field.value) > longest:
        field.problem(f"has {len(field.value)} characters: at most {longest} are allowed")
        return False
    return True


def _client_name(field: Field) -> str | None:
    """An OS or a version of the client as the annotation names it; None where it names none."""
    text = _string(field)
    if text is None and field.value is None:
        return None
    _is_short(field, LONGEST_CLIENT_NAME)
    # Wrong or not: what was meant serves to find what else is wrong.
    return (str(field.value) if text is None else text)[:LONGEST_CLIENT_NAME] or None


def _filters(field: Field) -> tuple[str, ...]:
    """``key=value`` words of the filter annotation, in order, with their quoting taken off."""
    text = _string(field)
    if text is None or not _is_short(field, _LONGEST_FILTER):
        return ()
    try:
        words = shlex.split(text)
    except ValueError:
        field.problem(f"{shown(text)} has a quotation mark or backslash that is not closed")
        return ()
    pairs = [word.partition("=") for word in words]
    for problem in dict.fromkeys(_wrong_filter(*pair) for pair in pairs):
        if problem:
            field.problem(problem)
    return tuple(f"{_FILTER_KEYS.get(key, key)}={wanted}" for key, _, wanted in pairs)


def _servers(field: Field) -> tuple[str, ...]:
    """HOST:PORT words of the servers annotation, separated by blanks or commas."""
    text = _string(field)
    if text is None or not _is_short(field, _LONGEST_SERVERS):
        return ()
    return tuple(entries.servers(Field(text.replace(",", " ").split(), field.path, field.problems)))


def _wrong_filter(key: str, equals: str, wanted: str) -> str:
    """What is wrong with one word of the filter, ``KEY=VALUE`` cut at the first ``=``; empty for nothing."""
    if not equals:
        return f"{shown(key)} is not of the form key=value"
    if not wanted:
        return f"{shown(key + equals)} has no value behind the ="
    if key not in _FILTER_KEYS:
        return f"{shown(key)} is not a filter key: allowed are {', '.join(sorted(set(_FILTER_KEYS.values())))}"
    return ""


def _check_platform(spec: Field) -> None:
    """There are clients for Linux on amd64 only: a pod that can only run elsewhere would never find its program."""
    selector, os = spec["nodeSelector"], spec["os"]
    labels = selector.mapping()
    fields = [(selector.entry(label), "linux") for label in _OS_LABELS if label in labels]
    fields += [(os["name"], "linux")] if "name" in os.mapping() else []
    fields += [(selector.entry(label), "amd64") for label in _ARCHITECTURE_LABELS if label in labels]
    for field, allowed in fields:
        if field.value != allowed:
            field.problem(f"{shown(field.value)} has no client: there are clients for linux on amd64 only")
