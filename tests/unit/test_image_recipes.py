"""``just build-image`` and ``just push-image`` with stand-in engines that say what they were asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bitfusiond
from tests import ROOT

# $BUILT: the images that it has. Its first word is its own name, so that the lines tell who was asked.
ENGINE = """\
#!/bin/sh
case $1 in
    version) exit {version} ;;
    images) case " $BUILT " in *" $3 "*) echo 0123abcd ;; esac ;;
    *) echo "{name}: $*" ;;
esac
"""
REPO = "docker.io/bitfusiondeviceplugin"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with the programs that the script needs, and no engine."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in ("bash", "env", "sed", "dirname"):
        (directory / name).symlink_to(
            next(path for path in (Path("/usr/bin", name), Path("/bin", name)) if path.exists())
        )
    return directory


def engine(programs: Path, name: str, *, works: bool = True) -> None:
    program = programs / name
    program.write_text(ENGINE.format(name=name, version=0 if works else 1))
    program.chmod(0o755)


def images(programs: Path, *arguments: str, **variables: str) -> tuple[int, list[str]]:
    """The exit status of ``image/images``, and the lines that it and the engine print."""
    known = {"IMAGE_REPO": REPO, "IMAGE_TAG": "7"}
    known |= dict.fromkeys(("PACKAGES", "BASE", "BUILD_BASE", "CONTAINER_ENGINE"), "")
    environment = {**known, **variables, "PATH": str(programs)}
    done = subprocess.run(
        [ROOT / "image/images", *arguments], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_the_first_engine_that_works_builds(programs: Path) -> None:
    engine(programs, "docker", works=False)
    engine(programs, "buildah")
    status, lines = images(programs, "build")
    assert status == 0
    assert [line.split()[0] for line in lines] == ["buildah:", "built", "for"]
    assert f"--target bitfusiond --tag {REPO}/bitfusiond:7 ." in lines[0]
    assert f"--label org.opencontainers.image.version={bitfusiond.__version__}" in lines[0]


def test_the_time_of_the_build_is_told_where_it_is_given(programs: Path) -> None:
    engine(programs, "docker")
    _, without = images(programs, "build")
    _, told = images(programs, "build", CREATED="2026-01-02T03:04:05Z")
    assert "image.created" not in without[0]
    assert "--label org.opencontainers.image.created=2026-01-02T03:04:05Z" in told[0]


def test_without_packages_it_says_how_to_get_the_client(programs: Path) -> None:
    engine(programs, "podman")
    _, lines = images(programs, "build")
    assert lines[-1].startswith(f"for {REPO}/bitfusion-client:7: just build-image with PACKAGES=DIR")


def test_with_packages_both_are_built_on_the_base_that_is_named(programs: Path, tmp_path: Path) -> None:
    engine(programs, "docker")
    status, lines = images(programs, "build", "--no-cache", PACKAGES=str(tmp_path), BASE="a", BUILD_BASE="b")
    first, _, second, _ = lines
    assert status == 0
    for line in (first, second):
        assert "--build-arg BASE=a --build-arg BUILD_BASE=b" in line
        assert " --no-cache " in line
    assert f"--build-context packages={tmp_path} --tag {REPO}/bitfusion-client:7 ." in second


def test_a_directory_of_packages_that_is_none_is_named(programs: Path) -> None:
    engine(programs, "docker")
    status, (line,) = images(programs, "build", PACKAGES="/no such")
    assert status == 1
    assert line.startswith("error: PACKAGES: '/no such' is no directory")


def test_no_engine_at_all(programs: Path) -> None:
    engine(programs, "docker", works=False)
    status, (line,) = images(programs, "build")
    assert status == 1
    assert line.startswith("error: none of docker, podman and buildah works here: install one")


def test_an_engine_that_was_asked_for_and_does_not_work_is_named(programs: Path) -> None:
    engine(programs, "docker")
    status, (line,) = images(programs, "push", CONTAINER_ENGINE="podman")
    assert status == 1
    assert line.startswith("error: CONTAINER_ENGINE: 'podman version' fails")


def test_push_sends_what_is_built(programs: Path) -> None:
    engine(programs, "podman")
    both = [f"{REPO}/{name}:7" for name in ("bitfusiond", "bitfusion-client")]
    assert images(programs, "push", BUILT=" ".join(both))[1] == [
        line for image in both for line in (f"podman: push {image}", f"pushed {image}")
    ]
    status, lines = images(programs, "push", BUILT=both[0])
    assert status == 0
    assert lines[-1] == f"{both[1]} is not built and not pushed: just build-image with PACKAGES=DIR"


def test_push_of_nothing_says_what_to_do(programs: Path) -> None:
    engine(programs, "podman")
    assert images(programs, "push") == (1, [f"error: {REPO}/bitfusiond:7 is not built: just build-image"])


def test_the_recipes_take_variables_both_ways() -> None:
    just = Path(sys.executable).with_name("just")
    if not just.exists():
        pytest.skip("pip install rust-just beside this Python to run this")
    environment = {**os.environ, "CONTAINER_ENGINE": "none-such"}
    by_environment = subprocess.run([just, "push-image"], env=environment, cwd=ROOT, capture_output=True, check=False)
    by_override = subprocess.run(
        [just, "CONTAINER_ENGINE=none-such", "push-image"], cwd=ROOT, capture_output=True, check=False
    )
    for done in (by_environment, by_override):
        assert b"CONTAINER_ENGINE: 'none-such version' fails" in done.stderr
