"""``python -m tests.tools.pictures``: make the pictures of docs/pictures, an SVG of each source. Wants graphviz's dot.

Text is dark on a light ground of its own, or of a grey that can be read on white and on black: a page may be either.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests import ROOT

PICTURES = ROOT / "docs" / "pictures"
# What the program tells of itself: its version, where its output is for, names that repeat the titles beside them.
_NOISE = re.compile(r"<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*|<!--.*?-->\s*|(?<=<g) id=\"[a-z]+\d+\"", re.DOTALL)


def sources() -> list[Path]:
    return sorted(PICTURES.glob("*.dot"))


def drawn(source: Path) -> str:
    """The picture. Raises CalledProcessError where the source is wrong, FileNotFoundError without the program."""
    done = subprocess.run(["dot", "-Tsvg", source], capture_output=True, text=True, check=True)
    return _NOISE.sub("", done.stdout)


def main() -> None:
    if shutil.which("dot") is None:
        sys.exit("install graphviz, which has the program dot")
    for source in sources():
        picture = source.with_suffix(".svg")
        picture.write_text(drawn(source))
        print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size} bytes")  # noqa: T201 - a program


if __name__ == "__main__":
    main()
