"""``just setup``, on which the other recipes stand, and what all of them do with the words that they are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

JUST = Path(sys.executable).with_name("just")
OURS = f"3.{sys.version_info.minor}"

pytestmark = pytest.mark.skipif(not JUST.exists(), reason="pip install rust-just beside this Python to run this")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment of this Python, in which everything is installed already."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "pyvenv.cfg").write_text(f"home = /usr/bin\nversion = {OURS}.1\n")
    (tmp_path / ".installed").write_text(f"{OURS}\n")
    return tmp_path


def setup(venv: Path, python: str | None = None) -> tuple[int, str]:
    """The exit status, and what is said on stderr."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON"} | {"VENV": str(venv)}
    if python is not None:
        environment["PYTHON"] = python
    done = subprocess.run([JUST, "setup"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def refusal(venv: Path, what: str) -> tuple[int, str]:
    return 1, f"{venv}: {what}. Remove it (rm -rf {venv}) and make it anew, or let VENV name another\n"


def holds(venv: Path, version: str) -> None:
    """Put a Python of that version into ``venv``, as far as ``setup`` looks."""
    python = venv / "bin" / "python"
    python.unlink()
    python.write_text(f"#!/bin/sh\necho {version}\n")
    python.chmod(0o755)


def test_what_is_set_up_is_left_alone(venv: Path) -> None:
    assert setup(venv) == (0, "")
    assert setup(venv, sys.executable) == (0, "")


@pytest.mark.parametrize("line", ["version = {}.0", "version_info = {}.1.final.0", "version={}"])
def test_an_environment_that_venv_was_run_over_with_another_python_is_named(venv: Path, line: str) -> None:
    """It notes the new Python and leaves the old one in: the tests would run on that, and nobody would know."""
    (venv / "pyvenv.cfg").write_text(line.format("3.9") + "\n")
    assert setup(venv) == refusal(venv, f"it holds Python {OURS}, not 3.9")


def test_another_python_in_the_variable_is_named(venv: Path) -> None:
    """PYTHON is for an environment that is not there yet."""
    python = venv / "python3.12"
    python.write_text("#!/bin/sh\necho 3.99\n")
    python.chmod(0o755)
    assert setup(venv, str(python)) == refusal(venv, f"it holds Python {OURS}, not 3.99")


def test_an_environment_whose_python_is_gone_is_named(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(venv / "gone")
    assert setup(venv) == refusal(venv, "its Python is gone")


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.14"])
def test_a_python_that_pyproject_excludes_is_named_before_pip_looks_for_what_might_fit(
    venv: Path, version: str
) -> None:
    holds(venv, version)
    (venv / "pyvenv.cfg").write_text(f"version = {version}.0\n")
    assert setup(venv) == refusal(venv, f"it holds Python {version}; bitfusiond needs 3.11 to 3.13")


def test_what_was_installed_for_another_python_is_installed_anew(venv: Path) -> None:
    """An upgrade of the system makes python3 another one, which does not look where the packages are."""
    python = venv / "bin" / "python"
    python.unlink()
    python.write_text(f'#!/bin/sh\n[ "$1" = -IS ] && echo {OURS} || echo "$*" >>"{venv}/asked"\n')
    python.chmod(0o755)
    (venv / ".installed").write_text("3.10\n")
    assert setup(venv) == (0, f"setting up {venv} (once), with Python {OURS}\n")
    locked, ours = (venv / "asked").read_text().splitlines()
    assert locked.startswith("-m pip install ")
    assert locked.endswith(" --require-hashes --requirement requirements-dev.txt")
    assert ours.endswith(" --no-index --no-deps --no-build-isolation --editable .")
    (venv / "asked").unlink()
    assert setup(venv) == (0, "")
    assert not (venv / "asked").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["distros", "{}"],
        ["distros", "/", "{}/{}"],
        ["tokens", "{}"],
        ["manifests", "TOTAL_GPU_MEMORY={}"],
        ["uninstall", "NAMESPACE={}"],
        ["test", "--no-such-option={}"],
        ["test-fast", "--no-such-option={}"],
    ],
    ids=lambda words: words[0],
)
def test_no_shell_reads_what_a_recipe_is_given(tmp_path: Path, words: list[str]) -> None:
    marker = tmp_path / "marker"
    given = [word.replace("{}", f"$(touch {marker})") for word in words]
    done = subprocess.run([JUST, *given], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert not marker.exists()
