"""The run of ``--role init``, from settings to exit status."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bitfusiond import logs
from bitfusiond.core.clients import packages
from bitfusiond.core.clients.catalogue import Client, UnknownClientError
from bitfusiond.core.copyplan import Entry
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import read
from bitfusiond.populate import content, leftovers, listing, optlink, space, tokens, trees
from bitfusiond.populate.stopping import Stop
from bitfusiond.populate.trees import Tree
from bitfusiond.settings import Init

_log = logs.Log("populate")


def run(settings: Init) -> int:
    """Fill the volumes; return 0.

    Raises ConfigurationError for a client that the catalogue does not have, Failure for anything that is missing, full
    or not allowed, and when SIGTERM or SIGINT comes before the end.
    """
    started = time.monotonic()
    # Listings are many small objects, none of them in a cycle: looking for cycles only takes time.
    gc.disable()
    # Files and directories get their mode when they are made.
    usual = os.umask(0)
    with Stop() as stop:
        try:
            _populate(settings, stop)
        except OSError as error:
            # Files are copied under a message of their own; this is for all that is done around them.
            raise Failure(": ".join(str(part) for part in (error.filename, error.strerror) if part)) from None
        finally:
            os.umask(usual)
            gc.enable()
    _log.info("done", seconds=round(time.monotonic() - started, 3))
    return 0


def _populate(settings: Init, stop: Stop) -> None:
    client = _client(settings)
    linked = optlink.fits(settings.opt_target, settings.distro_target)
    problems = _directories(settings, linked=linked)
    wanted = _distro(settings, client, problems)
    token_files = tokens.read(settings.tokens, problems, wants_reachable=client.wants_reachable)
    if problems:
        raise Failure("; ".join(problems))
    targets = [settings.distro_target] if linked else [settings.distro_target, settings.opt_target]
    _make(targets)
    with _alone(settings.distro_target):
        _clear(targets)
        _copy(_trees(settings, client.package, wanted, linked=linked), stop)
        if linked:
            optlink.make(settings.opt_target, settings.distro_target / client.package / packages.OPT)
        tokens.write(token_files, settings.client_dir)


def _client(settings: Init) -> Client:
    """The entry of the catalogue: the one given, else the one that lies with the distros, else the packaged one.

    Distros that an operator adds to the image are in no packaged catalogue. Raises ConfigurationError where the
    catalogue given has no such client, Failure where the image has none: the pod was admitted by another catalogue.
    """
    beside = settings.distros / read.CATALOGUE
    path = settings.clients or (beside if beside.is_file() else None)
    try:
        return read.load_clients(path).find(settings.client_os, settings.client_version)
    except UnknownClientError as error:
        if path != beside:
            raise ConfigurationError(f"--client-os, --client-version: {error}") from None
        raise Failure(
            f"--distros: {beside}: {error}: build the image with its package (PACKAGES=DIR just build-image), or "
            "deploy the image's catalogue (CLIENTS=FILE just deploy): such a pod is then refused when it is created"
        ) from None


def _directories(settings: Init, *, linked: bool) -> list[str]:
    """What is wrong with the volumes' directories; opt may be to become a link."""
    problems = []
    for option, path in _volumes(settings).items():
        if (linked and option == "--opt-target") or path.is_dir() or (option != "--client-dir" and _may_make(path)):
            continue
        if path.exists():
            problem = "not a directory"
        elif path.parent.exists():
            problem = "not there"
        else:
            problem = f"not there, nor is {path.parent}"
        problems.append(f"{option}: {path} is {problem}: a volume must be mounted on it")
    return problems


def _volumes(settings: Init) -> dict[str, Path]:
    return {
        "--distro-target": settings.distro_target,
        "--opt-target": settings.opt_target,
        "--client-dir": settings.client_dir,
    }


def _may_make(target: Path) -> bool:
    """Whether ``target`` is a directory to be made in a volume: distro and opt may be two directories of one.

    In ``/`` itself it would be a directory of the container that no workload ever sees.
    """
    return not os.path.lexists(target) and target.parent.is_dir() and not target.parent.samefile("/")


