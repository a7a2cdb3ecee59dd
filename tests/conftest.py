"""Options of the tests, and what all of them may use."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# The same examples on every machine and every run: a red build is then always about the change that made it.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


TESTS = Path(__file__).parent
# Where most tests start programs, talk over sockets, build packages, fill disks, or try very many things.
SLOW = (
    *("tools/bench", "tools/demo"),
    *(f"unit/{name}" for name in ("http", "image", "kube", "plugin", "populate", "registry", "test_layers.py")),
    *(f"unit/operate/{name}" for name in ("chart", "distros")),
    *(f"unit/webhook/{name}" for name in ("certificates", "images", "test_bad_requests.py", "test_namespaces.py")),
    *(
        "unit/core/admission/test_running.py",
        "unit/core/diagnosis/test_hostile.py",
        "unit/manifests/test_conditions.py",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of tests/real by the folder that says what they need, and those of slow folders."""
    for item in items:
        place = item.path.relative_to(TESTS)
        if place.parts[0] == "real":
            item.add_marker(place.parts[1])
        if any(place.is_relative_to(each) for each in SLOW):
            item.add_marker("slow")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/data/golden anew from what comes out")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Of a device plugin. pytest's own temporary paths can be longer than a unix socket's path may be."""
    path = Path(tempfile.mkdtemp(prefix="dp-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)
