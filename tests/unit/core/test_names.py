"""names.py is true: what has a name there is written nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from bitfusiond.core import names

PACKAGE = Path(names.__file__).parent.parent
# Words that mean something else in other places, too.
COMMON = {names.STATUS_INJECTED, names.CA_CRT, names.MANAGED_BY_US, names.GPU, names.DOMAIN, names.DRIVER}


def literals(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_name_of_the_contract_is_written_twice() -> None:
    ours = {text for text in literals(ast.parse(Path(names.__file__).read_text())) if len(text) > 4} - COMMON
    assert len(ours) > 30
    twice = [
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != Path(names.__file__)
        for text in literals(ast.parse(path.read_text()))
        if text in ours
    ]
    assert twice == []
