"""Who has how many shares, out of recorded objects."""

from __future__ import annotations

from typing import Any

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.usage import holdings, quotas
from bitfusiond.core.usage.holdings import Holder
from bitfusiond.core.usage.usage import Counted, Usage, document
from tests.fakes.pool import claim, resource_slice, result
from tests.unit.core.diagnosis import scenes
from tests.unit.core.diagnosis.scenes import injected, node, quota


def held(name: str, pod: str, *results: Json) -> Json:
    """A claim of the namespace ``team`` that a pod uses; nobody with an empty ``pod``."""
    document = claim(name, *results)
    if pod:
        document["status"]["reservedFor"] = [{"resource": "pods", "name": pod, "uid": "u"}]
    return document


def pool_slice(server: str, *ids: str, down: bool = False) -> Json:
    document = resource_slice(server, *ids)
    for device in document["spec"]["devices"]:
        device["capacity"] = {"shares": {"value": "100"}}
        device["attributes"]["device_name"] = {"string": "Tesla V100"}
        if down:
            taint = {"key": names.UNREACHABLE, "value": "true", "effect": "NoSchedule", "timeAdded": scenes.MADE}
            device["taints"] = [taint]
    return document


def usage(**changed: Any) -> Usage:
    usual: Json = {"servers": (), "nodes": (), "pods": (), "quotas": (), "knows_holders": True}
    return Usage("team", **(usual | changed))


CLAIMS = [
    held("c1", "a", result("gpu-a", "gpu-0", 60)),
    held("c2", "b", result("gpu-a", "gpu-0", 40), result("gpu-b", "gpu-0", 10)),
    held("c3", "", result("gpu-a", "gpu-1", 5)),
    {"metadata": {"name": "another driver's", "namespace": "team"}, "status": {}},
]


def test_a_pool_by_its_claims() -> None:
    servers = holdings.servers([pool_slice("gpu-b", "0", down=True), pool_slice("gpu-a", "0", "1")], CLAIMS)
    assert [(each.name, each.address, each.unreachable, each.free) for each in servers] == [
        ("gpu-a", "10.1.2.3:56001", None, 95),
        ("gpu-b", "[2001:db8::2]:56001", scenes.MADE, 0),
    ]
    first, second = servers[0].gpus
    assert (first.id, first.model, first.shares, first.used, first.free) == ("0", "Tesla V100", 100, 100, 0)
    assert first.holders == (Holder("team", "a", 60), Holder("team", "b", 40))
    assert second.holders == (Holder("team", "", 5),)
    assert second.holders[0].words == "team/(a claim) 5"


def test_a_claim_that_two_pods_share_counts_once() -> None:
    shared = held("c", "a", result("gpu-a", "gpu-0", 60))
    shared["status"]["reservedFor"].append({"resource": "pods", "name": "b", "uid": "v"})
    (server,) = holdings.servers([pool_slice("gpu-a", "0")], [shared])
    assert server.gpus[0].used == 60
    assert sorted(holdings.by_pod([shared])) == [("team", "a"), ("team", "b")]


def test_a_drained_gpu_has_nothing_free_and_its_server_answers() -> None:
    document = pool_slice("gpu-a", "0")
    document["spec"]["devices"][0]["taints"] = [{"key": "example.com/drain", "effect": "NoSchedule"}]
    (server,) = holdings.servers([document], [])
    assert (server.unreachable, server.gpus[0].is_open, server.free) == (None, False, 0)


def test_nodes_by_the_requests_of_their_pods() -> None:
    ended = injected(phase="Succeeded")
    other = injected("n2")
    found = holdings.nodes(
        [node("n1", "100"), node("n2", "100", unschedulable=True), node("n3", None)], [injected(), ended, other]
    )
    assert [(each.name, each.shares, each.used, each.free, each.is_open) for each in found] == [
        ("n1", 100, 50, 50, True),
        ("n2", 100, 50, 0, False),
    ]
    assert found[0].holders == (Holder("team", "p", 50),)


