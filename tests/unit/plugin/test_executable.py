"""The real executable as a process of its own: what an operator and the node see of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tests.fakes.daemons import SECONDS, daemon, refused
from tests.fakes.kubelet import Kubelet

pytestmark = pytest.mark.slow


def command(directory: Path, *options: str) -> list[str]:
    where = ["--device-plugin-dir", str(directory), "--observe", "127.0.0.1:0"]
    return [sys.executable, "-W", "error", "-m", "bitfusiond", "--role", "plugin", *where, *options]


async def get(address: str, path: str) -> tuple[int, str]:
    host, _, port = address.rpartition(":")
    with trio.fail_after(SECONDS):
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join([chunk async for chunk in stream])
    head, _, body = answer.decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_it_registers_answers_and_on_sigterm_removes_its_socket_and_exits_0(directory: Path) -> None:
    async with Kubelet(directory) as kubelet, daemon(command(directory, "--resource-nums", "250")) as process:
        registration = await kubelet.wait_registered()
        assert registration.request.resource_name == "bitfusion.io/gpu"
        assert len(await kubelet.devices()) == 250
        answer = await kubelet.allocate([str(index) for index in range(50)])
        assert dict(answer.container_responses[0].envs) == {"BITFUSION_GPU_SHARES": "50"}
        registered = await process.event("registered")
        assert (registered["resource"], registered["devices"]) == ("bitfusion.io/gpu", 250)
        assert registered["socket"] == str(directory / "bitfusion.io")
        started = trio.current_time()
        assert await process.stop() == 0
        assert trio.current_time() - started < 3
        await kubelet.wait_stream_ended()
    assert not (directory / "bitfusion.io").exists()
    assert [line["event"] for line in process.lines] == ["observing", "serving", "registered", "stopping"]


async def unseen_seconds(address: str) -> float:
    metrics = (await get(address, "/metrics"))[1].splitlines()
    return next(float(line.split()[1]) for line in metrics if line.startswith("bitfusiond_plugin_kubelet_unseen"))


async def test_ready_means_registered_with_the_present_kubelet_and_metrics_count(directory: Path) -> None:
    async with daemon(command(directory)) as process:
        address = (await process.event("observing"))["address"]
        await process.event("waiting for the kubelet")
        assert await get(address, "/healthz") == (200, "ok\n")
        assert await get(address, "/readyz") == (503, "not ready: not registered with the kubelet yet\n")
        assert await unseen_seconds(address) > 0
        async with Kubelet(directory) as kubelet:
            await process.event("registered")
            assert await get(address, "/readyz") == (200, "ok\n")
            await kubelet.allocate(["1", "2", "3"], ["4"])
            metrics = (await get(address, "/metrics"))[1].splitlines()
            for line in (
                "bitfusiond_plugin_registrations_total 1.0",
                "bitfusiond_plugin_registered 1.0",
                'bitfusiond_plugin_devices{health="Healthy"} 1000.0',
                'bitfusiond_plugin_devices{health="Unhealthy"} 0.0',
                'bitfusiond_plugin_health{health="Healthy",reason="not probed"} 1.0',
                "bitfusiond_plugin_allocations_total 2.0",
                "bitfusiond_plugin_shares_allocated_total 4.0",
                "bitfusiond_plugin_servers_conf_errors_total 0.0",
            ):
                assert line in metrics
            await trio.sleep(0.5)
            assert await unseen_seconds(address) < 0.1  # the kubelet says nothing, but its stream is open
            kubelet.socket.unlink()
            await process.event("kubelet socket changed")
            assert await get(address, "/readyz") == (503, "not ready: there is no kubelet.sock\n")
            await kubelet.stop()
            await trio.sleep(0.5)
            assert 0.4 < await unseen_seconds(address) < SECONDS
            await kubelet.start()
            await process.event("registered", 2)
            assert await get(address, "/readyz") == (200, "ok\n")
            assert "bitfusiond_plugin_registrations_total 2.0" in (await get(address, "/metrics"))[1]
        assert await process.stop(signal.SIGINT) == 0


async def test_after_kill_9_the_next_run_takes_the_socket_over(directory: Path) -> None:
    async with Kubelet(directory) as kubelet:
        async with daemon(command(directory)) as process:
            await kubelet.wait_registered()
            assert await process.stop(signal.SIGKILL) == -signal.SIGKILL
        assert (directory / "bitfusion.io").exists()
        async with daemon(command(directory)) as process:
            await kubelet.wait_registered()
            assert list(await kubelet.devices()) == [str(index) for index in range(1000)]
            assert await process.stop() == 0


async def test_the_environment_of_the_documented_manifest_is_obeyed(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SOCKET_NAME": "a.sock", "RESOURCE_NAME": "a.b/c", "RESOURCE_NUMS": "3"}.items():
        monkeypatch.setenv(name, value)
    async with Kubelet(directory) as kubelet, daemon(command(directory)) as process:
        request = (await kubelet.wait_registered()).request
        assert (request.endpoint, request.resource_name) == ("a.sock", "a.b/c")
        assert list(await kubelet.devices()) == ["0", "1", "2"]
        assert await process.stop() == 0


# --- what cannot work: one line, no traceback -------------------------------------------------------------------------


async def test_another_live_plugin_on_the_socket_is_a_failure(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(directory / "bitfusion.io"))
        alive.listen()
        process = await trio.run_process(command(directory), check=False, capture_stderr=True)
    assert process.returncode == 1
    last = json.loads(process.stderr.splitlines()[-1])
    assert last["event"] == "failed"
    assert last["message"] == (
        f"{directory}/bitfusion.io answers: another device plugin is running; stop it, or choose another --socket-name"
    )
    assert b"Traceback" not in process.stderr
    assert (directory / "bitfusion.io").exists()


async def test_a_socket_path_that_is_too_long_is_wrong_configuration(directory: Path) -> None:
    name = "x" * 120
    status, line = await refused(command(directory, "--socket-name", name))
    length = len(os.fsencode(directory / name))
    assert status == 2
    assert line == (
        "bitfusiond: --device-plugin-dir and --socket-name: the socket path "
        f"{directory}/{name} has {length} bytes; a unix socket allows 107"
    )


async def test_a_missing_plugin_directory_is_wrong_configuration(directory: Path) -> None:
    status, line = await refused(command(directory / "absent"))
    assert status == 2
    assert line == (
        f"bitfusiond: --device-plugin-dir: {directory}/absent does not exist: "
        "it must be the kubelet's device plugin directory"
    )


async def test_a_file_in_place_of_the_plugin_directory_is_wrong_configuration(directory: Path) -> None:
    (directory / "file").touch()
    status, line = await refused(command(directory / "file"))
    assert status == 2
    assert "--device-plugin-dir" in line
    assert "is not a directory" in line


@pytest.mark.parametrize("number", ["205020", "0", "-1", "many", "9" * 400])
async def test_a_number_of_devices_that_the_kubelet_cannot_receive_is_wrong_configuration(
    directory: Path, number: str
) -> None:
    status, line = await refused(command(directory, f"--resource-nums={number}"))
    assert status == 2
    assert line == (
        f"bitfusiond: --resource-nums: {number!r} is not an integer from 1 to 205019 "
        "(a longer list would not fit into the 4 MiB that a kubelet receives)"
    )


async def test_a_directory_that_permits_no_socket_is_a_failure() -> None:
    """/sys permits none to anybody, root included."""
    process = await trio.run_process(command(Path("/sys")), check=False, capture_stderr=True)
    assert process.returncode == 1
    last = json.loads(process.stderr.splitlines()[-1])
    assert last["message"] == "cannot make the socket /sys/bitfusion.io: Operation not permitted"
    assert b"Traceback" not in process.stderr


def test_the_role_imports_nothing_of_the_others() -> None:
    """It runs on every node of the cluster."""
    program = "import sys, bitfusiond.plugin.service; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(result.stdout.split())
    assert "grpclib" in loaded
    assert not loaded & {"kubernetes", "cryptography", "aiohttp", "pydantic", "requests", "grpc"}
