"""``just build-image`` and ``just push-image`` with stand-in engines that say what they were asked for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import bitfusiond
from bitfusiond.operate import settings
from tests import ROOT
from tests.unit.image.engines import BOTH, COSIGN, DIGEST, REPO, Images, engine, put


def test_the_first_engine_that_works_builds(programs: Path, images: Images) -> None:
    engine(programs, "docker", works=False)
    engine(programs, "buildah")
    status, lines = images("build")
    assert status == 0
    assert [line.split()[0] for line in lines] == ["buildah:", "built", "on", "for"]
    assert f"--target bitfusiond --tag {REPO}/bitfusiond:7 ." in lines[0]
    assert f"--label org.opencontainers.image.version={bitfusiond.__version__}" in lines[0]


def test_the_time_of_the_build_is_told_where_it_is_given(programs: Path, images: Images) -> None:
    engine(programs, "docker")
    _, without = images("build")
    _, told = images("build", CREATED="2026-01-02T03:04:05Z")
    assert "image.created" not in without[0]
    assert "--label org.opencontainers.image.created=2026-01-02T03:04:05Z" in told[0]


def test_without_packages_it_says_how_to_get_the_client(programs: Path, images: Images) -> None:
    engine(programs, "podman")
    _, lines = images("build")
    assert lines[-1].startswith(f"for {REPO}/bitfusion-client:7: just build-image with PACKAGES=DIR")


def test_with_packages_both_are_built_on_the_base_that_is_named(programs: Path, images: Images, tmp_path: Path) -> None:
    engine(programs, "docker")
    status, lines = images("build", "--no-cache", PACKAGES=str(tmp_path), BASE="a", BUILD_BASE="b")
    first, _, _, second, _ = lines
    assert status == 0
    for line in (first, second):
        assert "--build-arg BASE=a --build-arg BUILD_BASE=b" in line
        assert " --no-cache " in line
    assert f"--build-context packages={tmp_path} --tag {REPO}/bitfusion-client:7 ." in second


def test_a_directory_of_packages_that_is_none_is_named(programs: Path, images: Images) -> None:
    engine(programs, "docker")
    status, (line,) = images("build", PACKAGES="/no such")
    assert status == 1
    assert line.startswith("error: PACKAGES: '/no such' is no directory")


def test_no_engine_at_all(programs: Path, images: Images) -> None:
    engine(programs, "docker", works=False)
    status, (line,) = images("build")
    assert status == 1
    assert line.startswith("error: none of docker, podman and buildah works here: install one")


def test_an_engine_that_was_asked_for_and_does_not_work_is_named(programs: Path, images: Images) -> None:
    engine(programs, "docker")
    status, (line,) = images("push", CONTAINER_ENGINE="podman")
    assert status == 1
    assert line.startswith("error: CONTAINER_ENGINE: 'podman version' fails")


# --- the base by its digest -----------------------------------------------------------------------------------------


def test_the_default_base_is_the_image_of_python_by_its_tag_or_digest() -> None:
    (base,) = re.findall(r"^ARG BASE=(.*)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.1[123]-slim(@sha256:[0-9a-f]{64})?", base)


def test_a_base_by_its_digest_is_told_by_the_image_and_one_by_its_tag_by_the_build(
    programs: Path, images: Images
) -> None:
    engine(programs, "docker")
    status, lines = images("build", BASE=f"r/python:3.13@{DIGEST}")
    assert status == 0
    assert f"--build-arg BASE=r/python:3.13@{DIGEST}" in lines[0]
    assert f"--label org.opencontainers.image.base.digest={DIGEST}" in lines[0]
    assert not [line for line in lines if "tomorrow" in line]
    _, lines = images("build", BASE="r/python:3.13")
    assert "base.digest" not in lines[0]
    assert lines[2] == (
        "on r/python:3.13, which may be another image tomorrow: BASE=$(just base-digest) just build-image"
    )


@pytest.mark.parametrize("variable", ["BASE", "BUILD_BASE"])
@pytest.mark.parametrize(
    "wrong", ["r/x@sha256:0123", f"r/x@{DIGEST}0", f"r/x@{DIGEST.upper()}", f"@{DIGEST}", "r/x@latest"]
)
def test_a_digest_that_is_none_is_refused_before_anything_is_built(
    programs: Path, images: Images, variable: str, wrong: str
) -> None:
    engine(programs, "docker")
    status, (line,) = images("build", **{variable: wrong})
    assert status == 1
    assert line.startswith(f"error: {variable}: '{wrong}' is not NAME[:TAG]@sha256: and 64 digits")


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_the_digest_of_a_tag_is_found_with_each_engine(programs: Path, images: Images, name: str) -> None:
    engine(programs, name)
    (default,) = re.findall(r"^ARG BASE=([^@\n]*)", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert images("base") == (0, [f"{default}@{DIGEST}"])
    assert images("base", BASE=f"r/x:1@{DIGEST[::-1]}") == (0, [f"r/x:1@{DIGEST}"])
    assert images("base", BASE="r/x:1", DIGEST="") == (1, [f"error: {name} does not tell the digest of r/x:1"])


# --- what comes beside an image -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_what_an_image_holds_is_taken_out_of_it(
    programs: Path, images: Images, checkout: Path, tmp_path: Path, name: str
) -> None:
    engine(programs, name)
    _, lines = images("build", PACKAGES=str(tmp_path))
    assert lines[-1].endswith("dist/bitfusion-client.cdx.json says what it holds")
    for image in ("bitfusiond", "bitfusion-client"):
        taken = (checkout / f"dist/{image}.cdx.json").read_text()
        if name == "buildah":
            assert taken == f"FROM scratch\nCOPY --from={REPO}/{image}:7 /opt/bitfusiond/sbom.cdx.json /\n\n"
        else:
            assert taken == "contents of container:/opt/bitfusiond/sbom.cdx.json\n"


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_push_sends_what_is_built_and_keeps_its_digest(
    programs: Path, images: Images, checkout: Path, name: str
) -> None:
    engine(programs, name)
    status, lines = images("push", BUILT=" ".join(BOTH))
    assert status == 0
    assert [line for line in lines if " digest: " not in line] == [
        line for image in BOTH for line in (f"{name}: push {image}", f"pushed {image}@{DIGEST}")
    ]
    kept = checkout / "dist/images.txt"
    assert kept.read_text().splitlines() == [f"{image}@{DIGEST}" for image in BOTH]
    # Another registry's stay, one that is pushed again is there once.
    other = f"sha256:{'f' * 64}"
    images("push", BUILT=f"r/bitfusiond:7 {BOTH[0]}", IMAGE_REPO="r", DIGEST=other)
    images("push", BUILT=BOTH[0], DIGEST=other)
    assert set(kept.read_text().splitlines()) == {
        f"{BOTH[0]}@{other}",
        f"{BOTH[1]}@{DIGEST}",
        f"r/bitfusiond:7@{other}",
    }
    assert settings.resolve({"IMAGE_DIGESTS": str(kept)}).digests == {
        BOTH[0]: other,
        BOTH[1]: DIGEST,
        "r/bitfusiond:7": other,
    }


def test_push_without_the_client_says_how_to_get_it(programs: Path, images: Images) -> None:
    engine(programs, "podman")
    status, lines = images("push", BUILT=BOTH[0])
    assert status == 0
    assert lines[-1] == f"{BOTH[1]} is not built and not pushed: just build-image with PACKAGES=DIR"


def test_an_engine_that_tells_no_digest_is_named(programs: Path, images: Images, checkout: Path) -> None:
    engine(programs, "podman")
    status, lines = images("push", BUILT=BOTH[0], DIGEST="")
    assert status == 1
    assert lines[-1] == f"error: pushed {BOTH[0]}, but podman does not tell its digest"
    assert not (checkout / "dist/images.txt").exists()


def test_with_a_key_each_image_is_signed_by_its_digest_and_what_it_holds_too(programs: Path, images: Images) -> None:
    engine(programs, "podman")
    put(programs, "cosign", COSIGN)
    _, lines = images("push", BUILT=" ".join(BOTH), COSIGN_KEY="k 1")
    assert [line for line in lines if line.startswith("cosign: ")] == [
        line
        for image, name in zip(BOTH, ("bitfusiond", "bitfusion-client"), strict=True)
        for line in (
            f"cosign: sign --key k 1 {image}@{DIGEST}",
            f"cosign: attest --key k 1 --type cyclonedx --predicate dist/{name}.cdx.json {image}@{DIGEST}",
        )
    ]
    _, lines = images("push", BUILT=" ".join(BOTH))
    assert not [line for line in lines if line.startswith("cosign: ")]


def test_a_key_without_cosign_is_told_before_anything_is_pushed(programs: Path, images: Images) -> None:
    engine(programs, "podman")
    status, (line,) = images("push", BUILT=BOTH[0], COSIGN_KEY="k")
    assert status == 1
    assert line.startswith("error: COSIGN_KEY is set, and there is no cosign to sign with")


def test_a_signature_that_fails_fails_the_push(programs: Path, images: Images) -> None:
    engine(programs, "podman")
    put(programs, "cosign", "#!/bin/sh\nexit 1\n")
    status, lines = images("push", BUILT=BOTH[0], COSIGN_KEY="k")
    assert status == 1
    assert not [line for line in lines if line.startswith("signed")]


def test_push_of_nothing_says_what_to_do(programs: Path, images: Images) -> None:
    engine(programs, "podman")
    assert images("push") == (1, [f"error: {REPO}/bitfusiond:7 is not built: just build-image"])


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
