"""``python -m tests.real.images DIR``: build both images here and save them, for tests and for a cluster of tests.

DIR gets ``bitfusiond.tar`` and ``bitfusion-client.tar``, in the format of ``docker save``, under the names of
``just build-image`` (IMAGE_REPO, IMAGE_TAG). Wants root and the Debian packages debootstrap, buildah, dpkg and rpm: the
base is made from scratch, the clients are small stand-ins. Nothing touches the images that this machine has: all of it
lies in ``--cache``, and the base images are taken from there the next time.

With ``--arm64``, DIR/arm64/bitfusiond.tar is that image for linux/arm64, built as ``PLATFORMS`` builds it. This machine
must be able to run such programs, in a chroot too: its binfmt_misc needs qemu-aarch64 with the flag F.

With ``--previous``, DIR/previous gets the same of the version before this one, under the tag ``previous``, and its
sources: what tests/real/cluster upgrades from. That is the newest tag of the repository, or BASELINE while there is
none.
"""

# ruff: noqa: T201 - a program

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import bitfusiond
from tests import ROOT
from tests.fakes import packages
from tests.fakes.distro import make_distro
from tests.tools import remote

HERE = Path(__file__).parent
SUITE = "bookworm"
BASE = f"localhost/bitfusiond-test-base:{SUITE}"
BUILD_BASE = f"localhost/bitfusiond-test-builder:{SUITE}"
ARM64 = "arm64"
PLATFORMS = {"amd64": "linux/amd64", ARM64: "linux/arm64"}
EMULATOR = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
CLIENTS = ("bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb", "bitfusion-client-centos7-4.5.0-4.x86_64.rpm")
NEEDED = {"debootstrap": "debootstrap", "buildah": "buildah", "dpkg-deb": "dpkg", "rpmbuild": "rpm"}

# The last commit before tests upgraded from one.
BASELINE = "82928327bbe9"
PREVIOUS = "previous"

# Where Debian keeps what no image needs. Python's bytecode goes because python:slim ships none either.
NOT_IN_BASE = (
    *("var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*", "usr/share/doc/*", "usr/share/info/*"),
    *("usr/share/locale/*", "usr/share/man/*", "usr/lib/python3*/**/__pycache__"),
)
# An index of its own, and who signed its certificate: on machines that reach PyPI in another way than by its name.
OF_THIS_MACHINE = ("pip.conf", "ssl/certs/ca-certificates.crt")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.real.images", description=__doc__.partition("\n")[0])
    parser.add_argument("directory", metavar="DIR", type=Path, help="gets bitfusiond.tar and bitfusion-client.tar")
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bitfusiond-test-image"
    parser.add_argument("--cache", metavar="DIR", type=Path, default=default, help="[%(default)s]")
    parser.add_argument("--arm64", action="store_true", help="build bitfusiond for linux/arm64 too")
    parser.add_argument("--previous", action="store_true", help="build the version before this one too")
    chosen = parser.parse_args()
    missing = [package for program, package in NEEDED.items() if shutil.which(program) is None]
    problems = [f"install the Debian package {package}" for package in missing]
    if os.geteuid() != 0:
        problems.append("run this as root: debootstrap makes a root file system")
    if chosen.arm64 and not _emulates():
        problems.append(f"let the kernel run programs for arm64: {EMULATOR} must be there, with the flag F")
    if problems:
        sys.exit("\n".join(problems))

    environment = _environment(chosen.cache)
    with tempfile.TemporaryDirectory(prefix="bitfusiond-image-") as name:
        work = Path(name)
        if not (_has(BASE, environment) and _has(BUILD_BASE, environment)):
            _make_bases(work / "amd64", environment)
        environment["PACKAGES"] = str(_make_packages(work))
        _build(ROOT, chosen.directory, environment)
        if chosen.arm64:
            _build_for_both(work, chosen.directory / ARM64, environment)
        if chosen.previous:
            directory = chosen.directory / PREVIOUS
            _build(_check_out(directory / "checkout"), directory, {**environment, "IMAGE_TAG": PREVIOUS})


def _build(checkout: Path, directory: Path, environment: Mapping[str, str]) -> None:
    _just_build(environment, checkout)
    for image in ("bitfusiond", "bitfusion-client"):
        _save(_name(image, environment), directory / f"{image}.tar", environment)


def _build_for_both(work: Path, directory: Path, environment: Mapping[str, str]) -> None:
    """By bases that are lists, as those of a registry are. The tag is another, as building it takes the list's away."""
    bases = {name: f"{name}-list" for name in (BASE, BUILD_BASE)}
    if not all(_has(f"{name}-{ARM64}", environment) for name in bases):
        _make_bases(work / ARM64, environment, ARM64)
    for name, of in bases.items():
        subprocess.run(["buildah", "manifest", "rm", of], env=environment, capture_output=True, check=False)
        _run(["buildah", "manifest", "create", of, name, f"{name}-{ARM64}"], environment, quiet=True)
    environment = {
        **environment,
        "BASE": bases[BASE],
        "BUILD_BASE": bases[BUILD_BASE],
        "PACKAGES": "",
        "PLATFORMS": ",".join(PLATFORMS.values()),
        "IMAGE_TAG": f"{environment['IMAGE_TAG']}-both",
    }
    _just_build(environment, ROOT)
    _save(f"{_name('bitfusiond', environment)}-{ARM64}", directory / "bitfusiond.tar", environment)


