"""The injection template: what the operator wants added to pods, checked as a whole before the first pod meets it."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate, pairwise

from bitfusiond.core import names, quantity
from bitfusiond.core.admission.mounts import mount_path
from bitfusiond.core.clients.client import Client
from bitfusiond.core.fields import Document, Field, Json
from bitfusiond.core.text import shown

_GROUPS = ("initContainers", "containers", "volumes")
# The 0.4 integration's template carries a placeholder's image and name; they mean nothing and may stay.
_CONTAINER_KEYS = frozenset({"name", "image", "env", "volumeMounts"})
_OF_0_4 = "BITFUSION_CLIENT_OPT_PATH"
_OPT = "/opt/bitfusion"  # where a workload sees what Bitfusion's client wants there
# Where `--role init` has its volumes, unless it is told otherwise.
_TARGETS = {
    "--distro-target": "/bitfusion-distro",
    "--opt-target": "/workload-container-opt",
    "--tokens": "/root/.bitfusion",
    "--client-dir": "/client",
}


IMAGE_VOLUME = "bitfusion-client-image"
# What the packaged template adds, by which the webhook configuration of the overlay community knows a complete pod.
_PACKAGED_INIT_CONTAINERS = frozenset({"populate"})
_PACKAGED_PATHS = frozenset(
    {"/bitfusion", _OPT, "/root/.bitfusion/client.yaml", "/etc/bitfusion/servers.conf", "/etc/bitfusion/tls/ca.crt"}
)


class Delivery(Enum):
    """How a client comes into a pod: copied by an initContainer, or mounted from its image by the runtime."""

    INIT = "init"
    IMAGE = "image"


class TemplateError(ValueError):
    """The operator's template is wrong; the message names every problem, separated by ``; ``."""


