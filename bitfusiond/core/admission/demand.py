"""What a container asks for: its ``bitfusion.io/gpu-*`` resources, or every problem with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

from bitfusiond.core import names, quantity
from bitfusiond.core.clients.client import Client, Values
from bitfusiond.core.fields import Field, Json
from bitfusiond.core.text import shown

_MOST_RESOURCES = 64  # in limits, and in requests; Kubernetes' own are a handful
# Megabytes (10^6 bytes) of the GPUs that there are, ascending, each with how many have them; none = not known.
Sizes = Mapping[int, int]
_KEYS = (names.GPU_AMOUNT, names.GPU_NUM, names.GPU_PERCENT, names.GPU_MEMORY)


@dataclass(frozen=True, slots=True)
class Demand:
    """``amount`` GPUs, ``percent`` of each one's memory or ``memory`` bytes of it, ``shares`` of a GPU in all.

    ``takes_all``: the container said neither percent nor memory, and gets 100 percent.
    """

    amount: int
    percent: int | None
    memory: int | None
    shares: int
    takes_all: bool = False


@dataclass(frozen=True, slots=True)
class Resources:
    """``resources`` of a container: its two sections, limits first, each as a field and as what is in it."""

    field: Field
    sections: tuple[tuple[Field, Json], ...]

    @property
    def asks_for_gpus(self) -> bool:
        """Whether there is a ``bitfusion.io/gpu-*`` key, be it with a wrong value."""
        return any(not names.REQUEST_RESOURCES.isdisjoint(values) for _, values in self.sections)

    def fields(self, key: str) -> list[Field]:
        """The values of ``key``: in limits, in requests, in both, in none."""
        return [section.entry(key) for section, values in self.sections if key in values]

    def refuse_shares(self, instead: str) -> None:
        """Shares that the user asks for come with no client, and a program without a GPU would hold them."""
        for field in self.fields(names.GPU):
            field.problem(f"is ours to write: remove it, {instead} {names.GPU_AMOUNT}")


def resources(container: Field) -> Resources:
    """The resources of ``container``; empty where there are none."""
    field = container["resources"]
    field.mapping()
    limits, requests = field["limits"], field["requests"]
    sections = tuple((each, each.mapping(_MOST_RESOURCES)) for each in (limits, requests))
    return Resources(field, sections)


def read(requested: Resources, sizes: Sizes) -> Demand | None:
    """The demand of a container that asks for GPUs, which have ``sizes``; None where a value is wrong."""
    fields = {key: field for key in _KEYS for field in _given(requested, key)}
    amount = _amount(fields, requested.field)
    percent = _whole(fields[names.GPU_PERCENT], 1, 100) if names.GPU_PERCENT in fields else None
    memory = _memory(fields[names.GPU_MEMORY], sizes) if names.GPU_MEMORY in fields else None
    if names.GPU_PERCENT in fields and names.GPU_MEMORY in fields:
        requested.field.problem(f"{names.GPU_PERCENT} and {names.GPU_MEMORY} exclude each other: give one of them")
    requested.refuse_shares("it is worked out from")
    takes_all = fields.keys().isdisjoint({names.GPU_PERCENT, names.GPU_MEMORY})
    if takes_all:
        percent = 100
    if amount is None or (percent is None and memory is None):
        return None
    if memory is not None:
        shares = quantity.shares_of_memory(memory, _size_for(memory, amount, sizes), amount)
    else:
        shares = quantity.shares_of_percent(percent or 0, amount)
    if shares > quantity.LARGEST:
        requested.field.problem(f"{amount} GPUs are more than {names.GPU} can count")
    return Demand(amount, percent, memory, shares, takes_all)


def values(demand: Demand, client: Client, sizes: Sizes) -> Values:
    """What the placeholders of ``client`` stand for in a container that asks so.

    A share is told as the container said it, percent as ``{fraction}``, memory as ``{megabytes}``, rounded down; and
    the other way to a client that knows only that. ``{megabytes}`` of a percentage is left out where no ``sizes`` are
    known.
    """
    told = {"gpus": str(demand.amount)}
    if client.binary_path is not None:
        told["binary"] = client.binary_path
    if demand.memory is None:
        percent = demand.percent or 100
        if client.uses("fraction") or not client.uses("megabytes"):
            told["fraction"] = _fraction(percent * 10_000)
        elif sizes:
            told["megabytes"] = str(min(sizes) * percent // 100)  # no more than was counted, on whichever GPU
    elif client.uses("megabytes") or not client.uses("fraction"):
        told["megabytes"] = str(demand.memory // quantity.MEGABYTE)
    else:
        size = _size_for(demand.memory, demand.amount, sizes)
        told["fraction"] = _fraction(demand.memory * 10**6 // (size * quantity.MEGABYTE))
    return told


def _size_for(memory: int, amount: int, sizes: Sizes) -> int:
    """The megabytes of the smallest GPUs that have so many bytes, where there are so many of them."""
    return quantity.fitting(Fraction(memory, quantity.MEGABYTE), amount, sizes)


def _fraction(millionths: int) -> str:
    return f"{millionths // 10**6}.{millionths % 10**6:06d}"


def _given(requested: Resources, key: str) -> Iterator[Field]:
    """The one value of ``key``; in limits and requests it must be the same, as for every extended resource.

    The API server copies limits into requests before it asks us, so a value usually stands in both.
    """
    fields = requested.fields(key)
    if not fields:
        return
    first, *others = fields
    for other in others:
        if not _same(first.value, other.value):
            other.problem(
                f"{shown(other.value)} differs from limits ({shown(first.value)}): give the same value, or limits alone"
            )
    yield first


def _same(one: object, other: object) -> bool:
    try:
        return one == other or quantity.parse(one) == quantity.parse(other)
    except ValueError:
        return False


def _amount(fields: dict[str, Field], resources: Field) -> int | None:
    """The number of GPUs, under either of its two names; None, with a problem, where there is none."""
    both = [fields[key] for key in (names.GPU_AMOUNT, names.GPU_NUM) if key in fields]
    if len(both) > 1:
        resources.problem(f"{names.GPU_NUM} is the earlier name of {names.GPU_AMOUNT}: give one of them")
    if not both:
        resources.problem(
            f"{' and '.join(fields)} without {names.GPU_AMOUNT}: add {names.GPU_AMOUNT}, the number of GPUs"
        )
        return None
    return _whole(both[0], 1)


def _whole(field: Field, lowest: int, highest: int | None = None) -> int | None:
    """The value as an integer from ``lowest`` to ``highest``; None, with a problem, where it is none."""
    try:
        number = quantity.integer(field.value)
    except ValueError:
        number = lowest - 1
    if number < lowest or (highest is not None and number > highest):
        allowed = f"an integer from {lowest} to {highest}" if highest else f"an integer of at least {lowest}"
        field.problem(f"{shown(field.value)} is not {allowed}")
        return None
    return number


def _memory(field: Field, sizes: Sizes) -> int | None:
    """Bytes of each GPU, at most what one has; None, with a problem, for anything else."""
    value = shown(field.value)
    try:
        memory = quantity.integer(field.value)
    except ValueError:
        field.problem(f"{value} is not a whole number of bytes such as 8000M, 8Gi or 8000000000")
        return None
    if not sizes:
        field.problem(
            "cannot be served, as the webhook does not know the GPUs' memory: set TOTAL_GPU_MEMORY, or ask for"
            f" {names.GPU_PERCENT}"
        )
    elif memory < quantity.MEGABYTE:
        field.problem(f"{value} is below 1M; the unit is bytes, so write for example 8000M or 8Gi")
    elif memory > max(sizes) * quantity.MEGABYTE:
        field.problem(f"{value} is more than the {max(sizes)}M that one GPU has")
    else:
        return memory
    return None