def _just_build(environment: Mapping[str, str], checkout: Path) -> None:
    _run([Path(sys.executable).with_name("just"), "build-image", "--quiet"], environment, checkout)


def _emulates() -> bool:
    """Whether the kernel holds the emulator open, so that a root directory needs none of its own."""
    if not EMULATOR.exists():
        return False
    flags = next(line for line in EMULATOR.read_text().splitlines() if line.startswith("flags:"))
    return "F" in flags.removeprefix("flags:")


def _check_out(directory: Path) -> Path:
    """The sources of the version before this one, without anything that is known of them to this repository."""
    described = ["git", "-C", str(ROOT), "describe", "--tags", "--abbrev=0", "HEAD^"]
    tag = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    archive = directory / "sources.tar"
    _run(["git", "-C", ROOT, "archive", "--output", archive, tag or BASELINE], os.environ)
    _run(["tar", "--extract", "--file", archive, "--directory", directory], os.environ)
    archive.unlink()
    print(f"{directory}: {tag or BASELINE}", flush=True)
    return directory


def _environment(cache: Path) -> dict[str, str]:
    """For every engine's run: a storage of its own, and a kind of isolation that works inside of containers too."""
    cache.mkdir(parents=True, exist_ok=True)
    configuration = cache / "storage.conf"
    driver = os.environ.get("STORAGE_DRIVER", "vfs")
    configuration.write_text(
        f'[storage]\ndriver = "{driver}"\ngraphroot = "{cache}/storage"\nrunroot = "{cache}/run"\n'
    )
    return {
        "BUILDAH_ISOLATION": "chroot",
        "IMAGE_REPO": "docker.io/bitfusiondeviceplugin",
        "IMAGE_TAG": bitfusiond.__version__,
        **os.environ,
        "CONTAINERS_STORAGE_CONF": str(configuration),
        "CONTAINER_ENGINE": "buildah",
        "BASE": BASE,
        "BUILD_BASE": BUILD_BASE,
    }


def _make_bases(work: Path, environment: Mapping[str, str], processor: str = "amd64") -> None:
    root, context = work / "root", work / "context"
    (context / "etc").mkdir(parents=True)
    print("making the base images (some minutes, once)", flush=True)
    end = "" if processor == "amd64" else f"-{processor}"
    _run(
        ["debootstrap", f"--arch={processor}", "--variant=minbase", "--include=python3", SUITE, root],
        environment,
        quiet=True,
    )
    for pattern in NOT_IN_BASE:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    _run(["tar", "--create", "--file", context / "base.tar", "--directory", root, "."], environment)
    for name in OF_THIS_MACHINE:
        if (source := Path("/etc", name)).is_file():
            (copy := context / "etc" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)
    for stage, image in (("base", BASE), ("builder", BUILD_BASE)):
        target = ["--platform", PLATFORMS[processor], "--target", stage, "--tag", f"{image}{end}"]
        _run(["buildah", "build", "--quiet", "--file", HERE / "Containerfile", *target, context], environment)


def _make_packages(work: Path) -> Path:
    clients = work / "packages"
    clients.mkdir()
    for name in CLIENTS:
        tree = make_distro(work / "trees", name, (HERE / "bitfusion").read_text())
        make = packages.deb if name.endswith(".deb") else packages.rpm
        make(tree, clients, name)
    assets, how = remote.directory()
    if assets is None:
        print(f"without the client of PoCL-Remote: {how}", flush=True)
    else:
        shutil.copytree(assets / "client", clients / "pocl", symlinks=True)
    return clients


def _name(image: str, environment: Mapping[str, str]) -> str:
    return f"{environment['IMAGE_REPO']}/{image}:{environment['IMAGE_TAG']}"


def _save(name: str, path: Path, environment: Mapping[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # skopeo's library adds to none
    _run(["buildah", "push", "--quiet", name, f"docker-archive:{path}:{name}"], environment)
    print(f"{path}: {name}, {path.stat().st_size / 1e6:.1f} MB", flush=True)


def _has(image: str, environment: Mapping[str, str]) -> bool:
    command = ["buildah", "inspect", "--type", "image", image]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def _run(
    command: list[str | Path], environment: Mapping[str, str], directory: Path | None = None, *, quiet: bool = False
) -> None:
    """Raises SystemExit that names the command where it fails; what it printed stands before."""
    output = subprocess.DEVNULL if quiet else None
    result = subprocess.run(command, env=environment, cwd=directory, stdout=output, check=False)
    if result.returncode != 0:
        sys.exit(f"{command[0]} ended with {result.returncode}")


if __name__ == "__main__":
    main()
