"""The pull secrets of a pod, read from its namespace when they are needed, and kept for no other pod."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import trio

from bitfusiond.core.images import pullsecrets
from bitfusiond.core.images.pullsecrets import Entry
from bitfusiond.core.text import one_line
from bitfusiond.kube import SECRETS, Cluster, ClusterError, NotFoundError

_LONGEST_REASON = 200
_LONGEST_NAME = 253


class PullSecrets(NamedTuple):
    """What they say, and why some say nothing, a line each. ``problem``: why nothing is to be looked up at all."""

    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str | None = None


async def read(cluster: Cluster, namespace: str, names: Sequence[str]) -> PullSecrets:
    """Those of ``names`` that can be read; the kubelet goes on without the others too."""
    found: dict[str, list[Entry]] = {}
    notes: dict[str, str] = {}

    async def one(name: str) -> None:
        try:
            found[name] = pullsecrets.read(await cluster.get(SECRETS, namespace, name))
        except NotFoundError:
            notes[name] = f"Secret {namespace}/{name} is not there"
        except ClusterError as error:
            notes[name] = f"Secret {namespace}/{name} cannot be read: {one_line(str(error), _LONGEST_REASON)}"
        except ValueError as error:
            notes[name] = f"Secret {namespace}/{name} {error}"

    async with trio.open_nursery() as nursery:
        for name in names:
            if len(name) <= _LONGEST_NAME:
                nursery.start_soon(one, name)
    entries = [entry for name in names for entry in found.get(name, [])]
    return PullSecrets(tuple(entries), tuple(notes[name] for name in names if name in notes))