def test_a_node_that_is_not_ready_has_nothing_free() -> None:
    down, tainted, well = node("n1"), node("n2", taints=[{"key": "node.kubernetes.io/unreachable"}]), node("n3")
    down["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    well["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    found = holdings.nodes([down, tainted, well], [])
    assert [(each.name, each.free, each.is_open, each.is_ready) for each in found] == [
        ("n1", 0, False, False),
        ("n2", 0, False, False),
        ("n3", 1000, True, True),
    ]


def test_a_quota_counts_shares_and_no_other_resource() -> None:
    other = {"metadata": {"name": "cpu", "namespace": "team"}, "spec": {"hard": {"cpu": "1"}}}
    (found,) = quotas.share_quotas([quota(100, 60), other])
    assert (found.namespace, found.name, found.hard, found.used, found.left) == ("team", "gpus", 100, 60, 40)
    assert quotas.share_quotas([quota(50, 60)])[0].left == 0


def test_a_quota_says_which_pods_it_is_about() -> None:
    some, high = quota(100, 60), quota(50, 0)
    some["spec"]["scopes"] = ["NotTerminating"]
    match = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
    high["spec"]["scopeSelector"] = {"matchExpressions": [match, {"scopeName": "BestEffort", "operator": "Exists"}]}
    assert [each.words for each in quotas.share_quotas([some, high])] == [
        "gpus (scope NotTerminating)",
        "gpus (scope PriorityClass In high, BestEffort)",
    ]


def test_what_is_free_is_not_known_where_the_holders_are_not() -> None:
    servers = holdings.servers([pool_slice("gpu-a", "0")], [])
    assert (usage(servers=servers).free, usage(servers=servers).used) == (100, 0)
    blind = usage(servers=servers, knows_holders=False)
    assert (blind.shares, blind.used, blind.free) == (100, None, None)
    assert (usage().counted, usage().shares, usage().free) == (Counted.UNKNOWN, None, None)


def test_the_document_has_a_form_that_scripts_can_rely_on() -> None:
    claims = [held("c", "p", result("gpu-a", "gpu-0", 50))]
    pods = [holdings.of_pod(injected(phase="Running"), holdings.by_pod(claims))]
    servers = holdings.servers([pool_slice("gpu-a", "0")], claims)
    found = usage(
        servers=servers, nodes=holdings.nodes([node("n1")], []), pods=pods, quotas=quotas.share_quotas([quota(100, 50)])
    )
    assert document(found) == {
        "counted": "pool",
        "namespace": "team",
        "shares": 100,
        "used": 50,
        "free": 50,
        "held": 50,
        "waiting": 0,
        "servers": [
            {
                "name": "gpu-a",
                "address": "10.1.2.3:56001",
                "unreachableSince": None,
                "gpus": [
                    {
                        "id": "0",
                        "model": "Tesla V100",
                        "schedulable": True,
                        "shares": 100,
                        "used": 50,
                        "free": 50,
                        "holders": [{"namespace": "team", "pod": "p", "shares": 50}],
                    }
                ],
            }
        ],
        "nodes": [],
        "pods": [
            {
                "namespace": "team",
                "name": "p",
                "phase": "Running",
                "node": "n1",
                "shares": 50,
                "gpus": [{"server": "gpu-a", "id": "0", "shares": 50}],
            }
        ],
        "quotas": [{"namespace": "team", "name": "gpus", "scopes": [], "hard": 100, "used": 50, "left": 50}],
        "notes": [],
    }


def test_the_document_of_nodes() -> None:
    waiting = holdings.of_pod(injected(None), {})
    found = document(usage(nodes=holdings.nodes([node("n1")], []), pods=[waiting], knows_holders=False, notes=["x"]))
    assert found["counted"] == "nodes"
    assert found["nodes"] == [
        {"name": "n1", "schedulable": True, "ready": True, "shares": 1000, "used": None, "free": None, "holders": []}
    ]
    assert (found["waiting"], found["held"], found["notes"]) == (50, 0, ["x"])
    assert found["pods"][0]["node"] is None
