"""Manifests as text: what is read is what kubectl would send, and what is written reads back the same everywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.files import yaml_documents

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def ordered(value: Any) -> Any:
    """``value`` so that two compare equal only if their keys are in the same order and their types the same."""
    if isinstance(value, dict):
        return ("mapping", [(key, ordered(each)) for key, each in value.items()])
    if isinstance(value, list):
        return ("list", [ordered(each) for each in value])
    return (type(value).__name__, value)


@given(st.lists(JSON.filter(lambda value: value is not None), max_size=3))
def test_what_is_written_reads_back_the_same(documents: list[Any]) -> None:
    text = yaml_documents.dump(documents)
    assert ordered(yaml_documents.load(text)) == ordered(documents)
    assert ordered(list(yaml.safe_load_all(text))) == ordered(documents)


# Strings that some reader takes for something else where they stand bare.
AMBIGUOUS = """
y n Y N yes no on off true FALSE null ~ Null = <<
450 0450 08 0o17 0O17 0x1F 0X1F 0b1 0B1 1_000 +1 -1 -_1 +_0x1F -_1.5 .5 1e3 1E3 1.5e3 1.e3 .5e3 1e+3 12e03 +.inf .NaN
2024-01-31 2024-01-31T10:00:00Z 190:20:30 1:30
- ? : # & * ! | > % @ ` ' " {} [] , --- ...
"""
NUMBERS = AMBIGUOUS.splitlines()[2]


@pytest.mark.parametrize(
    "value", ["", " ", " x", "x ", "a: b", "a #b", "\t", "x\n", "\n", "\u00a0", "\ufeff", *AMBIGUOUS.split()]
)
def test_a_string_stays_a_string(value: str) -> None:
    text = yaml_documents.dump([{"value": value, value: "key"}])
    assert yaml_documents.load(text) == [{"value": value, value: "key"}]
    assert yaml.safe_load(text) == {"value": value, value: "key"}


@pytest.mark.parametrize("value", NUMBERS.split())
def test_a_string_that_a_reader_in_go_takes_for_a_number_is_quoted(value: str) -> None:
    """kubectl's reader knows octal numbers with 0o, leading zeros, and exponents without a sign; PyYAML does not."""
    assert yaml_documents.dump([{"k": value}]) == f"k: '{value}'\n"


@pytest.mark.parametrize(
    "value", ["450a", "v1", "1.2.3", "100m", "8Gi", "10.0.0.1", "yes!", "e3", "0x", "a-1", "x.y/z"]
)
def test_what_no_reader_can_mistake_stays_bare(value: str) -> None:
    assert yaml_documents.dump([{"k": value}]) == f"k: {value}\n"


def test_the_order_of_keys_stays() -> None:
    text = "z: 1\na:\n  x: 2\n  b: 3\nm: 4\n"
    assert yaml_documents.dump(yaml_documents.load(text)) == text


def test_a_script_of_several_lines_is_written_as_a_block() -> None:
    text = "command:\n- sh\n- -c\n- |\n  cd /x\n  python y.py\n"
    assert yaml_documents.dump(yaml_documents.load(text)) == text


def test_a_long_line_is_not_folded() -> None:
    words = " ".join(["word"] * 100)
    assert yaml_documents.dump([{"k": words}]) == f"k: {words}\n"


def test_unicode_is_written_as_it_is() -> None:
    assert yaml_documents.dump([{"k": "größe 猫"}]) == "k: größe 猫\n"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("2024-01-31", "2024-01-31"),
        ("2024-01-31T10:00:00Z", "2024-01-31T10:00:00Z"),
        ("12:30", "12:30"),
        ("190:20:30", "190:20:30"),
        ("192.168.1.1", "192.168.1.1"),
        ("0x", "0x"),
        ("e3", "e3"),
        ("1e3", 1e3),
        ("1E-2", 0.01),
        (".5", 0.5),
        ("450", 450),
        ("-7", -7),
        ("0777", 0o777),
        ("0o17", 0o17),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("=", "="),
        ("<<", "<<"),
        ("[=, <<]", ["=", "<<"]),
        ("{=: a}", {"=": "a"}),
        ("!!binary aGk=", "hi"),
        ("!!binary gICA", "\ufffd\ufffd\ufffd"),
        ("-_1", -1),
        ("+__0x1F", 31),
        ("-_1.5", -1.5),
        ("_1", "_1"),
        ("-_", "-_"),
    ],
)
def test_a_bare_word_is_what_kubectl_takes_it_for(written: str, value: object) -> None:
    """YAML 1.1 reads a time such as 12:30 as a number to the base of 60, and 1e3 as text."""
    assert ordered(yaml_documents.load(f"k: {written}")) == ordered([{"k": value}])


