"""What tests must know of the version of a real Kubernetes."""

from __future__ import annotations

import re

import pytest


def minor_version(version: str) -> int:
    """Of ``v1.37.2``, ``1.20.2``, or the API server's own ``20+``: the number."""
    found = re.search(r"(?:^v?1\.)?(\d+)", version)
    assert found is not None, version
    return int(found[1])


def since(first: int, minor: int, what: str) -> None:
    """Skip the test on a Kubernetes before 1.``first``, which has no ``what``."""
    if minor < first:
        pytest.skip(f"Kubernetes 1.{first} and later has {what}; this is 1.{minor}")
