"""Single files: each way of copying, and what falls back to which."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfusiond.core.copyplan import Entry
from bitfusiond.errors import Failure
from bitfusiond.populate import content, files, listing
from bitfusiond.populate.crew import Tally
from bitfusiond.populate.stopping import Stop
from tests.populate.pod import Pod, shape


def entry_of(path: Path) -> Entry:
    (entry,) = listing.of(str(path), path.name)
    return entry


def copied(path: Path, target: Path, ways: tuple[str, ...]) -> Tally:
    tally = Tally()
    content.Copier(ways).copy(entry_of(path), str(path), str(target), tally)
    return tally


@pytest.fixture(params=["dense", "sparse", "hole", "empty"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "source"
    with path.open("wb") as file:
        if request.param in {"dense", "sparse"}:
            file.write(os.urandom(100_001))
        if request.param == "sparse":
            file.seek(1 << 20)
            file.write(os.urandom(5))
        if request.param in {"sparse", "hole"}:
            file.truncate(2 << 20)
    path.chmod(0o640)
    os.utime(path, ns=(1_500_000_000_000_000_001, 1_500_000_000_000_000_002))
    return path


@pytest.mark.parametrize("way", [content.COPY_FILE_RANGE, content.SENDFILE, content.READ_WRITE])
def test_each_way_gives_the_same_file(source: Path, tmp_path: Path, way: str) -> None:
    tally = copied(source, tmp_path / "target", (way, content.READ_WRITE))

    made = shape(tmp_path)
    assert made["target"][:3] == made["source"][:3]
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert (tmp_path / "target").stat().st_blocks <= source.stat().st_blocks
    assert set(tally.ways) == {content.EMPTY if source.stat().st_size == 0 else way}


def test_a_way_that_the_kernel_does_not_know_is_given_up_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def refuse(name: str, code: int) -> None:
        def refused(*_: object, **__: object) -> int:
            tried.append(name)
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, name, refused)

    refuse("link", errno.EXDEV)
    refuse("copy_file_range", errno.ENOSYS)
    refuse("sendfile", errno.EINVAL)
    copier = content.Copier()
    tally = Tally()
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"content")
        copier.copy(entry_of(tmp_path / name), str(tmp_path / name), str(tmp_path / f"{name}.copy"), tally)
        assert (tmp_path / f"{name}.copy").read_bytes() == b"content"

    assert tally.ways[content.READ_WRITE] == 2 or tally.ways[content.REFLINK] == 2
    assert len(tried) == len(set(tried))


def test_a_way_that_stops_early_is_given_up_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    (tmp_path / "a").write_bytes(b"content")

    tally = copied(tmp_path / "a", tmp_path / "b", (content.COPY_FILE_RANGE, content.READ_WRITE))

    assert (tmp_path / "b").read_bytes() == b"content"
    assert tally.ways == {content.READ_WRITE: 1}


@pytest.mark.parametrize("way", [content.COPY_FILE_RANGE, content.READ_WRITE])
def test_a_source_that_became_shorter_is_an_error(tmp_path: Path, way: str) -> None:
    (tmp_path / "a").write_bytes(b"content")
    entry = entry_of(tmp_path / "a")._replace(size=10, allocated=4096)

    with pytest.raises(Failure, match=r"^a: the source ends after 7 of 10 bytes$"):
        content.Copier((way, content.READ_WRITE)).copy(entry, str(tmp_path / "a"), str(tmp_path / "b"), Tally())


def test_an_error_that_is_not_about_the_way_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "copy_file_range", fail)
    (tmp_path / "a").write_bytes(b"content")

    with pytest.raises(OSError, match="Input/output error"):
        copied(tmp_path / "a", tmp_path / "b", (content.COPY_FILE_RANGE, content.READ_WRITE))


def test_an_error_with_a_large_file_ends_the_copy_of_the_small_ones(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"content")
    small = entry_of(tmp_path / "small")
    entries = [small._replace(path=f"small{index}") for index in range(2000)]
    large = small._replace(path="large", size=5 << 20, allocated=5 << 20)

    def route(path: str) -> tuple[str, str]:
        return str(tmp_path / path if path == "large" else tmp_path / "small"), str(tmp_path / f"{path}.copy")

    with (
        pytest.raises(Failure, match=rf"^cannot copy {tmp_path}/large to {tmp_path}/large.copy: No such file"),
        Stop() as stop,
    ):
        files.copy("distro", [*entries, large], route, content.WAYS[1:], stop)


def test_a_long_copy_says_each_second_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = itertools.count(step=0.25)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    (tmp_path / "small").write_bytes(b"12345")
    small = entry_of(tmp_path / "small")

    with Stop() as stop, caplog.at_level("INFO", "bitfusiond.populate"):
        files.copy(
            "distro",
            [small._replace(path=f"{index}/small") for index in range(12)],
            lambda path: (str(tmp_path / "small"), str(tmp_path / path.partition("/")[0])),
            content.WAYS[1:],
            stop,
        )

    lines = [vars(record)["fields"] for record in caplog.records if record.getMessage() == "copying"]
    assert lines == [{"what": "distro", "bytes": count, "of": 60} for count in (20, 40, 60)]


@pytest.fixture
def reflinking(pod: Pod) -> Iterator[Path]:
    """A filesystem that can share the bytes of two files, with the image and the volumes on it."""
    make = shutil.which("mkfs.xfs") or shutil.which("mkfs.btrfs")
    if make is None or os.geteuid() != 0:
        pytest.skip("only root, with mkfs.xfs or mkfs.btrfs, can make a filesystem that shares bytes")
    disk, directory = pod.directory / "disk", pod.directory / "mounted"
    with disk.open("wb") as file:
        file.truncate(320 << 20)
    directory.mkdir()
    subprocess.run([make, disk], capture_output=True, check=True)
    if subprocess.run(["mount", "-o", "loop", disk, directory], capture_output=True, check=False).returncode != 0:
        pytest.skip("loop devices cannot be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_bytes_are_shared_where_the_filesystem_can(pod: Pod, reflinking: Path) -> None:
    shutil.copytree(pod.distros, reflinking / "image", symlinks=True)
    pod.source = reflinking / "image" / pod.source.name
    pod.distros = reflinking / "image"
    pod.distro_target = reflinking / "distro"
    pod.distro_target.mkdir()
    # Room is left for names, not for the bytes.
    room = os.statvfs(reflinking)
    with (reflinking / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - (3 << 20))

    result = pod.run()

    assert result.status == 0, result.stderr
    assert set(result.event("copied distro")["methods"]) == {"reflink", "empty"}
    assert shape(pod.distro) == shape(pod.source)
