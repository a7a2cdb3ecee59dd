"""The recipes of the justfile, as `just --list` and the README tell of them."""

from __future__ import annotations

import re

from tests import ROOT

JUSTFILE = (ROOT / "justfile").read_text()
_RECIPE = re.compile(r"(?P<above>(?:^[#\[].*\n)*)^(?P<name>(?!set )[a-z][a-z-]*)(?: .*)?:(?!=)", re.MULTILINE)


def recipes() -> dict[str, list[str]]:
    """The lines above each recipe that everybody may call, comments without their attributes."""
    found = {each["name"]: each["above"].splitlines() for each in _RECIPE.finditer(JUSTFILE)}
    return {
        name: [line for line in lines if line.startswith("#")]
        for name, lines in found.items()
        if "[private]" not in lines
    }


def test_the_list_shows_the_whole_comment_of_a_recipe() -> None:
    """`just --list` shows the last line of a comment and no other."""
    assert len(recipes()) > 20
    assert {name: len(lines) for name, lines in recipes().items()} == dict.fromkeys(recipes(), 1)


def test_the_readme_names_every_recipe() -> None:
    _, table = (ROOT / "README.md").read_text().split("| `just` | |\n", 1)
    told = re.findall(r"`([a-z-]+)[^`]*`", "".join(row.split(" | ")[0] for row in table.split("\n\n")[0].splitlines()))
    assert sorted(told) == sorted(recipes())
