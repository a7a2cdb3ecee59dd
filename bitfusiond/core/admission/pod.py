"""What a pod that opted in asks for, read once: its containers with their demands, programs, variables and mounts.

Here stand the bounds on what one pod may have. The API server has none but the size of an object, and work and answer
must not grow with whatever somebody sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.admission import calls, command, demand, hooks, mounts, optin
from bitfusiond.core.admission.calls import Call
from bitfusiond.core.admission.demand import Demand, Resources, Sizes
from bitfusiond.core.admission.hooks import Hook
from bitfusiond.core.admission.optin import Mode
from bitfusiond.core.clients.client import Client
from bitfusiond.core.fields import Field, Json, mapping, strings
from bitfusiond.core.images.image import NONE, Image, Images, Unreadable
from bitfusiond.core.text import shown

MOST_CONTAINERS = 256  # init containers count apart; a node runs a few hundred in all of its pods
MOST_GPU_CONTAINERS = 64  # each makes the answer some kilobytes longer
_MOST_VOLUMES = 1024
_MOST_VARIABLES = 4096
_OS_LABELS = ("kubernetes.io/os", "beta.kubernetes.io/os")
_ARCHITECTURE_LABELS = ("kubernetes.io/arch", "beta.kubernetes.io/arch")


@dataclass(frozen=True, slots=True)
class GpuContainer:
    """A container that asks for GPUs: ``field`` is ``spec.<group>[index]``, ``pointer`` the same for a patch,
    kept as it is read often.

    ``parsed_demand`` is None where it is wrong, ``program`` where it is wrong or not ours to touch (mode ``injection``,
    or a client that goes before no program). ``calls`` are those of the client that the user wrote, ``hooks`` mention
    it too, ``mounts`` are what is mounted and the block devices. ``security`` is its securityContext, the pod's where
    that says nothing. ``image`` is None where nobody looked it up.
    """

    field: Field
    pointer: str
    parsed_demand: Demand | None
    program: command.Program | None
    calls: Sequence[Call]
    hooks: Sequence[Hook]
    env: list[Json]
    mounts: list[mounts.Mount]
    security: Json
    image: Image | Unreadable | None = None

    @property
    def is_passing(self) -> bool:
        """Whether it ends before the pod's containers begin: an init container that is no sidecar."""
        return self.pointer.startswith("/spec/initContainers/") and self.raw.get("restartPolicy") != "Always"

    @property
    def raw(self) -> Json:
        """The container as it came."""
        container: Json = self.field.value
        return container

    @property
    def demand(self) -> Demand:
        """What it asks for, in a pod without problems."""
        if self.parsed_demand is None:
            raise ValueError(f"{self.field.path}: its demand is wrong")
        return self.parsed_demand


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


def read_pod(pod: Field, mode: Mode | None, client: Client | None, sizes: Sizes, images: Images = NONE) -> Pod:
    """What ``pod``, which opted in, asks for; ``client`` is its client, None = it asked for a wrong one.

    GPUs have ``sizes``; ``images`` were looked up.
    """
    spec, annotations = pod["spec"], pod["metadata"]["annotations"]
    spec.mapping()
    groups = containers_of(spec)
    requesting = list(asking(groups))
    reads_commands = check_length(spec, [container for container, _ in requesting], images)
    volumes = spec["volumes"].objects(_MOST_VOLUMES)
    by_name = {name: each for each in volumes if isinstance(name := each.get("name"), str)}
    reading = _Reading(mode, client, sizes, by_name, mapping(spec.value, "securityContext"), images, reads_commands)
    gpu_containers = [reading.container(*each) for each in requesting]
    _check_number(spec, len(requesting))
    _check_platform(spec)
    return Pod(
        annotations,
        spec,
        optin.filters(annotations.entry(names.CLIENT_FILTER)),
        optin.servers(annotations.entry(names.CLIENT_SERVERS)),
        volumes,
        groups["initContainers"],
        groups["containers"],
        gpu_containers,
    )


