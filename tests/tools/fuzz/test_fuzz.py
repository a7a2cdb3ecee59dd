"""The kept inputs through every target, what they are worth, and a short run of the fuzzer itself."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.core import quantity
from bitfusiond.core.admission import command, demand, injection, optin, patch, shell, template
from bitfusiond.core.clients import catalogue, packages, servers_conf
from bitfusiond.files import yaml_documents
from tests.tools.fuzz.campaign import Campaign
from tests.tools.fuzz.targets import CORPUS, TARGETS, Target, name_of

LARGEST_CORPUS = 300_000  # bytes

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: .venv/bin/pip install -r requirements-fuzz.txt (x86-64 Linux)",
)


def _inputs(target: Target) -> list[bytes]:
    return [*target.seeds, *(path.read_bytes() for path in sorted(target.corpus.iterdir()))]


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_passes(name: str) -> None:
    for data in _inputs(TARGETS[name]):
        try:
            TARGETS[name].run(data)
        except Exception as error:
            error.add_note(f"input: {data!r}")
            raise


def test_the_corpus_is_small_and_each_file_is_called_after_its_content() -> None:
    kept = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} == set(TARGETS)
    assert [path for path in kept if path.name != name_of(path.read_bytes())] == []
    assert sum(path.stat().st_size for path in kept) < LARGEST_CORPUS


def _off_by_one(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args: original(*args) + 1


# Defects that somebody could make: a target that lets one pass is not worth its time.
DEFECTS: list[tuple[str, object, str, Any]] = [
    ("admission", quantity, "shares_of_percent", _off_by_one(quantity.shares_of_percent)),
    ("admission", demand, "shown", lambda value: f"{value}\n"),
    ("pods", patch, "append", lambda path, present, values: [patch.add(path, values)]),
    ("pods", injection, "unused_name", lambda base, taken, separator: base),
    ("pods", quantity, "shares_of_memory", lambda memory, total, amount: math.floor(memory * amount / total / 10**4)),
    ("annotations", optin, "shown", str),
    ("commands", command, "_literal", lambda word: word),
    ("commands", shell, "is_plain", lambda script: ";" not in script),
    ("quantities", quantity, "_LONGEST", 63),
    ("quantities", quantity, "shares_of_memory", lambda memory, total, amount: memory * amount // (total * 10**4)),
    ("packages", packages, "SUFFIXES", (".deb",)),
    ("manifests", yaml_documents, "_AMBIGUOUS", re.compile("yes")),
    ("manifests", yaml_documents, "_json", lambda document: document),
    ("servers", servers_conf, "_reachable_first", lambda server: {**server, "reachable": server["addresses"][-1]}),
    ("catalogue", catalogue, "shown", str),
    ("template", template, "_mounts", lambda container, *_: container["volumeMounts"].items()),
]


@pytest.mark.parametrize(
    ("name", "module", "attribute", "broken"), DEFECTS, ids=[f"{row[0]}: {row[2]}" for row in DEFECTS]
)
def test_a_planted_defect_is_found(
    name: str, module: object, attribute: str, broken: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, attribute, broken)
    for data in _inputs(TARGETS[name]):
        try:
            TARGETS[name].run(data)
        except Exception:  # noqa: BLE001 - as the fuzzer takes it
            return
    pytest.fail("no input of the corpus shows it")


@pytest.mark.slow
@needs_atheris
@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_of_the_fuzzer_finds_nothing(name: str, tmp_path: Path) -> None:
    outcome = Campaign(TARGETS[name], tmp_path, tmp_path / "findings").run(seconds=3)
    assert outcome.inputs > len(TARGETS[name].seeds)
    assert outcome.edges > 10, "the program is not instrumented"
    assert outcome.findings == []


@pytest.mark.slow
@needs_atheris
def test_a_finding_is_kept_and_the_run_goes_on(tmp_path: Path) -> None:
    """What the fuzzer says is read from its output: this is the output of a target that always fails."""
    campaign = Campaign(TARGETS["packages"], tmp_path, tmp_path / "findings")
    program = tmp_path / "program"
    planted = (
        "from tests.tools.fuzz.run import main; from bitfusiond.core.clients import packages; packages.SUFFIXES = ();"
        " main()"
    )
    program.write_text(program.read_text().replace("-m tests.tools.fuzz.run", f"-c '{planted}'"))
    outcome = campaign.run(seconds=2)
    assert outcome.inputs > 100
    assert len(outcome.findings) == 1
    assert [path.name in outcome.findings[0] for path in (tmp_path / "findings").iterdir()] == [True]
