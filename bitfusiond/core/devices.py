"""The device table: which ids this node advertises, how they fare, and which of them to hand out first.

A device is one hundredth of a GPU. The ids are ``"0"`` to ``"N-1"`` and never change: the kubelet keeps the ids of
running pods in a checkpoint and looks for them again after a restart of either side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache

from bitfusiond.core.names import SHARES_OF_ONE_GPU

# The kubelet dials a plugin with grpc-go's default of the largest message it receives, and ends the stream on a
# larger one: the node would have no devices at all.
KUBELET_MESSAGE_BYTES = 4 * 1024 * 1024


class Health(Enum):
    """A device's health, in the words of the device plugin API."""

    HEALTHY = "Healthy"
    UNHEALTHY = "Unhealthy"


@dataclass(frozen=True, slots=True)
class DeviceTable:
    """``size`` devices with one health: a pool on the network is within reach of all of them or of none."""

    size: int
    health: Health = Health.HEALTHY

    def ids(self) -> Iterable[str]:
        """In ascending order, so that equal tables are equal messages."""
        return map(str, range(self.size))

    def changed_since(self, earlier: DeviceTable) -> int:
        """How many devices came, went or have another health: 0 means that there is nothing to tell the kubelet."""
        if self.health is not earlier.health:
            return max(self.size, earlier.size)
        return abs(self.size - earlier.size)

    def by_health(self) -> dict[Health, int]:
        return {health: self.size if health is self.health else 0 for health in Health}

    def unknown(self, ids: Iterable[str]) -> list[str]:
        """Those of ``ids`` that this table does not have, once each, in the order given."""
        return [each for each in dict.fromkeys(ids) if not self._has(each)]

    def preferred(self, available: Iterable[str], must_include: Collection[str], size: int) -> list[str]:
        """``size`` ids of ``available``, those of ``must_include`` first.

        GPUs that are already in use come before untouched ones, the fullest first, so that whole GPUs stay free for
        those who ask for whole ones; within a GPU and between equal GPUs the lowest id comes first. Ids in
        ``available`` that the table does not have are passed over: the kubelet may still hold a longer, earlier list.

        Raises ValueError, in one line, where that cannot be done.
        """
        if unknown := self.unknown(must_include):
            raise ValueError(f"unknown device ids in must_include_deviceIDs: {listed(unknown)}")
        chosen = sorted(map(int, set(must_include)))
        free = {int(each) for each in available if self._has(each)}.difference(chosen)
        wanted = size - len(chosen)
        if wanted < 0:
            raise ValueError(f"allocation_size {size} is less than the {len(chosen)} ids of must_include_deviceIDs")
        if wanted > len(free):
            raise ValueError(f"allocation_size {size} is more than the {len(free) + len(chosen)} ids available")
        free_of_gpu = Counter(each // SHARES_OF_ONE_GPU for each in free)

        def fullest_first(share: int) -> tuple[int, int]:
            gpu = share // SHARES_OF_ONE_GPU
            used = min(SHARES_OF_ONE_GPU, self.size - gpu * SHARES_OF_ONE_GPU) - free_of_gpu[gpu]
            return -used, share

        return [str(each) for each in chosen + sorted(free, key=fullest_first)[:wanted]]

    def _has(self, each: str) -> bool:
        # The kubelet compares ids as strings: "07" and "7" are two devices, and only one of them is ours. The length
        # bounds what int() has to do.
        if not (each.isascii() and each.isdecimal()) or len(each) > len(str(self.size)):
            return False
        return int(each) < self.size and (each[0] != "0" or each == "0")


def listed(ids: Collection[str], most: int = 10) -> str:
    """``ids`` for a message: the first ``most`` of them, quoted, and how many more there are."""
    words = ", ".join(repr(each) for each in list(ids)[:most])
    return words if len(ids) <= most else f"{words} and {len(ids) - most} more"


def wire_size(size: int, health: Health) -> int:
    """Bytes of the ListAndWatchResponse with ``size`` devices of ``health`` in protobuf's encoding.

    A device is two length-delimited strings, a tag byte and a length byte each (ids have at most 63 characters), and
    is itself length-delimited in the list: another tag byte and, below 128 bytes, one length byte.
    """
    total, lowest, digits = 0, 0, 1
    while lowest < size:
        highest = min(size, 10**digits)
        total += (highest - lowest) * (2 + 2 + digits + 2 + len(health.value))
        lowest, digits = highest, digits + 1
    return total


@cache
def largest_size(limit: int = KUBELET_MESSAGE_BYTES) -> int:
    """The largest table whose list fits into ``limit`` bytes whatever its health."""

    def fits(size: int) -> bool:
        return max(wire_size(size, health) for health in Health) <= limit

    below, above = 0, limit  # a device takes more than one byte
    while below < above:
        middle = (below + above + 1) // 2
        below, above = (middle, above) if fits(middle) else (below, middle - 1)
    return below
