"""The locks: what is installed into the image, into ``.venv`` and by CI, each file of it by its hash."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from tests import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
RUNTIME: list[str] = PROJECT["project"]["dependencies"]
DEVELOPMENT: list[str] = PROJECT["project"]["optional-dependencies"]["dev"]
BACKEND: list[str] = PROJECT["build-system"]["requires"]

IMAGE, BUILD = "image/requirements.txt", "image/build-requirements.txt"
DEV, FUZZ = "requirements-dev.txt", "requirements-fuzz.txt"
# What each lock is made from: `just lock`.
LOCKS = {
    IMAGE: RUNTIME,
    BUILD: [*GROUPS["image"], *BACKEND],
    DEV: [*RUNTIME, *DEVELOPMENT, *GROUPS["image"], *BACKEND],
    FUZZ: GROUPS["fuzz"],
}
STALE = "just lock, and commit what it changes"


@dataclass(frozen=True)
class Pin:
    version: str
    marker: Marker | None
    hashes: frozenset[str]

    @property
    def here(self) -> bool:
        return self.marker is None or self.marker.evaluate()


def pins(file: str) -> dict[NormalizedName, list[Pin]]:
    found: dict[NormalizedName, list[Pin]] = {}
    lines = [line for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    for entry in "\n".join(lines).replace("\\\n", " ").splitlines():
        words, *hashes = entry.split("--hash=sha256:")
        requirement = Requirement(words)
        (exact,) = requirement.specifier
        assert exact.operator == "=="
        pin = Pin(exact.version, requirement.marker, frozenset(each.strip() for each in hashes))
        found.setdefault(canonicalize_name(requirement.name), []).append(pin)
    return found


def applying(requirements: Iterable[str], extras: Iterable[str] = ()) -> list[Requirement]:
    """Those that hold for this Python and platform."""
    parsed = [Requirement(each) for each in requirements]
    of = ["", *extras]
    return [each for each in parsed if not each.marker or any(each.marker.evaluate({"extra": extra}) for extra in of)]


def needed(requirements: Iterable[str]) -> set[NormalizedName]:
    """These and all that they need, by what is installed here."""
    found: set[tuple[NormalizedName, frozenset[str]]] = set()
    waiting = applying(requirements)
    while waiting:
        each = waiting.pop()
        what = (canonicalize_name(each.name), frozenset(each.extras))
        if what not in found:
            found.add(what)
            waiting += applying(importlib.metadata.requires(each.name) or [], each.extras)
    return {name for name, _ in found}


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_pins_every_file_by_its_hash_and_names_no_place(file: str) -> None:
    assert pins(file)
    for name, each in pins(file).items():
        for pin in each:
            assert pin.hashes, name
            assert all(re.fullmatch(r"[0-9a-f]{64}", value) for value in pin.hashes), name
    text = (ROOT / file).read_text()
    assert "://" not in text
    assert not re.search(r"--(index|extra-index|find-links|trusted-host)", text)


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_meets_every_requirement_of_the_project(file: str) -> None:
    locked = pins(file)
    for requirement in applying(LOCKS[file]):
        versions = [pin.version for pin in locked.get(canonicalize_name(requirement.name), []) if pin.here]
        assert versions, f"{requirement} is not in {file}: {STALE}"
        for version in versions:
            assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, {version}: {STALE}"


@pytest.mark.parametrize("file", [IMAGE, BUILD, DEV])
def test_a_lock_holds_what_is_needed_and_nothing_else(file: str) -> None:
    locked = {name for name, each in pins(file).items() if any(pin.here for pin in each)}
    assert locked == needed(LOCKS[file]), STALE


def test_the_tests_run_with_what_the_image_has() -> None:
    development = pins(DEV)
    for file in (IMAGE, BUILD):
        for name, each in pins(file).items():
            files = [{(pin.version, pin.hashes) for pin in of} for of in (each, development[name])]
            assert files[0] == files[1], f"{name} in {file}: {STALE}"


def test_what_is_installed_here_is_what_the_lock_says() -> None:
    wrong = {
        name: version
        for name, each in pins(DEV).items()
        for pin in each
        if pin.here and (version := importlib.metadata.version(name)) != pin.version
    }
    assert not wrong, "rm .venv/.installed, then any recipe of just"


@pytest.mark.slow
def test_pip_takes_no_file_whose_hash_the_lock_lacks(tmp_path: Path) -> None:
    (tmp_path / "h11-0.16.0-py3-none-any.whl").write_bytes(b"PK\x05\x06" + bytes(18))
    only = next(line for line in (ROOT / IMAGE).read_text().split("\n\n") if "h11==" in line)
    entry = re.search(r"^h11==.*\n(?: +--hash=.*\n)+", only, re.MULTILINE)
    assert entry
    (tmp_path / "lock.txt").write_text(entry[0])
    options = ["--isolated", "--no-index", "--find-links", str(tmp_path), "--require-hashes", "--dry-run"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--ignore-installed", "-r", str(tmp_path / "lock.txt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
