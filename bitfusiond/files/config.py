"""What admission goes by, out of the operator's files: the same for the webhook and for ``render``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bitfusiond.core.admission import decision, template
from bitfusiond.files import read

Servers = Callable[[], Sequence[str]]


def load(
    clients: Path | None,
    injection: Path | None,
    total_gpu_memory: int,
    exempt_namespaces: frozenset[str],
    *,
    pool: Path | None = None,
    servers: Servers = tuple,
) -> decision.Rules:
    """``--clients`` and ``--injection`` (None = the packaged file) as they are on disk now.

    GPU servers are those of ``--pool``, or what ``servers()`` says where there is none.

    Raises ConfigurationError that names the option, the file and every problem in it.
    """
    added = read.load(injection, "--injection", read.TEMPLATE, template.parse)
    inventory = read.load_pool(pool)
    addresses = [each.address for each in inventory.servers] if inventory else []
    known: Servers = (lambda: addresses) if inventory else servers
    return decision.Rules(read.load_clients(clients), added, total_gpu_memory, exempt_namespaces, known, inventory)
