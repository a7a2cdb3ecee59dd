"""The template of a claim: what a container asks of the scheduler."""

from __future__ import annotations

import re
from typing import Any

from bitfusiond.core.clients.client import Variable
from bitfusiond.core.pool import claims
from bitfusiond.core.pool.claims import Wish
from bitfusiond.core.pool.inventory import Gpu, Pool, Server
from bitfusiond.core.pool.matching import select

_GB = 10**9


def _pool(*megabytes: int) -> Pool:
    gpus = tuple(Gpu(str(index), "V100", each) for index, each in enumerate(megabytes))
    return Pool((Server("a", "a:1", gpus, "a"),))


def _wish(pool: Pool, amount: int, *, memory: int | None = None, one_size: bool = False) -> Wish:
    percent = None if memory else 50
    return claims.wish(amount, percent, memory, select(pool).sizes, one_size=one_size)


def _spec(pool: Pool, wished: Wish, *filters: str) -> dict[str, Any]:
    devices: dict[str, Any] = claims.template(wished, select(pool, filters), [], {}).spec["devices"]
    return devices


def test_a_percentage_is_the_same_of_every_gpu() -> None:
    assert _spec(_pool(16000, 32000), _wish(_pool(16000, 32000), 1)) == {
        "requests": [
            {
                "name": "gpu",
                "exactly": {
                    "deviceClassName": "bitfusion.io",
                    "allocationMode": "ExactCount",
                    "count": 1,
                    "capacity": {"requests": {"shares": "50"}},
                },
            }
        ]
    }


def test_two_gpus_are_two_different_ones() -> None:
    devices = _spec(_pool(16000, 16000), _wish(_pool(16000, 16000), 2))
    assert devices["requests"][0]["exactly"]["count"] == 2
    assert devices["constraints"] == [{"requests": ["gpu"], "distinctAttribute": "bitfusion.io/gpu"}]


def test_memory_is_worked_out_for_each_size_of_gpu_the_smallest_first() -> None:
    pool = _pool(32000, 16000, 8000)
    wished = _wish(pool, 1, memory=10 * _GB)
    assert wished == Wish(1, {16000: 63, 32000: 32})
    first, second = _spec(pool, wished)["requests"][0]["firstAvailable"]
    assert (first["name"], first["capacity"]["requests"]["shares"]) == ("m16000", "63")
    assert first["selectors"][0]["cel"]["expression"].endswith("device_phy_memory == 16000")
    assert (second["name"], second["capacity"]["requests"]["shares"]) == ("m32000", "32")


def test_memory_where_all_gpus_have_the_same_still_names_it() -> None:
    (request,) = _spec(_pool(16000), _wish(_pool(16000), 1, memory=8 * _GB))["requests"]
    assert request["exactly"]["capacity"] == {"requests": {"shares": "50"}}
    assert "device_phy_memory == 16000" in request["exactly"]["selectors"][0]["cel"]["expression"]


def test_gpus_of_one_claim_are_of_one_size_and_one_that_lacks_so_many_is_left_out() -> None:
    assert _wish(_pool(16000, 32000, 32000), 2, memory=8 * _GB) == Wish(2, {32000: 25})
    assert _wish(_pool(16000, 32000), 2, memory=8 * _GB).shares == {}
    assert _wish(_pool(16000, 32000), 3).shares == {}


def test_no_more_sizes_are_named_than_a_request_may_have() -> None:
    pool = _pool(*range(8000, 8010))
    assert list(_wish(pool, 1, memory=_GB).shares) == list(range(8000, 8008))
    assert list(_wish(pool, 1, memory=_GB, one_size=True).shares) == [8000]


def test_a_filter_and_a_size_must_both_hold() -> None:
    expression = _spec(_pool(16000), _wish(_pool(16000), 1, memory=_GB), "device.id=0")["requests"][0]["exactly"]
    assert expression["selectors"][0]["cel"]["expression"].count(" && ") == 3


def test_variables_that_the_node_fills_in_go_with_the_claim() -> None:
    variables = [Variable("LUPINE_SERVER", "{servers}"), Variable("POCL_DEVICES", "remote", between=" ")]
    made = claims.template(_wish(_pool(1), 1), select(_pool(1)), variables, {"gpus": "1"})
    (config,) = made.spec["devices"]["config"]
    assert config["requests"] == ["gpu"]
    assert config["opaque"]["parameters"] == {
        "variables": [
            {"name": "LUPINE_SERVER", "value": "{servers}"},
            {"name": "POCL_DEVICES", "value": "remote", "between": " "},
        ],
        "values": {"gpus": "1"},
    }


def test_who_asks_the_same_shares_a_template_and_who_asks_otherwise_does_not() -> None:
    pool = _pool(16000, 16000)
    made = [claims.template(_wish(pool, amount), select(pool), [], {}) for amount in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0].name != made[2].name
    assert all(re.fullmatch(r"bitfusion-[0-9a-f]{20}", each.name) and claims.is_ours(each.name) for each in made)