def test_every_document_is_read_and_the_empty_ones_are_left_out() -> None:
    assert yaml_documents.load("---\na: 1\n---\n---\n# a comment\n---\nb: 2\n...\n") == [{"a": 1}, {"b": 2}]
    assert yaml_documents.load("") == []
    assert yaml_documents.dump([]) == ""


def test_json_is_yaml() -> None:
    assert yaml_documents.load('{"a": [1, "x", null, true], "b": {"c": 1.5}}') == [
        {"a": [1, "x", None, True], "b": {"c": 1.5}}
    ]
    assert yaml_documents.load('{\n\t"a": "\\u00e9\\/"\n}') == [{"a": "é/"}]
    assert yaml_documents.load('{"a": "\\ud83d\\uDE00 \\\\ud83d"}') == [{"a": "😀 \\ud83d"}]


@given(JSON.filter(lambda value: isinstance(value, dict | list)), st.sampled_from([None, 2, "\t"]))
def test_whatever_json_says_is_read(value: Any, indent: int | str | None) -> None:
    assert ordered(yaml_documents.load(json.dumps(value, indent=indent))) == ordered([value])


def test_keys_are_strings_as_in_json() -> None:
    assert yaml_documents.load("450: a\ntrue: b\n") == [{"450": "a", "true": "b"}]


def test_anchors_and_merge_keys_are_written_out() -> None:
    text = "base: &base {a: 1, b: 2}\none:\n  <<: *base\n  b: 3\ntwo: *base\n"
    assert yaml_documents.load(text) == [{"base": {"a": 1, "b": 2}, "one": {"a": 1, "b": 3}, "two": {"a": 1, "b": 2}}]


def test_what_an_anchor_repeats_is_apart() -> None:
    (document,) = yaml_documents.load("a: &x {k: 1}\nb: *x\n")
    document["a"]["k"] = 2
    assert document["b"] == {"k": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("a: [1", "not YAML: while parsing a flow sequence", id="a list that is not closed"),
        pytest.param("a:\n\tb: 1", "found character that cannot start any token", id="a tab"),
        pytest.param("a: 1\nb: 2\na: 3\n", "the key 'a' is there twice", id="a key twice"),
        pytest.param('{"a": {"b": 1, "b": 1}}', "the key 'b' is there twice", id="a key twice in JSON"),
        pytest.param("a: 1\n---\nb: ]\n", "not YAML: ", id="a broken second document"),
        pytest.param("x: &x {a: 1}\ny: {<<: *x, b: 1, b: 1}", "the key 'b' is there twice", id="twice beside a merge"),
        pytest.param("? [a]\n: 1\n", "a key must be a string", id="a list as a key"),
        pytest.param("a: *nobody", "found undefined alias", id="an alias of nothing"),
        pytest.param("&a [*a]", "not JSON: ", id="an alias of itself"),
        pytest.param("a: !!python/object:os.system x", "could not determine a constructor", id="a Python object"),
        pytest.param("a: !!binary x", "failed to decode base64 data", id="no base64"),
        pytest.param("a: {<<: x}", "expected a mapping or list of mappings for merging", id="a merge of a word"),
        pytest.param("a: [.inf]", "not JSON: ", id="a number that JSON has not"),
        pytest.param("a: 1e999", "not JSON: ", id="a number that is too large"),
        pytest.param(f"a: 0x{'f' * 5000}", "not JSON: ", id="a number of very many digits"),
        pytest.param("a: \x00", "control characters are not allowed", id="NUL"),
        pytest.param("a: \x1b[0m", "control characters are not allowed", id="a control character"),
        pytest.param("[" * 100_000, "not YAML: nested too deeply (more than 200 levels)", id="100,000 lists"),
        pytest.param("{a: " * 100_000, "not YAML: nested too deeply (more than 200 levels)", id="100,000 mappings"),
        pytest.param("- " * 100_000, "not YAML: nested too deeply (more than 200 levels)", id="100,000 dashes"),
    ],
)
def test_what_cannot_be_read_is_an_error_of_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:
        yaml_documents.load(text)
    assert message in str(caught.value)


