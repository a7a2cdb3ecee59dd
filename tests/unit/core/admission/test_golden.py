"""Patches as files: the README's pods, every row of the command table, every clash. Read them, they are the product."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from bitfusiond.core.admission.decision import Patch
from tests import DATA, EXAMPLES
from tests.pods import example, verdict

_DOCUMENTED = sorted(path.stem for path in EXAMPLES.glob("*.yaml") if path.stem != "quota")
_OTHERS = sorted(path.stem for path in (DATA / "pods").glob("*.yaml"))


def _pods() -> list[Any]:
    documented = [pytest.param(f"readme-{name}", example(name), id=f"readme-{name}") for name in _DOCUMENTED]
    others = [
        pytest.param(name, yaml.safe_load((DATA / "pods" / f"{name}.yaml").read_text()), id=name) for name in _OTHERS
    ]
    return documented + others


@pytest.mark.parametrize(("name", "pod"), _pods())
def test_the_patch_is_the_golden_one(name: str, pod: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """``pytest --update-golden`` writes the files anew: read the difference before you commit it."""
    result = verdict(pod)
    assert isinstance(result, Patch), result
    text = json.dumps({"warnings": result.warnings, "patch": result.operations}, indent=1) + "\n"
    golden = DATA / "golden" / f"{name}.json"
    if request.config.getoption("--update-golden"):
        golden.write_text(text)
    assert text == golden.read_text()


def test_every_golden_file_belongs_to_a_pod() -> None:
    names = {f"readme-{name}" for name in _DOCUMENTED} | set(_OTHERS)
    assert {path.stem for path in (DATA / "golden").glob("*.json")} == names
