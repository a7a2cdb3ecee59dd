"""The DRA driver as a process, with claims and slices of a real API server and a stand-in kubelet, from 1.36 on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from bitfusiond.core.fields import Json
from bitfusiond.core.pool import slices
from bitfusiond.core.pool.inventory import Gpu, Server
from tests.fakes import dra_kubelet, pool
from tests.fakes.daemons import Daemon, daemon
from tests.fakes.dra_kubelet import Claim
from tests.real.harness.apiserver import APIServer

MEGABYTES = 100  # of 10^6 bytes
PODS, CLAIMS_A_POD = 40, 10
RESOURCE = "/apis/resource.k8s.io/v1"
# All that the driver may do.
RULES = [{"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims", "resourceslices"], "verbs": ["get"]}]


@dataclass
class World:
    """A node's directories, and the API server."""

    api: APIServer
    directory: Path

    def driver(self, account: str = "driver") -> AbstractAsyncContextManager[Daemon]:
        kubeconfig = self.api.write_kubeconfig(self.directory / account, self.api.token_of("team", account))
        options = {
            "--device-plugin-dir": self.directory / "device-plugins",
            "--dra-driver": "bitfusion.io",
            "--plugins-dir": self.directory / "plugins",
            "--registry-dir": self.directory / "registry",
            "--cdi-dir": self.directory / "cdi",
            "--kubeconfig": kubeconfig,
            "--observe": "none",
        }
        program = [sys.executable, "-W", "error", "-m", "bitfusiond", "--role", "plugin"]
        return daemon([*program, *(str(word) for pair in options.items() for word in pair)])

    def kubelet(self) -> AbstractAsyncContextManager[dra_kubelet.DraKubelet]:
        return dra_kubelet.running(self.directory / "registry")

    def claim(self, name: str, *results: Json) -> Claim:
        """A claim that the scheduler has placed."""
        path = f"{RESOURCE}/namespaces/team/resourceclaims"
        whole = pool.claim(name, *results)
        stored = self.api.create(path, {key: whole[key] for key in ("metadata", "spec")} | {"metadata": {"name": name}})
        self.api.request("PUT", f"{path}/{name}/status", {**stored, "status": whole["status"]})
        return "team", name, stored["metadata"]["uid"]

    def files(self) -> list[Path]:
        return sorted((self.directory / "cdi").glob("*"))


@pytest.fixture(scope="module")
def cluster(api: APIServer) -> Iterator[APIServer]:
    """With a server of 64 GPUs, an account that may do what a driver must, and one that may do nothing."""
    if api.minor < 36:
        pytest.skip(f"the API server is 1.{api.minor}: devices are shared from 1.36 on; run this on a newer one")
    api.namespace("team")
    api.account("team", "driver", RULES)
    api.account("team", "nobody", [])
    gpus = tuple(Gpu(str(number), "V100", 16000) for number in range(64))
    offered = slices.resource_slice(Server("gpu-a", "10.1.2.3:56001", gpus, "gpu-a"), 1)
    name = slices.slice_name("gpu-a")
    path = f"{RESOURCE}/resourceslices/{name}"
    api.create(f"{RESOURCE}/resourceslices", {**offered, "metadata": {"name": name}})
    yield api
    api.delete(path)


@pytest.fixture
def world(cluster: APIServer, directory: Path) -> World:
    for name in "device-plugins", "plugins", "registry":
        (directory / name).mkdir()
    return World(cluster, directory)


async def errors(kubelet: dra_kubelet.DraKubelet, *claims: Claim) -> set[str]:
    response = await kubelet.prepare(*claims)
    assert response.claims.keys() == {uid for _, _, uid in claims}
    return {each.error for each in response.claims.values()}


async def test_many_claims_are_prepared_at_once_with_two_rights_and_bounded_memory(world: World) -> None:
    claims = [
        [
            world.claim(f"many-{one}-{number}", pool.result("gpu-a", f"gpu-{number}", 1))
            for number in range(CLAIMS_A_POD)
        ]
        for one in range(PODS)
    ]
    found: list[set[str]] = []

    async def start(of_pod: list[Claim]) -> None:
        found.append(await errors(kubelet, *of_pod))

    async with world.kubelet() as kubelet, world.driver() as process:
        await kubelet.wait_registered()
        async with trio.open_nursery() as nursery:
            for of_pod in claims:
                nursery.start_soon(start, of_pod)
        assert found == [{""}] * PODS
        assert len(world.files()) == PODS * CLAIMS_A_POD
        for of_pod in claims:
            assert {each.error for each in (await kubelet.unprepare(*of_pod)).claims.values()} == {""}
        status = Path(f"/proc/{process.process.pid}/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 // 10**6
        assert await process.stop() == 0
    assert world.files() == []
    assert peak < MEGABYTES, f"{peak} MB"


async def test_an_api_server_that_is_away_or_silent_is_told_in_time_and_is_found_again(world: World) -> None:
    claim = world.claim("away", pool.result("gpu-a", "gpu-0", 1))
    async with world.kubelet() as kubelet, world.driver():
        await kubelet.wait_registered()
        with world.api.stopped():
            (error,) = await errors(kubelet, claim)
            assert error == f"the API server at {world.api.url}: Connection refused"
        assert await errors(kubelet, claim) == {""}
        assert {each.error for each in (await kubelet.unprepare(claim)).claims.values()} == {""}
        with world.api.frozen():
            began = trio.current_time()
            (error,) = await errors(kubelet, claim)
            assert "the API server" in error
            assert trio.current_time() - began < 12
        assert await errors(kubelet, claim) == {""}


async def test_without_the_rights_it_says_which(world: World) -> None:
    claim = world.claim("forbidden", pool.result("gpu-a", "gpu-0", 1))
    async with world.kubelet() as kubelet, world.driver("nobody"):
        (error,) = await errors(kubelet, claim)
    assert error.startswith("the plugin of this node may not read it (RBAC): ")
    assert 'cannot get resource "resourceclaims" in API group "resource.k8s.io"' in error
