"""What a container mounts: where, and whether something else can be mounted below it."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from bitfusiond.core.fields import Field, Json

_MOST_MOUNTS = 1024

# What the kubelet writes into these is read-only to the container, whatever the mount says. Source: Kubernetes'
# documentation of volumes.
_CLOSED_SOURCES = {
    "secret": "holds a Secret",
    "configMap": "holds a ConfigMap",
    "projected": "holds a projected volume",
    "downwardAPI": "holds fields of the pod",
    "image": "holds an image",
}
# Types of a hostPath that are no directory.
_FILES = ("File", "FileOrCreate", "Socket", "CharDevice", "BlockDevice")


@dataclass(frozen=True, slots=True)
class Mount:
    """Something of the user's at ``path``, normalized; ``field`` is the path as it was written.

    ``holds_nothing_below``: why the runtime can make no place for a mount below it, as a phrase; empty where it may.
    ``is_writable``: it can for certain.
    """

    field: Field
    path: str
    holds_nothing_below: str
    is_writable: bool


def read(container: Field, volumes: Mapping[str, Json]) -> list[Mount]:
    """The mounts and block devices of ``container``; ``volumes`` are those of its pod by their name."""
    found = []
    for list_name, key in (("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")):
        for mount in container[list_name].items(_MOST_MOUNTS):
            path, name = mount[key], mount.value.get("name")
            if isinstance(path.value, str):
                volume = volumes.get(name, {}) if isinstance(name, str) else {}
                closed = "is a device" if key == "devicePath" else _closed(mount.value, volume)
                found.append(Mount(path, mount_path(path.value), closed, is_writable="emptyDir" in volume))
    return found


def mount_path(text: str) -> str:
    """Where the kubelet mounts ``text``: a relative path counts from the root, and doubled slashes are one."""
    return posixpath.normpath("/" + text.lstrip("/"))


def _closed(mount: Json, volume: Json) -> str:
    for source, what in _CLOSED_SOURCES.items():
        if source in volume:
            return what
    host_path = volume.get("hostPath")
    if isinstance(host_path, dict) and host_path.get("type") in _FILES:
        return "is a file"
    sources = [each for each in volume.values() if isinstance(each, dict)]
    is_read_only = any(each.get("readOnly") is True for each in (mount, *sources))
    return "is read-only" if is_read_only else ""
