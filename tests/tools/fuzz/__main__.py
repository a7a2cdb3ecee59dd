"""``just fuzz [TARGET] [SECONDS]``: look for inputs that break a target; a table says what was tried and found."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

from tests.tools.fuzz.campaign import Campaign
from tests.tools.fuzz.targets import TARGETS

ROW = "{:<12} {:>11} {:>9} {:>7} {:>9} {:>9}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="just fuzz", description=__doc__)
    parser.add_argument("target", nargs="?", default="all", choices=["all", *TARGETS])
    parser.add_argument("seconds", nargs="?", type=int, default=60, help="for each target (60)")
    parser.add_argument("--findings", type=Path, help="where inputs go that broke something (a new directory in /tmp)")
    parser.add_argument(
        "--keep", action="store_true", help="keep the inputs that reach more in tests/tools/fuzz/corpus"
    )
    return parser.parse_args()


def main() -> int:
    """0 = nothing found, 1 = something, 2 = there is no fuzzer."""
    arguments = _arguments()
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install -r requirements-fuzz.txt (x86-64 Linux)", file=sys.stderr)
        return 2
    findings: Path = arguments.findings or Path(tempfile.mkdtemp(prefix="bitfusiond-findings-"))
    print(ROW.format("target", "inputs", "a second", "edges", "features", "findings"))
    found: list[str] = []
    for name in TARGETS if arguments.target == "all" else [arguments.target]:
        with tempfile.TemporaryDirectory() as scratch:
            campaign = Campaign(TARGETS[name], Path(scratch), (findings / name).absolute())
            outcome = campaign.run(arguments.seconds)
            if arguments.keep:
                campaign.keep()
        rate = outcome.inputs // max(arguments.seconds, 1)
        row = (name, f"{outcome.inputs:,}", f"{rate:,}", outcome.edges, outcome.features, len(outcome.findings))
        print(ROW.format(*row), flush=True)
        found += [f"{name}: {finding}" for finding in outcome.findings]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