@dataclass(frozen=True, slots=True)
class Template:
    """``init_containers[0]`` fills the volumes; ``env`` and ``volume_mounts`` go into every GPU container.

    ``mount_paths`` are those of ``volume_mounts``, normalized; ``above`` has each directory above them, with one that
    lies below it. ``below_files`` is how paths begin that would lie below a token file. Not ``fills``: the client has
    nothing to fill them with, and init_containers are others that the operator added.
    """

    init_containers: tuple[Json, ...]
    env: tuple[Json, ...]
    volume_mounts: tuple[Json, ...]
    volumes: tuple[Json, ...]
    mount_paths: frozenset[str]
    above: Mapping[str, str]
    below_files: tuple[str, ...]
    fills: bool = True

    @property
    def adds_more(self) -> bool:
        """Whether it adds a container or a mount that the packaged one does not."""
        added = {each["name"] for each in self.init_containers}
        return not (added <= _PACKAGED_INIT_CONTAINERS and self.mount_paths <= _PACKAGED_PATHS)

    def for_claim(self, claim: str) -> Template:
        """What a container of ``claim`` gets: `bitfusiond --role init` writes a servers.conf for each claim."""
        files = _volumes_at(self.init_containers[0], "--client-dir") if self.init_containers else set()
        mounts = tuple(
            {**each, "subPath": f"{claim}/{names.SERVERS_CONF}"}
            if each["name"] in files and each.get("subPath") == names.SERVERS_CONF
            else each
            for each in self.volume_mounts
        )
        return replace(self, volume_mounts=mounts)

    def for_client(self, client: Client, delivery: Delivery) -> Template:
        """What of it serves ``client``: no volume that stays empty, and no initContainer that would fill none."""
        copied = self._copied(client)
        if delivery is Delivery.IMAGE and client.tree is not None:
            return copied._from_image(client, self.init_containers[0])  # noqa: SLF001 - one of our own kind
        return copied

    def _copied(self, client: Client) -> Template:
        if client.is_bitfusion:
            return self
        first, *others = self.init_containers
        tree, opt, tokens, files = (_volumes_at(first, option) for option in _TARGETS)
        unused = (opt - tree if client.tree else opt | tree) | (set() if client.takes_tokens else tokens | files)
        unused -= {mount["name"] for each in others for mount in each.get("volumeMounts") or ()}

        def kept(mounts: Iterable[Json]) -> tuple[Json, ...]:
            return tuple(each for each in mounts if each["name"] not in unused)

        if client.tree or client.takes_tokens:
            others = [{**first, "volumeMounts": list(kept(first.get("volumeMounts") or ()))}, *others]
        mounts = [each for each in kept(self.volume_mounts) if mount_path(each["mountPath"]) != _OPT]
        fitting = _template(others, self.env, mounts, kept(self.volumes))
        return replace(fitting, fills=client.tree is not None or client.takes_tokens)

    def _from_image(self, client: Client, first: Json) -> Template:
        """The same paths, where the container runtime mounts the client from the image of ``first``.

        The distro's volume stays, for what a client writes beside its tree; nobody copies anything into it. Token files
        are still put where they belong by `bitfusiond --role init`.
        """
        tree, opt = (_volumes_at(first, option) for option in ("--distro-target", "--opt-target"))
        policy = {"pullPolicy": first["imagePullPolicy"]} if "imagePullPolicy" in first else {}
        volume = {"name": IMAGE_VOLUME, "image": {"reference": first["image"], **policy}}

        def mounted(path: str, inside: str) -> Json:
            return {"name": IMAGE_VOLUME, "mountPath": path, "subPath": inside.strip("/"), "readOnly": True}

        mounts = [
            mounted(_OPT, f"{client.tree}{_OPT}")
            if each["name"] in tree | opt and mount_path(each["mountPath"]) == _OPT
            else each
            for each in self.volume_mounts
        ]
        mounts.append(mounted(str(client.tree), str(client.tree)))
        others = self.init_containers[1:]
        if client.takes_tokens:
            kept = [each for each in first.get("volumeMounts") or () if each["name"] not in tree | opt]
            words = [*(first.get("args") or ()), "--delivery", Delivery.IMAGE.value]
            others = ({**first, "args": words, "volumeMounts": kept}, *others)
        return replace(_template(others, self.env, mounts, [*self.volumes, volume]), fills=client.takes_tokens)


def _template(
    init_containers: Sequence[Json], env: Sequence[Json], mounts: Sequence[Json], volumes: Sequence[Json]
) -> Template:
    paths = frozenset(mount_path(each["mountPath"]) for each in mounts)
    return Template(
        tuple(init_containers),
        tuple(env),
        tuple(mounts),
        tuple(volumes),
        paths,
        {parent: path for path in sorted(paths, reverse=True) for parent in _parents(path)},
        tuple(f"{path}/" for path in paths if posixpath.basename(path) in names.TOKEN_FILES),
    )


