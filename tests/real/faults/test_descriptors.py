"""No file descriptor is left: what is connected is served on, and whoever waits is served when one is free again."""

from __future__ import annotations

import resource
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from bitfusiond.files import watch
from bitfusiond.settings import values
from bitfusiond.settings.values import Address
from tests.fakes import https_client as client
from tests.fakes.pki import Pki
from tests.real.faults.beside import BODY, asked
from tests.real.harness.webhook import Replica

MORE = 20  # descriptors, beyond those that it has
HOLDING = 60  # connections: so many that they do not fit
SECONDS = 5.0


def open_files(replica: Replica) -> int:
    return len(list(Path(f"/proc/{replica.process.pid}/fd").iterdir()))


@asynccontextmanager
async def without_descriptors(replica: Replica, address: Address) -> AsyncIterator[AsyncExitStack]:
    """Connections that take up every descriptor; they are there again when the stack is closed."""
    limit = open_files(replica) + MORE
    resource.prlimit(replica.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
    async with AsyncExitStack() as held:
        for _ in range(HOLDING):
            await held.enter_async_context(await trio.open_tcp_stream(address.host, address.port))
        await trio.sleep(0.5)
        assert open_files(replica) == limit
        yield held


async def test_it_serves_on_without_descriptors_and_as_ever_when_they_are_back(replica: Replica, pki: Pki) -> None:
    address, context = values.address(replica.address), pki.client("http/1.1")
    waiting: list[str] = []

    async def waits() -> None:
        async with client.connect(address, context) as connection:
            waiting.append(str((await connection.post("/mutate", BODY)).status))

    async with (
        asked(address, context, new=False),
        without_descriptors(replica, address) as held,
        trio.open_nursery() as nursery,
    ):
        for _ in range(MORE // 2):
            nursery.start_soon(waits)
        await trio.sleep(SECONDS)
        assert waiting == []
        await held.aclose()
    said = replica.said("new connections must wait")
    print(f"  {len(waiting)} of {MORE // 2} that had to wait were answered; {len(said)} lines in {SECONDS:g} s")  # noqa: T201
    assert waiting == ["200"] * (MORE // 2)
    assert 1 <= len(said) <= SECONDS
    assert said[0]["error"] == "Too many open files"
    assert replica.get("/healthz") == (200, "ok\n")


async def test_files_that_are_replaced_meanwhile_are_taken_up_when_descriptors_are_back(
    replica: Replica, pki: Pki, catalogue: Path
) -> None:
    async with without_descriptors(replica, values.address(replica.address)):
        leaf = pki.issue()
        catalogue.write_text(catalogue.read_text() + "\n")
        await trio.sleep(watch.POLL_SECONDS * 4)
        for what in ("certificate", "configuration"):
            said = replica.said(f"{what} not taken up, keeping the last good one")
            assert [line["message"].rpartition(": ")[2] for line in said] == ["Too many open files"]
    await trio.sleep(watch.POLL_SECONDS * 3)
    assert len(replica.said("configuration taken up")) == 1
    assert len(replica.said("certificate taken up")) == 1
    address = values.address(replica.address)
    shown = ssl.get_server_certificate((address.host, address.port))
    assert shown == leaf.cert_chain_pems[0].bytes().decode()
