"""The images: what they hold, what they lack, and every role run from them, as the least that a container can be."""

from __future__ import annotations

import email
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import yaml

import bitfusiond
from tests import ROOT
from tests.fakes.kubelet import Kubelet
from tests.fakes.processes import running
from tests.fakes.sbom import problems
from tests.pods import container, pod
from tests.real.harness.webhook import Installation, put_sources, routed
from tests.real.images.saved import Archive, Container

DIRECTORY = "BITFUSIOND_TEST_IMAGES"
HOW = (
    f"set {DIRECTORY} to a directory with bitfusiond.tar and bitfusion-client.tar, as root, to run this: "
    "python -m tests.real.images DIR makes them"
)
DEB = "bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb"
RPM = "bitfusion-client-centos7-4.5.0-4.x86_64.rpm"
ANY_USER = 1_000_680_000  # as OpenShift gives them to its namespaces
OURS = "opt/bitfusiond/"
LIMIT = 45  # MB of what lies on the base; docs/image.md says what it is


def saved(name: str) -> Archive:
    directory = os.environ.get(DIRECTORY)
    if not directory or os.geteuid() != 0:
        pytest.skip(HOW)
    return Archive(Path(directory, f"{name}.tar"))


@pytest.fixture(scope="module")
def archive() -> Archive:
    return saved("bitfusiond")


