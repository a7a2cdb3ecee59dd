"""The little that is known about shell syntax, against scripts whose reading is plain to a person."""

from __future__ import annotations

import pytest

from bitfusiond.core.admission import shell


@pytest.mark.parametrize(
    ("argv", "index"),
    [
        (["bash", "-c", "s"], 2),
        (["bash", "-ec", "s", "a"], 2),
        (["bash", "-c"], 2),
        (["bash", "-c", "--", "s"], 3),
        (["bash", "-o", "pipefail", "-c", "s"], 4),
        (["bash", "-eo", "pipefail", "-c", "s"], 4),
        (["bash", "+e", "-c", "s"], 3),
        (["bash", "--norc", "-c", "s"], 3),
        (["bash", "--init-file", "f", "-c", "s"], 4),
        (["bash", "-O", "extglob", "-c", "s"], 4),
        (["bash", "-o"], None),
        (["bash"], None),
        (["bash", "file", "-c", "s"], None),
        (["bash", "--", "-c"], None),
        (["bash", "-x", "file"], None),
    ],
)
def test_where_the_script_stands(argv: list[str], index: int | None) -> None:
    assert shell.script_index(argv) == index
