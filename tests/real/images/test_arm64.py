"""The image for linux/arm64: built for it throughout, and its roles do their work, under an emulator where need be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bitfusiond
from tests import pods
from tests.fakes.kubelet import Kubelet
from tests.fakes.pki import Pki
from tests.fakes.processes import running
from tests.real.harness.webhook import Replica
from tests.real.images.saved import Archive, Container
from tests.real.images.test_image import DIRECTORY, OURS, volume

HOW = (
    f"set {DIRECTORY} to a directory with arm64/bitfusiond.tar, as root, to run this: python -m tests.real.images DIR"
    " --arm64 makes it, where the kernel runs programs for arm64"
)
AARCH64 = 183  # EM_AARCH64 of <elf.h>


@pytest.fixture(scope="module")
def archive() -> Archive:
    path = Path(os.environ.get(DIRECTORY, ""), "arm64/bitfusiond.tar")
    if DIRECTORY not in os.environ or not path.exists() or os.geteuid() != 0:
        pytest.skip(HOW)
    return Archive(path)


@pytest.fixture(scope="module")
def image(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Container:
    return archive.unpack(tmp_path_factory.mktemp("arm64") / "image")


def test_it_says_what_it_is_for(archive: Archive) -> None:
    assert (archive.document["os"], archive.document["architecture"]) == ("linux", "arm64")


def test_every_compiled_module_is_for_it(image: Container) -> None:
    modules = list((image.root / OURS).rglob("*.so"))
    assert {"_rust.abi3.so", "_cffi_backend"} <= {path.name.split(".cpython")[0] for path in modules}
    assert {int.from_bytes(path.read_bytes()[18:20], "little") for path in modules} == {AARCH64}


def test_it_is_this_version(image: Container) -> None:
    done = image.run("--version")
    assert (done.returncode, done.stdout.split()[-1]) == (0, bitfusiond.__version__)


def test_the_webhook_admits_a_pod(image: Container, tmp_path: Path) -> None:
    pki = Pki(volume(tmp_path / "tls"))
    pki.key.chmod(0o644)
    options = ["--role", "webhook", "--kubeconfig", "none", "--listen", "127.0.0.1:0", "--observe", "127.0.0.1:0"]
    options += ["--tls-cert", "/tls/tls.crt", "--tls-key", "/tls/tls.key", "--drain-seconds", "0"]
    with running(image.command(*options, volumes={"/tls": pki.cert.parent}), tmp_path / "log") as process:
        replica = Replica(process, tmp_path / "log")
        answer = replica.review(pods.pod(), "team")
        assert answer["allowed"], answer
        assert answer["patch"]
        process.terminate()
        assert process.wait(20) == 0


async def test_the_plugin_serves_a_kubelet(image: Container, tmp_path: Path) -> None:
    directory = volume(tmp_path / "device-plugins")
    options = ["--role", "plugin", "--observe", "127.0.0.1:0", "--resource-nums", "200"]
    command = image.command(*options, user=0, volumes={"/var/lib/kubelet/device-plugins": directory})
    async with Kubelet(directory) as kubelet:
        with running(command, tmp_path / "log"):
            await kubelet.wait_registered()
            assert len(await kubelet.devices()) == 200
            await kubelet.allocate(["7"])
