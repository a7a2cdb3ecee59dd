"""The documented filter over the pool: which GPUs it leaves, and the CEL that tells the scheduler so."""

from __future__ import annotations

import shlex

import pytest

from bitfusiond.core.pool.inventory import Gpu, Pool, Server
from bitfusiond.core.pool.matching import Selection, select

_A = Server("a", "10.1.2.3:56001", (Gpu("0", "Tesla V100", 16000), Gpu("1", "Tesla T4", 15000)), "host-a", True, "11.2")
_B = Server("b", "[2001:db8::1]:56001", (Gpu("0", "Tesla V100-SXM2-16GB", 16000),), "host-b", None, None, "460.73.01")
_POOL = Pool((_A, _B))
_OURS = 'device.attributes["bitfusion.io"].'


def _left(*filters: str) -> int:
    found = select(_POOL, filters)
    assert not found.problems
    return sum(found.sizes.values())


@pytest.mark.parametrize(
    ("word", "left"),
    [
        ("server.addr=10.1.2.3", 2),
        ("server.addr=2001:db8::1", 1),
        ("server.hostname=host-b", 1),
        ("server.has-rdma=true", 2),
        ("server.cuda-version=11.2", 2),
        ("server.driver-version=460.73.01", 1),
        ("device.id=0", 2),
        ("device.name=Tesla", 3),
        ("device.name=Tesla V100", 2),
        ("device.name=Tesla T4", 1),
        ("device.phy-memory=16000", 2),
    ],
)
def test_each_key_of_the_filter_is_known(word: str, left: int) -> None:
    assert _left(word) == left


def test_words_of_one_key_are_choices_and_of_different_keys_conditions() -> None:
    assert _left("server.hostname=host-a", "server.hostname=host-b") == 3
    assert _left("server.hostname=host-a", "server.hostname=host-b", "device.name=Tesla T4") == 1


def test_sizes_are_ascending_with_how_many_have_each() -> None:
    assert select(_POOL) == Selection("", {15000: 1, 16000: 2})
    assert list(select(_POOL).sizes) == [15000, 16000]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("server.hostname=host-c", "host-c is no server.hostname of a server of the pool: choose of host-a, host-b"),
        ("server.has-rdma=false", "false is no server.has-rdma of a server of the pool: choose of true"),
        ("server.has-rdma=True", "True is no server.has-rdma of a server of the pool: choose of true"),
        (
            "device.name=Tesla V1",
            "Tesla V1 is no device.name of a server of the pool: choose of Tesla V100, Tesla T4, T",
        ),
        ("server.hostname=host-b device.id=1", "no GPU of the pool meets all of it: take a part away"),
    ],
)
def test_what_no_gpu_meets_is_told_with_what_there_is(words: str, problem: str) -> None:
    ((key, told),) = select(_POOL, tuple(shlex.split(words.replace("Tesla V1", "'Tesla V1'")))).problems
    assert (key, told[: len(problem)]) == (words.partition("=")[0], problem)


def test_a_key_of_which_no_server_tells_anything_says_so() -> None:
    pool = Pool((Server("c", "c:1", (Gpu("0", "T4", 1),), "c"),))
    ((_, problem),) = select(pool, ("server.cuda-version=11.2",)).problems
    assert problem == "11.2 is no server.cuda-version of a server of the pool, which tells none"


def test_a_long_list_of_choices_is_cut() -> None:
    pool = Pool(tuple(Server(f"s{i}", f"h:{i + 1}", (Gpu("0", "T4", 1),), f"s{i}") for i in range(30)))
    ((_, problem),) = select(pool, ("server.hostname=x",)).problems
    assert problem.endswith("s18, s19, ...")


def test_addresses_that_a_pod_names_are_a_condition_like_others() -> None:
    found = select(_POOL, (), ("10.1.2.3:56001",))
    assert (found.sizes, found.expression) == (
        {15000: 1, 16000: 1},
        f'has({_OURS}address) && {_OURS}address == "10.1.2.3:56001"',
    )
    ((key, problem),) = select(_POOL, (), ("10.1.2.3:1",)).problems
    assert key == "address"
    assert problem.startswith("10.1.2.3:1 is not the address of a server of the pool: choose of 10.1.2.3:56001, ")


@pytest.mark.parametrize(
    ("words", "expression"),
    [
        (["server.has-rdma=true"], f"has({_OURS}server_has_rdma) && {_OURS}server_has_rdma == true"),
        (["device.phy-memory=16000"], f"has({_OURS}device_phy_memory) && {_OURS}device_phy_memory == 16000"),
        (
            ["device.id=0", "device.id=1", "device.id=0", "server.cuda-version=11.2"],
            (
                f'has({_OURS}device_id) && {_OURS}device_id in ["0", "1"]'
                f' && has({_OURS}server_cuda_version) && {_OURS}server_cuda_version == "11.2"'
            ),
        ),
        (
            ["device.name=Tesla V100"],
            (
                f'has({_OURS}device_name) && ({_OURS}device_name == "Tesla V100"'
                f' || {_OURS}device_name.startsWith("Tesla V100 ") || {_OURS}device_name.startsWith("Tesla V100-"))'
            ),
        ),
    ],
)
def test_the_scheduler_is_told_the_same(words: list[str], expression: str) -> None:
    assert select(_POOL, tuple(words)).expression == expression


@pytest.mark.parametrize(
    ("value", "literal"),
    [('a"b', r'"a\"b"'), ("a\\", r'"a\\"'), ("ü\n", r'"\U000000fc\U0000000a"'), ("🙂", r'"\U0001f642"')],
)
def test_a_value_cannot_leave_its_quotation_marks(value: str, literal: str) -> None:
    assert select(_POOL, (f"server.hostname={value}",)).expression.endswith(f"== {literal}")
