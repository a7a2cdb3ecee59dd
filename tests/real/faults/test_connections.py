"""Clients that stall, drip, leave, pipeline and send nothing but zeros, all at once: each gets what it deserves, and no
good request beside them is lost or late."""

from __future__ import annotations

import itertools
import json
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from bitfusiond.http.connections import MOST, PATIENCE_SECONDS
from bitfusiond.settings import values
from bitfusiond.settings.values import Address
from bitfusiond.webhook.admission import BODY_LIMIT
from tests import pods
from tests.fakes import https_client as client
from tests.fakes.https_client import Connection, HungUpError, head, review
from tests.fakes.pki import Pki
from tests.real.faults.beside import BODY, LONGEST_SECONDS, asked
from tests.real.harness.webhook import Replica

AT_ONCE = 500
PIPELINED = 50
LARGE_AT_ONCE = 60
MEBIBYTES = 180  # of the 256 that the manifest allows
HALF_HANDSHAKES = 2000
_TYPE = {"Content-Type": "application/json"}
_HEAD = head("POST", "/mutate", {**_TYPE, "Content-Length": str(len(BODY))})
# What a client hello begins with.
_HELLO = b"\x16\x03\x01"

Misbehave = Callable[[Connection], Awaitable[str]]


async def _status(connection: Connection) -> str:
    try:
        return str((await connection.response()).status)
    except HungUpError:
        return "hung up"


async def stalls_in_the_head(connection: Connection) -> str:
    await connection.send(_HEAD[:40])
    return await _status(connection)


async def stalls_in_the_body(connection: Connection) -> str:
    await connection.send(_HEAD + BODY[:-1])
    return await _status(connection)


async def sends_a_byte_a_second(connection: Connection) -> str:
    async def drip() -> None:
        for byte in BODY:
            await connection.send(bytes([byte]))
            await trio.sleep(1)

    await connection.send(_HEAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drip)
        status = await _status(connection)
        nursery.cancel_scope.cancel()
    return status


async def leaves_early(connection: Connection) -> str:
    for length in (1, 40, len(_HEAD), len(_HEAD) + 100):
        await connection.send((_HEAD + BODY)[:length])
        await trio.sleep(0.01)
    return "left"


async def asks_and_leaves(connection: Connection) -> str:
    await connection.send(_HEAD + BODY)
    return "left"


async def pipelines(connection: Connection) -> str:
    bodies = [json.dumps(review(pods.pod(), uid=f"uid-{number}")).encode() for number in range(PIPELINED)]
    heads = [head("POST", "/mutate", {**_TYPE, "Content-Length": str(len(body))}) for body in bodies]
    await connection.send(b"".join(itertools.chain(*zip(heads, bodies, strict=True))))
    answers = [(await connection.response()).review["response"]["uid"] for _ in bodies]
    return "in order" if answers == [f"uid-{number}" for number in range(PIPELINED)] else str(answers)


