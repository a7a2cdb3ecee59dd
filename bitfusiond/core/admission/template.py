"""The injection template: what the operator wants added to pods, checked as a whole before the first pod meets it."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bitfusiond.core import names, quantity, raw

_GROUPS = ("initContainers", "containers", "volumes")
# The 0.4 integration's template carries a placeholder's image and name; they mean nothing and may stay.
_CONTAINER_KEYS = frozenset({"name", "image", "env", "volumeMounts"})
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_OF_0_4 = "BITFUSION_CLIENT_OPT_PATH"


class TemplateError(ValueError):
    """The operator's template is wrong; the message names every problem, separated by ``; ``."""


@dataclass(frozen=True, slots=True)
class Template:
    """``init_containers[0]`` fills the volumes; ``env`` and ``volume_mounts`` go into every GPU container.

    ``mount_paths`` are those of ``volume_mounts``, normalized.
    """

    init_containers: tuple[dict[str, Any], ...]
    env: tuple[dict[str, Any], ...]
    volume_mounts: tuple[dict[str, Any], ...]
    volumes: tuple[dict[str, Any], ...]
    mount_paths: frozenset[str]


def parse(document: object) -> Template:
    """The template out of a parsed ``sidecarconfig.yaml``. Raises TemplateError."""
    if not isinstance(document, dict):
        raise TemplateError(f"the file must be a mapping of {', '.join(_GROUPS)}")
    problems = [f"unknown key {key!r}: allowed are {', '.join(_GROUPS)}" for key in document if key not in _GROUPS]
    init_containers = raw.objects(document, "initContainers", "initContainers", problems)
    containers = raw.objects(document, "containers", "containers", problems)
    volumes = raw.objects(document, "volumes", "volumes", problems)
    if not init_containers and not problems:
        problems.append("initContainers: needs at least one, which runs `bitfusiond --role init`")
    if len(containers) != 1 and not problems:
        problems.append(f"containers: needs exactly one, merged into every GPU container; there are {len(containers)}")
    volume_names = _names(volumes, "volumes", problems)
    _names(init_containers, "initContainers", problems)
    for index, container in enumerate(init_containers):
        _init_container(container, f"initContainers[{index}]", volume_names, problems)
    container = containers[0] if containers else {}
    problems += [
        f"containers[0]: unknown key {key!r}: allowed are {', '.join(sorted(_CONTAINER_KEYS))}"
        for key in container
        if key not in _CONTAINER_KEYS
    ]
    env = raw.objects(container, "env", "containers[0].env", problems)
    _names(env, "containers[0].env", problems, label=False)
    mounts = _mounts(container, "containers[0]", volume_names, problems)
    if not mounts and not problems:
        problems.append("containers[0].volumeMounts: the client must be mounted somewhere")
    if problems:
        raise TemplateError("; ".join(problems))
    paths = frozenset(posixpath.normpath(mount["mountPath"]) for mount in mounts)
    return Template(tuple(init_containers), tuple(env), tuple(mounts), tuple(volumes), paths)


def _init_container(container: dict[str, Any], path: str, volumes: set[str], problems: list[str]) -> None:
    if not isinstance(container.get("image"), str) or not container["image"]:
        problems.append(f"{path}.image: must name an image")
    words = [
        *raw.strings(container, "command", f"{path}.command", problems),
        *raw.strings(container, "args", f"{path}.args", problems),
    ]
    if any(_OF_0_4 in word for word in words):
        problems.append(f"{path}: is of the 0.4 integration ({_OF_0_4}): its command must be bitfusiond --role init")
    raw.mapping(container, "securityContext", f"{path}.securityContext", problems)
    _resources(container, path, problems)
    _mounts(container, path, volumes, problems)


def _resources(container: dict[str, Any], path: str, problems: list[str]) -> None:
    resources = raw.mapping(container, "resources", f"{path}.resources", problems)
    for section in ("limits", "requests"):
        where = f"{path}.resources.{section}"
        for resource, amount in raw.mapping(resources, section, where, problems).items():
            if resource.startswith(names.DOMAIN):
                problems.append(f"{where}[{raw.shown(resource)}]: this container must not hold GPU shares")
            try:
                quantity.parse(amount)
            except ValueError as error:
                problems.append(f"{where}[{raw.shown(resource)}]: {raw.shown(amount)} is {error}")


def _mounts(container: dict[str, Any], path: str, volumes: set[str], problems: list[str]) -> list[dict[str, Any]]:
    mounts = raw.objects(container, "volumeMounts", f"{path}.volumeMounts", problems)
    for index, mount in enumerate(mounts):
        where = f"{path}.volumeMounts[{index}]"
        if not isinstance(mount.get("name"), str) or mount["name"] not in volumes:
            problems.append(f"{where}.name: {raw.shown(mount.get('name'))} is not one of volumes")
        if not isinstance(mount.get("mountPath"), str) or not mount["mountPath"].startswith("/"):
            problems.append(f"{where}.mountPath: {raw.shown(mount.get('mountPath'))} is not an absolute path")
    paths = [posixpath.normpath(mount["mountPath"]) for mount in mounts if isinstance(mount.get("mountPath"), str)]
    problems += [
        f"{path}.volumeMounts: {raw.shown(each)} is there twice"
        for each, count in sorted(Counter(paths).items())
        if count > 1
    ]
    return mounts


def _names(items: list[dict[str, Any]], path: str, problems: list[str], *, label: bool = True) -> set[str]:
    found: set[str] = set()
    for index, item in enumerate(items):
        name = item.get("name")
        if not isinstance(name, str) or not name:
            problems.append(f"{path}[{index}].name: must be a string that is not empty")
        elif label and not _LABEL.fullmatch(name):
            problems.append(f"{path}[{index}].name: {raw.shown(name)} is not of lower-case letters, digits and -")
        elif name in found:
            problems.append(f"{path}[{index}].name: {raw.shown(name)} is there twice")
        else:
            found.add(name)
    return found
