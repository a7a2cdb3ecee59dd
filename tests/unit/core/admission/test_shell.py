"""The little that is known about shell syntax, against scripts whose reading is plain to a person."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize(
    ("script", "program"),
    [
        ("a b c", "a"),
        ("  /usr/bin/a b; c", "/usr/bin/a"),
        ("a\n  b", "a"),
        ("X=1 Y=2 a", "a"),
        ("exec a", "a"),
        ("X=1 exec a b", "a"),
        ("a", "a"),
        ("X='1 2' a", ""),
        ("$(a) b", ""),
        ("# a", ""),
        ("a;b", ""),
        ("", ""),
    ],
)
def test_which_word_is_run_first_as_a_program(script: str, program: str) -> None:
    start, end = shell.first_program(script)
    assert script[start:end] == program


@given(st.text("ab '\"\\`$(){};&|<>#\n=", max_size=40))
def test_the_first_program_of_any_text_is_inside_it(script: str) -> None:
    start, end = shell.first_program(script)
    assert 0 <= start <= end <= len(script)
