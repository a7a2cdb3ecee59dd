"""The pool's inventory, read."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core.pool import inventory
from bitfusiond.core.pool.inventory import Gpu, Pool, PoolError, Server

_GPU = {"id": "0", "name": "Tesla V100", "memory": "16000M"}


def _pool(*servers: Any) -> dict[str, Any]:
    return {"servers": list(servers)}


def _server(**fields: Any) -> dict[str, Any]:
    return {"name": "a", "address": "h:1", "gpus": [_GPU], **fields}


def test_the_servers_come_in_their_order_with_all_that_is_said_of_them() -> None:
    attributes = {"hostname": "host-b", "has-rdma": True, "cuda-version": "12.4", "driver-version": "550"}
    document = _pool(
        _server(name="gpu-b", address="10.1.2.4:56001", attributes=attributes),
        _server(name="gpu-a", address="[2001:db8::1]:56001", gpus=[_GPU, {**_GPU, "id": "1", "memory": "16Gi"}]),
    )
    v100 = Gpu("0", "Tesla V100", 16000)
    read = inventory.parse(document)
    assert read == Pool(
        (
            Server("gpu-b", "10.1.2.4:56001", (v100,), "host-b", True, "12.4", "550"),
            Server("gpu-a", "[2001:db8::1]:56001", (v100, Gpu("1", "Tesla V100", 17179)), "gpu-a"),
        )
    )
    assert [each.host for each in read.servers] == ["10.1.2.4", "2001:db8::1"]
    assert read.shares == 100 + 100 + 108  # of the larger one what its memory is in smaller ones


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "the file must be a mapping with the key servers"),
        ({}, "servers: must name at least one server"),
        ({"servers": 1}, "servers: must be a list of objects, not 1"),
        ({"server": []}, "unknown key server: allowed is servers"),
        (_pool(_server(name="A")), "servers[0].name: A is not a text of at most 63 lower-case letters"),
        (_pool(_server(address="h")), "servers[0].address: 'h' is not HOST:PORT with a port from 1 to 65535"),
        (_pool({"name": "a"}), "servers[0].address: missing is not HOST:PORT"),
        (_pool(_server(address="h" * 64 + ":1")), "servers[0].address: has 66 characters: at most 64"),
        (_pool(_server(), _server(address="i:1")), "servers[1].name: a is there twice: each needs name of its own"),
        (_pool(_server(), _server(name="b")), "servers[1].address: h:1 is there twice"),
        (_pool(_server(), _server(name="b", address="h:1 ")), "servers[1].address: 'h:1 ' is not HOST:PORT"),
        (_pool(_server(address="h,i:1")), "servers[0].address: 'h,i:1' is not HOST:PORT"),
        (_pool(_server(adress=1)), "servers[0]: unknown key adress: allowed are name,"),
        (_pool(_server(gpus=1)), "servers[0].gpus: must be a list of objects, not 1"),
        (_pool({"name": "a", "address": "h:1"}), "servers[0].gpus: must name at least one GPU"),
        (_pool(_server(gpus=[_GPU] * 65)), "servers[0].gpus: has 65 entries: bitfusiond takes at most 64"),
        (_pool(_server(gpus=[_GPU, _GPU])), "servers[0].gpus[1].id: 0 is there twice"),
        (_pool(_server(gpus=[{**_GPU, "id": 0}])), "gpus[0].id: 0 is not a text of at most 63"),
        (_pool(_server(gpus=[{**_GPU, "id": 0}])), "put it in quotation marks"),
        (_pool(_server(name="a" * 60)), "gpus[0].id: is too long beside the server's name"),
        (_pool(_server(gpus=[{**_GPU, "memory": "1k"}])), "gpus[0].memory: 1k is not a number of bytes of at least 1M"),
        (_pool(_server(gpus=[{**_GPU, "memory": None}])), "gpus[0].memory: null is not a number of bytes"),
        (_pool(_server(gpus=[{**_GPU, "name": ""}])), "gpus[0].name:"),
        (_pool(_server(gpus=[{**_GPU, "uuid": "x"}])), "gpus[0]: unknown key uuid: allowed are id, name, memory"),
        (_pool(_server(attributes=[])), "servers[0].attributes: must be an object"),
        (_pool(_server(attributes={"rdma": True})), "servers[0].attributes: unknown key rdma: allowed are hostname,"),
        (_pool(_server(attributes={"has-rdma": "yes"})), "servers[0].attributes[has-rdma]: yes is not true or false"),
        (
            _pool(_server(attributes={"cuda-version": 12.4})),
            "[cuda-version]: 12.4 is not a text of 1 to 64 characters: put",
        ),
        (
            _pool(_server(gpus=[{**_GPU, "memory": "FILL-IN"}])),
            "gpus[0][memory]: is still to be filled in: write the value",
        ),
    ],
)
def test_a_wrong_pool_says_where_and_what(document: object, message: str) -> None:
    with pytest.raises(PoolError) as error:
        inventory.parse(document)
    assert message in str(error.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(PoolError) as error:
        inventory.parse({**_pool(_server(name="A", address="h")), "x": 1})
    assert len(str(error.value).split("; ")) == 3


def test_what_is_left_to_fill_in_is_no_other_problem() -> None:
    empty = {"id": "FILL-IN", "name": "FILL-IN", "memory": "FILL-IN"}
    with pytest.raises(PoolError) as error:
        inventory.parse(_pool(_server(gpus=[empty], attributes={"hostname": "FILL-IN"})))
    assert [each.rpartition(": ")[0] for each in str(error.value).split("; ")] == [
        "servers[0].attributes[hostname]: is still to be filled in",
        "servers[0].gpus[0][id]: is still to be filled in",
        "servers[0].gpus[0][name]: is still to be filled in",
        "servers[0].gpus[0][memory]: is still to be filled in",
    ]