async def sends_zeros(connection: Connection) -> str:
    await connection.send(head("POST", "/mutate", {**_TYPE, "Content-Length": str(BODY_LIMIT)}))
    for _ in range(128):
        await connection.send(bytes(BODY_LIMIT // 128))
    return await _status(connection)


async def stalls_in_the_handshake(connection: Connection) -> str:
    await connection.send(_HELLO)
    return "hung up" if await connection.rest() == b"" else "answered"


# What misbehaves, how many of them at once, over TLS or not, and what may become of each. A machine that is busy
# otherwise can need more time for 8 MiB than a request has.
FAULTS: list[tuple[Misbehave, int, bool, set[str]]] = [
    (stalls_in_the_handshake, 20, False, {"hung up"}),
    (stalls_in_the_head, 20, True, {"408"}),
    (stalls_in_the_body, 20, True, {"408"}),
    (sends_a_byte_a_second, 20, True, {"408"}),
    (leaves_early, 50, True, {"left"}),
    (asks_and_leaves, 50, True, {"left"}),
    (pipelines, 10, True, {"in order"}),
    (sends_zeros, 6, True, {"400", "408"}),
]


def peak_mebibytes(replica: Replica) -> int:
    status = Path(f"/proc/{replica.process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) // 1024


async def test_clients_that_misbehave_in_every_way_at_once_cost_no_good_request(replica: Replica, pki: Pki) -> None:
    address, context = values.address(replica.address), pki.client("http/1.1")
    became: dict[str, Counter[str]] = {fault.__name__: Counter() for fault, *_ in FAULTS}

    async def run(fault: Misbehave, tls: bool) -> None:
        async with client.connect(address, context if tls else None) as connection:
            became[fault.__name__][await fault(connection)] += 1

    before = peak_mebibytes(replica)
    async with asked(address, context) as beside, trio.open_nursery() as nursery:
        for fault, number, tls, _ in FAULTS:
            for _ in range(number):
                nursery.start_soon(run, fault, tls)
    outcomes = ", ".join(f"{name} {dict(ends)}" for name, ends in became.items())
    print(f"  {outcomes}; memory at most {peak_mebibytes(replica)} MiB, {before} before")  # noqa: T201
    for fault, number, _, ends in FAULTS:
        assert became[fault.__name__].total() == number
        assert set(became[fault.__name__]) <= ends, fault.__name__
    assert len(beside.seconds) > 20


async def test_60_bodies_of_8_mebibytes_that_never_end_take_no_more_memory_than_the_manifest_allows(
    replica: Replica, pki: Pki
) -> None:
    address, context = values.address(replica.address), pki.client("http/1.1")

    async def pours() -> None:
        async with client.connect(address, context) as connection:
            await connection.send(head("POST", "/mutate", {**_TYPE, "Content-Length": str(BODY_LIMIT)}))
            for _ in range(127):
                await connection.send(bytes(BODY_LIMIT // 128))
            await trio.sleep_forever()

    async with asked(address, context), trio.open_nursery() as nursery:
        for _ in range(LARGE_AT_ONCE):
            nursery.start_soon(pours)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    peak = peak_mebibytes(replica)
    print(f"  {LARGE_AT_ONCE} bodies without end: memory at most {peak} MiB")  # noqa: T201
    assert peak < MEBIBYTES


async def test_2000_half_handshakes_are_not_in_progress_at_once_and_end_to_let_others_in(
    replica: Replica, pki: Pki
) -> None:
    address, context = values.address(replica.address), pki.client("http/1.1")
    hello = _HELLO + b"\x40\0\1\0\x3f\xfc\3\3" + bytes(16_000)  # of 16 KiB, and some bytes are to come
    ended: Counter[str] = Counter()
    most_files = 0

    async def stall() -> None:
        try:
            async with client.connect(address, None) as connection:
                await connection.send(hello)
                ended[await _until_hung_up(connection)] += 1
        except (OSError, trio.BrokenResourceError):
            ended["hung up"] += 1

    async def watch() -> None:
        nonlocal most_files
        while True:
            most_files = max(most_files, len(list(Path(f"/proc/{replica.process.pid}/fd").iterdir())))
            await trio.sleep(0.05)

    before = peak_mebibytes(replica)
    async with asked(address, context, new=False), trio.open_nursery() as watching:
        watching.start_soon(watch)
        async with trio.open_nursery() as nursery:
            for _ in range(HALF_HANDSHAKES):
                nursery.start_soon(stall)
            await trio.sleep(2)
            began = trio.current_time()
            async with client.connect(address, context) as connection:
                assert (await connection.post("/mutate", BODY)).status == 200
            waited = trio.current_time() - began
        watching.cancel_scope.cancel()
    peak = peak_mebibytes(replica)
    print(  # noqa: T201
        f"  {HALF_HANDSHAKES} half handshakes: {dict(ended)}, at most {most_files} files; a good one beside them took"
        f" {waited:.2f} s; memory at most {peak} MiB, {before} before"
    )
    assert most_files < MOST + 100
    assert peak < MEBIBYTES


async def _until_hung_up(connection: Connection) -> str:
    with trio.move_on_after(LONGEST_SECONDS):
        await connection.rest()
        return "hung up"
    return "left"


@dataclass
class Crowd:
    """What became of connections that are made at once: seconds until an answer, what was lost, what began again."""

    answered: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    async def ask(self, address: Address, context: ssl.SSLContext) -> None:
        began = trio.current_time()
        while True:
            tried = trio.current_time()
            try:
                async with client.connect(address, context) as connection:
                    response = await connection.post("/mutate", BODY)
            except (HungUpError, trio.BrokenResourceError) as error:
                # On a busy machine this process may be silent for so long that it makes room for others.
                if trio.current_time() - tried > PATIENCE_SECONDS and tried - began < LONGEST_SECONDS:
                    self.again.append(repr(error))
                    continue
                self.lost.append(repr(error))
            except (OSError, trio.TooSlowError) as error:
                self.lost.append(repr(error))
            else:
                if response.status == 200:
                    self.answered.append(trio.current_time() - began)
                else:
                    self.lost.append(response.text)
            return


async def test_500_connections_at_once_are_all_answered(replica: Replica, pki: Pki) -> None:
    address, context = values.address(replica.address), pki.client("http/1.1")
    crowd = Crowd()
    async with asked(address, context, new=False), trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(crowd.ask, address, context)
    slowest = max(crowd.answered, default=0.0)
    print(  # noqa: T201 - figures for whoever runs this with -s
        f"  {AT_ONCE} connections at once: {len(crowd.lost)} lost, {len(crowd.again)} begun again, the last one"
        f" answered after {slowest:.2f} s"
    )
    assert crowd.lost == []
    assert len(crowd.again) < AT_ONCE / 2
