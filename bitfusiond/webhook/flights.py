"""Writes that admissions wait for: each done once for all that want it at that moment, and not too many in a second."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Generic, TypeVar

import trio

from bitfusiond.kube import (
    ClusterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from bitfusiond.pacing import Allowance, Backoff

ENSURE_SECONDS = 5.0  # for all that an admission waits for; the API server gives a webhook 10 s by default
LISTED_SECONDS = 2.0  # of these, for the first lists
_TURN_SECONDS = 2.0  # of these, to wait for one's turn
_TRIES = 3
_PAUSE_SECONDS = 0.2

KeyT = TypeVar("KeyT")
ResultT = TypeVar("ResultT")


class Problem(Exception):  # noqa: N818 - for a person, and often not ours
    """What was to be there is not, or is not right. ``reason`` is one of few words; ``passing``: try again soon."""

    def __init__(self, reason: str, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.passing = passing


class Flight:
    """The work for one key that all its admissions of this moment wait for."""

    def __init__(self, problem: str) -> None:
        self.done = trio.Event()
        self.problems = [problem]

    async def landed(self) -> list[str]:
        """What the work said, once it is done."""
        await self.done.wait()
        return self.problems


class Flights(Generic[KeyT]):
    """Work under way by its key. It runs in ``nursery``, which its owner sets while it runs."""

    def __init__(self) -> None:
        self.nursery: trio.Nursery | None = None
        self._flights: dict[KeyT, Flight] = {}

    def __iter__(self) -> Iterator[KeyT]:
        return iter(self._flights)

    def join(self, key: KeyT, work: Callable[[], Awaitable[list[str]]]) -> Flight:
        """The flight that is under way for ``key``, else one of ``work()`` that begins now."""
        flight = self._flights.get(key)
        if flight is not None:
            return flight
        if self.nursery is None:
            flight = Flight("bitfusiond is not running: try again")
            flight.done.set()
            return flight
        flight = self._flights[key] = Flight("bitfusiond is stopping: try again")
        # Not in the task that asks: its connection may go away while others wait.
        self.nursery.start_soon(self._fly, key, flight, work)
        return flight

    async def _fly(self, key: KeyT, flight: Flight, work: Callable[[], Awaitable[list[str]]]) -> None:
        try:
            flight.problems = await work()
        finally:
            del self._flights[key]
            flight.done.set()


class RateLimit:
    """``burst`` at once and ``per_second`` after that; without a bound where whoever asks ``is_proven``."""

    def __init__(self, burst: int, per_second: float, *, is_proven: bool) -> None:
        self._allowance = None if is_proven else Allowance(burst, per_second)

    async def wait(self) -> bool:
        """Wait for one's turn; False where that would take too long."""
        if self._allowance is None:
            return True
        pause = self._allowance.take(trio.current_time(), _TURN_SECONDS)
        if pause is None:
            return False
        await trio.sleep(pause)
        return True


async def patiently(work: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """``work()``, tried again after a Problem that passes."""
    backoff = Backoff(_PAUSE_SECONDS)
    for failures in range(1, _TRIES + 1):
        try:
            return await work()
        except Problem as problem:
            if not problem.passing or failures == _TRIES:
                raise
            await trio.sleep(backoff.failed())
    raise AssertionError


def explained(error: ClusterError, where: str, namespace: str, done: str, kinds: str) -> Problem:
    """The API server's answer in terms of the pod that waits for it.

    ``where`` cannot be ``done``: "Secret NAMESPACE/NAME", "copied"; ``kinds`` are what a quota may count: "Secrets".
    """
    reason, message = "invalid", f"{where} cannot be {done}, the API server does not take it: {error}"
    match error:
        case ForbiddenError() if "being terminated" in str(error):
            reason, message = "terminating", f"namespace {namespace} is being deleted: nothing can be created in it"
        case ForbiddenError() if "exceeded quota" in str(error) or "failed quota" in str(error):
            reason = "quota"
            message = (
                f"{where} cannot be {done}, a ResourceQuota of the namespace leaves no room for it ({error}): raise the"
                f" quota or delete {kinds}"
            )
        case ForbiddenError():
            reason = "forbidden"
            message = (
                f"{where} cannot be {done}, the API server does not permit it to bitfusiond ({error}): the cluster's"
                " administrator must give bitfusiond its permissions (`just deploy`)"
            )
        case NotFoundError():
            reason, message = "not_found", f"namespace {namespace} is not there ({error})"
        case UnavailableError():
            reason, message = "unavailable", f"{where} cannot be {done} at the moment, try again ({error})"
        case ConflictError():
            reason, message = "conflict", f"{where} was changed at the same moment, try again ({error})"
    return Problem(reason, message, passing=isinstance(error, UnavailableError | ConflictError))
