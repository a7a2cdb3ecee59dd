"""What was asked of a fake cluster, and which requests are to fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import trio

from bitfusiond.kube import ClusterError, Resource, UnavailableError

# What a request waits for an answer, as the real one does.
REQUEST_SECONDS = 5.0


class Request(NamedTuple):
    """One request, in RBAC's verbs: get, list, watch, create, update, patch, delete."""

    verb: str
    resource: Resource
    namespace: str | None
    name: str | None


@dataclass(slots=True)
class _Fault:
    """What happens to requests of this kind. ``error`` None: no answer until it is released."""

    verb: str | None
    resource: Resource | None
    namespace: str | None
    error: ClusterError | None
    times: float
    released: trio.Event = field(default_factory=trio.Event)

    def takes(self, request: Request) -> bool:
        return (
            self.times > 0
            and self.verb in (None, request.verb)
            and self.resource in (None, request.resource)
            and self.namespace in (None, request.namespace)
        )


class Faults:
    """Notes every request in ``requests``, and lets it pass or not."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._faults: list[_Fault] = []

    def fail_with(
        self,
        error: ClusterError,
        times: float = 1,
        *,
        verb: str | None = None,
        resource: Resource | None = None,
        namespace: str | None = None,
    ) -> None:
        """The next ``times`` requests (``math.inf`` = all) that match raise ``error`` and change nothing."""
        self._faults.append(_Fault(verb, resource, namespace, error, times))

    @contextmanager
    def failing(self, error: ClusterError, **which: Any) -> Iterator[None]:
        """Inside the context every request that matches fails, as :meth:`fail_with` does it."""
        self.fail_with(error, math.inf, **which)
        fault = self._faults[-1]
        try:
            yield
        finally:
            fault.times = 0

    def hang(
        self, *, verb: str | None = None, resource: Resource | None = None, namespace: str | None = None
    ) -> Callable[[], None]:
        """Requests that match get no answer: UnavailableError after REQUEST_SECONDS.

        Gives a function that ends this; the requests that wait at that moment are then answered.
        """
        fault = _Fault(verb, resource, namespace, None, math.inf)
        self._faults.append(fault)

        def release() -> None:
            fault.times = 0
            fault.released.set()

        return release

    async def asked(self, verb: str, resource: Resource, namespace: str | None, name: str | None) -> None:
        """Every request comes by here first."""
        request = Request(verb, resource, namespace, name)
        self.requests.append(request)
        await trio.lowlevel.checkpoint()
        fault = next((each for each in self._faults if each.takes(request)), None)
        if fault is None:
            return
        fault.times -= 1
        if fault.error is not None:
            raise fault.error
        with trio.move_on_after(REQUEST_SECONDS) as waiting:
            await fault.released.wait()
        if waiting.cancelled_caught:
            raise UnavailableError(f"no answer within {REQUEST_SECONDS:g} s")
