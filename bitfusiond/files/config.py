"""What admission goes by, out of the operator's files: the same for the webhook and for ``render``."""

from __future__ import annotations

from pathlib import Path

from bitfusiond.core.admission import decision, template
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import read


def load(
    clients: Path | None, injection: Path | None, total_gpu_memory: int, exempt_namespaces: frozenset[str]
) -> decision.Rules:
    """``--clients`` and ``--injection`` (None = the packaged file) as they are on disk now.

    Raises ConfigurationError that names the option, the file and every problem in it.
    """
    return decision.Rules(read.load_clients(clients), _load_injection(injection), total_gpu_memory, exempt_namespaces)


def _load_injection(path: Path | None) -> template.Template:
    text = read.packaged("sidecarconfig.yaml") if path is None else read.read_text(path, "--injection")
    try:
        return template.parse(read.load_yaml(text))
    except ValueError as error:
        raise ConfigurationError(f"--injection: {path or 'the packaged template'}: {error}") from None
