"""The arrows between modules: import-linter's contracts of pyproject.toml, so that one that points back fails here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

LINTER = Path(sys.executable).with_name("lint-imports")


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINTER), "--no-cache", "--config", str(directory / "pyproject.toml")]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=120)


def test_every_contract_is_kept() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("core/quantity.py", "import socket", "the core is pure"),
        ("core/admission/review.py", "from bitfusiond import logs", "edges -> core"),
        ("webhook/admission.py", "from bitfusiond.plugin import service", "roles -> edges"),
        ("kube/follow.py", "from bitfusiond.webhook import nodes", "roles -> edges"),
        ("plugin/service.py", "from bitfusiond.operate import kubectl", "front door -> roles"),
        ("operate/kubectl.py", "from bitfusiond.operate import deploy", "inside the operator's commands"),
        ("http/server.py", "import trio_asyncio", "only plugin.grpc knows"),
    ],
)
def test_an_arrow_that_points_back_is_seen(tmp_path: Path, module: str, line: str, contract: str) -> None:
    """The contracts could be kept because they say nothing: each must be broken by what it forbids."""
    shutil.copytree(ROOT / "bitfusiond", tmp_path / "bitfusiond", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "bitfusiond" / module).open("a") as file:
        file.write(f"\n{line}\n")
    result = lint(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    broken = result.stdout.partition("Broken contracts")[2]
    assert contract in broken
