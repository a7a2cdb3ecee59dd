"""The device table, against the definitions of the API and against protobuf's own arithmetic."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core.devices import (
    KUBELET_MESSAGE_BYTES,
    DeviceTable,
    Health,
    largest_size,
    listed,
    wire_size,
)
from bitfusiond.plugin.v1beta1 import api_pb2 as api

sizes = st.integers(1, 700)
healths = st.sampled_from(Health)


def serialized(size: int, health: Health) -> bytes:
    devices = [api.Device(ID=str(index), health=health.value) for index in range(size)]
    return api.ListAndWatchResponse(devices=devices).SerializeToString()


def test_ids_are_0_to_n_minus_1_in_order_every_time() -> None:
    """The same devices came in a random order each time."""
    table = DeviceTable(1000)
    assert list(table.ids()) == [str(index) for index in range(1000)]
    assert list(table.ids()) == list(DeviceTable(1000, Health.UNHEALTHY).ids())


@given(sizes, healths, sizes, healths)
def test_a_change_counts_the_devices_that_differ(size: int, health: Health, size2: int, health2: Health) -> None:
    before = {str(index): health for index in range(size)}
    after = {str(index): health2 for index in range(size2)}
    differ = {each for each in before.keys() | after.keys() if before.get(each) is not after.get(each)}
    assert DeviceTable(size2, health2).changed_since(DeviceTable(size, health)) == len(differ)


@given(sizes, healths)
def test_devices_by_health_add_up_and_name_every_health(size: int, health: Health) -> None:
    by_health = DeviceTable(size, health).by_health()
    assert by_health.keys() == set(Health)
    assert by_health[health] == sum(by_health.values()) == size


@given(
    sizes, st.lists(st.one_of(st.integers(-5, 800).map(str), st.text(max_size=5), st.sampled_from(["01", "٣", "²"])))
)
def test_exactly_the_ids_that_are_not_in_the_list_are_unknown(size: int, ids: list[str]) -> None:
    table = DeviceTable(size)
    known = set(table.ids())
    assert table.unknown(ids) == list(dict.fromkeys(each for each in ids if each not in known))


def test_a_very_long_id_is_unknown_and_costs_nothing() -> None:
    assert DeviceTable(10).unknown(["9" * 100_000]) == ["9" * 100_000]


@st.composite
def requests(draw: st.DrawFn) -> tuple[DeviceTable, list[str], list[str], int]:
    table = DeviceTable(draw(sizes))
    available = draw(st.lists(st.integers(0, table.size - 1), unique=True, min_size=1))
    must_include = available[: draw(st.integers(0, len(available)))]
    size = draw(st.integers(len(must_include), len(available)))
    return table, [str(each) for each in available], [str(each) for each in must_include], size


@given(requests(), st.randoms(use_true_random=False))
def test_a_preferred_allocation_is_what_was_asked_for_whatever_the_order_of_the_request(
    request_: tuple[DeviceTable, list[str], list[str], int], shuffle: random.Random
) -> None:
    table, available, must_include, size = request_
    preferred = table.preferred(available, must_include, size)
    assert len(set(preferred)) == len(preferred) == size
    assert set(must_include) <= set(preferred) <= set(available)
    assert set(preferred[: len(must_include)]) == set(must_include)
    shuffled, shuffled_must = list(available), list(must_include)
    shuffle.shuffle(shuffled)
    shuffle.shuffle(shuffled_must)
    assert table.preferred(shuffled, shuffled_must, size) == preferred


@given(requests())
def test_no_gpu_is_broken_into_while_a_fuller_one_has_shares_left(
    request_: tuple[DeviceTable, list[str], list[str], int],
) -> None:
    table, available, must_include, size = request_
    preferred = table.preferred(available, must_include, size)
    left = set(available) - set(preferred)

    def used(gpu: int) -> int:
        of_gpu = {str(index) for index in range(gpu * 100, min(gpu * 100 + 100, table.size))}
        return len(of_gpu - (set(available) - set(must_include)))

    taken = {int(each) // 100 for each in preferred[len(must_include) :]}
    untouched = {int(each) // 100 for each in left} - taken
    assert all(used(mine) >= used(other) for mine in taken for other in untouched)


@pytest.mark.parametrize(
    ("available", "must_include", "size", "preferred"),
    [
        (range(300), [], 3, ["0", "1", "2"]),
        # GPU 1 is the one in use: GPUs 0 and 2 stay whole
        ([*range(100), *range(150, 300)], [], 3, ["150", "151", "152"]),
        # GPU 1 has 3 shares left, then the lowest untouched GPU
        ([*range(100), 197, 198, 199, *range(200, 300)], [], 4, ["197", "198", "199", "0"]),
        # an id that must be there makes its GPU the fullest
        (range(300), ["250"], 3, ["250", "200", "201"]),
        # ids of an earlier, longer list
        (["7", "5000", "x"], [], 1, ["7"]),
    ],
)
def test_shares_are_packed(available: list[object], must_include: list[str], size: int, preferred: list[str]) -> None:
    assert DeviceTable(300).preferred(map(str, available), must_include, size) == preferred


@pytest.mark.parametrize(
    ("available", "must_include", "size", "message"),
    [
        (["1", "2"], ["1", "2"], 1, "allocation_size 1 is less than the 2 ids of must_include_deviceIDs"),
        (["1", "2", "2"], [], 3, "allocation_size 3 is more than the 2 ids available"),
        (["1"], ["10"], 1, "unknown device ids in must_include_deviceIDs: '10'"),
        (["1"], [], -1, "allocation_size -1 is less than the 0 ids of must_include_deviceIDs"),
    ],
)
def test_an_impossible_preference_is_an_error_that_says_why(
    available: list[str], must_include: list[str], size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        DeviceTable(10).preferred(available, must_include, size)


def test_a_long_list_of_ids_is_cut_in_a_message() -> None:
    assert listed(["a", "b"]) == "'a', 'b'"
    assert listed([str(each) for each in range(12)], most=2) == "'0', '1' and 10 more"


@given(st.one_of(st.integers(0, 300), st.sampled_from([999, 1000, 1001, 9_999, 10_000, 10_001])), healths)
def test_the_wire_size_is_that_of_protobuf(size: int, health: Health) -> None:
    assert wire_size(size, health) == len(serialized(size, health))


@pytest.mark.slow
def test_the_largest_table_is_the_last_one_that_the_kubelet_receives() -> None:
    """The list grew with --resource-nums without a limit."""
    largest = largest_size()
    assert len(serialized(largest, Health.UNHEALTHY)) <= KUBELET_MESSAGE_BYTES == 4 * 1024 * 1024
    assert len(serialized(largest + 1, Health.UNHEALTHY)) > KUBELET_MESSAGE_BYTES


@given(st.integers(0, 5_000))
def test_the_largest_size_is_exact_for_any_limit(limit: int) -> None:
    largest = largest_size(limit)
    assert wire_size(largest, Health.UNHEALTHY) <= limit < wire_size(largest + 1, Health.UNHEALTHY)
