"""The real executable as both a device plugin and a DRA driver."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import dra_kubelet
from tests.fakes.daemons import daemon, refused
from tests.fakes.kubelet import Kubelet
from tests.fakes.processes import free_port
from tests.unit.plugin.test_executable import get

pytestmark = pytest.mark.slow


@pytest.fixture
def kubeconfig(directory: Path) -> Path:
    """Of an API server that is not there."""
    path = directory / "kubeconfig"
    path.write_text(
        f"clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{free_port()}'}}}}]\n"
        "contexts: [{name: c, context: {cluster: c, user: u}}]\ncurrent-context: c\nusers: [{name: u, user: {}}]\n"
    )
    return path


@pytest.fixture
def command(directory: Path, kubeconfig: Path) -> list[str]:
    """The plugin with its driver, on directories of this test."""
    for name in "device-plugins", "plugins", "registry":
        (directory / name).mkdir()
    options = {
        "--device-plugin-dir": directory / "device-plugins",
        "--dra-driver": "bitfusion.io",
        "--plugins-dir": directory / "plugins",
        "--registry-dir": directory / "registry",
        "--cdi-dir": directory / "cdi",
        "--kubeconfig": kubeconfig,
        "--observe": "127.0.0.1:0",
    }
    program = [sys.executable, "-W", "error", "-m", "bitfusiond", "--role", "plugin"]
    return [*program, *(str(word) for pair in options.items() for word in pair)]


async def test_it_is_ready_when_the_kubelet_knows_both_and_on_sigterm_no_socket_is_left(
    directory: Path, command: list[str]
) -> None:
    async with Kubelet(directory / "device-plugins"), daemon(command) as process:
        address = (await process.event("observing"))["address"]
        await process.event("registered")
        assert await get(address, "/readyz") == (
                503, "not ready: the DRA driver is not registered with the kubelet yet\n"
            )  # fmt: skip
        async with dra_kubelet.running(directory / "registry") as kubelet:
            await process.event("driver registered")
            assert await get(address, "/readyz") == (200, "ok\n")
            error = (await kubelet.prepare(("team", "train", "a-uid"))).claims["a-uid"].error
            assert error.startswith("the API server at http://127.0.0.1:")
            assert error.endswith("Connection refused")
            metrics = (await get(address, "/metrics"))[1].splitlines()
            for line in (
                "bitfusiond_plugin_dra_registered 1.0",
                "bitfusiond_plugin_dra_prepared_total 0.0",
                'bitfusiond_plugin_dra_failures_total{call="prepare"} 1.0',
                'bitfusiond_plugin_dra_failures_total{call="unprepare"} 0.0',
                "bitfusiond_plugin_dra_prepare_seconds_count 1.0",
            ):
                assert line in metrics
            assert await process.stop() == 0
    assert not [path for path in directory.rglob("*") if path.is_socket() and path.name != "kubelet.sock"]
    assert [line for line in process.lines if line["level"] == "error"] == []


async def test_without_the_option_nothing_of_it_is_there(directory: Path, command: list[str]) -> None:
    async with Kubelet(directory / "device-plugins"), daemon([*command, "--dra-driver", "none"]) as process:
        address = (await process.event("observing"))["address"]
        await process.event("registered")
        assert await get(address, "/readyz") == (200, "ok\n")
        assert "bitfusiond_plugin_dra" not in (await get(address, "/metrics"))[1]
        assert not [*(directory / "plugins").iterdir(), *(directory / "registry").iterdir()]
        assert await process.stop() == 0


def test_the_client_of_the_api_server_is_imported_for_it_alone() -> None:
    program = (
        "import sys, trio; from bitfusiond import settings; from bitfusiond.plugin import service;"
        "from bitfusiond.http import observe;"
        "chosen = settings.resolve(settings.Plugin, {}, {});"
        "service._driver(chosen, observe.registry('plugin'));"
        "print(sorted({'kubernetes', 'bitfusiond.plugin.dra'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("option", ["--plugins-dir", "--registry-dir"])
async def test_a_directory_that_is_not_the_kubelets_is_wrong_configuration(
    directory: Path, command: list[str], option: str
) -> None:
    status, line = await refused([*command, option, str(directory / "absent")])
    assert status == 2
    assert line == (
        f"bitfusiond: {option}: {directory}/absent does not exist: it must be the kubelet's directory of that name"
    )


async def test_a_path_that_the_kubelet_could_not_follow_is_wrong_configuration(command: list[str]) -> None:
    status, line = await refused([*command, "--registry-dir", "."])
    assert status == 2
    assert line == "bitfusiond: --registry-dir: . is not a path from the root: the kubelet could not follow it"


async def test_a_kubeconfig_that_cannot_be_used_is_wrong_configuration(command: list[str]) -> None:
    status, line = await refused([*command, "--kubeconfig", "/nowhere"])
    assert status == 2
    assert line == "bitfusiond: --kubeconfig: '/nowhere': no such file"