DEEPEST = {
    "lists": "[" * 200 + "]" * 200,
    "mappings": "{a: " * 200 + "1" + "}" * 200,
    "lists of mappings": "[{a: " * 100 + "1" + "}]" * 100,
    "aliases": "\n".join(["a1: &a1 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(2, 200)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("text", DEEPEST.values(), ids=DEEPEST.keys())
def test_what_is_as_deep_as_can_be_is_read_and_written(text: str) -> None:
    (document,) = yaml_documents.load(text)
    assert yaml_documents.load(yaml_documents.dump([document])) == [document]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(DEEPEST["aliases"] + "\na200: [*a199]", id="aliases"),
        pytest.param("a1: &a1 {}\n" + "\n".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}" for n in range(2, 201)), id="merges"),
        *(pytest.param(f"[{DEEPEST[shape]}]", id=shape) for shape in ("lists", "mappings", "lists of mappings")),
        # libyaml looks 1024 characters ahead
        pytest.param("[" * 1001 + "]" * 1001, id="1001 lists"),
        pytest.param("a:\n - " + "[" * 5000, id="5000 lists somewhere"),
    ],
)
def test_what_is_deeper_is_not_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not YAML: nested too deeply \(more than 200 levels\)$"):
        yaml_documents.load(text)


NO_BREAK_SPACE = "indented with U+00A0 (no-break space), as text from a web page often is: use plain spaces"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("spec:\n\u00a0\u00a0hard:\n\u00a0\u00a0\u00a0\u00a0requests.bitfusion.io/gpu: 100\n", 2),
        ("spec:\n  hard:\n\u00a0 \u00a0requests.bitfusion.io/gpu: 100\n", 3),
        ("a:\n\u00a0- b\n", 2),
        ("a:\n - b\n\n -\u00a0c: 1\n", 4),
        ("a: 1\nb:\u00a02\n", 2),
    ],
)
def test_b34_spaces_that_are_none_are_an_error(text: str, line: int) -> None:
    """YAML takes U+00A0 for a letter, so what a user pasted means something else or nothing."""
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:
        yaml_documents.load(text)
    assert str(caught.value) == f"not YAML: line {line}: {NO_BREAK_SPACE}"


def test_a_no_break_space_inside_of_a_text_may_stay() -> None:
    text = "a: 5\u00a0€\nb: '\u00a0x'\nc: |\n  \u00a0x\n"
    assert yaml_documents.load(text) == [{"a": "5\u00a0€", "b": "\u00a0x", "c": "\u00a0x\n"}]


def test_an_error_says_where() -> None:
    with pytest.raises(ValueError, match="line 3, column 1"):
        yaml_documents.load("a: 1\nb: 2\na: 3\n")


def test_aliases_of_aliases_are_bounded() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ValueError, match="its aliases expand to more than 1000000 values"):
        yaml_documents.load("\n".join(lines))


def test_a_long_text_counts_as_often_as_it_is_repeated() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 10_000)}]\n"
    with pytest.raises(ValueError, match="its aliases expand to more than 1000000 values"):
        yaml_documents.load(text)


@pytest.mark.parametrize(
    "text",
    ["x: !!bool hidden", "x: !!timestamp hidden", 'x: !!int ""', 'x: !!float ""', "!!bool x: 1", f"x: {'1' * 5000}"],
)
def test_a_value_that_does_not_fit_its_tag_is_an_error_that_does_not_repeat_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not YAML: a value does not fit its tag$"):
        yaml_documents.load(text)
