"""``--role init`` ended in the middle, by SIGKILL at an exact point, by SIGTERM, or by a disk that is full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.places import tmpfs
from tests.populate.pod import Pod, shape, shown

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
TERMINATE = "os.kill(os.getpid(), signal.SIGTERM)"
OPT = {"VERSION", "bin", "lib", "lib64", "share"}

# The Nth time that the process is about to do something to a hidden name, or to a file by its descriptor.
MOMENTS = [
    ("os.mkdir", 1),
    ("os.mkdir", 7),
    ("open", 1),
    ("open", 6),
    ("open", 10),
    ("os.chown", 1),
    ("os.chown", 5),
    ("os.chmod", 3),
    ("os.utime", 4),
    ("os.link", 1),
    ("os.link", 4),
    ("os.symlink", 1),
    ("os.symlink", 8),
    ("os.chmod", 14),
    ("os.chmod", 20),
    ("os.utime", 25),
    ("os.rename", 1),
    ("os.rename", 2),
    ("os.rename", 4),
    ("os.rename", 7),
]


def whole(pod: Pod) -> bool:
    return shape(pod.distro) == shape(pod.source) and all(
        shape(pod.opt_target / name) == shape(pod.source / "opt/bitfusion" / name) for name in OPT
    )


def finished(pod: Pod) -> dict[str, int]:
    """The inodes of the files that a killed run left whole, under their hidden names, by what they will be called."""
    left: dict[str, int] = {}
    for path in pod.partial.rglob("*"):
        name = path.relative_to(pod.partial)
        source, info = (pod.source / name).lstat(), path.lstat()
        if not path.is_dir() and (info.st_mtime_ns, info.st_size) == (source.st_mtime_ns, source.st_size):
            left[str(name)] = info.st_ino
    return left


@pytest.mark.parametrize(("event", "count"), MOMENTS)
def test_killed_at_any_point_and_run_again_it_ends_right_and_copies_nothing_twice(
    pod: Pod, event: str, count: int
) -> None:
    assert pod.run_hooked(KILL, event, count).status == -9
    for name in shown(pod.distro_target):
        assert shape(pod.distro_target / name) == shape(pod.source), "no half tree under a final name"
    for name in shown(pod.opt_target):
        assert shape(pod.opt_target / name) == shape(pod.source / "opt/bitfusion" / name)
    left = finished(pod)

    again = pod.run()

    assert again.status == 0, again.stderr
    assert whole(pod)
    assert {name: (pod.distro / name).lstat().st_ino for name in left} == left
    for line in again.events:
        if line["event"] == "copied distro":
            files = [path for path in pod.source.rglob("*") if path.is_symlink() or not path.is_dir()]
            assert line["files"] + line["kept"] == len(files)
            assert line["kept"] >= len(left)
    assert pod.run().event("already there", what="distro")


def test_half_files_and_foreign_names_of_a_killed_run_are_taken_away(pod: Pod) -> None:
    pod.run_hooked(KILL, "os.rename", 1)
    large = pod.partial / "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/large.so"
    modified = large.stat().st_mtime_ns
    os.truncate(large, 1 << 20)
    os.utime(large, ns=(modified, modified))
    (pod.partial / "foreign").mkdir()
    (pod.partial / "foreign/file").write_text("x")
    (pod.partial / "opt/bitfusion/VERSION").unlink()
    (pod.partial / "opt/bitfusion/VERSION").mkdir()
    program = pod.partial / "usr/bin/bitfusion"
    shutil.rmtree(pod.partial / "usr/bin")
    program.parent.write_text("a file where a directory belongs")

    again = pod.run()

    assert again.status == 0, again.stderr
    assert again.event("copied distro")["files"] == 3
    assert whole(pod)


@pytest.mark.parametrize(("event", "count"), [("os.mkdir", 1), ("open", 5), ("os.chmod", 14)])
def test_sigterm_ends_the_copy_as_a_failure(pod: Pod, event: str, count: int) -> None:
    """Status 0 would let the kubelet start the workload without its client."""
    result = pod.run_hooked(TERMINATE, event, count)

    assert result.message == "stopped by SIGTERM before the copy was whole"
    assert shown(pod.distro_target) == shown(pod.opt_target) == shown(pod.client_dir) == set()
    assert pod.run().status == 0
    assert whole(pod)


def test_process_1_of_a_container_hears_sigterm_too(pod: Pod) -> None:
    namespace = ("unshare", "--pid", "--fork")
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode != 0:
        pytest.skip("this user cannot make a process namespace")

    result = pod.run_hooked(f"assert os.getpid() == 1; {TERMINATE}", "open", 5, prefix=namespace)

    assert result.message == "stopped by SIGTERM before the copy was whole"


def test_a_file_that_cannot_be_written_to_its_end_is_one_clear_line(pod: Pod) -> None:
    result = pod.run_hooked(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))", "os.mkdir", 1
    )

    large = ("opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/large.so", "opt/bitfusion/share/cache")
    assert result.message in {
        f"cannot copy {pod.source / name} to {pod.partial / name}: File too large" for name in large
    }
    assert shown(pod.distro_target) == set()
    assert pod.run().status == 0
    assert whole(pod)


@pytest.fixture
def small_disk(pod: Pod) -> Iterator[Path]:
    """A filesystem of 10 MiB as the volume of the distro."""
    with tmpfs(pod.distro_target, "size=10m") as volume:
        yield volume


def test_a_volume_that_is_too_small_is_found_before_anything_is_copied(pod: Pod, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(8 << 20))

    result = pod.run()

    assert result.message.startswith(
        f"not enough space for {small_disk}: 3.6 MB are still to be copied, 2.1 MB are free"
    )
    assert result.message.endswith("more")
    assert {path.name for path in small_disk.iterdir()} == {"ballast"}

    ballast.unlink()
    assert pod.run().status == 0
    assert whole(pod)


def fill(directory: Path) -> None:
    room = os.statvfs(directory)
    with (directory / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)
    assert os.statvfs(directory).f_bavail == 0


def test_a_volume_without_a_free_byte_is_told_with_what_it_lacks(pod: Pod, small_disk: Path) -> None:
    fill(small_disk)

    message = pod.run().message

    assert message.startswith(f"not enough space for {small_disk}: 3.6 MB are still to be copied, 0.0 MB are free: ")
    assert {path.name for path in small_disk.iterdir()} == {"ballast"}


def test_a_volume_without_a_free_inode_is_told_with_what_it_lacks(pod: Pod, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,nr_inodes=64", small_disk], check=True)
    for number in range(os.statvfs(small_disk).f_favail):
        (small_disk / f"ballast {number}").touch()

    message = pod.run().message

    assert message.startswith(f"not enough space for {small_disk}: ")
    assert message.endswith(" files and directories are still to be made, 0 inodes are free")


def test_a_full_volume_of_the_token_files_is_told_with_the_file(pod: Pod, small_disk: Path) -> None:
    """Both lie in the small volume here, the distro's in a large one."""
    pod.client_dir, pod.distro_target = small_disk, pod.client_dir
    fill(small_disk)

    assert pod.run().message == f"{small_disk}/ca.crt: No space left on device"


def test_a_disk_that_fills_up_meanwhile_is_one_clear_line(pod: Pod, small_disk: Path) -> None:
    fill = f"os.posix_fallocate(os.open({str(small_disk / 'ballast')!r}, os.O_WRONLY | os.O_CREAT), 0, 9 << 20)"

    result = pod.run_hooked(fill, "os.mkdir", 12)

    assert result.message.startswith(f"cannot copy {pod.distros}/")
    assert result.message.endswith(": No space left on device")
    assert shown(small_disk) == {"ballast"}
    assert shown(pod.opt_target) == set()

    (small_disk / "ballast").unlink()
    assert pod.run().status == 0
    assert whole(pod)
