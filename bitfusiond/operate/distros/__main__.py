"""``python -m bitfusiond.operate.distros PACKAGES_DIR OUT_DIR``: client packages to distros, and the catalogue of them.

Each package is unpacked, never run, into ``OUT_DIR/<package file name>/``, where ``populate`` looks for it. For another
client than Bitfusion's a directory or a wheel with the name of its tree will do. Exit status: 0 = the catalogue matches
the packages; 1 = there are problems, one a line; 2 = wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bitfusiond.errors import Failure
from bitfusiond.operate.distros import command, report


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it; return the exit status."""
    parser = argparse.ArgumentParser(prog="just distros", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "packages",
        metavar="PACKAGES_DIR",
        type=Path,
        help="holds client packages",
    )
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="gets a directory a package, and the catalogue")
    chosen = parser.parse_args(arguments)
    try:
        problems = command.run(chosen.packages, chosen.out)
    except Failure as error:
        report.complain(str(error))
        return error.exit_status
    except OSError as error:
        report.complain(report.reason(error))
        return 1
    except KeyboardInterrupt:
        report.complain("interrupted: the next run goes on from here")
        return 1
    for problem in problems:
        report.complain(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
