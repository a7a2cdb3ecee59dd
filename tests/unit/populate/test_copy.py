"""The trees that ``--role init`` makes, by the real executable."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.distro import make_distro
from tests.fakes.volumes import NOBODY, OPT, PACKAGE, Pod, copied_shape, shape, shown, whole


def test_the_distro_and_its_opt_arrive_as_they_are(pod: Pod) -> None:
    if os.geteuid() == 0:
        os.chown(pod.source / "opt/bitfusion/bin/helper", 1234, 4321)
        os.chown(pod.source / "opt/bitfusion/lib64", 7, 8, follow_symlinks=False)
        os.chown(pod.source / "opt/bitfusion/share", 7, 8)

    assert pod.run().status == 0
    assert whole(pod)
    assert shown(pod.distro_target) == {PACKAGE}
    assert shown(pod.opt_target) == OPT


def test_only_the_distro_asked_for_is_copied(pod: Pod) -> None:
    make_distro(pod.distros, "bitfusion-client-centos7-4.0.1-5.x86_64.rpm")

    assert pod.run().status == 0

    assert shown(pod.distro_target) == {PACKAGE}


def test_the_log_says_what_was_copied(pod: Pod) -> None:
    result = pod.run()

    assert [each["event"] for each in result.events] == ["copied distro", "copied opt", "copied tokens", "done"]
    copied = result.event("copied distro")
    files = [path for path in pod.source.rglob("*") if path.is_file() or path.is_symlink()]
    assert (copied["package"], copied["path"], copied["files"]) == (PACKAGE, str(pod.distro_target), len(files))
    assert copied["bytes"] > 8 << 20
    assert copied["seconds"] >= 0


def test_opt_takes_no_second_copy_of_the_bytes_within_one_volume(pod: Pod) -> None:
    pod.run()

    inside = "lib/x86_64-linux-gnu/bitfusion/lib/large.so"
    assert (pod.opt_target / inside).samefile(pod.distro / "opt/bitfusion" / inside)


def _set_ids(path: Path) -> None:
    path.chmod(0o6755)


def _set_capability(path: Path) -> None:
    """CAP_NET_RAW, permitted and effective, as setcap writes it."""
    try:
        os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0))
    except OSError:
        pytest.skip("run as root, on a filesystem with extended attributes: only root can give a file a capability")


@pytest.mark.parametrize("make", [_set_ids, _set_capability])
def test_no_program_keeps_what_would_let_it_run_as_somebody_else(pod: Pod, make: Callable[[Path], None]) -> None:
    """Whoever the init container runs as, and whatever it may do."""
    make(pod.source / "usr/bin/bitfusion")

    assert pod.run().status == 0

    made = pod.distro / "usr/bin/bitfusion"
    assert stat.S_IMODE(made.stat().st_mode) == 0o755
    assert "security.capability" not in os.listxattr(made)


def test_both_targets_may_be_new_directories_of_one_volume(pod: Pod) -> None:
    volume = pod.directory / "volume"
    volume.mkdir()
    pod.distro_target, pod.opt_target = volume / "distro", volume / "opt"

    assert pod.run().status == 0

    assert whole(pod)
    assert (pod.opt_target / "VERSION").samefile(pod.distro / "opt/bitfusion/VERSION")
    assert {path.stat().st_mode & 0o7777 for path in (pod.distro_target, pod.opt_target)} == {0o777}
    assert [each["event"] for each in pod.run().events] == ["already there"] * 3 + ["done"]


def test_targets_that_it_makes_belong_to_the_group_of_the_volume(pod: Pod) -> None:
    """The kubelet gives a volume the pod's fsGroup and the bit that hands it on."""
    volume = pod.directory / "volume"
    volume.mkdir()
    volume.chmod(0o2777)
    pod.distro_target, pod.opt_target = volume / "distro", volume / "opt"

    assert pod.run().status == 0

    assert {path.stat().st_mode & 0o7777 for path in (pod.distro_target, pod.opt_target)} == {0o2777}


