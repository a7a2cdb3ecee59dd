"""One target under atheris: ``python -m tests.tools.fuzz.run PROGRAM TARGET FINDINGS [libFuzzer's options]``.

PROGRAM is what libFuzzer starts, with options, where it wants a process more.

A finding does not end the run: its input goes into the directory FINDINGS, once for each place that raised, and the
search goes on. What hangs or takes too much memory does end it; libFuzzer leaves that input there too.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bitfusiond"]):
    from tests.tools.fuzz.targets import TARGETS, name_of


def _kept_going(run: Callable[[bytes], None], findings: Path) -> Callable[[bytes], None]:
    """``run``, with what it raises written down."""
    seen: set[tuple[str, str, int | None]] = set()

    def one_input(data: bytes) -> None:
        try:
            run(data)
        except Exception as error:  # noqa: BLE001 - whatever it raises is what we are here for
            place = traceback.extract_tb(error.__traceback__)[-1]
            if (where := (type(error).__name__, place.filename, place.lineno)) not in seen:
                seen.add(where)
                path = findings / name_of(data)
                path.write_bytes(data)
                words = " ".join("".join(traceback.format_exception_only(error)).split())[:400]
                sys.stdout.write(f"FINDING {path}: {Path(place.filename).name}:{place.lineno}: {words}\n")
                sys.stdout.flush()

    return one_input


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    program, name, findings, *options = sys.argv[1:]
    atheris.Setup([program, *options], _kept_going(TARGETS[name].run, Path(findings)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
