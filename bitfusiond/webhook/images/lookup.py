"""Images looked up for admissions: within their time, equal ones once, and no registry at the expense of another.

An admission waits for a few seconds; what it waits for goes on a little longer, so that the next try of a controller
finds it in the cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import trio
from prometheus_client import CollectorRegistry, Counter

from bitfusiond import logs
from bitfusiond.core.admission.images import MOST_IMAGES, Needed
from bitfusiond.core.images import reference
from bitfusiond.core.images.image import Image, Images, Unreadable
from bitfusiond.core.images.manifest import WrongContentError
from bitfusiond.core.images.pullsecrets import Credentials, for_image
from bitfusiond.core.images.reference import Reference
from bitfusiond.core.images.registries import NotAllowedError, Registries
from bitfusiond.core.text import cut
from bitfusiond.http.memory import Memory
from bitfusiond.registry.client import AbsentError, DeniedError, RegistryError, read_image
from bitfusiond.registry.wire import Session, Trust, UnreachableError
from bitfusiond.webhook.images.cache import Cache, Who
from bitfusiond.webhook.images.pullsecrets import PullSecrets

FLIGHT_SECONDS = 8.0
MOST_FLIGHTS = 200
_AT_ONCE = 18
_AT_ONCE_FOR_A_REGISTRY = 3
_AT_ONCE_FOR_A_NAMESPACE = 6
_MEMORY = 2**20  # bytes of manifests and configurations, beyond 64 KiB of each
_LONGEST_REASON = 500
_NOT_READ = "the pull secrets could not be read in time: try again"
_TOO_MANY = Unreadable(f"more than {MOST_IMAGES} images of a pod are not looked up")

_log = logs.Log("images")


class _Result(NamedTuple):
    """What came of a lookup: one of few words, and the image or why it is not known."""

    word: str
    found: Image | Unreadable


class _Flight:
    """One lookup that all who want the same wait for."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result = _Result("stopping", Unreadable("bitfusiond is stopping: try again"))


class _Limiters:
    """A limiter for each of many names, gone with the last who holds it."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._limiters: weakref.WeakValueDictionary[str, _Limiter] = weakref.WeakValueDictionary()

    def of(self, name: str) -> _Limiter:
        found = self._limiters.get(name)
        if found is None:
            found = self._limiters[name] = _Limiter(self._each)
        return found


class _Limiter:
    """trio's has no weak references."""

    def __init__(self, most: int) -> None:
        self.slots = trio.CapacityLimiter(most)


