"""One replica without a cluster, as a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfusiond.files import read
from tests.fakes.pki import Pki
from tests.fakes.processes import running
from tests.real.harness.webhook import Replica


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """The file of ``--clients``."""
    file = tmp_path / "clients.yaml"
    file.write_text(read.packaged(read.CATALOGUE))
    return file


@pytest.fixture
def replica(tmp_path: Path, pki: Pki, catalogue: Path) -> Iterator[Replica]:
    """The executable, which in the end has logged no error of its own and stops with status 0 when it is told to."""
    options = ["--kubeconfig", "none", "--tls-cert", str(pki.cert), "--tls-key", str(pki.key), "--drain-seconds", "0"]
    here = ["--listen", "127.0.0.1:0", "--observe", "127.0.0.1:0", "--total-gpu-memory", "16000"]
    here += ["--clients", str(catalogue)]
    log = tmp_path / "log"
    program = [sys.executable, "-W", "error", "-m", "bitfusiond", "--role", "webhook"]
    with running([*program, *options, *here], log) as process:
        started = Replica(process, log)
        yield started
        process.terminate()
        assert process.wait(20) == 0
        assert "Traceback" not in log.read_text()
