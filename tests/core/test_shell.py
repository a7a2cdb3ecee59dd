"""The little that is known about shell syntax, against scripts whose reading is plain to a person."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core import shell


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
    ("script", "programs"),
    [
        ("a b c", ["a"]),
        ("a; b && c || d | e & f", ["a", "b", "c", "d", "e", "f"]),
        ("a\nb", ["a", "b"]),
        ("X=1 Y='2 3' a", ["a"]),
        ("exec a", ["a"]),
        ("if a; then b; else c; fi", ["a", "b", "c", "fi"]),
        ("( a ; b )", ["a", "b"]),
        ("{ a; }", ["a", "}"]),
        ("a > b 2>&1 < c", ["a"]),
        ("> b a", ["a"]),
        ("a 'b; c' \"d; e\" f\\;g", ["a"]),
        ("a $(b; c) `d; e` ${f:-g;h}; i", ["a", "i"]),
        ("a $(b \"$(c; d)\" '(') e; f", ["a", "f"]),
        ("a # b; c\nd", ["a", "d"]),
        ("a b#c; d", ["a", "d"]),
        ("'a b' c", ["'a b'"]),
        ("a \\\n  b", ["a"]),
        ("a 'b", ["a"]),
        ("", []),
    ],
)
def test_which_words_are_run_as_programs(script: str, programs: list[str]) -> None:
    assert [script[start:end] for start, end in shell.programs(script)] == programs


@given(st.text("ab '\"\\`$(){};&|<>#\n=", max_size=40))
def test_any_text_has_programs_in_order_inside_it(script: str) -> None:
    spans = list(shell.programs(script))
    flat = [position for span in spans for position in span]
    assert flat == sorted(flat)
    assert all(0 <= start < end <= len(script) for start, end in spans)
