"""The programs of Kubernetes that this machine has, and what tests must know of their versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ASSETS = "KUBEBUILDER_ASSETS"


def assets() -> Path:
    """The directory with kube-apiserver, etcd and kubectl. Skips the test where none is named."""
    found = os.environ.get(ASSETS)
    if not found:
        pytest.skip(
            f"set {ASSETS} to a directory with kube-apiserver, etcd and kubectl (setup-envtest use -p path) to run this"
        )
    return Path(found)


def kubectl() -> Path:
    """The one that lies beside the API server's program."""
    program = assets() / "kubectl"
    if not program.exists():
        pytest.skip(f"{ASSETS} holds no kubectl: put one there to run this")
    return program


def kubectls() -> list[str]:
    """The one beside the API server's program, and the one that this machine's user has."""
    beside = os.environ.get(ASSETS)
    candidates = [shutil.which("kubectl", path=beside) if beside else None, shutil.which("kubectl")]
    return [each for each in candidates if each]


def kubectl_minor(program: str) -> int:
    """Of its version: 20 for 1.20.2."""
    answer = subprocess.run([program, "version", "--client", "--output=json"], capture_output=True, check=True)
    return minor_version(json.loads(answer.stdout)["clientVersion"]["gitVersion"])


def minor_version(version: str) -> int:
    """Of ``v1.37.2``, ``1.20.2``, or the API server's own ``20+``: the number."""
    found = re.search(r"(?:^v?1\.)?(\d+)", version)
    assert found is not None, version
    return int(found[1])


def since(first: int, minor: int, what: str) -> None:
    """Skip the test on a Kubernetes before 1.``first``, which has no ``what``."""
    if minor < first:
        pytest.skip(f"Kubernetes 1.{first} and later has {what}; this is 1.{minor}")
