"""The pool as objects of the cluster."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from bitfusiond.core.pool import slices
from bitfusiond.core.pool.inventory import Gpu, Server

SERVER = Server("gpu-a", "[2001:db8::1]:56001", (Gpu("0", "Tesla V100", 16000), Gpu("1", "T4", 15000)), "host-a", True)
SINCE = "2026-11-28T10:00:00Z"


def stored(server: Server = SERVER, generation: int = 3, tainted: str | None = None) -> dict[str, Any]:
    document = copy.deepcopy(slices.resource_slice(server, generation, tainted))
    document["metadata"] |= {"name": slices.slice_name(server.name), "resourceVersion": "7"}
    return document


def test_a_server_is_a_slice_with_a_device_for_each_gpu() -> None:
    spec = slices.resource_slice(SERVER, 3)["spec"]
    assert spec["pool"] == {"name": "gpu-a", "generation": 3, "resourceSliceCount": 1}
    assert (spec["driver"], spec["allNodes"]) == ("bitfusion.io", True)
    first, second = spec["devices"]
    assert (first["name"], second["name"]) == ("gpu-0", "gpu-1")
    assert first["attributes"] == {
        "server": {"string": "gpu-a"},
        "address": {"string": "[2001:db8::1]:56001"},
        "gpu": {"string": "gpu-a/gpu-0"},
        "server_addr": {"string": "2001:db8::1"},
        "server_hostname": {"string": "host-a"},
        "server_has_rdma": {"bool": True},
        "device_id": {"string": "0"},
        "device_name": {"string": "Tesla V100"},
        "device_phy_memory": {"int": 16000},
    }
    assert first["capacity"]["shares"]["value"] == "100"
    assert first["allowMultipleAllocations"]
    assert "taints" not in first


def test_attributes_are_identifiers_and_the_device_class_takes_the_driver_alone() -> None:
    full = Server("a", "h:1", SERVER.gpus, "h", False, "12.4", "550")
    attributes = slices.resource_slice(full, 1)["spec"]["devices"][0]["attributes"]
    assert len(attributes) == 11
    assert all(re.fullmatch("[a-z_]+", key) for key in attributes)
    assert slices.device_class()["spec"] == {
        "selectors": [{"cel": {"expression": 'device.driver == "bitfusion.io"'}}],
    }


def test_neither_the_generation_nor_our_taint_is_content() -> None:
    for generation, tainted in ((3, None), (4, None), (4, SINCE)):
        summary = slices.summarize(stored(SERVER, generation, tainted))
        assert summary.content == slices.content(slices.resource_slice(SERVER, 1))
        assert (summary.generation, summary.gpus, summary.tainted) == (generation, 2, tainted)


@pytest.mark.parametrize("tainted", [None, SINCE])
@pytest.mark.parametrize(
    "change",
    [
        lambda document: document["metadata"]["labels"].clear(),
        lambda document: document["spec"].update(allNodes=False),
        lambda document: document["spec"]["pool"].update(resourceSliceCount=2),
        lambda document: document["spec"]["devices"].pop(),
        lambda document: document["spec"]["devices"][1]["capacity"]["shares"].update(value="50"),
        lambda document: document["spec"]["devices"][0].pop("allowMultipleAllocations"),
        lambda document: document["spec"]["devices"][0]["attributes"].update(extra={"string": "x"}),
        lambda document: document["spec"]["devices"][0].update(taints=[{"key": "other", "effect": "NoSchedule"}]),
    ],
)
def test_every_other_difference_is(change: Any, tainted: str | None) -> None:
    document = stored(tainted=tainted)
    change(document)
    assert slices.summarize(document).content != slices.content(slices.resource_slice(SERVER, 3))


def test_a_taint_of_some_devices_is_none_of_ours() -> None:
    document = stored(tainted=SINCE)
    del document["spec"]["devices"][0]["taints"]
    summary = slices.summarize(document)
    assert summary.tainted is None
    assert summary.content != slices.content(slices.resource_slice(SERVER, 3))


@pytest.mark.parametrize("spec", [None, {}, {"devices": None}, {"devices": [{}], "pool": {"generation": "7"}}])
def test_a_slice_that_somebody_spoiled_is_read_all_the_same(spec: Any) -> None:
    summary = slices.summarize({"metadata": {"name": "n", "resourceVersion": "1"}, "spec": spec})
    assert summary.generation == 0


def test_a_slice_is_ours_by_driver_and_label() -> None:
    assert slices.is_ours(stored())
    other, unlabelled = stored(), stored()
    other["spec"]["driver"] = "gpu.example.com"
    unlabelled["metadata"] = {"name": "n"}
    assert not slices.is_ours(other)
    assert not slices.is_ours(unlabelled)


def test_what_the_api_server_dropped_is_told_once_by_its_path() -> None:
    sent = slices.resource_slice(SERVER, 1, SINCE)
    kept = copy.deepcopy(sent)
    kept["spec"]["allNodes"] = True
    assert slices.missing(sent, {**kept, "status": {}}) == []
    for device in kept["spec"]["devices"]:
        del device["allowMultipleAllocations"], device["taints"], device["capacity"]["shares"]["requestPolicy"]
    assert slices.missing(sent, kept) == [
        "spec.devices[].capacity.shares.requestPolicy",
        "spec.devices[].allowMultipleAllocations",
        "spec.devices[].taints",
    ]
    assert slices.missing({"a": [1, 2]}, {"a": [1]}) == ["a"]
