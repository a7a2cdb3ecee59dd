"""A pool that is counted once, in what deploy and uninstall do: values, manifests, a first inventory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.pool import inventory, slices
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import yaml_documents
from bitfusiond.files.read import load_yaml
from bitfusiond.operate import checks, choices, claims, current, manifests, overlays, poolfile, settings
from bitfusiond.operate.kubectl import Ref, ref
from bitfusiond.operate.report import NOTE, OK, WRONG
from bitfusiond.operate.verify import pool as verified

_POOL = (
    "servers: [{name: a, address: 'h:1', gpus: [{id: '0', name: T4, memory: 15G}, {id: '1', name: T4, memory: 15G}]}]"
)
_PLUGIN = overlays.OVERLAYS.parent / "base" / "device-plugin.yaml"


def _given(tmp_path: Path, text: str = _POOL) -> dict[str, str]:
    file = tmp_path / "pool.yaml"
    file.write_text(text)
    return {"POOL": str(file)}


def _chosen(given: dict[str, str], now: current.Running | None = None) -> tuple[manifests.Values, list[str]]:
    return choices.choose(settings.resolve(given), now or current.Running())


def _built(values: manifests.Values) -> dict[Ref, dict[str, Any]]:
    documents = yaml_documents.load(_PLUGIN.read_text())
    return {ref(each): each for each in manifests.build(documents, values).all}


# --- what is chosen -------------------------------------------------------------------------------------------------


def test_each_node_offers_the_shares_of_the_pool(tmp_path: Path) -> None:
    values, notes = _chosen(_given(tmp_path), current.Running(resource_nums=1000))
    assert (values.pool, values.resource_nums) == (_POOL, 200)
    assert "POOL: 2 GPUs on 1 servers (given)" in notes
    assert "RESOURCE_NUMS: 200 (those of the pool, which each node offers)" in notes


def test_shares_that_an_operator_gives_count(tmp_path: Path) -> None:
    assert _chosen(_given(tmp_path) | {"RESOURCE_NUMS": "50"})[0].resource_nums == 50


def test_a_pool_stays_as_it_runs(tmp_path: Path) -> None:
    values, notes = _chosen({}, current.Running(pool=_POOL, resource_nums=200))
    assert (values.pool, values.resource_nums) == (_POOL, 200)
    assert "POOL: 2 GPUs on 1 servers (as it runs)" in notes


def test_a_pool_that_was_broken_in_the_cluster_stops_no_deploy() -> None:
    values, notes = _chosen({}, current.Running(pool="servers: 3", resource_nums=200))
    assert values.resource_nums == 200
    assert "POOL: broken in the cluster (as it runs)" in notes


def test_who_takes_the_pool_away_says_what_each_node_may_hand_out() -> None:
    now = current.Running(pool=_POOL, resource_nums=200)
    (problem,) = choices.taken_away(settings.resolve({"POOL": "none"}), now)
    assert problem.startswith("POOL=none: give RESOURCE_NUMS too")
    assert choices.taken_away(settings.resolve({"POOL": "none", "RESOURCE_NUMS": "1000"}), now) == []
    assert _chosen({"POOL": "none", "RESOURCE_NUMS": "1000"}, now)[0].pool == ""


def test_a_pool_that_no_deploy_put_there_is_not_taken_away_in_silence() -> None:
    (problem,) = choices.taken_away(settings.resolve({}), current.Running(pool_path="/x"))
    assert "--pool /x, which no deploy put there" in problem


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("servers: []", "is not a pool: servers: must name at least one server"),
        (": {", "is not a pool: not YAML"),
        (_POOL.replace("T4", "FILL-IN"), "is still to be filled in"),
    ],
)
def test_a_wrong_pool_is_refused_before_anything_is_done(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        settings.resolve(_given(tmp_path, text))


def test_a_pool_that_is_not_there_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`just pool [^`]*` writes a first one"):
        settings.resolve({"POOL": str(tmp_path / "none")})


def test_only_a_kubernetes_that_can_count_a_pool_gets_one() -> None:
    (problem,) = checks.pool(_POOL, (1, 35))
    assert problem.startswith("POOL: the API server is 1.35; a pool is counted once from 1.36 on")
    assert checks.pool(_POOL, (1, 36)) == checks.pool("", (1, 20)) == []


# --- the manifests --------------------------------------------------------------------------------------------------


def test_the_node_serves_claims_where_there_is_a_pool(tmp_path: Path) -> None:
    built = _built(_chosen(_given(tmp_path))[0])
    spec = built[current.PLUGIN]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is True
    assert {"name": "BITFUSIOND_DRA_DRIVER", "value": "bitfusion.io"} in container["env"]
    mounted = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert {each["name"] for each in spec["volumes"]} == mounted.keys()
    assert mounted["cdi"] == "/var/run/cdi"
    assert built[manifests.POOL_MAP]["data"] == {"pool.yaml": _POOL}
    assert Ref("ClusterRole", "bitfusiond-webhook-pool") in built


def test_without_a_pool_nothing_of_it_is_there() -> None:
    built = _built(_chosen({})[0])
    assert not {manifests.POOL_MAP, *overlays.pool_permissions()} & built.keys()
    assert "DRA_DRIVER" not in str(built)


def test_claims_that_pods_hold_are_served_to_their_end(tmp_path: Path) -> None:
    values = manifests.Values("r", "t", 0, 1000, has_claims=True)
    built = _built(values)
    assert "BITFUSIOND_DRA_DRIVER" in str(built[current.PLUGIN])
    assert manifests.POOL_MAP not in built
    assert Ref("ClusterRole", "bitfusiond-device-plugin-pool") in built


# --- what is left in the cluster ------------------------------------------------------------------------------------


def test_pods_that_hold_gpus_are_named_and_many_are_cut() -> None:
    assert claims.described(["team/a"]) == "1 pod holds GPUs of the pool or waits for them (team/a)"
    assert (
        claims.described([f"t/{number}" for number in range(7)])
        == "7 pods hold GPUs of the pool or wait for them (t/0, t/1, t/2, t/3, t/4, ...)"
    )


# --- just pool ------------------------------------------------------------------------------------------------------


def _first(tmp_path: Path, text: str) -> Path:
    source, target = tmp_path / "servers.conf", tmp_path / "pool.yaml"
    source.write_text(text)
    poolfile.run(source, target, lambda _: None)
    return target


def test_a_first_inventory_has_the_servers_and_is_refused_until_it_is_complete(tmp_path: Path) -> None:
    conf = "servers:\n- reachable:10.1.2.3:56001\n  addresses: [10.1.2.3:56001]\n- addresses: ['[2001:db8::1]:56001']\n"
    text = _first(tmp_path, conf).read_text()
    with pytest.raises(inventory.PoolError, match="still to be filled in"):
        inventory.parse(load_yaml(text))
    complete = text.replace("name: FILL-IN, memory: FILL-IN", "name: T4, memory: 15G")
    complete = complete.replace("# attributes", "attributes")
    for name in ("a", "b"):
        complete = complete.replace("FILL-IN", name, 1)
    pool = inventory.parse(load_yaml(complete))
    assert [each.address for each in pool.servers] == ["10.1.2.3:56001", "[2001:db8::1]:56001"]
    assert pool.servers[0].cuda_version == "12.4"


def test_an_inventory_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text("mine")
    with pytest.raises(ConfigurationError, match="is there already"):
        _first(tmp_path, "servers: [{addresses: ['h:1']}]")
    assert (tmp_path / "pool.yaml").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "servers: []", "servers: [{addresses: [h]}]", "\xff: ["])
def test_a_wrong_servers_conf_writes_nothing(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"servers\.conf"):
        _first(tmp_path, text)
    assert not (tmp_path / "pool.yaml").exists()


# --- just verify ----------------------------------------------------------------------------------------------------


def _published(text: str = _POOL, **changes: Any) -> list[dict[str, Any]]:
    found = []
    for server in inventory.parse(load_yaml(text)).servers:
        document = slices.resource_slice(server, 3, changes.get("tainted"))
        document["metadata"] |= {"name": slices.slice_name(server.name), "resourceVersion": "1"}
        found.append(document)
    return found


def _node(shares: str) -> dict[str, Any]:
    return {"metadata": {"name": "n"}, "status": {"allocatable": {names.GPU: shares}}}


def _rows(
    found: list[dict[str, Any]], nodes: Sequence[dict[str, Any]] = (), text: str = _POOL
) -> list[tuple[str, str, str]]:
    return [(row.what, row.state, row.detail) for row in verified.check(text, found, {}, nodes)]


def test_a_pool_that_is_published_as_it_is_written_is_right() -> None:
    assert _rows(_published(), [_node("200")]) == [("one pool", OK, "2 GPUs on 1 servers, all published")]


def test_what_was_not_published_or_dropped_or_is_too_much_is_wrong() -> None:
    assert _rows([])[0][1:] == (WRONG, "its ResourceSlice bitfusion.io-a is not there")
    found = _published()
    del found[0]["spec"]["devices"][0]["allowMultipleAllocations"]
    assert _rows(found)[0][1:] == (WRONG, "its ResourceSlice differs in devices[].allowMultipleAllocations")
    more = _published(_POOL.replace("name: a", "name: b").replace("h:1", "h:2"))
    assert ("ResourceSlice bitfusion.io-b", WRONG, "of a server that is not in the inventory") in _rows(
        [*_published(), *more]
    )
    (row,) = verified.check(_POOL, _published(), None, [])
    assert (row.what, row.state) == ("DeviceClass bitfusion.io", WRONG)


def test_a_server_that_does_not_answer_is_wrong() -> None:
    ((what, state, detail),) = _rows(_published(tainted="2026-11-28T00:00:00Z"))
    assert (what, state) == ("GPU server a", WRONG)
    assert detail.startswith("h:1 does not answer since 2026-11-28T00:00:00Z")


def test_nodes_with_fewer_shares_than_the_pool_are_a_note() -> None:
    assert _rows(_published(), [_node("100"), _node("200")])[1][:2] == ("nodes and the pool", NOTE)


def test_without_a_pool_it_is_said_whether_this_cluster_could_count_one() -> None:
    assert "from 1.36 on" in verified.without((1, 20))[0].detail
    assert "`POOL=pool.yaml just deploy`" in verified.without((1, 36))[0].detail
