"""Kubelet, plugin and API server of a real node stopped in random order: a pod runs through it, no share is lost."""

from __future__ import annotations

import os
import signal
import time

from tests.fakes.processes import run_quietly
from tests.real.harness.node import Node
from tests.real.harness.plugin import Plugin
from tests.real.harness.schedule import Schedule

SECONDS = 15.0
DOWN_SECONDS = 2.0
FOREVER = "exec sleep 3600"
# A command that restarts this machine's API server; without it only kubelet and plugin are stopped.
RESTART_API_SERVER = "BITFUSIOND_TEST_RESTART_APISERVER"


def test_kubelet_plugin_and_api_server_stopped_in_random_order_lose_no_share_and_no_pod(
    restartable: Node, plugin: Plugin
) -> None:
    node = restartable
    restart_api_server = os.environ.get(RESTART_API_SERVER, "")
    schedule = Schedule(["kubelet", "plugin", *(["API server"] if restart_api_server else [])], SECONDS)
    lost: list[str] = []
    longest = 0.0
    plugin.start_ready()
    node.wait_allocatable("1k")
    with node.pod("survivor", 50, FOREVER):
        node.wait_phase("survivor", "Running")
        before = node.status("survivor").container_statuses[0]
        for fault in schedule:
            match fault:
                case "kubelet":
                    node.restart_kubelet()
                case "plugin":
                    plugin.stop(signal.SIGKILL)
                    time.sleep(schedule.random.uniform(0, DOWN_SECONDS))
                    plugin.start()
                case "API server":
                    run_quietly(restart_api_server)
            if schedule.random.random() < 0.3:
                continue  # the next one is stopped before this one is back
            began = time.monotonic()
            try:
                plugin.wait_ready()
                node.wait_registered()
            except TimeoutError as error:
                lost.append(f"after {fault}: {error}")
            longest = max(longest, time.monotonic() - began)
        node.restart_kubelet()
        plugin.wait_ready()
        node.wait_registered()
        node.wait_allocatable("1k")
        # The scheduler, and a kubelet that has run all along, come back to an API server that was away by waits of up
        # to a minute: they are left out of this.
        node.serves("newcomer", 950, scheduled=False)
        after = node.status("survivor").container_statuses[0]
    print(f"\n  {schedule}\n  {len(lost)} times devices were lost, all back after at most {longest:.1f} s")  # noqa: T201
    assert lost == []
    assert (after.container_id, after.restart_count) == (before.container_id, 0)
    assert plugin.events("session failed") == []
