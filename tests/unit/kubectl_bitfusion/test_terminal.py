"""Where an answer cannot be written as it is, or not at all."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitfusiond.kubectl_bitfusion import command
from tests.unit.core.diagnosis import scenes
from tests.unit.core.diagnosis.scenes import injected
from tests.unit.kubectl_bitfusion.conftest import Clusters

PROGRAM = "import sys; from bitfusiond.kubectl_bitfusion.command import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("redirected", "told"),
    [
        (">&-", "kubectl bitfusion: the answer cannot be written: stdout is closed\n"),
        (">/dev/full", "kubectl bitfusion: the answer cannot be written: No space left on device\n"),
        (">&- 2>&-", ""),
    ],
)
def test_an_answer_that_cannot_be_written(tmp_path: Path, redirected: str, told: str) -> None:
    empty = tmp_path / "kubectl"
    empty.write_text("#!/bin/sh\necho '{}'\n")
    empty.chmod(0o755)
    script = f'exec "$0" -c "$1" status -A {redirected}'
    words = ["/bin/sh", "-c", script, sys.executable, PROGRAM]
    environment = {**os.environ, "KUBECTL": str(empty)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_a_terminal_that_knows_ascii_alone(cluster: Clusters, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    document = injected(None, **scenes.unschedulable("größer"))
    cluster({"/api/v1/namespaces/team/pods/p": document})
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    assert command.main(["why", "p", "-o", form]) == 1
    screen.seek(0)
    assert "gr" in screen.read()
