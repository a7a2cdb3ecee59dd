"""Which pods hold claims on the pool, and which wait for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.objects import Object
from bitfusiond.operate import claims
from bitfusiond.operate.checks import ONE_POOL
from bitfusiond.operate.kubectl import Kubectl

POD = {"kind": "Pod", "name": "train-0"}
OF_POD = {"resource": "pods", "name": "train-1"}
OF_OTHER = {"resource": "podgroups", "name": "all"}


def _claim(driver: str = names.DRIVER, owners: Any = (), reserved: Any = ()) -> Object:
    results = [{"driver": driver, "pool": "gpu-a", "device": "gpu-0"}]
    return {
        "kind": "ResourceClaim",
        "metadata": {"name": "c", "namespace": "team", "ownerReferences": [*owners]},
        "status": {"allocation": {"devices": {"results": results}}, "reservedFor": [*reserved]},
    }


@pytest.mark.parametrize(
    ("claim", "holders"),
    [
        (_claim(owners=[POD], reserved=[OF_POD]), ["team/train-1"]),
        (_claim(owners=[POD]), ["team/train-0"]),
        (_claim(owners=[POD], reserved=[OF_OTHER]), ["team/train-0"]),
        (_claim(reserved=[OF_OTHER]), []),
        (_claim(owners=[{"kind": "Workload", "name": "w"}]), []),
        (_claim(driver="others.example", reserved=[OF_POD]), []),
    ],
)
def test_a_claim_is_held_by_its_pods_and_waited_for_by_their_owner(
    tmp_path: Path, claim: Object, holders: list[str]
) -> None:
    program = tmp_path / "kubectl"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps({'items': [claim]})}\nEND\n")
    program.chmod(0o755)
    assert claims.holders(Kubectl(str(program)), ONE_POOL) == holders


def test_a_kubernetes_that_counts_no_pool_is_not_asked() -> None:
    assert claims.holders(Kubectl("/nowhere"), (1, 35)) == []
