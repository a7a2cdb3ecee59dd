"""Options of this test suite."""

from __future__ import annotations

import os

import hypothesis
import pytest

# The same examples on every machine and every run: a red build is then always about the change that made it.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/data/golden anew from what comes out")
