"""What is known of an image that was looked up, or why nothing is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Image:
    """What is taken of an image's configuration."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def size(self) -> int:
        """About the bytes that it takes in memory."""
        words = [*self.entrypoint, *self.cmd, *self.env.values()]
        return 500 + sum(100 + 4 * len(word) for word in words)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that could not be looked up: ``reason`` is for a person."""

    reason: str


# By their names in pods
Images = Mapping[str, Image | Unreadable]
NONE: Images = MappingProxyType({})
