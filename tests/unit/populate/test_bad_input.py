"""What ``--role init`` says when it cannot do its work: one line that a person can act on, and the exit status."""

from __future__ import annotations

import fcntl
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.distro import make_distro
from tests.fakes.places import tmpfs
from tests.fakes.volumes import PACKAGE, Pod, hidden, shown


def nothing_was_copied(pod: Pod) -> bool:
    return not any(shown(volume) | hidden(volume) for volume in pod.volumes)


def test_an_unknown_client_is_a_configuration_error_with_the_list(pod: Pod) -> None:
    result = pod.run(os_name="debian12")

    assert result.status == 2
    assert result.stderr == (
        "bitfusiond: --client-os, --client-version: there is no client for os 'debian12' version '450'; choose one of "
        "ubuntu18/450, ubuntu20/450, centos7/450, centos8/450, ubuntu18/401, ubuntu20/401, centos7/401, centos8/401 "
        "(os/version)\n"
    )
    assert nothing_was_copied(pod)


def test_a_missing_distro_is_told_with_those_that_are_there(pod: Pod) -> None:
    make_distro(pod.distros, "bitfusion-client-centos7-4.5.0-4.x86_64.rpm")

    message = pod.run(os_name="centos8").message

    assert message == (
        "--distros: there is no distro bitfusion-client-centos8-4.5.0-4.x86_64.rpm (for os centos8, version 450) in "
        f"{pod.distros}: there are bitfusion-client-centos7-4.5.0-4.x86_64.rpm, {PACKAGE}"
    )
    assert nothing_was_copied(pod)


@pytest.mark.parametrize(("makes", "reason"), [(True, "there is none at all"), (False, "No such file or directory")])
def test_an_image_without_distros_is_told(pod: Pod, makes: bool, reason: str) -> None:
    pod.distros = pod.directory / "elsewhere"
    if makes:
        pod.distros.mkdir()

    assert pod.run().message.endswith(f" in {pod.distros}: {reason}")


def test_a_distro_that_lost_its_client_is_told(pod: Pod) -> None:
    (pod.source / "usr/bin/bitfusion").unlink()

    assert pod.run().message == f"--distros: {pod.source} is not a whole client: usr/bin/bitfusion is missing in it"
    assert nothing_was_copied(pod)


@pytest.mark.parametrize(
    ("name", "becomes", "problem"),
    [
        ("usr/bin/bitfusion", "directory", "usr/bin/bitfusion is not a file"),
        ("usr/bin/bitfusion", "file", "usr/bin/bitfusion is empty"),
        ("opt/bitfusion", "file", "opt/bitfusion is not a directory"),
        ("opt/bitfusion", "link", "opt/bitfusion is not a directory"),
    ],
)
def test_a_distro_whose_names_are_of_another_kind_is_told(pod: Pod, name: str, becomes: str, problem: str) -> None:
    path = pod.source / name
    path.rename(pod.directory / "elsewhere")
    if becomes == "directory":
        path.mkdir()
    elif becomes == "file":
        path.touch()
    else:
        path.symlink_to(pod.directory / "elsewhere")

    assert pod.run().message == f"--distros: {pod.source} is not a whole client: {problem}"
    assert nothing_was_copied(pod)


def test_a_client_that_the_image_has_not_is_a_failure_with_the_list_and_the_remedy(pod: Pod) -> None:
    """The pod was admitted by another catalogue: its own settings are right."""
    beside = pod.catalogue({"os": "ubuntu18", "version": "450", "package": PACKAGE}).rename(
        pod.distros / "bitfusion-client-config.yaml"
    )

    assert pod.run(os_name="centos8").message == (
        f"--distros: {beside}: there is no client for os 'centos8' version '450'; choose one of ubuntu18/450 "
        "(os/version): build the image with its package (PACKAGES=DIR just build-image), or deploy the image's "
        "catalogue (CLIENTS=FILE just deploy): such a pod is then refused when it is created"
    )
    assert nothing_was_copied(pod)


