"""What a pod asks of the pool, as the claims that the scheduler allocates."""

from __future__ import annotations

from dataclasses import dataclass, field

from bitfusiond.core.fields import Json


@dataclass(frozen=True, slots=True)
class ClaimTemplate:
    """A ResourceClaimTemplate: ``spec`` is that of the claims, and ``name`` has its hash."""

    name: str
    spec: Json = field(repr=False)
