"""Tables on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

PROGRAM = """
import sys
if "without" in sys.argv:
    sys.modules["rich"] = None
from bitfusiond.kubectl_bitfusion import tables
rows = [["a", "1"], ["[bold]b[/bold]\\x1b[31m", "23"]]
tables.show([tables.Table(["NAME", "SHARES"], rows, frozenset({"SHARES"})), tables.Table(["NONE"], [])], ["end\\x07"])
"""
PLAIN = """\
NAME                 SHARES
a                         1
[bold]b[/bold]?[31m      23

end?
"""


def on_terminal(*arguments: str, **environment: str) -> str:
    """What a terminal gets of the program."""
    keyboard, terminal = pty.openpty()
    usual = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=terminal,
        cwd=ROOT,
        env=usual | {"TERM": "xterm", **environment},
    )
    os.close(terminal)
    found = b""
    while True:
        try:
            found += (some := os.read(keyboard, 65536))
        except OSError:  # Linux: the other end was closed
            break
        if not some:
            break
    os.close(keyboard)
    assert process.wait() == 0
    return found.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_a_terminal_gets_a_table_of_rich_and_none_of_an_objects_signs() -> None:
    found = on_terminal()
    assert "\x1b[1m" in found, "the heading is bold"
    assert "─" in found
    assert "[bold]b[/bold]?[31m" in found, "as it is, no markup and no colour"
    assert "end?" in found


@pytest.mark.slow
def test_no_color_is_respected() -> None:
    assert "\x1b[3" not in on_terminal(NO_COLOR="1")


@pytest.mark.slow
def test_without_rich_a_terminal_gets_plain_text() -> None:
    assert on_terminal("without") == PLAIN


@pytest.mark.slow
def test_a_file_gets_plain_text(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == PLAIN