def asking(groups: Mapping[str, list[Field]]) -> Iterator[tuple[Field, Resources]]:
    """The containers that ask for GPUs, and their resources."""
    for containers in groups.values():
        for container in containers:
            resources = demand.resources(container)
            if resources.asks_for_gpus:
                yield container, resources
            else:
                resources.refuse_shares("ask for")


def _check_number(spec: Field, number: int) -> None:
    """``number`` is how many containers ask for GPUs: at least one must, and not too many may.

    Where the spec is not sound, what is wrong with it may be what would have asked.
    """
    if not number and spec.is_sound:
        spec["containers"].problem(
            f"no container asks for {names.GPU_AMOUNT} in resources.limits, as {names.MANAGEMENT} wants: add it, or"
            " set the annotation to none"
        )
    if number > MOST_GPU_CONTAINERS:
        spec["containers"].problem(
            f"{number} containers ask for {names.GPU_AMOUNT}: bitfusiond takes at most {MOST_GPU_CONTAINERS}"
        )


@dataclass(frozen=True, slots=True)
class _Reading:
    """What all containers of one pod are read by: ``client`` None = a wrong one, ``volumes`` are the pod's by name.

    ``security`` is the pod's securityContext. ``reads_commands``: they are short enough for that.
    """

    mode: Mode | None
    client: Client | None
    sizes: Sizes
    volumes: Mapping[str, Json]
    security: Json
    images: Images
    reads_commands: bool

    def container(self, container: Field, resources: Resources) -> GpuContainer:
        image = _image(container, self.images)
        program = self._program(container, image)
        own = mapping(container.value, "securityContext")
        return GpuContainer(
            container,
            container.pointer,
            demand.read(resources, self.sizes),
            program,
            program.calls if program else self._calls(container),
            hooks.read(container) if self.reads_commands and self._is_bitfusion else (),
            container["env"].objects(_MOST_VARIABLES),
            mounts.read(container, self.volumes),
            {**self.security, **{key: value for key, value in own.items() if value is not None}},
            image,
        )

    @property
    def _is_bitfusion(self) -> bool:
        return self.client is None or self.client.is_bitfusion

    def _is_ours(self, container: Field) -> bool:
        """Whether its program is ours to touch."""
        if self.mode is Mode.INJECTION:
            return False
        if self.client is None or self.client.wrap:
            return True
        # A whole line as the only word, as documented, needs a shell whoever the client is.
        return command.is_line(strings(container["command"].value))

    def _program(self, container: Field, image: Image | Unreadable | None) -> command.Program | None:
        if not self.reads_commands or not self._is_ours(container):
            return None
        return command.read(container, image, knows_bitfusion=self._is_bitfusion)

    def _calls(self, container: Field) -> Sequence[Call]:
        """Those in a command that stays as it is."""
        if not self.reads_commands or self._is_ours(container) or not self._is_bitfusion:
            return ()
        return calls.anywhere(argv(container))


def _image(container: Field, images: Images) -> Image | Unreadable | None:
    name = container.value.get("image") if images else None
    return images.get(name) if isinstance(name, str) else None


def argv(container: Field) -> list[str]:
    """The words of its command and args; what else may stand there is a problem that others tell."""
    words: Json = container.value
    return [*strings(words.get("command")), *strings(words.get("args"))]


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


def check_calls(container: Field, own: Iterable[Call], own_hooks: Iterable[Hook], shares: int, sizes: Sizes) -> None:
    """Note where a call asks for more than the ``shares`` of ``container``, or a quota would count nothing.

    ``own`` are the calls in its command; others are in ``own_hooks``.
    """
    if problem := calls.excess(own, shares, sizes):
        container["command"].problem(problem)
    for hook in own_hooks:
        if problem := calls.excess(calls.anywhere(hook.words), shares, sizes):
            hook.field.problem(problem)


def containers_of(spec: Field, more: int = 0) -> dict[str, list[Field]]:
    """The containers of a pod by the name of their list, init containers first; ``more`` of those may be ours."""
    return {
        "initContainers": spec["initContainers"].items(MOST_CONTAINERS + more),
        "containers": spec["containers"].items(MOST_CONTAINERS),
    }


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
