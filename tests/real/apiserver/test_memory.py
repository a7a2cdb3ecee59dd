"""The memory of one webhook that is sent everything that was ever found to fill it, one thing after the other."""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from bitfusiond.core import names
from bitfusiond.settings import values
from bitfusiond.settings.values import Address
from bitfusiond.webhook.admission import BODY_LIMIT, MOST_VALUES
from tests.fakes.https_client import HungUpError, connect, head, review
from tests.pods import container, pod
from tests.real.harness.apiserver import APIServer
from tests.real.harness.webhook import Replica, installed, routed

MEGABYTES = 200  # of 10^6 bytes; the manifest allows 256 Mi
_CONNECTION_ENDS = (HungUpError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, OSError)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with routed(tmp_path_factory.mktemp("routed")) as server:
        yield server


@pytest.fixture(scope="module")
def replica(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    with installed(api, tmp_path_factory.mktemp("webhook")) as (_, replica):
        api.namespace("team")
        yield replica


class Attacker:
    """Whoever can open a connection to the webhook."""

    def __init__(self, replica: Replica) -> None:
        self.address = values.address(replica.address)
        self.observe = values.address(str(replica.said("observing")[0]["address"]))
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.statuses: set[int] = set()

    async def posts(self, body: bytes, times: int = 1, path: str = "/mutate") -> None:
        """``body``, on as many connections at once."""

        async def one() -> None:
            with suppress(*_CONNECTION_ENDS):
                async with connect(self.address, self.context) as connection:
                    await connection.send(
                        head("POST", path, {"Content-Type": "application/json", "Content-Length": str(len(body))})
                        + body
                    )
                    self.statuses.add((await connection.response()).status)

        async with trio.open_nursery() as nursery:
            for _ in range(times):
                nursery.start_soon(one)

    async def holds(self, number: int, first: bytes, address: Address, context: ssl.SSLContext | None) -> None:
        """``number`` connections that send ``first`` and then nothing: as many as get in within some seconds."""
        async with AsyncExitStack() as stack:

            async def one() -> None:
                with suppress(*_CONNECTION_ENDS):
                    connection = await stack.enter_async_context(connect(address, context))
                    await connection.send(first)

            with trio.move_on_after(6):
                async with trio.open_nursery() as nursery:
                    for _ in range(number):
                        nursery.start_soon(one)
            await trio.sleep(2)


def _body(given: dict[str, Any], of: str = "team") -> bytes:
    return json.dumps(review(given, of)).encode()


def _filled(text: str) -> bytes:
    """``text`` again and again in a list, up to the limit of a body."""
    return b'{"x":[' + ",".join([text] * (BODY_LIMIT // (len(text) + 1) - 10)).encode() + b"]}"


async def many_small_values(attacker: Attacker) -> None:
    await attacker.posts(_filled('{"a":[]}'), 10)
    await attacker.posts(_body({**pod(), "x": [{} for _ in range(MOST_VALUES - 1000)]}), 10)
    await attacker.posts(_filled("0"), 10)
    await attacker.posts(_filled('""'), 10)


async def many_containers(attacker: Attacker) -> None:
    await attacker.posts(_body(pod(*({} for _ in range(200_000)))), 5)
    await attacker.posts(_body(pod(*({"name": str(each)} for each in range(100_000)))), 5, "/validate")


async def long_answers(attacker: Attacker) -> None:
    many = pod(*(container(name=f"g{each}") for each in range(64)))
    many["metadata"]["annotations"][names.CLIENT_FILTER] = "device.id=" + "1" * 4000
    await attacker.posts(_body(many), 60)
    await attacker.posts(_body(pod(container(command=["bash", "-c", "bitfusion run x; " * 200_000]))), 10)


async def stalled_bodies(attacker: Attacker) -> None:
    large = head("POST", "/mutate", {"Content-Type": "application/json", "Content-Length": str(BODY_LIMIT)})
    await attacker.holds(1500, large + bytes(128 * 1024), attacker.address, attacker.context)


async def idle_connections(attacker: Attacker) -> None:
    await attacker.holds(1500, b"", attacker.address, attacker.context)
    await attacker.holds(1500, b"\x16\x03\x01", attacker.address, None)
    await attacker.holds(1500, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", attacker.observe, None)


async def forged_namespaces(attacker: Attacker) -> None:
    for each in range(12):
        await attacker.posts(_body(pod(), f"{each}" + "n" * (BODY_LIMIT - 10_000)))
    async with trio.open_nursery() as nursery:
        for each in range(300):
            nursery.start_soon(attacker.posts, _body(pod(), f"no-such-{each}"))


async def events_with_long_owners(attacker: Attacker) -> None:
    wrong = pod(container({names.GPU_AMOUNT: "0"}))
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "u", "controller": True, "name": "o" * 2_000_000}
    wrong["metadata"]["ownerReferences"] = [owner]
    async with trio.open_nursery() as nursery:
        for each in range(110):
            wrong["metadata"]["name"] = f"p{each}"
            nursery.start_soon(attacker.posts, _body(wrong))


Attack = Callable[[Attacker], Awaitable[None]]
ATTACKS: list[Attack] = [
    many_small_values,
    many_containers,
    long_answers,
    stalled_bodies,
    idle_connections,
    forged_namespaces,
    events_with_long_owners,
]


async def test_nothing_that_was_ever_found_to_fill_it_takes_200_megabytes(replica: Replica) -> None:
    status = Path(f"/proc/{replica.process.pid}/status")
    peaks = {}
    for attack in ATTACKS:
        attacker = Attacker(replica)
        await attack(attacker)
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        peaks[attack.__name__] = int(lines["VmHWM"].split()[0]) * 1024 // 10**6
        print(f"  {attack.__name__}: at most {peaks[attack.__name__]} MB so far, answers {attacker.statuses}")  # noqa: T201
        assert replica.ready()
    assert max(peaks.values()) < MEGABYTES, peaks
