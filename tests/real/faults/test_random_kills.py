"""Kubelet, plugin and API server killed in random order: afterwards every device is there again, and no pod was lost.

The kubelet is the stand-in, on real sockets; tests/real/node has the same with a real one.
"""

from __future__ import annotations

import gc
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import trio

from tests.fakes.kubelet import Kubelet
from tests.real.harness.apiserver import APIServer, Program
from tests.real.harness.load import Load, creating_pods
from tests.real.harness.schedule import Schedule
from tests.real.harness.webhook import installed, routed

SECONDS = 12.0
DEVICES = 1000
RATE = 20.0
# The plugin looks at its sockets every 0.75 s and tries again within seconds; a busy machine starts Python slowly.
BACK_SECONDS = 15.0
DOWN_SECONDS = 1.5
# A stand-in kubelet that is killed while it connects drops that connection, as does the client of an API server that is
# killed in a handshake: nobody else can close it.
KILLED_IN_A_CALL = pytest.mark.filterwarnings("ignore:(?i)unclosed:ResourceWarning")


class Node:
    """A kubelet and a plugin, each of which can be killed while the other one lives or is dead too."""

    def __init__(self, kubelet: Kubelet, directory: Path, log: Path) -> None:
        where = ["--device-plugin-dir", str(directory), "--observe", "none"]
        self.plugin = Program([sys.executable, "-W", "error", "-m", "bitfusiond", "--role", "plugin", *where], log)
        self.longest = 0.0
        self.lost: list[str] = []
        self.allocations = 0
        self._kubelet = kubelet

    async def kill_kubelet(self, down: float) -> None:
        await self._kubelet.stop()
        await trio.sleep(down)
        await self._kubelet.start()

    async def kill_plugin(self, down: float) -> None:
        self.plugin.kill()
        await trio.sleep(down)
        self.plugin.start()

    async def kill_both(self, down: float) -> None:
        self.plugin.kill()
        await self.kill_kubelet(down)
        self.plugin.start()

    async def check(self, after: str) -> None:
        """All devices are there and can be had; otherwise they are lost."""
        began = trio.current_time()
        with trio.move_on_after(BACK_SECONDS) as wait:
            while not await self._whole():
                await trio.sleep(0.05)
        if wait.cancelled_caught:
            self.lost.append(f"the devices, after {after}")
        self.longest = max(self.longest, trio.current_time() - began)

    async def _whole(self) -> bool:
        """Whether the kubelet has a list of all devices, and an answer to what the next pod asks for."""
        try:
            devices = await self._kubelet.devices()
            answer = await self._kubelet.allocate(["0", "999"])
        except Exception:  # noqa: BLE001 - whatever a call ends with whose plugin is killed
            return False
        self.allocations += 1
        return list(devices.values()) == ["Healthy"] * DEVICES and len(answer.container_responses) == 1


async def kill_at_random(
    schedule: Schedule, node: Node, api: APIServer | None = None, load: Load | None = None
) -> None:
    one_at_a_time = trio.Lock()

    async def kill_api_server(task_status: trio.TaskStatus[None]) -> None:
        assert api is not None
        assert load is not None
        async with one_at_a_time:
            task_status.started()
            await trio.to_thread.run_sync(restart, api, load)

    async with trio.open_nursery() as nursery:
        node.plugin.start()
        await node.check("the start")
        for fault in schedule:
            down = schedule.random.uniform(0, DOWN_SECONDS)
            match fault:
                case "kubelet":
                    await node.kill_kubelet(down)
                case "plugin":
                    await node.kill_plugin(down)
                case "kubelet and plugin":
                    await node.kill_both(down)
                case "API server":
                    await nursery.start(kill_api_server)  # others are killed meanwhile
            if schedule.random.random() < 0.7:  # else the next one is killed before this one is back
                await node.check(fault)
        await node.check("the last kill")


def restart(api: APIServer, load: Load) -> None:
    with load.without_api_server(), api.stopped():
        pass


def report(schedule: Schedule, node: Node) -> None:
    gc.collect()  # while KILLED_IN_A_CALL is in force
    print(  # noqa: T201 - figures for whoever runs this with -s
        f"\n  {schedule}\n  {node.allocations} allocations, {len(node.lost)} times devices were lost,"
        f" the longest time until all were back {node.longest:.2f} s"
    )
    assert node.lost == []


@KILLED_IN_A_CALL
async def test_kubelet_and_plugin_killed_in_random_order_lose_no_device(directory: Path, tmp_path: Path) -> None:
    schedule = Schedule(["kubelet", "plugin", "kubelet and plugin"], SECONDS)
    async with Kubelet(directory) as kubelet:
        node = Node(kubelet, directory, tmp_path / "plugin.log")
        try:
            await kill_at_random(schedule, node)
        finally:
            node.plugin.kill()
    report(schedule, node)
    assert "Traceback" not in (tmp_path / "plugin.log").read_text()


@KILLED_IN_A_CALL
async def test_kubelet_plugin_and_api_server_killed_in_random_order_lose_no_device_and_no_pod(
    directory: Path, tmp_path: Path
) -> None:
    schedule = Schedule(["kubelet", "plugin", "kubelet and plugin", "API server"], SECONDS)
    with ExitStack() as stack:
        api = stack.enter_context(routed(tmp_path))
        stack.enter_context(installed(api, tmp_path))
        load = stack.enter_context(creating_pods(api.door, api.namespace("kills"), RATE))
        async with Kubelet(directory) as kubelet:
            node = Node(kubelet, directory, tmp_path / "plugin.log")
            try:
                await kill_at_random(schedule, node, api, load)
            finally:
                node.plugin.kill()
    report(schedule, node)
    print(f"  {load.summary()}")  # noqa: T201
    assert load.failures == []
    assert load.stored > 0