@pytest.fixture(scope="module")
def image(archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Container:
    return archive.unpack(tmp_path_factory.mktemp("bitfusiond") / "image")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Container:
    return saved("bitfusion-client").unpack(tmp_path_factory.mktemp("bitfusion-client") / "image")


def volume(path: Path) -> Path:
    """A directory as the kubelet makes an emptyDir: everybody's."""
    path.mkdir()
    path.chmod(0o777)
    return path


# --- what they say of themselves ------------------------------------------------------------------------------------


def test_nobody_is_root_unless_asked(archive: Archive) -> None:
    assert archive.config["User"] == "65532:65532"
    assert archive.config["Entrypoint"] == ["bitfusiond"]


@pytest.mark.parametrize("name", ["bitfusiond", "bitfusion-client"])
def test_labels_are_those_of_the_oci_annotations(name: str) -> None:
    labels = saved(name).config["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == name
    assert labels[f"{prefix}licenses"] == "Apache-2.0"
    assert labels[f"{prefix}version"] == bitfusiond.__version__
    assert labels[f"{prefix}base.name"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", labels[f"{prefix}revision"])
    assert labels[f"{prefix}description"]


def test_health_is_left_to_kubernetes(archive: Archive) -> None:
    assert "Healthcheck" not in archive.config


# --- what they hold -------------------------------------------------------------------------------------------------


def test_what_lies_on_the_base_is_small(archive: Archive) -> None:
    ours = [entry for entry in archive.entries() if entry.layer > 0]
    assert sum(entry.size for entry in ours) < LIMIT * 1e6
    assert not [entry.path for entry in ours if Path(entry.path).name.startswith(".wh.")]


def test_nothing_in_them_compiles_or_installs(client: Container) -> None:
    programs = ["bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "opt/bitfusiond/bin"]
    found = {path.name for place in programs for path in (client.root / place).glob("*")}
    assert not found & {"cc", "gcc", "c++", "g++", "clang", "make", "ld", "as", "rustc", "cargo", "strip", "bsdtar"}
    assert not [name for name in found if name.startswith("pip")]
    assert not list(client.root.glob(f"{OURS}lib/python3*/site-packages/pip"))


def test_every_module_is_there_as_bytecode(image: Container) -> None:
    (site,) = image.root.glob(f"{OURS}lib/python3*/site-packages")
    tag = f"cpython-{site.parent.name.removeprefix('python').replace('.', '')}"
    sources = list(site.rglob("*.py"))
    assert sources
    for source in sources:
        assert source.is_relative_to(site / "bitfusiond")
        compiled = source.with_name("__pycache__") / f"{source.stem}.{tag}.pyc"
        assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 0b01  # a hash that nobody checks
    assert list(site.glob("trio/*.pyc"))


def test_the_standard_library_need_not_be_compiled_at_each_start(image: Container) -> None:
    options = ("-v", "-c", "from bitfusiond import cli, populate, supervise")
    said = image.run(*options, entrypoint=("python3",)).stderr
    assert "import 'bitfusiond.supervise'" in said
    compiled = [line for line in said.splitlines() if line.startswith("# code object from") and ".pyc" not in line]
    assert compiled == []


def test_whoever_scans_an_image_finds_the_packages_and_their_licences(image: Container) -> None:
    (site,) = image.root.glob(f"{OURS}lib/python3*/site-packages")
    records = {path.name.split("-")[0].lower() for path in site.glob("*.dist-info") if (path / "METADATA").is_file()}
    assert {"trio", "kubernetes", "cryptography", "bitfusiond", "pyyaml"} <= records
    assert "aiohttp" not in records
    for name in ("trio", "cffi"):  # of cffi one module is left
        assert [path for path in site.glob(f"{name}-*.dist-info/**/LICENSE*") if path.stat().st_size]


@pytest.mark.parametrize("name", ["bitfusiond", "bitfusion-client"])
def test_an_image_has_a_list_of_what_it_holds(image: Container, client: Container, name: str) -> None:
    root = {"bitfusiond": image, "bitfusion-client": client}[name].root
    text = (root / OURS / "sbom.cdx.json").read_text()
    assert problems(text) is None
    listed = json.loads(text)
    assert listed["metadata"]["component"]["name"] == name
    urls = {each["purl"] for each in listed["components"] if "purl" in each}
    records = root.glob(f"{OURS}lib/python3*/site-packages/*.dist-info")
    packages = [email.message_from_string((path / "METADATA").read_text()) for path in records]
    assert {url for url in urls if url.startswith("pkg:pypi/")} == {
        f"pkg:pypi/{re.sub(r'[-_.]+', '-', each['Name']).lower()}@{each['Version']}" for each in packages
    }
    for each in listed["components"]:
        assert each["name"] == "bitfusiond" or each.get("hashes") or not each.get("purl", "").startswith("pkg:pypi/")
    debian = (root / "var/lib/dpkg/status").read_text()
    assert len([url for url in urls if url.startswith("pkg:deb/")]) == debian.count("\nStatus: install ok installed\n")
    clients = {each["name"] for each in listed["components"]} & {DEB, RPM}
    assert clients == ({DEB, RPM} if name == "bitfusion-client" else set())


def test_packages_are_those_of_the_lock(image: Container) -> None:
    listed = json.loads((image.root / OURS / "sbom.cdx.json").read_text())["components"]
    lock = (ROOT / "image/requirements.txt").read_text()
    packages = [
        each for each in listed if each.get("purl", "").startswith("pkg:pypi/") and each["name"] != "bitfusiond"
    ]
    assert packages
    for each in packages:
        assert f"{each['name']}=={each['version']} " in lock
        assert f"--hash=sha256:{each['hashes'][0]['content']}" in lock


def test_the_clients_are_as_in_their_packages(client: Container) -> None:
    for package in (DEB, RPM):
        tree = client.root / "bitfusion" / package
        helper = tree / "opt/bitfusion/bin/helper"
        libraries = tree / "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib"
        assert stat.S_IMODE(helper.stat().st_mode) == 0o4755
        assert helper.samefile(tree / "opt/bitfusion/lib/helper")
        assert (libraries / "libbitfusion.so").readlink() == Path("libbitfusion.so.4")
        assert stat.S_IMODE((tree / "opt/bitfusion/share/nothing yet").stat().st_mode) == 0o1777
        assert (tree / "opt/bitfusion/share/gone").readlink() == Path("no such file")
    listed = yaml.safe_load((client.root / "bitfusion/bitfusion-client-config.yaml").read_text())
    pairs = {(entry["OSVersion"], entry["BitfusionVersion"]) for entry in listed["BitfusionClients"]}
    assert pairs == {("ubuntu18", "450"), ("centos7", "450")}


@pytest.mark.parametrize("package", [DEB, RPM])
def test_what_a_package_means_for_root_alone_can_be_read_by_any_pod(client: Container, package: str) -> None:
    tree = client.root / "bitfusion" / package
    private = tree / "opt/bitfusion/share/doc" / os.fsdecode(b"caf\xe9")  # 0600 in the package
    found = {path: path.stat().st_mode for path in [tree, *tree.rglob("*")] if not path.is_symlink()}
    assert private in found
    for path, mode in found.items():
        wanted = 0o555 if stat.S_ISDIR(mode) else 0o444
        assert mode & wanted == wanted, path


# --- the roles, run from them ---------------------------------------------------------------------------------------


def test_a_container_of_these_tests_is_as_restricted_as_they_say(image: Container) -> None:
    code = "import os; print(os.getuid(), os.getgid(), os.getgroups(), os.access('/', os.W_OK))"
    status = "print(*(line.strip() for line in open('/proc/self/status') if line[:3] in ('Cap', 'NoN')))"
    done = image.run("-c", f"{code}; {status}", entrypoint=("python3",))
    first, second = done.stdout.splitlines()
    assert first == "65532 65532 [] False"
    zeros = "0" * 16
    capabilities = " ".join(f"Cap{each}:\t{zeros}" for each in ("Inh", "Prm", "Eff", "Bnd", "Amb"))
    assert second == f"{capabilities} NoNewPrivs:\t1"


@pytest.mark.parametrize("role", ["webhook", "plugin", "init", "render"])
def test_each_role_explains_itself(image: Container, role: str) -> None:
    done = image.run("--role", role, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: bitfusiond --role {role}")


def test_render_prints_the_example_as_it_does_here(image: Container) -> None:
    examples = {"/examples": ROOT / "manifests/examples"}
    done = image.run("--role", "render", "-f", "/examples/pod.yaml", volumes=examples)
    here = [sys.executable, "-m", "bitfusiond", "--role", "render", "-f", "manifests/examples/pod.yaml"]
    assert done.stdout == subprocess.run(here, cwd=ROOT, capture_output=True, text=True, check=True).stdout


async def test_the_plugin_serves_a_kubelet(image: Container, tmp_path: Path) -> None:
    directory = volume(tmp_path / "device-plugins")
    options = ["--role", "plugin", "--observe", "127.0.0.1:0", "--resource-nums", "200"]
    # The kubelet's own directory is root's, so the manifest asks for root; without a capability, as here.
    command = image.command(*options, user=0, volumes={"/var/lib/kubelet/device-plugins": directory})
    async with Kubelet(directory) as kubelet:
        with running(command, tmp_path / "log") as process:
            await kubelet.wait_registered()
            assert len(await kubelet.devices()) == 200
            await kubelet.allocate(["7"])
            process.terminate()
            assert await trio.to_thread.run_sync(process.wait, 15) == 0


def test_the_webhook_admits_pods_beside_a_real_api_server(image: Container, tmp_path: Path) -> None:
    (cluster := tmp_path / "cluster").mkdir()
    with routed(cluster) as api:
        home = api.namespace("bwki")
        put_sources(api, "kube-system")
        work = tmp_path / "work"
        work.mkdir()
        volumes = {str(work): work, str(api.ca.parent): api.ca.parent}
        for path in (work, api.ca.parent):
            path.chmod(0o755)
        entry = image.command(volumes=volumes)[1:]
        installation = Installation(api, work, home, entry=tuple(entry))
        installation.register()
        with installation.ready_replica() as replica:
            api.namespace("team")
            answer = replica.review(pod(container()), "team")
            assert answer["allowed"], answer
            assert answer["patch"]
            replica.process.terminate()
            assert replica.process.wait(20) == 0


# --- populate -------------------------------------------------------------------------------------------------------


@contextmanager
def populated(client: Container, directory: Path, os_name: str, user: int) -> Iterator[dict[str, Path]]:
    """The volumes of a pod, filled as the template says; ``user`` is the pod's."""
    tokens = volume(directory / "tokens")
    for name in ("ca.crt", "client.yaml", "servers.conf"):
        (tokens / name).write_text("key: value\n")
    volumes = {"/bitfusion-distro": volume(directory / "distro"), "/client": volume(directory / "client")}
    options = ["--role", "init", "--client-os", os_name, "--client-version", "450"]
    done = client.run(
        *options,
        "--opt-target=/bitfusion-distro/opt",
        user=user,
        volumes={**volumes, "/root/.bitfusion": tokens},
    )
    assert done.returncode == 0, done.stderr
    yield volumes


@pytest.mark.parametrize(("os_name", "package"), [("ubuntu18", DEB), ("centos7", RPM)])
def test_populate_works_as_any_user_without_anything_to_write_but_its_volumes(
    client: Container, tmp_path: Path, os_name: str, package: str
) -> None:
    with populated(client, tmp_path, os_name, ANY_USER) as volumes:
        distro = volumes["/bitfusion-distro"]
        original = client.root / "bitfusion" / package
        program = distro / package / "usr/bin/bitfusion"
        assert program.read_bytes() == (original / "usr/bin/bitfusion").read_bytes()
        assert program.stat().st_uid == ANY_USER
        assert os.access(program, os.X_OK)
        assert (distro / "opt/VERSION").read_text() == "4.5.0-4\n"
        assert not (distro / (RPM if package == DEB else DEB)).exists()


def test_the_token_files_are_the_workloads_own(client: Container, tmp_path: Path) -> None:
    with populated(client, tmp_path, "ubuntu18", ANY_USER) as volumes:
        found = {path.name: path.stat() for path in volumes["/client"].iterdir()}
        assert {info.st_uid for info in found.values()} == {ANY_USER}
        assert stat.S_IMODE(found["client.yaml"].st_mode) == 0o600
        assert stat.S_IMODE(found["ca.crt"].st_mode) & 0o444 == 0o444


def test_a_workload_of_that_user_runs_its_program_under_the_client(client: Container, tmp_path: Path) -> None:
    with populated(client, tmp_path, "ubuntu18", ANY_USER) as volumes:
        distro, tokens = volumes["/bitfusion-distro"], volumes["/client"]
        mounts = {
            "/bitfusion": distro,
            "/opt/bitfusion": distro / "opt",
            "/root/.bitfusion": tokens,
            "/etc/bitfusion": tokens,
            "/etc/bitfusion/tls": tokens,
        }
        library = f"/bitfusion/{DEB}/opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/"
        words = ["run", "-n", "1", "-p", "0.500000", "--filter", "device.id=1", "--", "id", "-u"]
        entrypoint = ("env", f"LD_LIBRARY_PATH={library}", f"/bitfusion/{DEB}/usr/bin/bitfusion")
        done = client.run(*words, user=ANY_USER, volumes=mounts, entrypoint=entrypoint)
        assert done.stdout.splitlines()[0] == f"bitfusion: {' '.join(words)}"
        assert done.stdout.splitlines()[-1] == str(ANY_USER)


def test_a_client_that_the_image_lacks_is_named_with_those_that_it_has(client: Container) -> None:
    done = client.run("--role", "init", "--client-os", "centos8", "--client-version", "450")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    failed = json.loads(line)
    assert failed["event"] == "failed"
    assert "/bitfusion/bitfusion-client-config.yaml: there is no client for os 'centos8'" in failed["message"]
    assert "choose one of centos7/450, ubuntu18/450" in failed["message"]
