"""Make the virtual environment that runs this as small as the image can have it, and compile what is left.

``python slim.py LIST BYTECODE`` is run by the Containerfile with the environment's own Python. LIST is
``unused.toml``; the directory BYTECODE gets the standard library's bytecode, as far as bitfusiond imports it, under the
paths where Python looks for it. Prints what each step took away. Of a package's record, name, version and licence stay:
whoever scans an image or passes it on wants them.
"""

# ruff: noqa: S603, S607, T201 - a build step: it runs the tools of the build stage and prints what it did

from __future__ import annotations

import compileall
import importlib.metadata
import json
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

SITE = Path(sysconfig.get_path("purelib"))
PROGRAMS = Path(sysconfig.get_path("scripts"))
KEPT_PROGRAMS = ("bitfusiond", "python*")
KEPT_RECORDS = ("METADATA", "LICEN[CS]E*", "NOTICE*", "COPYING*", "AUTHORS*")

# Prints the source and the bytecode's path of each module that bitfusiond imports, all roles together.
LIST_IMPORTED = """
import importlib, json, pkgutil, sys
import bitfusiond
for module in pkgutil.walk_packages(bitfusiond.__path__, "bitfusiond."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
print(json.dumps([[spec.origin, spec.cached] for spec in specs if spec.has_location and spec.cached]))
"""


def main(list_file: str, bytecode: str) -> None:
    listed = tomllib.loads(Path(list_file).read_text())
    steps: list[tuple[str, Callable[[], None]]] = [
        ("unused packages", lambda: _drop_distributions(listed["distributions"], listed["keep"])),
        ("unused files", lambda: _drop_files(listed["files"])),
        ("what only compilers read", lambda: _remove(path for name in listed["names"] for path in SITE.rglob(name))),
        ("records", _drop_records),
        ("programs", lambda: _remove(path for path in PROGRAMS.iterdir() if not _matches(path, KEPT_PROGRAMS))),
        ("debug symbols", _strip),
        ("bytecode instead of source", _compile),
    ]
    before = _megabytes(Path(sys.prefix))
    print(f"{before:6.1f} MB in {SITE}")
    for name, step in steps:
        step()
        after = _megabytes(Path(sys.prefix))
        print(f"{after - before:+6.1f} MB {name}")
        before = after
    print(f"{before:6.1f} MB")
    _compile_standard_library(Path(bytecode))
    print(f"{_megabytes(Path(bytecode)):+6.1f} MB bytecode of the standard library")


def _drop_distributions(names: Iterable[str], keep: list[str]) -> None:
    for name in names:
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            _report_idle(name)
            continue
        paths = [Path(str(found.locate_file(each))) for each in found.files or ()]
        kept = [path for path in paths if _matches(path, keep)]
        # Of a package that stays in part, the licence and the version stay too.
        records = [path for path in paths if kept and ".dist-info/" in str(path)]
        _remove(set(paths) - {*kept, *records})
    _remove_empty_directories()


def _drop_files(patterns: Iterable[str]) -> None:
    for pattern in patterns:
        found = list(SITE.glob(pattern))
        if not found:
            _report_idle(pattern)
        _remove(found)


def _drop_records() -> None:
    for directory in SITE.glob("*.dist-info"):
        _remove(path for path in directory.rglob("*") if path.is_file() and not _matches(path, KEPT_RECORDS))
    _remove_empty_directories()


def _strip() -> None:
    libraries = [str(path) for path in SITE.rglob("*.so")]
    subprocess.run(["strip", "--strip-unneeded", "--", *libraries], check=True)


def _compile() -> None:
    """It loads as fast and is a quarter less. Our own source stays: a traceback shows its lines."""
    _remove(SITE.rglob("__pycache__"))
    ours = SITE / "bitfusiond"
    others = [path for path in SITE.rglob("*.py") if not path.is_relative_to(ours)]
    # Taken as it is: Python looks at no source's date or content when a role starts.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    whole = compileall.compile_dir(ours, quiet=1, invalidation_mode=mode)
    for path in others:
        # Beside where the source was is where Python looks for a module that has none.
        whole &= bool(compileall.compile_file(path, quiet=1, legacy=True, invalidation_mode=mode))
    if not whole:
        sys.exit("a module cannot be compiled")
    _remove(others)


def _compile_standard_library(out: Path) -> None:
    """python:slim ships none: each start would compile some 200 modules, and be allowed to keep nothing of it."""
    out.mkdir(parents=True, exist_ok=True)
    listed = subprocess.run([sys.executable, "-B", "-c", LIST_IMPORTED], check=True, stdout=subprocess.PIPE)
    for source, cached in json.loads(listed.stdout):
        if source.endswith(".py") and not Path(source).is_relative_to(SITE):
            # Dated, not unchecked: a base with another patch level of Python takes its own source instead.
            py_compile.compile(source, f"{out}{cached}", source, doraise=True)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _remove_empty_directories() -> None:
    """Children first. To Python's import an empty directory would still be a package."""
    for path in sorted(SITE.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _matches(path: Path, patterns: Iterable[str]) -> bool:
    return any(path.match(pattern) for pattern in patterns)


def _report_idle(entry: str) -> None:
    print(f"unused.toml: {entry!r} matches nothing here", file=sys.stderr)


def _megabytes(directory: Path) -> float:
    """What its files hold, in 10^6 bytes as container engines count."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_symlink()) / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
