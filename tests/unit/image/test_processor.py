"""``image/processor.py`` holds this Python, and one of a made-up base, against a processor."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine())
OTHER = "arm64" if HERE == "amd64" else "amd64"
MACHINES = {"amd64": 62, "arm64": 183}

pytestmark = pytest.mark.skipif(HERE is None, reason="run this on amd64 or arm64")


def said(wanted: str, base: Path) -> str:
    """What it prints, as it ends well only where it prints nothing."""
    command = [sys.executable, str(ROOT / "image/processor.py"), wanted, str(base)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == (done.stderr == "")
    return done.stderr


def base_for(processor: str, root: Path) -> Path:
    python = Path(f"{root}{Path(sys.executable).resolve()}")
    python.parent.mkdir(parents=True)
    python.write_bytes(b"\x7fELF" + bytes(14) + MACHINES[processor].to_bytes(2, "little"))
    return root


def test_a_base_for_the_processor_is_taken(tmp_path: Path) -> None:
    assert HERE is not None
    assert said(HERE, base_for(HERE, tmp_path)) == ""
    assert said(HERE, tmp_path / "without Python there") == ""


def test_a_base_for_another_processor_is_named(tmp_path: Path) -> None:
    assert HERE is not None
    assert said(HERE, base_for(OTHER, tmp_path)).startswith(f"BASE: its Python is not for {HERE}: name the base by its")


def test_what_builds_for_another_processor_is_named(tmp_path: Path) -> None:
    assert said(OTHER, base_for(OTHER, tmp_path)).startswith(
        f"BUILD_BASE: its Python is not for {OTHER}: name the base"
    )


@pytest.mark.parametrize("unknown", ["", "riscv64"])
def test_an_engine_that_tells_no_processor_that_is_known_is_left_alone(tmp_path: Path, unknown: str) -> None:
    assert said(unknown, base_for(OTHER, tmp_path)) == ""
