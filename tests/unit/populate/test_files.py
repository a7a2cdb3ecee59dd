"""The content of files: every fast way that fails ends in reading and writing, and only what those say is an error."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bitfusiond.errors import Failure
from bitfusiond.populate import trees
from tests.fakes.volumes import Pod, hidden, shape

# What network and FUSE filesystems, kernels and seccomp profiles answer, beside the usual EXDEV.
ODD = ["EXDEV", "EPERM", "EIO", "EBADF", "ETXTBSY", "EOVERFLOW", "EINVAL", "EOPNOTSUPP", "ENOSYS", "ETIMEDOUT"]


class Places:
    """A tree ``t`` in ``image``, and a volume."""

    def __init__(self, directory: Path) -> None:
        self.tree, self.volume = directory / "image/t", directory / "volume"
        self.tree.mkdir(parents=True)
        self.volume.mkdir()

    def place(self) -> None:
        image = str(self.tree.parent)
        trees.place("distro", "t", trees.listed(image, "t"), image, str(self.volume))

    def is_whole(self) -> bool:
        return shape(self.volume / "t") == shape(self.tree) and not hidden(self.volume)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path)
    data = os.urandom(100_001)
    for name, pieces, size in [
        ("dense", [(0, data)], len(data)),
        ("sparse", [(0, data), (1 << 20, b"12345")], 2 << 20),
        ("hole", [], 2 << 20),
        ("empty", [], 0),
    ]:
        with (made.tree / name).open("wb") as file:
            for at, piece in pieces:
                file.seek(at)
                file.write(piece)
            file.truncate(size)
        os.utime(made.tree / name, ns=(1_500_000_000_000_000_001, 1_500_000_000_000_000_002))
    return made


def failing(code: str) -> OSError:
    number = getattr(errno, code)
    return OSError(number, os.strerror(number))


def blocks(tree: Path) -> int:
    return sum(path.stat().st_blocks for path in tree.iterdir())


@pytest.mark.parametrize("code", ODD)
def test_where_copy_file_range_fails_files_are_read_and_written(
    places: Places, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    tried: list[object] = []

    def copy_file_range(*arguments: object) -> int:
        tried.append(arguments)
        raise failing(code)

    monkeypatch.setattr(os, "copy_file_range", copy_file_range)

    places.place()

    assert places.is_whole()
    assert blocks(places.volume / "t") <= blocks(places.tree), "holes stay holes"
    assert len(tried) == 1, "what does not work is not tried again"


def test_where_copy_file_range_says_that_there_is_nothing_files_are_read(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    places.place()
    assert places.is_whole()


@pytest.mark.parametrize("which", [os.SEEK_DATA, os.SEEK_HOLE])
@pytest.mark.parametrize("code", ODD)
def test_where_holes_cannot_be_found_all_of_a_file_is_data(
    places: Places, monkeypatch: pytest.MonkeyPatch, code: str, which: int
) -> None:
    def lseek(descriptor: int, at: int, how: int, *, real: Callable[..., int] = os.lseek) -> int:
        if how == which:
            raise failing(code)
        return real(descriptor, at, how)

    monkeypatch.setattr(os, "lseek", lseek)
    places.place()
    for path in places.tree.iterdir():
        assert (places.volume / "t" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["pread", "pwrite"])
def test_what_reading_and_writing_say_is_an_error(places: Places, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail(*_: object) -> int:
        raise failing("EIO")

    monkeypatch.setattr(os, "copy_file_range", fail)
    monkeypatch.setattr(os, name, fail)

    with pytest.raises(Failure, match=rf"^cannot copy {places.tree}/\w+ to {places.volume}/t/\w+: Input/output error$"):
        places.place()
    assert list(places.volume.iterdir()) == []


@pytest.mark.parametrize("name", ["listxattr", "setxattr"])
@pytest.mark.parametrize("code", ["EPERM", "EACCES", "EOPNOTSUPP"])
def test_where_extended_attributes_cannot_be_kept_they_are_left_out(
    places: Places, monkeypatch: pytest.MonkeyPatch, code: str, name: str
) -> None:
    def fail(*_: object) -> None:
        raise failing(code)

    monkeypatch.setattr(os, "listxattr", lambda _: ["user.origin"])
    monkeypatch.setattr(os, "getxattr", lambda *_: b"package")
    monkeypatch.setattr(os, name, fail)

    places.place()

    monkeypatch.undo()
    assert places.is_whole()


def test_a_source_that_became_shorter_is_an_error(places: Places) -> None:
    image = str(places.tree.parent)
    tree = trees.listed(image, "t")
    os.truncate(places.tree / "dense", 7)

    with pytest.raises(Failure, match=r": the source ends after 7 of 100001 bytes$"):
        trees.place("distro", "t", tree, image, str(places.volume))


def test_an_error_in_the_thread_for_large_files_ends_all(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        (places.tree / f"large{number}").write_bytes(bytes(2 << 20))

    def pread(*arguments: int, real: Callable[..., bytes] = os.pread) -> bytes:
        if threading.current_thread() is not threading.main_thread():
            raise failing("EIO")
        time.sleep(0.01)  # enough for the other to begin
        return real(*arguments)

    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0)
    monkeypatch.setattr(os, "pread", pread)

    with pytest.raises(Failure, match=rf"^cannot copy {places.tree}/(large\d|sparse) to .*: Input/output error$"):
        places.place()
    assert list(places.volume.iterdir()) == []


def test_where_no_more_threads_are_allowed_one_makes_all(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    (places.tree / "large").write_bytes(os.urandom(2 << 20))
    monkeypatch.setattr(threading.Thread, "start", start)

    places.place()

    assert places.is_whole()


def test_a_long_copy_says_each_second_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    places = Places(tmp_path)
    for number in range(12):
        (places.tree / str(number)).write_bytes(b"12345")
    clock = itertools.count(step=0.25)
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))

    with caplog.at_level("INFO", "bitfusiond.populate"):
        places.place()

    lines = [vars(record)["fields"] for record in caplog.records if record.getMessage() == "copying"]
    assert lines == [{"what": "distro", "bytes": count, "of": 60} for count in (20, 40, 60)]


@pytest.fixture
def reflinking(pod: Pod) -> Iterator[Path]:
    """A filesystem that can share the bytes of two files."""
    make = shutil.which("mkfs.xfs") or shutil.which("mkfs.btrfs")
    if make is None or os.geteuid() != 0:
        pytest.skip("run as root, with mkfs.xfs or mkfs.btrfs: only root can make a filesystem that shares bytes")
    disk, directory = pod.directory / "disk", pod.directory / "mounted"
    with disk.open("wb") as file:
        file.truncate(320 << 20)
    directory.mkdir()
    subprocess.run([make, disk], capture_output=True, check=True)
    if subprocess.run(["mount", "-o", "loop", disk, directory], capture_output=True, check=False).returncode != 0:
        pytest.skip("loop devices cannot be mounted here: run the tests where they can")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True)


def test_bytes_are_shared_where_the_filesystem_can(pod: Pod, reflinking: Path) -> None:
    shutil.copytree(pod.distros, reflinking / "image", symlinks=True)
    pod.distros = reflinking / "image"
    pod.distro_target = reflinking / "distro"
    pod.opt_target = pod.distro_target / "opt"
    pod.distro_target.mkdir()
    os.sync()
    before = os.statvfs(reflinking)

    assert pod.run().status == 0

    os.sync()
    after = os.statvfs(reflinking)
    assert (before.f_bfree - after.f_bfree) * after.f_frsize < 1 << 20
    large = "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/large.so"
    assert (pod.distro / large).read_bytes() == (pod.source / large).read_bytes()
