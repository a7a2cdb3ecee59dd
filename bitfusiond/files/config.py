"""What admission goes by, out of the operator's files: the same for the webhook and for ``render``."""

from __future__ import annotations

from pathlib import Path

from bitfusiond.core.admission import decision, template
from bitfusiond.files import read


def load(
    clients: Path | None, injection: Path | None, total_gpu_memory: int, exempt_namespaces: frozenset[str]
) -> decision.Rules:
    """``--clients`` and ``--injection`` (None = the packaged file) as they are on disk now.

    Raises ConfigurationError that names the option, the file and every problem in it.
    """
    added = read.load(injection, "--injection", read.TEMPLATE, template.parse)
    return decision.Rules(read.load_clients(clients), added, total_gpu_memory, exempt_namespaces)
