"""``python -m bitfusiond.operate.distros PACKAGES_DIR OUT_DIR``: client packages to distros, and the catalogue of them.

Each package is unpacked, never run, into ``OUT_DIR/<package file name>/``, where ``populate`` looks for it. For another
client than Bitfusion's a directory or a wheel with the name of its tree will do. Exit status: 0 = the catalogue matches
the packages; 1 = there are problems, one a line; 2 = wrong usage.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from bitfusiond.core.clients import catalogue, packages
from bitfusiond.core.clients.packages import Package, PackageError
from bitfusiond.core.fields import Json, mapping, names_of, objects
from bitfusiond.core.text import one_line
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import read, yaml_documents

_HEADER = """\
# The Bitfusion clients that were unpacked here. `just distros` writes this file anew; of what is changed by hand it
# keeps Clients and the line Default, such as Default: {os: ubuntu18, version: "450"}, for pods that name neither.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it; return the exit status."""
    parser = argparse.ArgumentParser(prog="just distros", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "packages",
        metavar="PACKAGES_DIR",
        type=Path,
        help="holds client packages",
    )
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="gets a directory a package, and the catalogue")
    chosen = parser.parse_args(arguments)
    try:
        problems = run(chosen.packages, chosen.out)
    except Failure as error:
        _complain(str(error))
        return error.exit_status
    except OSError as error:
        _complain(_reason(error))
        return 1
    except KeyboardInterrupt:
        _complain("interrupted: the next run goes on from here")
        return 1
    for problem in problems:
        _complain(problem)
    return 1 if problems else 0


def run(source: Path, out: Path) -> list[str]:
    """Unpack what is in ``source`` and write the catalogue; return the problems. With one there is no new catalogue.

    What could be unpacked stays, so that the next run need not do it again. Raises Failure where nothing can be done,
    OSError for a directory that cannot be read.
    """
    _check_directories(source, out)
    others = _others(source / read.CATALOGUE, out / read.CATALOGUE)
    wanted, given, problems = _packages(source, others)
    if not wanted and not given and not problems:
        raise Failure(f"{source}: no client packages: their names are {' or '.join(packages.NAMES)}")
    libraries: dict[Package, str] = {}
    with _locked(out) as lock:
        for package in wanted:
            try:
                libraries[package] = _ensure_distro(package, source, out, lock)
            except (PackageError, Failure) as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(f"{package.file}: {_reason(error)}")
        for name, path in given.items():
            try:
                _ensure_tree(name, path, out)
            except (Failure, zipfile.BadZipFile, shutil.Error, OSError) as error:
                problems.append(f"{path.name}: {_reason(error) if isinstance(error, OSError) else error}")
        if not problems:
            _write_catalogue(out, libraries, others)
    if problems:
        return [*problems, f"{out / read.CATALOGUE}: not written, because of {_count(problems, 'problem')}"]
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


def _others(*paths: Path) -> list[Json]:
    """The entries of ``Clients`` of the catalogues that are there and of the packaged one.

    Of a name that is in several, the first one's.
    """
    found: list[Json] = []
    packaged = mapping(read.load_yaml(read.packaged(read.CATALOGUE)))
    for entries in (*map(_clients_at, paths), objects(packaged.get("Clients"))):
        known = names_of(found, "Name")
        found += [each for each in entries if each.get("Name") not in known]
    return found


def _clients_at(path: Path) -> list[Json]:
    """``Clients`` of a catalogue, nothing where there is none. Raises Failure for one that cannot be kept."""
    try:
        document = mapping(read.load_yaml(path.read_text("utf-8")) if path.exists() else {})
        if document.get("Clients"):
            catalogue.parse({"Clients": document["Clients"]})
    except ValueError as error:
        raise Failure(f"{path}: {error}: mend the file that is there, or delete it") from None
    except OSError as error:
        raise Failure(f"{path}: {_reason(error)}") from None
    return objects(document.get("Clients"))


