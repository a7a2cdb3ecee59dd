"""Good requests beside bad ones: how many got their answer, and when."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from bitfusiond.http.connections import PATIENCE_SECONDS
from bitfusiond.settings.values import Address
from tests import pods
from tests.fakes import https_client as client
from tests.fakes.https_client import Connection, HungUpError, review

REVIEW = review(pods.pod())
BODY = json.dumps(REVIEW).encode()
LONGEST_SECONDS = 10.0  # what the API server gives a webhook
_EVERY_SECONDS = 0.02
_NEW_EVERY = 10


@dataclass
class Beside:
    """``seconds`` of those that were answered well, and what became of the others."""

    seconds: list[float] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def summary(self) -> str:
        ordered = sorted(self.seconds)
        p50, p99, longest = (ordered[int((len(ordered) - 1) * share)] * 1000 for share in (0.5, 0.99, 1))
        return (
            f"beside it {len(ordered) + len(self.lost)} good requests, {len(self.lost)} lost,"
            f" p50 {p50:.1f} ms, p99 {p99:.1f} ms, longest {longest:.1f} ms"
        )

    async def ask(self, connection: Connection) -> None:
        began = trio.current_time()
        try:
            response = await connection.post("/mutate", BODY)
        except (HungUpError, OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
            self.lost.append(repr(error))
        else:
            if response.status == 200 and json.loads(response.body)["response"].get("patch"):
                self.seconds.append(trio.current_time() - began)
            else:
                self.lost.append(f"{response.status} {response.text[:200]}")


@asynccontextmanager
async def asked(address: Address, context: ssl.SSLContext, new: bool = True) -> AsyncIterator[Beside]:
    """Ask up to 50 times a second while the block lasts, every tenth time (if ``new``) on a connection of its own.

    In the end nothing was lost.
    """
    beside, over, number = Beside(), trio.Event(), 0

    async def ask_on(kept: Connection) -> None:
        """Until it is over, or this process was too busy: who is silent for so long makes room for others."""
        nonlocal number
        spoke = trio.current_time()
        while not over.is_set() and trio.current_time() - spoke < PATIENCE_SECONDS / 2:
            number += 1
            spoke = trio.current_time()
            if new and number % _NEW_EVERY == 0:
                try:
                    async with client.connect(address, context) as connection:
                        await beside.ask(connection)
                except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
                    beside.lost.append(f"no connection: {error!r}")
            else:
                await beside.ask(kept)
            await trio.sleep(_EVERY_SECONDS)

    async def ask() -> None:
        while not over.is_set():
            async with client.connect(address, context) as kept:
                await ask_on(kept)

    async with client.connect(address, context) as first:
        await beside.ask(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        try:
            yield beside
        finally:
            over.set()
    print(f"  {beside.summary()}")  # noqa: T201 - figures for whoever runs this with -s
    assert beside.lost == []
    assert max(beside.seconds) < LONGEST_SECONDS
