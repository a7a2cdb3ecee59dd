"""``--role init`` ended in the middle, by SIGKILL at an exact point, by SIGTERM, or by a disk that is full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.places import tmpfs
from tests.fakes.volumes import Pod, copied_shape, hidden, shape, shown, whole

KILL = "os.kill(os.getpid(), signal.SIGKILL)"
TERMINATE = "os.kill(os.getpid(), signal.SIGTERM)"

# The Nth time that the process is about to do something to a hidden name, or to a file by its descriptor.
MOMENTS = [
    ("os.mkdir", 1),
    ("os.mkdir", 7),
    ("open", 1),
    ("open", 6),
    ("os.chmod", 1),
    ("os.chmod", 14),
    ("os.chmod", 20),
    ("os.utime", 4),
    ("os.utime", 25),
    ("os.link", 1),
    ("os.link", 4),
    ("os.symlink", 1),
    ("os.symlink", 8),
    ("os.rename", 1),
    ("os.rename", 2),
    ("os.rename", 4),
    ("os.rename", 7),
]


@pytest.mark.parametrize(("event", "count"), MOMENTS)
def test_killed_at_any_point_and_run_again_it_ends_right(pod: Pod, event: str, count: int) -> None:
    assert pod.run_hooked(KILL, event, count).status == -9
    for name in shown(pod.distro_target):
        assert shape(pod.distro_target / name) == copied_shape(pod.source), "no half tree under a final name"
    for name in shown(pod.opt_target):
        assert shape(pod.opt_target / name) == copied_shape(pod.source / "opt/bitfusion" / name)

    again = pod.run()

    assert again.status == 0, again.stderr
    assert whole(pod)
    assert pod.run().event("already there", what="distro")


def test_what_a_killed_run_left_is_believed_in_nothing(pod: Pod) -> None:
    pod.run_hooked(KILL, "os.rename", 1)
    (left,) = hidden(pod.distro_target)
    large = pod.distro_target / left / "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/large.so"
    info = large.stat()
    large.write_bytes(bytes(info.st_size))
    os.utime(large, ns=(info.st_atime_ns, info.st_mtime_ns))

    assert pod.run().status == 0
    assert whole(pod)


@pytest.mark.parametrize(("event", "count"), [("os.mkdir", 1), ("open", 5), ("os.chmod", 14)])
def test_sigterm_ends_the_copy_as_a_failure(pod: Pod, event: str, count: int) -> None:
    """Status 0 would let the kubelet start the workload without its client."""
    result = pod.run_hooked(TERMINATE, event, count)

    assert result.message == "stopped by SIGTERM before the copy was whole"
    assert shown(pod.distro_target) == shown(pod.opt_target) == shown(pod.client_dir) == set()
    assert pod.run().status == 0
    assert whole(pod)


def test_a_signal_is_heard_while_the_log_is_written_and_a_second_one_changes_nothing(pod: Pod) -> None:
    """Logging takes any Exception for its own affair, and goes on."""
    code = f"""
import os, signal, sys
from bitfusiond.cli import main
def write(text, *, real=sys.stderr.write):
    if "copied distro" in text or "stopped by" in text:
        {TERMINATE}
    return real(text)
sys.stderr.write = write
sys.exit(main(sys.argv[1:]))
"""
    assert pod.run_code(code).message == "stopped by SIGTERM before the copy was whole"


def test_sigterm_while_a_large_file_is_copied_ends_it_at_once(pod: Pod) -> None:
    """The step that the signal came in is the last: of a file of many steps nearly nothing is there."""
    large = pod.source / "opt/bitfusion/larger.so"
    with large.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 256 << 20)
    code = f"""
import os, signal, sys
from bitfusiond.cli import main
def copy_file_range(*arguments, real=os.copy_file_range):
    if arguments[2] >= 4 << 20:
        {TERMINATE}
    return real(*arguments)
os.copy_file_range = copy_file_range
sys.exit(main(sys.argv[1:]))
"""
    result = pod.run_code(code)

    assert result.message == "stopped by SIGTERM before the copy was whole"
    (left,) = hidden(pod.distro_target)
    assert (pod.distro_target / left / "opt/bitfusion/larger.so").stat().st_size < 128 << 20


def test_process_1_of_a_container_hears_sigterm_too(pod: Pod) -> None:
    namespace = ("unshare", "--pid", "--fork")
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode != 0:
        pytest.skip("this user cannot make a process namespace: run the tests as root")

    result = pod.run_hooked(f"assert os.getpid() == 1; {TERMINATE}", "open", 5, prefix=namespace)

    assert result.message == "stopped by SIGTERM before the copy was whole"


def test_a_file_that_cannot_be_written_to_its_end_is_one_clear_line(pod: Pod) -> None:
    result = pod.run_hooked(
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))", "os.mkdir", 1
    )

    large = ("opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/large.so", "opt/bitfusion/share/cache")
    assert result.message in {
        f"cannot copy {pod.source / name} to {pod.distro / name}: File too large" for name in large
    }
    assert shown(pod.distro_target) | hidden(pod.distro_target) == set()


@pytest.fixture
def small_disk(pod: Pod) -> Iterator[Path]:
    """A filesystem of 10 MiB as the volume of the distro."""
    with tmpfs(pod.distro_target, "size=10m") as volume:
        yield volume


def test_a_volume_that_is_too_small_is_found_before_anything_is_copied(pod: Pod, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(8 << 20))

    assert pod.run().message == (
        f"not enough space for {small_disk}: 3.6 MB are still to be copied, 2.1 MB are free: make room for 1.5 MB more"
    )
    assert {path.name for path in small_disk.iterdir()} == {"ballast"}

    ballast.unlink()
    assert pod.run().status == 0
    assert whole(pod)


def test_the_room_for_opt_is_counted_too_where_its_files_are_no_further_names(pod: Pod, small_disk: Path) -> None:
    pod.distro_target, pod.opt_target = pod.opt_target, small_disk
    fill(small_disk)

    assert pod.run().message.startswith(f"not enough space for {small_disk}: 3.6 MB are still to be copied, 0.0 MB")
    assert hidden(*pod.volumes) == set()


def test_opt_needs_no_room_in_the_volume_of_the_distro(pod: Pod, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(5 << 20))
    pod.opt_target = small_disk / "opt"
    pod.opt_target.mkdir()

    assert pod.run().status == 0


def test_the_holes_of_a_sparse_file_need_no_room(pod: Pod, small_disk: Path) -> None:
    with (pod.source / "sparse").open("wb") as file:
        file.truncate(1 << 40)

    assert pod.run().status == 0
    assert (pod.distro / "sparse").stat().st_size == 1 << 40


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


def test_a_disk_that_fills_up_meanwhile_is_one_clear_line_and_gets_its_room_back(pod: Pod, small_disk: Path) -> None:
    fill = f"os.posix_fallocate(os.open({str(small_disk / 'ballast')!r}, os.O_WRONLY | os.O_CREAT), 0, 9 << 20)"

    result = pod.run_hooked(fill, "os.mkdir", 12)

    assert result.message.startswith(f"cannot copy {pod.distros}/")
    assert result.message.endswith(": No space left on device")
    assert {path.name for path in small_disk.iterdir()} == {"ballast"}
    assert shown(pod.opt_target) == set()

    (small_disk / "ballast").unlink()
    assert pod.run().status == 0
    assert whole(pod)