class Lookup:
    """Images for admissions; ``run`` must be running for anything to be found."""

    def __init__(self, registries: Registries, tls: Callable[[], Trust], metrics: CollectorRegistry) -> None:
        self._registries = registries
        self._tls = tls
        self._cache = Cache()
        self._memory = Memory(_MEMORY)
        self._flights: dict[tuple[Who, Reference], _Flight] = {}
        self._all = trio.CapacityLimiter(_AT_ONCE)
        self._of_registry = _Limiters(_AT_ONCE_FOR_A_REGISTRY)
        self._of_namespace = _Limiters(_AT_ONCE_FOR_A_NAMESPACE)
        self._nursery: trio.Nursery | None = None
        self._results = Counter(
            "bitfusiond_image_lookups",
            "Images that admissions wanted to know, by what came of it.",
            ["result"],
            registry=metrics,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the lookups until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    async def find(
        self, needed: Needed, namespace: str, secrets: Callable[[], Awaitable[PullSecrets]], deadline: float
    ) -> Images:
        """Each image of ``needed``, or why it is not known by ``deadline``, a pod of ``namespace`` having it.

        ``secrets()`` reads the pull secrets, and takes its time from the same deadline.
        """
        found: dict[str, Image | Unreadable] = {}
        read = PullSecrets(notes=(_NOT_READ,))
        with trio.move_on_at(deadline):
            read = await secrets()
        if read.problem is not None:
            return {name: self._counted(_Result("not_allowed", Unreadable(read.problem))) for name in needed.images}

        async def one(name: str, always: bool) -> None:
            found[name] = self._counted(await self._one(name, always, namespace, read, deadline))

        async with trio.open_nursery() as nursery:
            for number, (name, always) in enumerate(needed.images.items()):
                if number < MOST_IMAGES:
                    nursery.start_soon(one, name, always)
                else:
                    found[name] = self._counted(_Result("busy", _TOO_MANY))
        return found

    async def _one(self, name: str, always: bool, namespace: str, secrets: PullSecrets, deadline: float) -> _Result:
        try:
            image = reference.parse(name)
            self._registries.origin(image.registry, image.api)
        except NotAllowedError as error:
            return _Result("not_allowed", Unreadable(str(error)))
        except ValueError as error:
            return _Result("invalid", Unreadable(str(error)))
        credentials = for_image(secrets.entries, image)
        who = self._cache.who(credentials)
        if not always and (cached := self._cache.resolved(who, image, trio.current_time())):
            return _Result("cached", cached)
        result = await self._joined(who, image, namespace, credentials, deadline)
        # What is wrong with a Secret of one namespace is not told to those of another who wait for the same.
        if result.word == "denied" and secrets.notes:
            result = _Result("denied", Unreadable(f"{_denied(image)}: {'; '.join(secrets.notes)}"))
        return result

    def _counted(self, result: _Result) -> Image | Unreadable:
        self._results.labels(result.word).inc()
        if isinstance(result.found, Unreadable):
            return Unreadable(cut(result.found.reason, _LONGEST_REASON))
        return result.found

    async def _joined(
        self, who: Who, image: Reference, namespace: str, credentials: Sequence[Credentials], deadline: float
    ) -> _Result:
        flight = self._flights.get((who, image))
        if flight is None:
            if self._nursery is None or len(self._flights) >= MOST_FLIGHTS:
                return _Result("busy", Unreadable("too many lookups wait already: try again"))
            flight = self._flights[who, image] = _Flight()
            # Not in the task that asks: it may go away while others wait.
            self._nursery.start_soon(self._fly, flight, who, image, namespace, credentials)
        with trio.move_on_at(deadline):
            await flight.done.wait()
            return flight.result
        return _Result("timeout", Unreadable(f"{image.registry} did not answer in time: try again"))

    async def _fly(
        self, flight: _Flight, who: Who, image: Reference, namespace: str, credentials: Sequence[Credentials]
    ) -> None:
        try:
            with trio.move_on_after(FLIGHT_SECONDS) as deadline:
                # First the turn at the registry: who waits for a slow one keeps nobody from another.
                of_registry, of_namespace = self._of_registry.of(image.registry), self._of_namespace.of(namespace)
                async with of_registry.slots, of_namespace.slots, self._all:
                    flight.result = await self._asked(who, image, credentials)
            if deadline.cancelled_caught:
                reason = f"{image.registry} did not answer within {FLIGHT_SECONDS:g} s: try again"
                flight.result = _Result("timeout", Unreadable(reason))
            if isinstance(flight.result.found, Unreadable):
                _log.warning(
                    "image not looked up",
                    image=_name(image),
                    asked=image.tag_or_digest,
                    result=flight.result.word,
                    reason=flight.result.found.reason,
                )
        finally:
            del self._flights[who, image]
            flight.done.set()

    async def _asked(self, who: Who, image: Reference, credentials: Sequence[Credentials]) -> _Result:
        def known(digest: str) -> Image | None:
            return self._cache.known(image, digest)

        try:
            async with Session(self._registries, self._tls, self._memory) as session:
                digest, found = await read_image(session, self._registries, image, credentials, known)
        except Exception as error:  # noqa: BLE001 - whatever a registry says must not end the webhook
            word, reason = _explained(error, image, credentials)
            return _Result(word, Unreadable(reason))
        self._cache.keep(who, image, digest, found, trio.current_time())
        return _Result("found", found)


def _name(image: Reference) -> str:
    return f"{image.registry}/{image.repository}"


def _denied(image: Reference) -> str:
    return f"{image.registry} shows {image.repository} to nobody without permission"


def _explained(error: Exception, image: Reference, credentials: Sequence[Credentials]) -> tuple[str, str]:
    """One of few words, and a line for a person."""
    match error:
        case DeniedError():
            what = "right" if credentials else "there"
            return "denied", f"{_denied(image)}, and no pull secret of the pod is {what} for it"
        case AbsentError():
            return "not_found", f"{_name(image)} has no {image.tag_or_digest}"
        case UnreachableError():
            return "unreachable", str(error)
        case NotAllowedError():
            return "not_allowed", str(error)
        case WrongContentError() | RegistryError():
            return "wrong", f"{_name(image)}: {error}"
    _log.exception("defect in an image lookup, please report it", image=_name(image))
    return "error", "internal error: see the log of bitfusiond"
