"""``python -m tests.tools.protoc DIRECTORY``: the Python code of everything in ``proto/``, written below DIRECTORY.

``just proto`` writes it into the checkout; ``tests/unit/plugin/test_generated_code.py`` into a temporary directory, to
compare. The compiler is the one that the pinned grpcio-tools carries, so that both always agree.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

from tests import ROOT

SOURCES = ROOT / "proto"
PLUGIN = Path(sys.executable).with_name("protoc-gen-grpclib_python")


def generate(target: Path) -> list[Path]:
    """Write the code below ``target``; return the files, relative to it. Raises RuntimeError where protoc refuses."""
    sources = sorted(SOURCES.rglob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={SOURCES}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-grpclib_python={PLUGIN}",
            f"--python_out={target}",
            f"--pyi_out={target}",
            f"--grpclib_python_out={target}",
            *map(str, sources),
        ]
    )
    if status != 0:
        raise RuntimeError(f"protoc ended with status {status}")
    return [
        source.relative_to(SOURCES).with_name(source.stem + suffix)
        for source in sources
        for suffix in ("_pb2.py", "_pb2.pyi", "_grpc.py")
    ]


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
