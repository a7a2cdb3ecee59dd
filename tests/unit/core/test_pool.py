"""The pool's inventory, read."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import pool
from bitfusiond.core.pool import PoolError, Server


def _pool(*servers: Any) -> dict[str, Any]:
    return {"servers": list(servers)}


def test_the_servers_come_in_their_order() -> None:
    document = _pool(
        {"name": "gpu-b", "address": "10.1.2.4:56001", "attributes": {"has-rdma": True}, "gpus": [{"id": "0"}]},
        {"name": "gpu-a", "address": "[2001:db8::1]:56001"},
    )
    assert pool.parse(document) == (Server("gpu-b", "10.1.2.4:56001"), Server("gpu-a", "[2001:db8::1]:56001"))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "the file must be a mapping with the key servers"),
        ({}, "servers: must name at least one server"),
        ({"servers": 1}, "servers: must be a list of objects, not 1"),
        ({"server": []}, "unknown key 'server': allowed is servers"),
        (_pool({"name": "A", "address": "h:1"}), "servers[0].name: A is not a name of at most 63 lower-case letters"),
        (_pool({"name": "a", "address": "h"}), "servers[0].address: 'h' is not HOST:PORT with a port from 1 to 65535"),
        (_pool({"name": "a"}), "servers[0].address: missing is not HOST:PORT"),
        (_pool({"name": "a", "address": "h:1"}, {"name": "a", "address": "i:1"}), "servers[1].name: a is there twice"),
        (_pool({"name": "a", "address": "h:1", "adress": 1}), "servers[0]: unknown key 'adress': allowed are name,"),
        (_pool({"name": "a", "address": "h:1", "gpus": 1}), "servers[0].gpus: must be a list of objects, not 1"),
    ],
)
def test_a_wrong_pool_says_where_and_what(document: object, message: str) -> None:
    with pytest.raises(PoolError) as error:
        pool.parse(document)
    assert message in str(error.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(PoolError) as error:
        pool.parse({**_pool({"name": "A", "address": "h"}), "x": 1})
    assert len(str(error.value).split("; ")) == 3