def _volumes_at(container: Json, option: str) -> set[str]:
    """The volumes that ``bitfusiond --role init`` in ``container`` finds where ``option`` says, or below."""
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    given = [then for word, then in pairwise(words) if word == option]
    given += [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    place = mount_path((given or [_TARGETS[option]])[-1])
    paths = {each["mountPath"]: each["name"] for each in container.get("volumeMounts") or ()}
    return {name for path, name in paths.items() if f"{mount_path(path)}/".startswith(f"{place}/")}


def parse(document: object) -> Template:
    """The template out of a parsed ``sidecarconfig.yaml``. Raises TemplateError."""
    if not isinstance(document, dict):
        raise TemplateError(f"the file must be a mapping of {', '.join(_GROUPS)}")
    file = Document(document)
    for key in document:
        if key not in _GROUPS:
            file.problem(f"unknown key {key!r}: allowed are {', '.join(_GROUPS)}")
    init_containers, containers, volumes = (file[group].items() for group in _GROUPS)
    if not init_containers and file.is_sound:
        file["initContainers"].problem("needs at least one, which runs `bitfusiond --role init`")
    if len(containers) != 1 and file.is_sound:
        file["containers"].problem(f"needs exactly one, merged into every GPU container; there are {len(containers)}")
    volume_names = _names(volumes)
    _names(init_containers)
    for each in init_containers:
        _check_init_container(each, volume_names)
    env, mounts = _gpu_container(containers[0], volume_names) if containers else ([], [])
    if not mounts and file.is_sound:
        containers[0]["volumeMounts"].problem("the client must be mounted somewhere")
    if file.problems:
        raise TemplateError("; ".join(file.problems))
    return _template(_values(init_containers), _values(env), _values(mounts), _values(volumes))


def _gpu_container(container: Field, volumes: set[str]) -> tuple[list[Field], list[Field]]:
    """The variables and the mounts that each GPU container gets."""
    for key in container.value:
        if key not in _CONTAINER_KEYS:
            container.problem(f"unknown key {key!r}: allowed are {', '.join(sorted(_CONTAINER_KEYS))}")
    env = container["env"].items()
    _names(env, label=False)
    return env, _mounts(container, volumes)


def _parents(path: str) -> Iterator[str]:
    return accumulate(path.split("/")[1:-1], posixpath.join, initial="/")


def _values(items: list[Field]) -> tuple[Json, ...]:
    return tuple(item.value for item in items)


def _check_init_container(container: Field, volumes: set[str]) -> None:
    """Note what would keep the container from filling the volumes, or a pod from being admitted."""
    image = container["image"]
    if not isinstance(image.value, str) or not image.value:
        image.problem("must name an image")
    if any(_OF_0_4 in word for word in [*container["command"].strings(), *container["args"].strings()]):
        container.problem(f"is of the 0.4 integration ({_OF_0_4}): its command must be bitfusiond --role init")
    container["securityContext"].mapping()
    container["resources"].mapping()
    for section in (container["resources"]["limits"], container["resources"]["requests"]):
        for resource in section.mapping():
            _check_quantity(section.entry(resource), resource)
    _mounts(container, volumes)


def _check_quantity(amount: Field, resource: object) -> None:
    if not isinstance(resource, str):
        amount.problem("is not the name of a resource")
    elif resource.startswith(names.DOMAIN):
        amount.problem("this container must not hold GPU shares")
    try:
        quantity.parse(amount.value)
    except ValueError as error:
        amount.problem(f"{shown(amount.value)} is {error}")


def _mounts(container: Field, volumes: set[str]) -> list[Field]:
    """The mounts of a container: each of one of ``volumes``, at an absolute path of its own."""
    mounts = container["volumeMounts"].items()
    paths: Counter[str] = Counter()
    for mount in mounts:
        name, path = mount["name"], mount["mountPath"]
        if not isinstance(name.value, str) or name.value not in volumes:
            name.problem(f"{shown(name.value)} is not one of volumes")
        if not isinstance(path.value, str) or not path.value.startswith("/"):
            path.problem(f"{shown(path.value)} is not an absolute path")
        else:
            paths[mount_path(path.value)] += 1
    for each, count in sorted(paths.items()):
        if count > 1:
            container["volumeMounts"].problem(f"{shown(each)} is there twice")
    return mounts


def _names(items: list[Field], *, label: bool = True) -> set[str]:
    """The names of ``items``, each of which needs one of its own; ``label``: as Kubernetes wants it."""
    found: set[str] = set()
    for item in items:
        name = item["name"]
        if not isinstance(name.value, str) or not name.value:
            name.problem("must be a string that is not empty")
        elif label and not re.fullmatch(names.LABEL, name.value):
            name.problem(f"{shown(name.value)} is not of lower-case letters, digits and -")
        elif name.value in found:
            name.problem(f"{shown(name.value)} is there twice")
        else:
            found.add(name.value)
    return found
