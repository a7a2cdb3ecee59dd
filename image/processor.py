"""Hold the bases against the processor that an image is for: ``python processor.py ARCH BASE``.

ARCH is ``amd64`` or ``arm64``, as engines call it, BASE the root of the base. A base by its digest may be of one
processor alone; an engine takes it for another one too, with a warning at most, and the image would start nowhere.
"""

from __future__ import annotations

import sys
from pathlib import Path

# Of <elf.h>: EM_X86_64, EM_AARCH64.
MACHINES = {"amd64": 62, "arm64": 183}


def main(wanted: str, base: str) -> None:
    python = Path(sys.executable).resolve()
    for name, path in (("BUILD_BASE", python), ("BASE", Path(f"{base}{python}"))):
        found = path.read_bytes()[18:20] if path.is_file() else None
        if found is not None and wanted in MACHINES and int.from_bytes(found, "little") != MACHINES[wanted]:
            sys.exit(f"{name}: its Python is not for {wanted}: name the base by its tag, or by the digest of its list")


if __name__ == "__main__":
    main(*sys.argv[1:])