def _tree_name(entry: Json) -> str:
    """What the tree of an entry is called; empty where it has none."""
    return PurePosixPath(str(entry.get("Tree") or "")).name


def _packages(source: Path, others: Sequence[Json]) -> tuple[list[Package], dict[str, Path], list[str]]:
    """The client packages in ``source`` by their names, the trees of ``others``, and what is wrong with those names."""
    wanted: list[Package] = []
    given: dict[str, Path] = {}
    problems: list[str] = []
    trees = {_tree_name(entry) for entry in others} - {""}
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
            _say(f"{path.name}: ignored, {why}")
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
        raise Failure(f"OUT_DIR: {_reason(error)}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield lock
    except BlockingIOError:
        raise Failure(f"OUT_DIR: {out}: another run is at work there: wait for its end") from None
    finally:
        os.close(lock)


def _ensure_distro(package: Package, source: Path, out: Path, lock: int) -> str:
    """Make sure of the distro of one package; return its library directory.

    "Unchanged" is: the same bytes in the package, and in the tree the same names, kinds, modes, sizes, times and links
    as on the day when it was unpacked; a record beside the tree has a digest of both. A tree is only shown under its
    own name when it is whole, and its record written after that, so that a run killed anywhere is made good by the
    next one. Raises PackageError, Failure or OSError.
    """
    path, tree = source / package.file, out / package.file
    partial, old, record = (out / f".{package.file}.{kind}" for kind in ("partial", "old", "unpacked"))
    for leftover in (partial, old):
        _remove(leftover)
    if tree.is_symlink() or (tree.exists() and not tree.is_dir()):
        raise Failure(f"{tree}: not a directory, and in the way of the distro: move it elsewhere")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    present = _read_tree(tree)
    if record.is_file() and record.read_text("utf-8") == f"{digest} {present.digest}\n":
        _say(f"{package.file}: {package}, unpacked before")
        return packages.library_directory(package.file, present.directories)
    try:
        partial.mkdir()
        _unpack(path, partial, lock)
        partial.chmod(0o755)  # a .deb may bring a mode for `/`, which dpkg would not use
        made = _read_tree(partial)
        _check(package, made)
        libraries = packages.library_directory(package.file, made.directories)
        if tree.exists():
            tree.rename(old)
        partial.rename(tree)
        record.write_text(f"{digest} {made.digest}\n", "utf-8")
    finally:
        for leftover in (partial, old):
            _remove(leftover)
    _say(f"{package.file}: {package}, unpacked, {made.bytes / 1e6:.1f} MB")
    return libraries


def _ensure_tree(name: str, path: Path, out: Path) -> None:
    """Make sure of the tree of another client, out of a directory or a wheel.

    It is always copied anew, and shown under its own name when it is whole. Raises Failure, OSError, shutil.Error or
    zipfile.BadZipFile.
    """
    tree, partial, old = out / name, out / f".{name}.partial", out / f".{name}.old"
    for leftover in (partial, old):
        _remove(leftover)
    if tree.is_symlink() or (tree.exists() and not tree.is_dir()):
        raise Failure(f"{tree}: not a directory, and in the way of the distro: move it elsewhere")
    try:
        if path.is_dir():
            shutil.copytree(path, partial, symlinks=True)
        else:
            _unzip(path, partial)
        made = _read_tree(partial)
        if made.others or not made.bytes:
            lacks = "there is nothing in it" if not made.bytes else f"{made.others[0]} is neither file nor link"
            raise Failure(f"not a client: {lacks}")
        partial.chmod(0o755)
        if tree.exists():
            tree.rename(old)
        partial.rename(tree)
    finally:
        for leftover in (partial, old):
            _remove(leftover)
    _say(f"{path.name}: {name}, copied, {made.bytes / 1e6:.1f} MB")


def _unzip(path: Path, into: Path) -> None:
    """Extract a wheel; what would lead out of ``into`` is put below it. Programs stay executable."""
    with zipfile.ZipFile(path) as wheel:
        for each in wheel.infolist():
            placed = Path(wheel.extract(each, into))
            placed.chmod(0o755 if each.is_dir() or each.external_attr >> 16 & 0o111 else 0o644)
    for directory, _, _ in os.walk(into):
        Path(directory).chmod(0o755)


class _Tree(NamedTuple):
    """Paths relative to the tree's top; ``others`` are neither files, directories nor links.

    ``needed`` has the modes and sizes of what every client has.
    """

    needed: dict[str, tuple[int, int]]
    directories: frozenset[str]
    others: tuple[str, ...]
    bytes: int
    digest: str


def _read_tree(tree: Path) -> _Tree:
    """What is below ``tree``, links not followed; nothing where it is not there. Raises OSError."""
    infos = {str(path.relative_to(tree)): path.lstat() for path in _walk(tree)}
    digest = hashlib.sha256()
    total = 0
    for name, info in sorted(infos.items()):
        link = (tree / name).readlink() if stat.S_ISLNK(info.st_mode) else ""
        size = info.st_size if stat.S_ISREG(info.st_mode) else 0  # a directory's own differs between filesystems
        total += size
        digest.update(os.fsencode(f"{name}\0{info.st_mode:o} {size} {info.st_mtime_ns} {info.st_nlink}\0{link}\0"))
    kinds = {name: stat.S_IFMT(info.st_mode) for name, info in infos.items()}
    needed = {name: infos[name] for name in (packages.PROGRAM, packages.OPT) if name in infos}
    return _Tree(
        {name: (info.st_mode, info.st_size) for name, info in needed.items()},
        frozenset(name for name, kind in kinds.items() if kind == stat.S_IFDIR),
        tuple(sorted(name for name, kind in kinds.items() if kind not in {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK})),
        total,
        digest.hexdigest(),
    )


def _walk(directory: Path) -> Iterator[Path]:
    """All that is below ``directory``, a directory before what is in it; links are not followed."""
    if directory.is_dir():
        for path in directory.iterdir():
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _walk(path)


def _check(package: Package, tree: _Tree) -> None:
    """Raises PackageError where ``tree`` is not a whole client."""
    problems = packages.shortcomings(tree.needed)
    problems += [f"{name} is neither a file, a directory nor a link" for name in tree.others]
    if problems:
        raise PackageError(f"{package.file}: not a whole client: {', '.join(problems)}")


def _unpack(path: Path, into: Path, lock: int) -> None:
    """Let a tool unpack the package at ``path``; a tool that says anything at all has not unpacked it as it is.

    Absolute names, names with ``..`` and names behind a link of the same package end here: bsdtar and dpkg-deb (with
    GNU tar) leave them out or put them elsewhere, below ``into``, and say so. Raises Failure, OSError.
    """
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryFile() as words:
        with ExitStack() as running:
            feed, processes = None, []
            for command in _commands(path.absolute()):
                process = subprocess.Popen(  # noqa: S603 - a fixed program, and paths as whole arguments
                    command,
                    cwd=into,
                    stdin=feed or subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=words,
                    env=environment,
                    umask=0o022,  # of the directories that a package has files in and does not list itself
                    pass_fds=[lock],  # the tool may outlive us when we are killed: nobody begins before it ends
                )
                processes.append(running.enter_context(process))
                if feed:
                    feed.close()  # or the first would not hear of the second's end
                feed = process.stdout
            processes[-1].communicate()  # no deadline: they work on local files, and end with them
        failed = any(process.returncode for process in processes)
        words.seek(0)
        said = one_line(words.read(2000).decode("utf-8", "replace"))
    if failed or said:
        raise Failure(f"{path.name}: cannot be unpacked as it is: {said or 'the tool gave no reason'}")


def _commands(path: Path) -> list[list[str]]:
    """What unpacks ``path`` into the working directory: one command, or two with a pipe between them.

    bsdtar first, as it keeps the times of all directories, which GNU tar and with it dpkg-deb does not. Not cpio: it
    writes through links that lead out of the directory. Raises Failure where there is no tool.
    """
    bsdtar, dpkg_deb = shutil.which("bsdtar"), shutil.which("dpkg-deb")
    if bsdtar:
        # With our own ids as the files' bsdtar keeps set-id bits, whoever we are; a package's are another machine's.
        extract = [bsdtar, "--uid", str(os.geteuid()), "--gid", str(os.getegid()), "-xpf"]
        if path.suffix == ".rpm":
            return [[*extract, str(path)]]
        return [[bsdtar, "-xOf", str(path), "data.tar*"], [*extract, "-"]]
    if dpkg_deb and path.suffix == ".deb":
        return [[dpkg_deb, "--extract", str(path), "."]]
    raise Failure(f"{path.name}: there is no bsdtar to unpack it: install the Debian package libarchive-tools")


def _remove(path: Path) -> None:
    """Delete a tree of ours, if it is there. Raises OSError."""
    if not path.exists():
        return
    # A directory of a package may be read-only, and whoever is not root could not delete what is in it.
    path.chmod(stat.S_IRWXU)
    for directory, names, _ in os.walk(path):
        for name in names:
            below = Path(directory, name)
            if not below.is_symlink():
                below.chmod(stat.S_IRWXU)
    shutil.rmtree(path)


def _size(tree: Path) -> int:
    """Bytes of all that is in it."""
    places = (Path(directory, name) for directory, _, names in os.walk(tree) for name in names)
    return sum(place.lstat().st_size for place in places)


def _write_catalogue(out: Path, libraries: Mapping[Package, str], others: Sequence[Json]) -> None:
    """Raises Failure where the ``Default`` of the one that is there does not fit.

    Of ``others`` are in it those whose tree is there, and those that need none here.
    """
    path = out / read.CATALOGUE
    sizes = {each: _size(out / each.file) for each in libraries}
    kept = [entry for entry in others if not _tree_name(entry) or (out / _tree_name(entry)).is_dir()]
    try:
        before = path.read_text("utf-8") if path.exists() else ""
        document = read.load_yaml(before)
        default = document.get("Default") if isinstance(document, dict) else None
        written = packages.document(libraries, default, sizes) | ({"Clients": kept} if kept else {})
        text = _HEADER + yaml_documents.dump([written])
        catalogue.parse(read.load_yaml(text))
        if text == before:
            return
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, "utf-8")
        partial.chmod(0o644)  # `populate` reads it as the workload's user
        partial.rename(path)
    except ValueError as error:
        raise Failure(f"{path}: {error}: mend the file that is there, or delete it") from None
    except OSError as error:
        raise Failure(f"{path}: {_reason(error)}") from None


def _say_what_next(source: Path, out: Path, libraries: Mapping[Package, str], given: Mapping[str, Path]) -> None:
    """Say what came out, and what to do with it next."""
    known = {package.file for package in libraries} | given.keys()
    for path in sorted(out.iterdir()):
        if path.is_dir() and path.name not in known and not path.name.startswith("."):
            _say(f"{path}: not in the catalogue, as its package is not in {source}")
    path = out / read.CATALOGUE
    clients = _count([*libraries, *given], "client")
    _say(f"{path}: the catalogue of {clients}. With them in the image, and the catalogue deployed:")
    _say(f"    PACKAGES={shlex.quote(str(source))} just build-image")
    _say(f"    CLIENTS={shlex.quote(str(path))} just deploy")


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _reason(error: OSError) -> str:
    return ": ".join(str(part) for part in (error.filename, error.strerror) if part)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _complain(line: str) -> None:
    print(f"distros: {line}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
