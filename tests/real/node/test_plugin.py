"""The real executable as a process on the real kubelet."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

from tests.fakes.processes import accepting, wait_until
from tests.real.harness.node import DIRECTORY, RESOURCE, STATUS_SECONDS, Node, delete_directory
from tests.real.harness.plugin import SOCKET, Plugin

RESTARTS = 8
FOREVER = "exec sleep 3600"


def test_the_node_offers_1000_shares_while_the_plugin_runs_and_none_after_it(node: Node, plugin: Plugin) -> None:
    plugin.start_ready()
    node.wait_allocatable("1k")
    assert node.registrations() >= 1
    assert plugin.metric('devices{health="Healthy"}') == 1000
    assert plugin.stop() == 0
    assert not SOCKET.exists()
    node.wait_allocatable("0")


def test_a_pod_that_asks_for_50_shares_runs_and_is_told_of_them(node: Node, plugin: Plugin) -> None:
    plugin.start_ready()
    node.wait_allocatable("1k")
    node.serves("fifty", 50)
    assert (plugin.metric("allocations_total"), plugin.metric("shares_allocated_total")) == (1, 50)


def test_a_pod_that_asks_for_1001_shares_stays_pending_until_the_node_has_them(node: Node, plugin: Plugin) -> None:
    plugin.start_ready()
    node.wait_allocatable("1k")
    with node.pod("too-many", 1001, "true"):
        wait_until(lambda: bool(node.unschedulable("too-many")), "a word of the scheduler")
        assert "Insufficient bitfusion.io/gpu" in node.unschedulable("too-many")
        assert node.status("too-many").phase == "Pending"
    with node.pod("all", 1000, "true"):
        node.wait_phase("all", "Succeeded")


def test_devices_come_back_after_each_of_8_restarts_of_the_kubelet_and_a_pod_survives_them(
    restartable: Node, plugin: Plugin
) -> None:
    node = restartable
    plugin.start_ready()
    node.wait_allocatable("1k")
    with node.pod("survivor", 50, FOREVER):
        node.wait_phase("survivor", "Running")
        before = node.status("survivor").container_statuses[0]
        for number in range(1, RESTARTS + 1):
            node.restart_kubelet()
            wait_until(lambda: plugin.metric("registrations_total") > number, f"registration {number + 1}")  # noqa: B023
            node.wait_registered()
            plugin.wait_ready()
            node.wait_allocatable("1k")
        assert plugin.metric("registrations_total") == RESTARTS + 1
        # The kubelet counts the survivor's 50 as taken, and has the other 950 to give.
        node.serves("newcomer", 950)
        after = node.status("survivor").container_statuses[0]
        assert (after.container_id, after.restart_count) == (before.container_id, 0)
        assert node.status("survivor").phase == "Running"
    assert plugin.events("session failed") == []


def test_without_a_server_devices_are_unhealthy_and_with_one_again_healthy_while_their_pod_runs(
    node: Node, plugin: Plugin, tmp_path: Path
) -> None:
    """Seen in the status of the pod from Kubernetes 1.36 on, and before only in what the node still has."""

    def seen(health: str) -> bool:
        if node.minor < 36:
            return node.allocatable() == ("1k" if health == "Healthy" else "0")
        of_pod = node.status("holder").container_statuses[0].allocated_resources_status or []
        return [(of.name, len(of.resources), {each.health for each in of.resources}) for of in of_pod] == [
            (RESOURCE, 50, {health})
        ]

    def wait(health: str) -> None:
        wait_until(lambda: seen(health), f"{health} devices", STATUS_SECONDS)

    conf = tmp_path / "servers.conf"
    with ExitStack() as stack:
        with accepting("127.0.0.1") as port:
            conf.write_text(f"servers:\n- addresses:\n  - 127.0.0.1:{port}\n")
            plugin.start_ready("--servers-conf", str(conf), "--interval", "1")
            node.wait_allocatable("1k")
            stack.enter_context(node.pod("holder", 50, FOREVER))
            node.wait_phase("holder", "Running")
            wait("Healthy")
        wait("Unhealthy")
        with accepting("127.0.0.1", port):
            wait("Healthy")
        status = node.status("holder")
    assert status.phase == "Running"
    assert status.container_statuses[0].restart_count == 0


def test_after_kill_9_the_next_plugin_takes_over_and_pods_run_on(node: Node, plugin: Plugin) -> None:
    plugin.start_ready()
    node.wait_allocatable("1k")
    with node.pod("survivor", 50, FOREVER):
        node.wait_phase("survivor", "Running")
        assert plugin.stop(signal.SIGKILL) == -signal.SIGKILL
        assert SOCKET.exists()
        node.wait_allocatable("0")
        plugin.start_ready()
        node.wait_allocatable("1k")
        with node.pod("newcomer", 950, "true"):
            node.wait_phase("newcomer", "Succeeded")
        assert node.status("survivor").phase == "Running"


def test_a_plugin_that_is_there_before_the_kubelet_registers_as_soon_as_it_starts(
    restartable: Node, plugin: Plugin
) -> None:
    # To the plugin a kubelet is its socket.
    (DIRECTORY / "kubelet.sock").unlink()
    plugin.start()
    wait_until(lambda: bool(plugin.events("waiting for the kubelet")), "the plugin waits")
    assert plugin.readiness() == (503, "not ready: not registered with the kubelet yet\n")
    restartable.restart_kubelet()
    plugin.wait_ready()
    restartable.wait_registered()
    restartable.wait_allocatable("1k")


def test_the_plugin_survives_its_directory_being_deleted_and_made_anew(restartable: Node, plugin: Plugin) -> None:
    plugin.start_ready()
    delete_directory()
    # For the directory; or, as a kubelet that writes its checkpoint makes that anew, for the kubelet's socket in it.
    wait_until(lambda: plugin.readiness()[0] == 503, "the plugin waits")
    assert plugin.running
    restartable.restart_kubelet()
    plugin.wait_ready()
    restartable.wait_registered()
    restartable.wait_allocatable("1k")
    assert plugin.stop() == 0
