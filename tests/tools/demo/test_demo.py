"""The demo: it shows what the README promises, and it fails when something in it is broken."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfusiond.files import read
from tests import ROOT
from tests.tools import remote
from tests.tools.demo import record
from tests.tools.demo.directory import remove
from tests.tools.demo.story import titles

COMMAND = [sys.executable, "-m", "tests.tools.demo"]


@pytest.fixture
def directory() -> Iterator[Path]:
    """For the demo to work in: a short path, as unix sockets need."""
    path = Path(tempfile.mkdtemp(prefix="bfd", dir="/tmp"))
    yield path
    remove(path)


def demo(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end. Whatever happens, it leaves nothing behind."""
    environment = {**os.environ, "TMPDIR": str(directory), **variables}
    result = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert processes_of(directory) == []
    return result


def processes_of(directory: Path) -> list[str]:
    """Command lines with the directory in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # ended meanwhile
            continue
    return [line for line in found if str(directory) in line]


def test_every_step_does_what_it_should(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(remote.VARIABLE, raising=False)  # `just demo` with it is a step of CI of its own
    result = demo(directory)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    out = result.stdout
    assert "plugin registered bitfusion.io/gpu with the kubelet: 1000 devices on demo.sock (API v1beta1)" in out
    assert "BITFUSION_GPU_SHARES=50" in out
    # As the webhook answers, and as the client was asked for when the command ran.
    for asked in (
        "run -n 1 -p 0.500000",
        "run -n 1 -m 8000",
        "run -n 1 -p 0.500000 --filter server.hostname=bf-server --filter server.addr=192.168.1.1",
    ):
        assert f"/usr/bin/bitfusion {asked} -- python /benchmark/" in out
        assert f"| bitfusion: {asked}\n" in out
    assert "101 is not an integer from 1 to 100" in out
    assert out.count("images/sec: ") >= 4
    assert re.findall(r"^(\d)\. ", out, re.MULTILINE) == 2 * [str(number) for number in range(1, len(titles()) + 1)]
    assert f"{len(titles())} of {len(titles())} steps did what they should." in out
    assert "✗" not in out
    assert "\x1b" not in out, "escape codes where there is no terminal"
    assert list(directory.iterdir()) == []
    assert record.stable(out) == record.stable(record.recorded()), "`just record` makes docs/demo.md anew"


def test_a_distro_that_the_image_lacks_fails_the_demo(directory: Path) -> None:
    """The step that fails says what was expected, what came, and how the process's log ends; the rest is not run."""
    catalogue = directory / "clients.yaml"
    packaged = read.packaged("bitfusion-client-config.yaml")
    catalogue.write_text(packaged.replace("ubuntu1804_4.5.0-4", "ubuntu1804_4.5.0-5"))
    result = demo(directory, BITFUSIOND_CLIENTS=str(catalogue))
    assert result.returncode == 1
    assert "✗ init" in result.stdout
    assert "expected: the exit status of init: 0\n     got:      1\n" in result.stdout
    log = result.stdout.partition("the end of the log of init:")[2]
    assert "bitfusion-client-ubuntu1804_4.5.0-5_amd64.deb" in log
    assert "5. workload  " in log
    assert "not run" in log
    assert "3 of 6 steps did what they should." in log
    assert list(directory.iterdir()) == [catalogue]


def test_a_daemon_that_does_not_start_fails_the_demo(directory: Path) -> None:
    catalogue = directory / "clients.yaml"
    catalogue.write_text("BitfusionClients: 7\n")
    result = demo(directory, BITFUSIOND_CLIENTS=str(catalogue))
    assert result.returncode == 1
    assert "got:      it ended, exit status 2" in result.stdout
    assert "the end of the log of webhook:\n     | bitfusiond: " in result.stdout
    assert "1 of 6 steps did what they should." in result.stdout


def test_a_token_that_the_client_does_not_find_fails_the_demo(directory: Path) -> None:
    """The demo runs the command for real: it sees what a look at the pod alone would not."""
    template = directory / "template.yaml"
    before, containers, after = read.packaged("sidecarconfig.yaml").partition("\ncontainers:")
    template.write_text(before + containers + after.replace("/etc/bitfusion/tls/ca.crt", "/etc/bitfusion/ca.crt"))
    result = demo(directory, BITFUSIOND_INJECTION=str(template))
    assert result.returncode == 1
    assert "✗ workload" in result.stdout
    assert "bitfusion: /etc/bitfusion/tls/ca.crt is missing or empty" in result.stdout
    assert "4 of 6 steps did what they should." in result.stdout


def test_keep_and_verbose_show_more(directory: Path) -> None:
    result = demo(directory, "--keep", "--verbose")
    assert result.returncode == 0, result.stdout
    assert '> webhook: {"ts": ' in result.stdout
    assert '> plugin: {"ts": ' in result.stdout
    (kept,) = directory.iterdir()
    assert f"kept: {kept}" in result.stdout
    assert {"plugin.log", "webhook.log", "pods"} <= {path.name for path in kept.iterdir()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_told_to_stop_leaves_nothing_behind(directory: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "TMPDIR": str(directory)}
    with subprocess.Popen(COMMAND, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("3. "):
            pass
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert processes_of(directory) == []
    assert list(directory.iterdir()) == []
