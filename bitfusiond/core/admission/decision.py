"""What a decision about a pod goes by, and what it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from bitfusiond.core import names, quantity
from bitfusiond.core.admission.demand import Sizes
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.admission.template import Delivery, Template
from bitfusiond.core.clients.catalogue import Catalogue
from bitfusiond.core.pool.claims import ClaimTemplate
from bitfusiond.core.pool.inventory import Pool


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decided: clients, template, megabytes of one GPU (0 = not known), namespaces left alone.

    ``servers()`` are the GPU servers, HOST:PORT; none = not known. ``pool``: the scheduler counts these servers' GPUs,
    and chooses them.
    """

    catalogue: Catalogue
    template: Template
    total_gpu_memory: int
    exempt_namespaces: frozenset[str] = names.EXEMPT_NAMESPACES
    servers: Callable[[], Sequence[str]] = tuple
    pool: Pool | None = None
    delivery: Delivery = Delivery.INIT

    @property
    def sizes(self) -> Sizes:
        """Megabytes of the GPUs, by what is said of all of them: nobody knows how many there are."""
        return {self.total_gpu_memory: quantity.LARGEST} if self.total_gpu_memory else {}


@dataclass(frozen=True, slots=True)
class Patch:
    """The pod is admitted with these RFC 6902 operations.

    ``takes_tokens``: its namespace must have the token Secrets. ``claims`` are made from these templates, which must be
    there too. ``wanted`` is what the scheduler will count of our resources.
    """

    operations: list[Operation]
    warnings: list[str]
    takes_tokens: bool = True
    claims: tuple[ClaimTemplate, ...] = ()
    wanted: Mapping[str, Fraction] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The pod is wrong; every problem names its field, the value and what is allowed."""

    problems: list[str]


@dataclass(frozen=True, slots=True)
class Untouched:
    """Not ours to change; ``reason`` is a short phrase, one of few."""

    reason: str


@dataclass(frozen=True, slots=True)
class Allowed:
    """The pod has everything that it needs but the token Secrets, where it ``takes_tokens``, and the templates of its
    ``claims``, by name.
    """

    takes_tokens: bool = True
    claims: tuple[str, ...] = ()
