"""The tests: ``unit`` mirrors the package, ``real`` needs a real Kubernetes or its images, ``tools`` are programs."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = ROOT / "tests" / "data"
MANIFESTS = ROOT / "manifests"
EXAMPLES = MANIFESTS / "examples"