def _make(targets: Iterable[Path]) -> None:
    """Make those of ``targets`` that are not there, with the mode that the kubelet gives an emptyDir."""
    for target in targets:
        target.mkdir(mode=0o777, exist_ok=True)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Holds the lock of ``directory``: two runs at once would take each other's hidden names away. Raises Failure."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno == errno.EWOULDBLOCK:
            os.close(lock)
            raise Failure(f"--distro-target: {directory}: another run is at work there: wait for its end") from None
        # Not every filesystem has locks for directories; a pod has one run at a time anyway.
    try:
        yield
    finally:
        os.close(lock)


def _clear(targets: Iterable[Path]) -> None:
    """Take away what a run left that was killed while it tried the ways."""
    for target in targets:
        for name in (content.PROBE, content.SAMPLE):
            leftovers.remove(f"{target}/{name}")


def _distro(settings: Init, client: Client, problems: list[str]) -> list[Entry]:
    """The listing of the client's tree in the image."""
    where = settings.distros / client.package
    wanted = listing.of(str(where), client.package)
    if not wanted or not wanted[0].is_directory:
        problems.append(
            f"--distros: there is no distro {client.package} (for os {client.os}, version {client.version}) "
            f"in {settings.distros}: {_there(settings.distros)}"
        )
        return []
    needed = {f"{client.package}/{name}": name for name in (packages.PROGRAM, packages.OPT)}
    found = {needed[entry.path]: (entry.mode, entry.size) for entry in wanted if entry.path in needed}
    problems += [f"--distros: {where} is not a whole client: {problem}" for problem in packages.shortcomings(found)]
    return wanted


def _there(distros: Path) -> str:
    try:
        there = sorted(each.name for each in os.scandir(distros) if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        return error.strerror or "it cannot be read"
    return "there are " + ", ".join(there) if there else "there is none at all"


def _trees(settings: Init, package: str, wanted: list[Entry], *, linked: bool) -> list[Tree]:
    """The distro, and where opt is a directory what is below its ``opt/bitfusion``, taken from the distro's copy."""
    target = str(settings.distro_target)
    found = [trees.look("distro", package, str(settings.distros), "", target, wanted)]
    if not linked:
        inside = f"{package}/{packages.OPT}/"
        opt = [entry for entry in wanted if entry.path.startswith(inside)]
        found.append(trees.look("opt", package, target, inside, str(settings.opt_target), opt))
    return found


def _copy(found: Iterable[Tree], stop: Stop) -> None:
    planned: list[tuple[Tree, tuple[str, ...]]] = []
    for tree in found:
        trees.clear(tree)
        planned.append((tree, _distro_ways(tree) if tree.what == "distro" else _opt_ways(tree)))
    space.check((tree.target, tree.plan, ways[0]) for tree, ways in planned)
    for tree, ways in planned:
        stop.check()
        if tree.is_there:
            _log.info("already there", what=tree.what, package=tree.package, path=tree.target)
        else:
            trees.fill(tree, ways, stop)


def _distro_ways(distro: Tree) -> tuple[str, ...]:
    # Never a hard link: the workload writes to its volume, and the image is not its own.
    ways = content.WAYS[1:]
    sample = next((entry for entry in distro.plan.files if entry.size), None)
    return content.ways_between(distro.route(sample.path)[0], distro.target, ways) if sample else ways


def _opt_ways(opt: Tree) -> tuple[str, ...]:
    if not opt.plan.files:
        return content.WAYS
    # The distro's copy is not there yet: a file of our own beside it tells as much, and an empty one needs no room.
    sample = f"{opt.source}/{content.SAMPLE}"
    try:
        os.close(os.open(sample, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except OSError as error:
        if error.errno not in content.FULL:
            raise
        return content.not_sharing(content.WAYS)
    try:
        return content.ways_between(sample, opt.target, content.WAYS)
    finally:
        os.unlink(sample)