@pytest.fixture
def other_filesystem(pod: Pod) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        if directory.stat().st_dev == pod.directory.stat().st_dev:
            pytest.skip("/dev/shm is not a filesystem of its own")
        yield directory
    finally:
        shutil.rmtree(directory)


def test_across_filesystems_the_trees_are_copied_all_the_same(pod: Pod, other_filesystem: Path) -> None:
    pod.opt_target = other_filesystem

    assert pod.run().status == 0

    assert whole(pod)
    assert pod.run().event("already there", what="opt")


def test_extended_attributes_survive(pod: Pod) -> None:
    read_only = pod.source / "opt/bitfusion/share/doc/READ ME first.txt"
    pod.open_source()
    try:
        read_only.chmod(0o644)
        os.setxattr(read_only, "user.origin", b"package")
        os.setxattr(pod.source / "opt", "user.origin", b"directory")
    except OSError:
        pytest.skip("the directory for temporary files keeps no extended attributes: give TMPDIR another")
    read_only.chmod(0o444)

    assert pod.run_unprivileged().status == 0

    assert os.getxattr(pod.distro / read_only.relative_to(pod.source), "user.origin") == b"package"
    assert os.getxattr(pod.distro / "opt", "user.origin") == b"directory"


def test_links_are_copied_and_never_followed(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/private").write_text("not of the client")
    (pod.source / "opt/bitfusion/outside").symlink_to(tmp_path / "outside")

    assert pod.run().status == 0

    assert (pod.opt_target / "outside").readlink() == tmp_path / "outside"
    assert not list(pod.directory.glob("bitfusion-distro/**/private"))


def test_a_link_in_the_way_is_replaced_and_nothing_is_written_through_it(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "victim").mkdir()
    (tmp_path / "file").write_text("untouched")
    pod.distro.symlink_to(tmp_path / "victim")
    (pod.client_dir / "client.yaml").symlink_to(tmp_path / "file")

    assert pod.run().status == 0

    assert whole(pod)
    assert list((tmp_path / "victim").iterdir()) == []
    assert (tmp_path / "file").read_text() == "untouched"


def test_a_second_run_copies_nothing(pod: Pod) -> None:
    pod.run()
    before = {path: path.lstat() for path in sorted(pod.directory.rglob("*"))}

    result = pod.run()

    assert result.status == 0
    assert [each["event"] for each in result.events] == ["already there"] * 3 + ["done"]
    after = {path: path.lstat() for path in sorted(pod.directory.rglob("*"))}
    assert {path: (info.st_ino, info.st_ctime_ns) for path, info in after.items()} == {
        path: (info.st_ino, info.st_ctime_ns) for path, info in before.items()
    }


def test_files_that_the_workload_added_or_touched_do_not_make_a_tree_incomplete(pod: Pod) -> None:
    pod.run()
    (pod.distro / "opt/bitfusion/cache.db").write_text("the client's own")
    os.utime(pod.distro / "usr/bin/bitfusion")

    assert [each["event"] for each in pod.run().events] == ["already there"] * 3 + ["done"]


@pytest.mark.parametrize("name", ["usr/bin/bitfusion", "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/large.so"])
def test_a_tree_whose_bytes_were_lost_in_a_crash_of_the_node_is_made_anew(pod: Pod, name: str) -> None:
    pod.run()
    (pod.distro / "foreign").mkdir()
    os.truncate(pod.distro / name, 0)

    result = pod.run()

    size = (pod.source / name).stat().st_size
    assert (
        result.event("incomplete tree found", what="distro")["reason"]
        == f"{PACKAGE}/{name} has 0 bytes instead of {size}"
    )
    assert whole(pod)


@pytest.mark.parametrize(
    ("name", "becomes", "reason"),
    [
        ("lib/helper", None, "lib/helper is missing"),
        ("lib/helper", "directory", "lib/helper is of another kind"),
        ("lib64", "link", "lib64 points elsewhere"),
    ],
)
def test_names_of_opt_that_are_not_whole_are_made_anew_and_the_others_stay(
    pod: Pod, name: str, becomes: str | None, reason: str
) -> None:
    pod.run()
    before = (pod.opt_target / "share").stat().st_ino
    (pod.opt_target / name).unlink()
    if becomes == "directory":
        (pod.opt_target / name).mkdir()
    elif becomes == "link":
        (pod.opt_target / name).symlink_to("share")

    result = pod.run()

    assert result.event("incomplete tree found", what="opt")["reason"] == reason
    assert whole(pod)
    assert (pod.opt_target / "share").stat().st_ino == before


def test_it_works_without_any_privilege_and_the_user_can_read_what_it_made(pod: Pod) -> None:
    pod.open_source()

    result = pod.run_unprivileged()

    assert result.status == 0, result.stderr
    assert shape(pod.distro, owners=False) == copied_shape(pod.source, owners=False)
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    assert {path.lstat().st_uid for path in pod.distro.rglob("*")} == {user}
    assert (pod.client_dir / "client.yaml").stat().st_uid == user
    assert pod.run_unprivileged().event("already there", what="distro")


@pytest.mark.skipif(os.geteuid() != 0, reason="run as root: only another user can read what its owner cannot")
def test_a_directory_that_is_closed_to_its_owner_is_copied(pod: Pod) -> None:
    closed = pod.source / "opt/bitfusion/closed"
    (closed / "inside").mkdir(parents=True)
    closed.chmod(0o055)
    pod.open_source()

    assert pod.run_unprivileged().status == 0

    assert stat.S_IMODE((pod.distro / "opt/bitfusion/closed").stat().st_mode) == 0o455


def test_it_runs_in_a_container_with_a_read_only_root_filesystem(pod: Pod) -> None:
    """All but the volumes is mounted read-only, in a mount namespace of its own."""
    namespace = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--mount", "--map-root-user")
    volumes = (pod.distro_target, pod.opt_target, pod.client_dir)
    script = f"""
set -e
for volume in {" ".join(map(str, volumes))}; do mount --bind "$volume" "$volume"; done
mount -o remount,bind,ro /
if touch {pod.directory}/written 2>/dev/null; then exit 9; fi
exec "$@"
"""
    prefix = (*namespace, "sh", "-c", script, "sh")
    if shutil.which("unshare") is None or subprocess.run([*prefix, "true"], check=False).returncode != 0:
        pytest.skip("this user cannot make a mount namespace, or the volumes are not on the root filesystem")

    result = pod.run_below(prefix)

    assert result.status == 0, result.stderr
    assert whole(pod)
    # A volume is a mount of its own here, as in a pod: no link leads from one to the other.
    assert not (pod.opt_target / "VERSION").samefile(pod.distro / "opt/bitfusion/VERSION")


def test_it_loads_neither_trio_nor_the_libraries_of_the_daemons(pod: Pod) -> None:
    code = """
import sys
from bitfusiond.cli import main
status = main(sys.argv[2:])
loaded = {name.partition(".")[0] for name in sys.modules}
open(sys.argv[1], "w").write(" ".join(sorted(loaded)))
sys.exit(status)
"""
    log = pod.directory / "loaded"
    assert pod.run_code(code, str(log)).status == 0
    heavy = {"trio", "asyncio", "concurrent", "multiprocessing", "kubernetes", "grpclib", "hypercorn", "cryptography"}
    assert heavy & set(log.read_text().split()) == set()


def test_a_catalogue_beside_the_distros_goes_before_the_packaged_one(pod: Pod) -> None:
    """An operator's image brings clients that no packaged catalogue knows."""
    package = "bitfusion-client-debian12_4.6.0-1_amd64.deb"
    make_distro(pod.distros, package)
    catalogue = pod.catalogue({"os": "debian12", "version": "460", "package": package})
    catalogue.rename(pod.distros / "bitfusion-client-config.yaml")

    assert pod.run(os_name="debian12", version="460").status == 0
    assert shown(pod.distro_target) == {package}
    assert pod.run().status == 1