def test_two_runs_at_once_are_told(pod: Pod) -> None:
    other = os.open(pod.distro_target, os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        message = pod.run().message
    finally:
        os.close(other)

    assert message == f"--distro-target: {pod.distro_target}: another run is at work there: wait for its end"
    assert pod.run().status == 0


def test_everything_that_is_missing_is_told_at_once(pod: Pod) -> None:
    pod.distro_target.rmdir()
    volume = pod.directory / "volume"
    pod.distro_target = volume / "distro"
    pod.opt_target.rmdir()
    pod.opt_target.symlink_to("elsewhere")
    pod.client_dir.rmdir()
    pod.client_dir.write_text("")
    (pod.tokens / "ca.crt").unlink()
    (pod.tokens / "client.yaml").write_text("\n")
    (pod.tokens / "servers.conf").unlink()
    (pod.tokens / "servers.conf").mkdir()

    package = "bitfusion-client-ubuntu1804_4.0.1-5_amd64.deb"
    assert pod.run(version="401").message.split("; ") == [
        f"--distro-target: {volume}/distro is not there, nor is {volume}: a volume must be mounted on it",
        f"--opt-target: {pod.opt_target} is not there: a volume must be mounted on it",
        f"--client-dir: {pod.client_dir} is not a directory: a volume must be mounted on it",
        f"--distros: there is no distro {package} (for os ubuntu18, version 401) in {pod.distros}: there are {PACKAGE}",
        f"--tokens: {pod.tokens}/ca.crt: missing",
        f"--tokens: {pod.tokens}/client.yaml: empty",
        f"--tokens: {pod.tokens}/servers.conf: a directory: the Secret has no such key",
    ]


def test_volumes_that_are_not_mounted_at_all_are_told(pod: Pod) -> None:
    """A directory of the container's own would be filled for nobody."""
    pod.distro_target, pod.opt_target = Path("/bitfusiond-test-distro"), Path("/bitfusiond-test-opt")
    pod.client_dir.rmdir()

    assert pod.run().message.split("; ") == [
        "--distro-target: /bitfusiond-test-distro is not there: a volume must be mounted on it",
        "--opt-target: /bitfusiond-test-opt is not there: a volume must be mounted on it",
        f"--client-dir: {pod.client_dir} is not there: a volume must be mounted on it",
    ]


@pytest.mark.parametrize("kind", ["FIFO", "socket"])
def test_a_distro_with_something_that_is_no_file_is_refused(pod: Pod, kind: str) -> None:
    strange = pod.source / "opt/strange"
    if kind == "FIFO":
        os.mkfifo(strange)
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            directory = os.open(strange.parent, os.O_RDONLY)
            sock.bind(f"/proc/self/fd/{directory}/strange")  # the whole path is too long for an address
            os.close(directory)

    assert pod.run().message == f"{pod.distros}: cannot copy the distro: {PACKAGE}/opt/strange is a {kind}"
    assert nothing_was_copied(pod)


def test_an_unreadable_source_is_told(pod: Pod) -> None:
    pod.open_source()
    private = pod.source / "usr/bin/bitfusion"
    private.chmod(0o700 if os.geteuid() == 0 else 0)

    message = pod.run_unprivileged().message

    assert message == f"cannot copy {private} to {pod.distro}/usr/bin/bitfusion: Permission denied"
    assert nothing_was_copied(pod)


def test_an_unreadable_token_is_told(pod: Pod) -> None:
    (pod.tokens / "client.yaml").chmod(0o600 if os.geteuid() == 0 else 0)

    assert pod.run_unprivileged().message == f"--tokens: {pod.tokens}/client.yaml: cannot be read: Permission denied"
    assert nothing_was_copied(pod)


@pytest.mark.parametrize("volume", ["distro_target", "opt_target", "client_dir"])
def test_a_volume_that_cannot_be_written_to_is_told(pod: Pod, volume: str) -> None:
    pod.open_source()
    locked: Path = getattr(pod, volume)
    locked.chmod(0o555)

    message = pod.run_unprivileged().message

    assert re.match(rf"(cannot copy {pod.directory}/\S+ to )?{locked}/\S+: Permission denied$", message), message


@pytest.fixture
def read_only(pod: Pod) -> Iterator[Path]:
    """A filesystem that is mounted read-only as the volume of the distro."""
    with tmpfs(pod.distro_target, "ro") as volume:
        yield volume


def test_a_volume_that_is_mounted_read_only_is_told(pod: Pod, read_only: Path) -> None:
    assert pod.run().message == f"cannot copy {pod.source} to {read_only}/{PACKAGE}: Read-only file system"
    assert nothing_was_copied(pod)


def test_a_volume_without_a_writable_place_for_the_targets_is_told(pod: Pod, read_only: Path) -> None:
    pod.distro_target = read_only / "distro"

    assert pod.run().message == f"{pod.distro_target}: Read-only file system"
