"""What admission goes by, out of the operator's files: the same for the webhook and for ``render``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bitfusiond.core.admission import decision, template
from bitfusiond.core.admission.template import Delivery
from bitfusiond.core.pool import inventory
from bitfusiond.errors import ConfigurationError
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

    Raises ConfigurationError that names the options, the files and every problem in them.
    """
    parts, problems = _read(clients, injection, pool)
    if problems:
        raise ConfigurationError("; ".join(problems))
    return decision.Rules(
        total_gpu_memory=total_gpu_memory,
        exempt_namespaces=exempt_namespaces,
        servers=servers,
        delivery=delivery,
        **parts,
    )


def reload(
    last: decision.Rules, clients: Path | None, injection: Path | None, pool: Path | None
) -> tuple[decision.Rules, list[str]]:
    """``last`` with what is on disk now, and what is wrong there: of a broken file it keeps what it has."""
    parts, problems = _read(clients, injection, pool)
    return dataclasses.replace(last, **parts), problems


def _read(clients: Path | None, injection: Path | None, pool: Path | None) -> tuple[dict[str, Any], list[str]]:
    """Fields of the rules out of the files that are right, and what is wrong with the others."""
    wanted: dict[str, Callable[[], object]] = {
        "template": partial(read.load, injection, "--injection", read.TEMPLATE, template.parse),
        "catalogue": partial(read.load_clients, clients),
    }
    if pool is not None:
        wanted["pool"] = partial(read.load, pool, "--pool", "", inventory.parse)
    parts, problems = {}, []
    for name, part in wanted.items():
        try:
            parts[name] = part()
        except ConfigurationError as error:
            problems.append(str(error))
    return parts, problems
