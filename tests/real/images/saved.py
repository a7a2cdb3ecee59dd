"""Images as ``docker save`` writes them: what they say of themselves, what they hold, unpacked to a directory."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One name of a layer: ``path`` without a leading slash, ``size`` in bytes, 0 for what is no file."""

    layer: int
    path: str
    size: int


class Archive:
    """An image in a file."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, and KeyError where it is no image."""
        self.path = path
        with tarfile.open(path) as archive:
            manifest = json.loads(_read(archive, "manifest.json"))[0]
            self.document: dict[str, Any] = json.loads(_read(archive, manifest["Config"]))
        self._layers: list[str] = manifest["Layers"]

    @property
    def config(self) -> dict[str, Any]:
        """User, Entrypoint, Labels and so on."""
        found: dict[str, Any] = self.document["config"]
        return found

    def entries(self) -> Iterator[Entry]:
        """What the layers hold, from the base upwards."""
        for number in range(len(self._layers)):
            with self._layer(number) as layer:
                for member in layer:
                    yield Entry(number, member.name.removeprefix("./"), member.size if member.isfile() else 0)

    def unpack(self, directory: Path) -> Container:
        """Into ``directory``, which must not be there. As root, so that owners and devices are as in the image."""
        root = directory / "root"
        root.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(self.document))
        with tarfile.open(self.path) as archive:
            for name in self._layers:
                layer = _open(archive, name)
                # tar, as Python's own takes minutes for it
                with subprocess.Popen(
                    ["tar", "--extract", "--numeric-owner", "--same-permissions", "--directory", root],
                    stdin=subprocess.PIPE,
                ) as process:
                    assert process.stdin is not None
                    while chunk := layer.read(1 << 20):
                        process.stdin.write(chunk)
                    process.stdin.close()
                assert process.returncode == 0
        return Container(directory)

    @contextmanager
    def _layer(self, number: int) -> Iterator[tarfile.TarFile]:
        with (
            tarfile.open(self.path) as archive,
            tarfile.open(fileobj=_open(archive, self._layers[number])) as layer,
        ):
            yield layer


@dataclass(frozen=True)
class Container:
    """An image that was unpacked, to be run from as often as one likes."""

    directory: Path

    @property
    def root(self) -> Path:
        return self.directory / "root"

    def command(
        self,
        *arguments: str | Path,
        user: int | None = None,
        volumes: Mapping[str, Path] | None = None,
        entrypoint: tuple[str, ...] = (),
    ) -> list[str]:
        """What runs it, :mod:`tests.real.images.inside`; ``volumes`` are directories by where they are mounted."""
        words = [sys.executable, "-m", "tests.real.images.inside"]
        words += [] if user is None else [f"--user={user}"]
        words += [f"--volume={source}:{target}" for target, source in (volumes or {}).items()]
        words += [f"--entrypoint={word}" for word in entrypoint]
        return [*words, str(self.directory), "--", *map(str, arguments)]

    def run(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run it to its end; ``options`` as for :meth:`command`."""
        command = self.command(*arguments, **options)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _open(archive: tarfile.TarFile, name: str) -> Any:
    found = archive.extractfile(name)
    assert found is not None
    return found


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    content: bytes = _open(archive, name).read()
    return content
