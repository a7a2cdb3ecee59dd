from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from bitfusiond.core import fields
from bitfusiond.core.fields import Document, Field

POD = {
    "metadata": {"annotations": {"example.com/a.b": "x"}},
    "spec": {"containers": [{"name": "first"}, {"name": "second", "args": ["one", 2]}], "volumes": None},
}


def test_a_field_knows_where_it_is() -> None:
    pod = Document(POD)
    assert pod.path == ""
    assert pod["spec"]["containers"].items()[1]["name"].path == "spec.containers[1].name"
    assert pod["metadata"]["annotations"].entry("example.com/a.b").path == "metadata.annotations[example.com/a.b]"
    assert pod["spec"]["containers"].items()[1]["args"].elements()[1].path == "spec.containers[1].args[1]"


def test_a_field_knows_its_json_pointer() -> None:
    pod = Document(POD)
    assert pod.pointer == ""
    assert pod["spec"]["containers"].items()[1]["args"].elements()[0].pointer == "/spec/containers/1/args/0"
    assert pod["metadata"]["annotations"].entry("a~b/c").pointer == "/metadata/annotations/a~0b~1c"


def test_a_long_key_of_a_users_is_cut_in_a_path() -> None:
    assert Document({"x" * 1000: 1}).entry("x" * 1000).path == f"[{'x' * 77}...]"


@pytest.mark.parametrize("value", [None, "text", 5, [1], {}])
def test_what_is_below_another_type_is_absent(value: object) -> None:
    pod = Document({"spec": value})
    assert pod["spec"]["containers"]["name"].value is None
    assert pod["spec"].entry("a").entry("b").value is None
    assert pod.problems == []


@pytest.mark.parametrize(
    ("read", "empty", "wanted"),
    [
        (Field.mapping, {}, "an object"),
        (Field.objects, [], "a list of objects"),
        (Field.items, [], "a list of objects"),
        (Field.strings, [], "a list of strings"),
    ],
)
def test_absent_and_null_are_empty_and_another_type_is_a_problem(read: Any, empty: object, wanted: str) -> None:
    document = Document({"null": None, "other": 5})
    assert read(document["absent"]) == read(document["null"]) == empty
    assert document.is_sound
    assert read(document["other"]) == empty
    assert document.problems == [f"other: must be {wanted}, not 5"]


def test_a_list_is_right_as_a_whole_or_not_at_all() -> None:
    document = Document({"words": ["one", 2], "things": [{}, "two"]})
    assert not document["words"].strings()
    assert not document["things"].objects()
    assert document.problems == [
        'words: must be a list of strings, not ["one", 2]',
        'things: must be a list of objects, not [{}, "two"]',
    ]


def test_too_many_entries_are_none_with_a_problem() -> None:
    document = Document({"map": {"a": 1, "b": 2}, "list": [{}, {}]})
    assert document["map"].mapping(2) == {"a": 1, "b": 2}
    assert document["list"].items(1) == []
    assert document["map"].mapping(1) == {}
    assert document.problems == [f"{each}: has 2 entries: bitfusiond takes at most 1" for each in ("list", "map")]


def test_the_problems_of_a_document_are_together_in_the_order_they_were_found() -> None:
    document = Document({"a": {"b": 1}, "c": [2]})
    document["a"]["b"].problem("is wrong")
    document["c"].elements()[0].sentence("must be another")
    document.problem("as a whole too")
    assert document.problems == ["a.b: is wrong", "c[0] must be another", "as a whole too"]
    assert document["a"].problems is document.problems
    assert Document({}).problems == []


def test_a_problem_spoils_what_it_is_in_and_nothing_beside_it() -> None:
    document = Document({"items": [{"name": 1}, {"name": 2}]})
    listed = document["items"]
    first, second = listed.items()
    first["name"].problem("is wrong")
    assert [each.is_sound for each in (document, listed, first, second)] == [False, False, False, True]


def test_a_field_read_as_another_value_stays_where_it_is() -> None:
    document = Document({"words": "a b"})
    text = document["words"]
    words = text.read_as(["a", "b"])
    words.elements()[1].problem("is wrong")
    assert document.problems == ["words[1]: is wrong"]
    assert [each.is_sound for each in (document, words, text)] == [False, False, True]


def test_a_document_with_a_problem_is_freed_as_soon_as_nobody_has_it() -> None:
    """It may be a pod of some megabytes, and must not wait for the garbage collector."""

    class Spec(dict[str, Any]):
        pass

    document = Document({"spec": Spec(a=1)})
    document["spec"]["a"].problem("is wrong")
    spec = weakref.ref(document.value["spec"])
    gc.disable()
    try:
        del document
        assert spec() is None
    finally:
        gc.enable()


def test_what_others_checked_is_read_without_a_word() -> None:
    document = {"a": {"b": {"c": 1}}, "list": [{"name": "x"}, {"name": 5}, {}], "mixed": [1, "two"]}
    assert fields.mapping(document, "a", "b") == {"c": 1}
    assert fields.mapping(document, "a", "b", "c") == fields.mapping(None) == fields.mapping(document, "x", "y") == {}
    assert fields.objects(document["list"]) == document["list"]
    assert fields.objects(document["mixed"]) == fields.objects(None) == []
    assert fields.strings(document["mixed"]) == ["two"]
    assert fields.names_of(fields.objects(document["list"])) == {"x"}
