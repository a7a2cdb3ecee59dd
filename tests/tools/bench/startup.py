"""Time from exec to exit, against a Python that does nothing."""

from __future__ import annotations

from functools import partial

from bitfusiond.settings import ROLES
from tests.tools.bench.measure import Figure, compare, process_milliseconds


def figures() -> list[Figure]:
    """``--help`` of every role."""
    return [
        compare(
            f"--role {role} --help",
            "ms",
            partial(process_milliseconds, "-m", "bitfusiond", "--role", role, "--help"),
            "python -c pass",
            partial(process_milliseconds, "-c", "pass"),
        )
        for role in ROLES
    ]
