"""Client packages: unpacked, never run, and not twice while they are the same."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from bitfusiond.core.clients import packages
from bitfusiond.core.clients.packages import Package, PackageError
from bitfusiond.core.text import one_line
from bitfusiond.errors import Failure
from bitfusiond.operate.distros import report, trees


def ensure_tree(package: Package, source: Path, out: Path, lock: int) -> str:
    """Make sure of the tree of one package; return its library directory.

    "Unchanged" is: the same bytes in the package, and in the tree the same names, kinds, modes, sizes, times and links
    as on the day when it was unpacked; a record beside the tree has a digest of both. A tree is only shown under its
    own name when it is whole, and its record written after that, so that a run killed anywhere is made good by the
    next one. Raises PackageError, Failure or OSError.
    """
    path, tree, record = source / package.file, out / package.file, out / f".{package.file}.unpacked"
    with trees.making(tree) as new:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        present = trees.content(tree)
        if record.is_file() and record.read_text("utf-8") == f"{digest} {present.digest}\n":
            report.say(f"{package.file}: {package}, unpacked before")
            return packages.library_directory(package.file, present.directories)
        new.partial.mkdir()
        _unpack(path, new.partial, lock)
        new.partial.chmod(0o755)  # a .deb may bring a mode for `/`, which dpkg would not use
        made = trees.content(new.partial)
        _check(package, made)
        libraries = packages.library_directory(package.file, made.directories)
        new.show()
        record.write_text(f"{digest} {made.digest}\n", "utf-8")
    report.say(f"{package.file}: {package}, unpacked, {made.bytes / 1e6:.1f} MB")
    return libraries


def _check(package: Package, tree: trees.Content) -> None:
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
