"""``python -m tests.tools.demo.record``: write docs/demo.md, what the demo prints where there is no real client."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests import ROOT

PAGE = ROOT / "docs" / "demo.md"
_FENCE = "```"
_PAGE = """\
# The demo, as it ran

What [`just demo`](../README.md#try-it-no-cluster-no-root-no-container-engine) prints: every role of bitfusiond at work
on one machine, with stand-ins for what is around it. `just record` made this page, and the tests hold it against a run,
but for times, ports and speeds.

{fence}text
$ just demo
{printed}{fence}
"""
# What differs from run to run, and what stands for it.
_VARYING = [
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:PORT"),
    (re.compile(r"(images/sec: )[\d.]+"), r"\1N"),
    (re.compile(r"\b\d+\.\d+ s\b"), "N s"),
    (re.compile(r"^( *(?:\d\. .*|all) +)\d+\.\d+$", re.MULTILINE), r"\1N"),
]


def environment() -> dict[str, str]:
    """Ours, without a real client, whose act is not the same on any two machines, and without files of one's own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BITFUSIOND_")}


def recorded() -> str:
    """What the demo printed when it was recorded."""
    _, _, after = PAGE.read_text().partition(f"{_FENCE}text\n$ just demo\n")
    return after.removesuffix(f"{_FENCE}\n")


def stable(printed: str) -> str:
    """What the demo prints each time."""
    for pattern, instead in _VARYING:
        printed = pattern.sub(instead, printed)
    return re.sub(r" +N$", " N", printed, flags=re.MULTILINE)


def main() -> None:
    command = [sys.executable, "-m", "tests.tools.demo"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}\nthe demo ended with {done.returncode}: nothing was recorded")
    PAGE.write_text(_PAGE.format(fence=_FENCE, printed=done.stdout))


if __name__ == "__main__":
    main()
