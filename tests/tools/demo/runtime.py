"""The container runtime's part: a pod's volumes as directories, its mounts, its commands.

A real runtime gives each container a file system of its own, which takes root. Here each container gets a directory
that stands for its ``/``, and every path below one of its mounts is rewritten, in the words of its command and in its
environment, to lie in that directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitfusiond.core.objects import Pod
from tests.tools.demo.report import StepFailed

# Where a path may begin in a word: not in the middle of a longer one.
_BEFORE = r"(?<![\w./-])"
_BEHIND = r"(?![\w.-])"


class Volumes:
    """The volumes of one pod, below ``directory``: made once, shared by its containers."""

    def __init__(
        self, pod: Pod, directory: Path, host: Mapping[str, Path], secrets: Mapping[str, Mapping[str, str]]
    ) -> None:
        self._paths: dict[str, Path] = {}
        for volume in pod["spec"]["volumes"]:
            path = self._paths[volume["name"]] = directory / volume["name"]
            self._make(volume, path, host, secrets)

    def __getitem__(self, name: str) -> Path:
        return self._paths[name]

    @staticmethod
    def _make(
        volume: dict[str, Any], path: Path, host: Mapping[str, Path], secrets: Mapping[str, Mapping[str, str]]
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        match volume:
            case {"hostPath": source}:
                path.symlink_to(host[source["path"]])
            case {"secret": source}:
                name = source["secretName"]
                if name not in secrets:
                    raise StepFailed(f"a Secret for the volume {volume['name']}", f"there is no Secret {name}")
                path.mkdir()
                items = source.get("items") or [{"key": key, "path": key} for key in secrets[name]]
                for item in items:
                    (path / item["path"]).write_text(secrets[name][item["key"]])
                    (path / item["path"]).chmod(0o444)
            case _:  # emptyDir, and the service account's token, which nothing here reads
                path.mkdir()


class Container:
    """One container of a pod whose ``/`` is ``root``."""

    def __init__(self, container: dict[str, Any], root: Path, volumes: Volumes) -> None:
        self.name: str = container["name"]
        self.root = root
        self._container = container
        self._volumes = volumes
        self._mounts = {mount["mountPath"].rstrip("/"): mount for mount in container["volumeMounts"]}
        paths = "|".join(re.escape(path) for path in sorted(self._mounts, key=len, reverse=True))
        self._mounted = re.compile(f"{_BEFORE}(?:{paths}){_BEHIND}")

    def mount(self) -> None:
        """Mount every volume. Raises StepFailed for a file that is not there.

        A kubelet makes a directory in its place, and the program finds that where it expects a file.
        """
        for path, mount in sorted(self._mounts.items()):
            source = self.source(path)
            if not source.exists():
                raise StepFailed(f"{mount['subPath']} in the volume {mount['name']}, to be mounted at {path}", "none")
            target = self.path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source)

    def source(self, mount_path: str) -> Path:
        """What is mounted there, outside the container."""
        mount = self._mounts[mount_path]
        return self._volumes[mount["name"]] / str(mount.get("subPath", ""))

    def path(self, inside: str) -> Path:
        """A path of the container, outside it."""
        return self.root / inside.lstrip("/")

    def outwards(self, text: str) -> str:
        """``text`` with every path of a mount as it is outside the container."""
        return self._mounted.sub(lambda match: f"{self.root}{match[0]}", text)

    def inwards(self, text: str) -> str:
        """The way back, for what people read."""
        return text.replace(str(self.root), "")

    def command(self) -> list[str]:
        """What the runtime starts: the command, then the args."""
        return [self.outwards(word) for word in self.words()]

    def words(self) -> list[str]:
        """The command as the container sees it."""
        return [*self._container.get("command", []), *self._container.get("args", [])]

    def environment(self, image: Mapping[str, str], plugin: Mapping[str, str]) -> dict[str, str]:
        """The image's variables, the pod's, then those that the device plugin answered Allocate with."""
        pod = {each["name"]: self.outwards(each["value"]) for each in self._container.get("env", [])}
        return {**image, **pod, **plugin}


def files_in(directory: Path) -> list[Path]:
    """Every regular file below ``directory``."""
    return sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def described(words: Iterable[str]) -> str:
    """A command as a list, so that one can see where each word ends."""
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
