"""Trees of other clients than Bitfusion's: directories and wheels, and the entries that go with them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from bitfusiond.files import read
from tests.fakes.volumes import Pod, shape
from tests.unit.operate.distros.place import Place


def _directory(place: Place, name: str = "pocl") -> Path:
    tree = place.packages / name
    (tree / "vendors").mkdir(parents=True)
    (tree / "libpocl.so.2").write_bytes(b"x" * 5000)
    (tree / "libOpenCL.so.1").symlink_to("libpocl.so.2")
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o755)
    return tree


def _wheel(place: Place, name: str = "lupine-1.0.0-py3-none-any.whl", member: str = "lib/libcuda.so.1") -> None:
    with zipfile.ZipFile(place.packages / name, "w") as wheel:
        wheel.writestr(member, "cuda")


def test_a_directory_and_a_wheel_become_trees_with_their_entries(place: Place) -> None:
    source = _directory(place)
    _wheel(place)
    result = place.run()
    assert result.status == 0, result
    assert shape(place.out / "pocl") == shape(source)
    assert (place.out / "lupine/lib/libcuda.so.1").read_text() == "cuda"
    known = read.load_clients(place.catalogue)
    assert [client.name for client in known.others] == ["lupine", "pocl"]
    assert not known.clients


def test_init_installs_such_a_tree_and_asks_for_no_token(place: Place) -> None:
    source = _directory(place)
    assert place.run().status == 0
    volumes = place.directory / "pod"
    volumes.mkdir()
    pod = Pod(volumes)
    pod.distros = place.out
    result = pod.run("--client-name", "pocl")
    assert result.status == 0, result.stderr
    assert shape(pod.distro_target / "pocl") == shape(source)
    assert not list(pod.opt_target.iterdir())
    assert not list(pod.client_dir.iterdir())


def test_only_clients_whose_tree_is_there_come_into_the_catalogue(place: Place) -> None:
    _directory(place)
    assert place.run().status == 0
    assert [client.name for client in read.load_clients(place.catalogue).others] == ["pocl"]


def test_entries_of_the_operator_are_kept(place: Place) -> None:
    place.out.mkdir()
    mine = "Clients:\n- {Name: mine, Tree: /bitfusion/mine, Libraries: /bitfusion/mine}\n- {Name: there, Env: {A: b}}\n"
    place.catalogue.write_text(mine)
    _directory(place, "mine")
    for _ in range(2):
        assert place.run().status == 0
        assert [client.name for client in read.load_clients(place.catalogue).others] == ["mine", "there"]


def test_entries_beside_the_trees_come_into_the_catalogue(place: Place) -> None:
    (place.packages / read.CATALOGUE).write_text(
        "Clients:\n- {Name: mine, Tree: /bitfusion/mine, Libraries: /bitfusion/mine}\n"
    )
    _directory(place, "mine")
    result = place.run()
    assert result.status == 0, result
    assert [client.name for client in read.load_clients(place.catalogue).others] == ["mine"]


def test_programs_of_a_wheel_stay_executable(place: Place) -> None:
    with zipfile.ZipFile(place.packages / "lupine-1.0.0-py3-none-any.whl", "w") as wheel:
        program = zipfile.ZipInfo("bin/run")
        program.external_attr = 0o755 << 16
        wheel.writestr(program, "#!/bin/sh\n")
        wheel.writestr("lib/a.so", "a")
    assert place.run().status == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (place.out / "lupine").rglob("*")}
    assert modes == {"bin": 0o755, "run": 0o755, "lib": 0o755, "a.so": 0o644}


def test_a_changed_tree_is_taken_up(place: Place) -> None:
    source = _directory(place)
    assert place.run().status == 0
    (source / "libpocl.so.2").write_bytes(b"y")
    assert place.run().status == 0
    assert (place.out / "pocl/libpocl.so.2").read_bytes() == b"y"


@pytest.mark.parametrize("kind", ["empty", "fifo", "wheel"])
def test_what_is_no_client_is_refused_by_its_name(place: Place, kind: str) -> None:
    if kind == "wheel":
        (place.packages / "pocl-1-py3-none-any.whl").write_bytes(b"no zip")
    else:
        (place.packages / "pocl").mkdir()
    if kind == "fifo":
        (place.packages / "pocl/a").write_text("a")
        os.mkfifo(place.packages / "pocl/b")
    result = place.run()
    assert result.status == 1
    assert any("pocl" in line for line in result.problems), result
    assert not (place.out / "pocl").exists()


def test_a_wheel_cannot_write_elsewhere(place: Place) -> None:
    _wheel(place, member="../../escaped")
    assert place.run().status == 0
    assert [path.parent.name for path in place.directory.rglob("escaped")] == ["lupine"]


def test_two_of_one_name_are_refused(place: Place) -> None:
    _directory(place)
    _wheel(place, "pocl-7.1-py3-none-any.whl")
    result = place.run()
    assert result.status == 1
    assert any("both are for pocl: keep one of them" in line for line in result.problems)


def test_a_directory_that_no_client_has_is_said(place: Place) -> None:
    _directory(place)
    (place.packages / "strange").mkdir()
    assert "strange: ignored, no package, nor the tree of a client of the catalogue" in place.run().lines
