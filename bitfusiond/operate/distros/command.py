"""From a directory of packages to a directory of trees with their catalogue."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bitfusiond.core.clients import packages
from bitfusiond.core.clients.packages import Package, PackageError
from bitfusiond.core.fields import Json
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import read
from bitfusiond.operate.distros import catalogue, other_trees, package_trees, report


def run(source: Path, out: Path) -> list[str]:
    """Unpack what is in ``source`` and write the catalogue; return the problems. With one there is no new catalogue.

    What could be unpacked stays, so that the next run need not do it again. Raises Failure where nothing can be done,
    OSError for a directory that cannot be read.
    """
    _check_directories(source, out)
    others = catalogue.others(source / read.CATALOGUE, out / read.CATALOGUE)
    wanted, given, problems = _inputs(source, others)
    if not wanted and not given and not problems:
        raise Failure(f"{source}: no client packages: their names are {' or '.join(packages.NAMES)}")
    libraries: dict[Package, str] = {}
    with _locked(out) as lock:
        for package in wanted:
            try:
                libraries[package] = package_trees.ensure_tree(package, source, out, lock)
            except (PackageError, Failure) as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{package.file}: {report.reason(error)}")
        for name, path in given.items():
            try:
                other_trees.ensure_tree(name, path, out)
            except (Failure, zipfile.BadZipFile, shutil.Error, OSError) as error:
                problems.append(f"{path.name}: {report.reason(error) if isinstance(error, OSError) else error}")
        if not problems:
            catalogue.write(out, libraries, others)
    if problems:
        return [*problems, f"{out / read.CATALOGUE}: not written, because of {report.count(problems, 'problem')}"]
    _say_what_next(source, out, libraries, given)
    return []


def _check_directories(source: Path, out: Path) -> None:
    """Raises ConfigurationError."""
    if not source.is_dir():
        raise ConfigurationError(f"PACKAGES_DIR: {source} is not a directory")
    if out.exists() and not out.is_dir():
        raise ConfigurationError(f"OUT_DIR: {out} is not a directory")
    if out.resolve() == source.resolve():
        raise ConfigurationError(f"OUT_DIR: {out} holds the packages, whose names the distros get: take another")


def _inputs(source: Path, others: Sequence[Json]) -> tuple[list[Package], dict[str, Path], list[str]]:
    """The client packages in ``source`` by their names, the trees of ``others``, and what is wrong with those names."""
    wanted: list[Package] = []
    given: dict[str, Path] = {}
    problems: list[str] = []
    trees = {catalogue.tree_name(entry) for entry in others} - {""}
    for path in sorted(source.iterdir()):
        name = path.name.partition("-")[0].lower().replace("_", "-") if path.suffix == ".whl" else path.name
        if path.name == read.CATALOGUE:
            continue
        if name in trees and (path.is_dir() or path.suffix == ".whl"):
            if name in given:
                problems.append(f"{given[name].name} and {path.name}: both are for {name}: keep one of them")
            given[name] = path
            continue
        if not path.name.endswith(packages.SUFFIXES) or not path.is_file():
            is_package = path.is_file() and path.suffix != ".whl"
            why = "not a package" if is_package else "no package, nor the tree of a client of the catalogue"
            report.say(f"{path.name}: ignored, {why}")
            continue
        try:
            wanted.append(packages.parse(path.name))
        except PackageError as error:
            problems.append(str(error))
    return wanted, given, [*problems, *packages.clashes(wanted)]


@contextmanager
def _locked(out: Path) -> Iterator[int]:
    """Hold the lock of ``out``; its descriptor: two at once would take each other's hidden names away."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Failure(f"OUT_DIR: {report.reason(error)}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    except BlockingIOError:
        raise Failure(f"OUT_DIR: {out}: another run is at work there: wait for its end") from None
    finally:
        os.close(lock)


def _say_what_next(source: Path, out: Path, libraries: Mapping[Package, str], given: Mapping[str, Path]) -> None:
    """Say what came out, and what to do with it next."""
    known = {package.file for package in libraries} | given.keys()
    for path in sorted(out.iterdir()):
        if path.is_dir() and path.name not in known and not path.name.startswith("."):
            report.say(f"{path}: not in the catalogue, as its package is not in {source}")
    path = out / read.CATALOGUE
    clients = report.count([*libraries, *given], "client")
    report.say(f"{path}: the catalogue of {clients}. With them in the image, and the catalogue deployed:")
    report.say(f"    PACKAGES={shlex.quote(str(source))} just build-image")
    report.say(f"    CLIENTS={shlex.quote(str(path))} just deploy")
