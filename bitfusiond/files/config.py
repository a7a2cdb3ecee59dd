"""What admission goes by, out of the operator's files: the same for the webhook and for ``render``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from bitfusiond.core.admission import decision, template
from bitfusiond.core.admission.template import Delivery
from bitfusiond.core.pool import inventory
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
    delivery: Delivery = Delivery.INIT,
) -> decision.Rules:
    """``--clients`` and ``--injection`` (None = the packaged file) as they are on disk now.

    Without ``--pool`` GPU servers are what ``servers()`` says.

    Raises ConfigurationError that names the option, the file and every problem in it.
    """
    added = read.load(injection, "--injection", read.TEMPLATE, template.parse)
    counted = None if pool is None else read.load(pool, "--pool", "", inventory.parse)
    known = read.load_clients(clients)
    return decision.Rules(known, added, total_gpu_memory, exempt_namespaces, servers, counted, delivery)
