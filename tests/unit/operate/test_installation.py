"""What ``just verify`` and ``kubectl bitfusion check`` say of an object, and the command that mends it."""

from __future__ import annotations

from typing import Any

from bitfusiond.core import names
from bitfusiond.operate.report import OK, WRONG
from bitfusiond.operate.verify import installation


def namespace(**labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.NAMESPACE, "labels": labels}}


def test_the_label_of_a_namespace_is_given_by_a_command_that_helm_knows_nothing_of() -> None:
    wanted = namespace(**{names.ADMISSION_LABEL: "ignore"})
    assert installation.compared(wanted, wanted).state == OK
    row = installation.compared(wanted, namespace())
    assert row.state == WRONG
    assert row.fix == f"kubectl label namespace bwki {names.ADMISSION_LABEL}=ignore --overwrite"
