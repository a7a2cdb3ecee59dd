"""The pictures of the docs are those of their sources."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests import ROOT
from tests.tools.pictures import drawn, sources

SVG = "{http://www.w3.org/2000/svg}"
each_source = pytest.mark.parametrize("source", sources(), ids=lambda path: path.stem)


def words(picture: str) -> list[str]:
    return sorted((each.text or "").strip() for each in ElementTree.fromstring(picture).iter(f"{SVG}text"))


def names(picture: str) -> list[str]:
    """Of its nodes, edges and frames."""
    return sorted(each.text or "" for each in ElementTree.fromstring(picture).iter(f"{SVG}title"))


def stored(source: Path) -> str:
    return source.with_suffix(".svg").read_text()


def test_there_are_pictures() -> None:
    assert {source.stem for source in sources()} == {"roles", "pool"}


@each_source
def test_a_picture_has_the_labels_nodes_and_edges_of_its_source(source: Path) -> None:
    text = source.read_text()
    labels = [line.strip() for label in re.findall(r'label="([^"]*)"', text) for line in label.split(r"\n")]
    assert words(stored(source)) == sorted(labels)
    assert labels
    nodes = re.findall(r"^ +(\w+) \[label=", text, re.MULTILINE)
    edges = [f"{one}->{other}" for one, other in re.findall(r"^ +(\w+) -> (\w+)", text, re.MULTILINE)]
    frames = re.findall(r"graph (\w+) \{", text)
    assert names(stored(source)) == sorted([*nodes, *edges, *frames])


@each_source
def test_a_picture_is_what_is_drawn_today(source: Path) -> None:
    """But for the places, which go by the fonts of a machine."""
    if shutil.which("dot") is None:
        pytest.skip("install graphviz to run this")
    today = drawn(source)
    assert (words(today), names(today)) == (words(stored(source)), names(stored(source)))


@each_source
def test_a_picture_tells_nothing_of_who_drew_it(source: Path) -> None:
    picture = stored(source)
    assert picture.startswith("<svg ")
    assert not [noise for noise in ("<!--", "<!DOCTYPE", "raphviz", " id=", str(Path.home())) if noise in picture]


@each_source
def test_a_picture_is_shown_by_a_page_with_words_for_those_who_do_not_see_it(source: Path) -> None:
    shown = re.compile(rf"!\[[^\]]{{20,}}\]\((?:docs/)?pictures/{source.stem}\.svg\)")
    assert [page for page in (ROOT / "docs").glob("*.md") if shown.search(page.read_text())]
