"""Images for several processors: one for each, and a list of them in the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitfusiond.operate import settings
from tests.unit.image.engines import BOTH, COSIGN, DIGEST, LIST, Images, engine, put

PLATFORMS = "linux/amd64,linux/arm64"
PARTS = [f"{BOTH[0]}-amd64", f"{BOTH[0]}-arm64"]


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_for_several_processors_bitfusiond_is_an_image_for_each_and_the_client_for_amd64(
    programs: Path, images: Images, checkout: Path, tmp_path: Path, name: str
) -> None:
    engine(programs, name)
    status, lines = images("build", PLATFORMS=PLATFORMS, PACKAGES=str(tmp_path))
    assert status == 0
    amd64, arm64, client = [line for line in lines if line.startswith(f"{name}: build")]
    assert amd64.endswith(f" --platform=linux/amd64 --target bitfusiond --tag {PARTS[0]} .")
    assert arm64.endswith(f" --platform=linux/arm64 --target bitfusiond --tag {PARTS[1]} .")
    assert f" --platform=linux/amd64 --target bitfusion-client --build-context packages={tmp_path} --tag" in client
    assert client.endswith(f" --tag {BOTH[1]} .")
    for each, processor in (
        ("bitfusiond-amd64", "amd64"),
        ("bitfusiond-arm64", "arm64"),
        ("bitfusion-client", "amd64"),
    ):
        assert f"--platform=linux/{processor}" in (checkout / f"dist/{each}.cdx.json").read_text()


def test_for_one_processor_the_image_has_its_own_name(programs: Path, images: Images) -> None:
    engine(programs, "podman")
    _, lines = images("build", PLATFORMS="linux/amd64")
    assert lines[0].endswith(f" --platform=linux/amd64 --target bitfusiond --tag {BOTH[0]} .")
    _, lines = images("build")
    assert "--platform" not in lines[0]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("linux/amd64,linux/s390x", "'linux/s390x' is neither linux/amd64 nor linux/arm64"),
        ("amd64", "'amd64' is neither linux/amd64 nor linux/arm64"),
        ("linux/arm64", "'linux/arm64' lacks linux/amd64, which the plugin and the clients run on"),
    ],
)
def test_processors_that_nothing_is_for_are_refused(programs: Path, images: Images, wrong: str, said: str) -> None:
    engine(programs, "podman")
    for command in ("build", "push"):
        status, (line,) = images(command, PLATFORMS=wrong)
        assert status == 1
        assert line.startswith(f"error: PLATFORMS: {said}")


def test_an_image_of_this_machine_alone_does_not_stay_to_be_pushed_by_mistake(programs: Path, images: Images) -> None:
    engine(programs, "docker")
    _, lines = images("build", PLATFORMS=PLATFORMS, BUILT=BOTH[0])
    assert f"docker: rmi {BOTH[0]}" in lines
    _, lines = images("build", PLATFORMS=PLATFORMS)
    assert not [line for line in lines if "rmi" in line]


@pytest.mark.parametrize("name", ["docker", "podman", "buildah"])
def test_push_makes_one_list_of_what_the_registry_has_and_keeps_its_digest(
    programs: Path, images: Images, checkout: Path, name: str
) -> None:
    engine(programs, name)
    put(programs, "cosign", COSIGN)
    status, lines = images("push", PLATFORMS=PLATFORMS, BUILT=" ".join([*PARTS, BOTH[1]]), COSIGN_KEY="k")
    assert status == 0
    list_name = BOTH[0] if name == "docker" else f"{BOTH[0]}-list"
    to = f"--purge {list_name}" if name == "docker" else f"{list_name} docker://{BOTH[0]}"
    asked = [line for line in lines if " manifest " in line]
    assert asked == [f"{name}: manifest create {list_name} {PARTS[0]} {PARTS[1]}", f"{name}: manifest push {to}"]
    assert f"cosign: sign --key k {BOTH[0]}@{LIST}" in lines
    for part, end in zip(PARTS, ("amd64", "arm64"), strict=True):
        told = f"--predicate dist/bitfusiond-{end}.cdx.json {part}@{DIGEST}"
        assert f"cosign: attest --key k --type cyclonedx {told}" in lines
    kept = settings.resolve({"IMAGE_DIGESTS": str(checkout / "dist/images.txt")}).digests
    assert kept == {PARTS[0]: DIGEST, PARTS[1]: DIGEST, BOTH[0]: LIST, BOTH[1]: DIGEST}


def test_a_list_of_which_one_image_is_not_built_is_not_pushed(programs: Path, images: Images) -> None:
    engine(programs, "podman")
    assert images("push", PLATFORMS=PLATFORMS, BUILT=PARTS[0]) == (
        1,
        [f"error: {PARTS[1]} is not built: just build-image"],
    )
