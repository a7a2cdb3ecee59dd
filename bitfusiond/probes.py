"""Whether servers accept connections: TCP alone, no word of theirs is needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

import trio

Address = tuple[str, int]
Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]

PROBE_SECONDS = 3.0
PROBES_AT_ONCE = 64
FAILED_ROUNDS = 3  # in a row, until a server counts as down


async def probe_all(
    addresses: Iterable[Address], connect: Connect = trio.open_tcp_stream, at_once: int = PROBES_AT_ONCE
) -> dict[Address, bool]:
    """Which of ``addresses`` accept a connection within PROBE_SECONDS, asked ``at_once`` at a time."""
    answers: dict[Address, bool] = {}
    limit = trio.CapacityLimiter(at_once)

    async def probe(address: Address) -> None:
        async with limit:
            answers[address] = await _answers(address, connect)

    async with trio.open_nursery() as nursery:
        for address in addresses:
            nursery.start_soon(probe, address)
    return answers


async def _answers(address: Address, connect: Connect) -> bool:
    try:
        with trio.fail_after(PROBE_SECONDS):
            stream = await connect(*address)
    except (OSError, ValueError, trio.TooSlowError):  # ValueError: a name that IDNA cannot encode
        return False
    await trio.aclose_forcefully(stream)
    return True
