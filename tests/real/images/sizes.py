"""``python -m tests.real.images.sizes DIR``: what the images in DIR consist of, as the table in docs/image.md."""

# ruff: noqa: T201 - a program

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from tests.real.images.saved import Archive, Entry

# The first that matches the path names the part; \1 is the package.
PARTS = (
    (r"opt/bitfusiond/lib/[^/]+/site-packages/[^/]+\.dist-info/", "records and licences"),
    (r"opt/bitfusiond/lib/[^/]+/site-packages/(?:_cffi_backend)", "cryptography"),
    (r"opt/bitfusiond/lib/[^/]+/site-packages/_yaml/", "yaml"),
    (r"opt/bitfusiond/lib/[^/]+/site-packages/([^/.]+)", r"\1"),
    (r"bitfusion/([^/]+\.(?:deb|rpm))/", r"\1"),
)
SMALL = 0.4  # MB


def main() -> None:
    parts: Counter[str] = Counter()
    for entry in Archive(Path(sys.argv[1], "bitfusion-client.tar")).entries():
        parts[part(entry)] += entry.size
    megabytes = {name: size / 1e6 for name, size in parts.items()}
    small = {name: size for name, size in megabytes.items() if size < SMALL}
    rows = sorted(((size, name) for name, size in megabytes.items() if name not in small), reverse=True)
    print("| part | MB |\n|---|---|")
    for size, name in [*rows, (sum(small.values()), f"{len(small)} parts below {SMALL} MB each")]:
        print(f"| {name} | {size:.1f} |")


def part(entry: Entry) -> str:
    """What a file belongs to."""
    for pattern, name in PARTS:
        if found := re.match(pattern, entry.path):
            return found.expand(name)
    if re.match(r"usr/(local/)?(lib/python3|bin/python3|lib/libpython)", entry.path):
        return "the base's Python" if entry.layer == 0 else "bytecode of the standard library"
    return "the base without Python" if entry.layer == 0 else "programs"


if __name__ == "__main__":
    main()
