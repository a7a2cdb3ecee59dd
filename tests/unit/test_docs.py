"""What the pages of docs say of the tests is true of the tests."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

_CITED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
_PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@cache
def _tests_in(file: Path) -> frozenset[str]:
    return frozenset(
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_each_test_that_a_page_names_is_there(page: Path) -> None:
    for file, name in _CITED.findall(page.read_text()):
        assert (ROOT / file).is_file(), file
        assert not name or name in _tests_in(ROOT / file), f"{file}::{name}"


def test_each_complaint_names_a_test() -> None:
    rows = [line for line in (ROOT / "docs" / "complaints.md").read_text().splitlines() if line.startswith("| ")][1:]
    assert rows
    assert all(_CITED.search(row) for row in rows)
