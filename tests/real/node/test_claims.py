"""The plugin's DRA driver on a real kubelet, scheduler and container runtime, from Kubernetes 1.36 on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from kubernetes import client

from bitfusiond.core.pool import allocation
from tests.fakes.pool import SERVERS
from tests.fakes.processes import wait_until
from tests.real.harness.claims import CDI, SMALL_TEMPLATE, Claims, files
from tests.real.harness.node import Node
from tests.real.harness.plugin import Plugin

BOTH = ("bitfusion-0", "bitfusion-1")
PODS = 16


@pytest.fixture(scope="module")
def pool(node: Node) -> Iterator[Claims]:
    """The pool of two servers with a GPU each."""
    if node.minor < 36:
        pytest.skip(f"the cluster is 1.{node.minor}: devices are shared from 1.36 on; run this on a newer one")
    claims = Claims(node, client.CustomObjectsApi(node.core.api_client))
    with claims.pool():
        yield claims
    assert not files()


@pytest.fixture
def driver(plugin: Plugin) -> Plugin:
    """The plugin as DRA driver, ready."""
    start(plugin)
    return plugin


def start(plugin: Plugin) -> None:
    plugin.start_ready("--dra-driver", "bitfusion.io", "--kubeconfig", os.environ["KUBECONFIG"])


def runs(pool: Claims, name: str) -> None:
    pool.node.wait_phase(name, "Running")


def test_each_container_is_told_of_its_own_claim_and_populate_of_all(pool: Claims, driver: Plugin) -> None:
    with pool.pod("train", BOTH):
        runs(pool, "train")
        (first, server), (second, other) = pool.results("train")
        assert {server, other} == {*SERVERS}  # 60 and 60 of 100 are two GPUs
        told = allocation.of_claims(BOTH, pool.env("train", "populate"))
        for claim, chosen in zip(BOTH, (server, other), strict=True):
            own = pool.env("train", claim)
            assert allocation.parse(own["BITFUSIOND_ALLOCATION"]) == told[claim]
            assert own["LUPINE_SERVER"] == SERVERS[chosen]
            (gpu,) = told[claim].gpus
            assert (gpu.server, gpu.address, gpu.id, gpu.shares) == (chosen, SERVERS[chosen], "0", 60)
            assert len(own) == 3
        assert files() == {f"bitfusion.io-claim_{uid}.json" for uid in (first, second)}
        assert driver.metric("dra_prepared_total") == 2
    wait_until(lambda: not files(), "the end of the files")
    assert driver.metric("dra_unprepared_total") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_pod_outlives_the_driver_and_the_next_one_unprepares_it(
    pool: Claims, driver: Plugin, number: signal.Signals
) -> None:
    with pool.pod("survivor"):
        runs(pool, "survivor")
        driver.stop(number)
        assert len(files()) == 1
        start(driver)
        assert pool.node.status("survivor").phase == "Running"
        with pool.pod("newcomer"):
            runs(pool, "newcomer")
            assert len(files()) == 2
    wait_until(lambda: not files(), "the end of the files")


def test_a_pod_waits_for_the_driver_and_one_that_is_deleted_ends_when_it_is_back(pool: Claims, driver: Plugin) -> None:
    with pool.pod("old"):
        runs(pool, "old")
        driver.stop()
        with pool.pod("early"):
            wait_until(lambda: bool(pool.events("early")), "an Event", 60)
            assert pool.node.status("early").phase == "Pending"
            pool.node.core.delete_namespaced_pod("old", "default")
            start(driver)
            runs(pool, "early")
    wait_until(lambda: not files(), "the end of the files")


def test_pods_outlive_restarts_of_the_kubelet_which_finds_the_driver_again(
    restartable: Node, pool: Claims, driver: Plugin
) -> None:
    with pool.pod("survivor"):
        runs(pool, "survivor")
        before = restartable.status("survivor").container_statuses[0]
        for number in range(2, 5):
            restartable.restart_kubelet()
            wait_until(lambda: len(driver.events("driver registered")) == number, "a registration", 60)  # noqa: B023
            driver.wait_ready()
        with pool.pod("newcomer"):
            runs(pool, "newcomer")
        after = restartable.status("survivor").container_statuses[0]
        assert (after.container_id, after.restart_count) == (before.container_id, 0)
    wait_until(lambda: not files(), "the end of the files")
    assert driver.events("session failed") == []


def test_a_claim_that_cannot_be_prepared_says_why_in_the_pods_events(pool: Claims, driver: Plugin) -> None:
    for server in SERVERS:
        pool.set_address(server, "nowhere")
    try:
        with pool.pod("unlucky"):
            wait_until(lambda: bool(pool.events("unlucky")), "an Event", 60)
            (message, *_) = pool.events("unlucky")
            assert "ResourceSlice bitfusion.io-gpu-" in message
            assert "address: 'nowhere' is not HOST:PORT" in message
            assert files() == set()
            for server, address in SERVERS.items():
                pool.set_address(server, address)
            runs(pool, "unlucky")
    finally:
        for server, address in SERVERS.items():
            pool.set_address(server, address)
    wait_until(lambda: not files(), "the end of the files")


def test_the_file_of_a_claim_that_ended_without_any_driver_goes_when_one_starts(pool: Claims, plugin: Plugin) -> None:
    """A kubelet that lost its own notes, or a node that did, asks nobody to unprepare."""
    start(plugin)
    with pool.pod("train"):
        runs(pool, "train")
        (name,) = files()
        content = (CDI / name).read_bytes()
    wait_until(lambda: not files(), "the end of the files")
    plugin.stop()
    (CDI / name).write_bytes(content)
    start(plugin)
    wait_until(lambda: not files(), "the end of the file that is left")
    assert [line["claim"] for line in plugin.events("file of a claim that is gone removed")]


def test_pods_that_start_and_end_while_driver_and_kubelet_are_stopped_all_get_their_claims(
    restartable: Node, pool: Claims, driver: Plugin
) -> None:
    """A rolling update, a crash, an upgrade of the kubelet, in the middle of it all."""
    pods = [f"small-{number}" for number in range(PODS)]
    faults = [signal.SIGTERM, signal.SIGKILL, None, signal.SIGTERM]
    for index, name in enumerate(pods):
        pool.create(name, template=SMALL_TEMPLATE)
        if index % (PODS // len(faults)) == 1:
            stop(restartable, driver, faults.pop())
    for name in pods:
        restartable.wait_phase(name, "Running", 120)
        ((uid, server),) = pool.results(name)
        (gpu,) = allocation.parse(pool.env(name, "bitfusion-0")["BITFUSIOND_ALLOCATION"]).gpus
        assert (gpu.server, gpu.shares) == (server, 5)
        assert f"bitfusion.io-claim_{uid}.json" in files()
    assert len(files()) == PODS
    for name in pods:
        restartable.core.delete_namespaced_pod(name, "default")
    stop(restartable, driver, signal.SIGKILL)
    for name in pods:
        pool.delete(name)
    wait_until(lambda: not files(), "the end of the files", 60)
    assert driver.events("session failed") == []


def stop(node: Node, driver: Plugin, number: signal.Signals | None) -> None:
    """The driver, by a signal, and start the next one; without a signal the kubelet."""
    if number is None:
        node.restart_kubelet()
        return
    driver.stop(number)
    driver.start("--dra-driver", "bitfusion.io", "--kubeconfig", os.environ["KUBECONFIG"])
