"""The run of ``--role init``, from settings to exit status."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable
from pathlib import Path

from bitfusiond import configfiles, logs
from bitfusiond.core.catalogue import Client, UnknownClientError
from bitfusiond.core.copyplan import Entry
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.populate import content, listing, space, tokens, trees
from bitfusiond.populate.stopping import Stop
from bitfusiond.populate.trees import Tree
from bitfusiond.settings import Init

_OPT = "opt/bitfusion"
_PROGRAM = "usr/bin/bitfusion"
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
    problems = _directories(settings)
    wanted = _distro(settings, client, problems)
    token_files = tokens.read(settings.tokens, problems, wants_reachable=client.wants_reachable)
    if problems:
        raise Failure("; ".join(problems))
    _make((settings.distro_target, settings.opt_target))
    _copy(*_trees(settings, client.package, wanted), stop)
    tokens.write(token_files, settings.client_dir)


def _client(settings: Init) -> Client:
    """The entry of the catalogue: the one given, else the one that lies with the distros, else the packaged one.

    Distros that an operator adds to the image are in no packaged catalogue.
    """
    beside = settings.distros / configfiles.CATALOGUE
    path = settings.clients or (beside if beside.is_file() else None)
    try:
        return configfiles.load_clients(path).find(settings.client_os, settings.client_version)
    except UnknownClientError as error:
        raise ConfigurationError(f"--client-os, --client-version: {error}") from None


def _directories(settings: Init) -> list[str]:
    """What is wrong with the volumes' directories."""
    problems = []
    for option, path in _volumes(settings).items():
        if path.is_dir() or (option != "--client-dir" and _may_make(path)):
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
    paths = {entry.path for entry in wanted}
    lacking = [name for name in (_PROGRAM, _OPT) if f"{client.package}/{name}" not in paths]
    problems += [f"--distros: {where} is not a whole client: {name} is missing in it" for name in lacking]
    return wanted


def _there(distros: Path) -> str:
    try:
        there = sorted(each.name for each in os.scandir(distros) if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        return error.strerror or "it cannot be read"
    return "there are " + ", ".join(there) if there else "there is none at all"


def _trees(settings: Init, package: str, wanted: list[Entry]) -> tuple[Tree, Tree]:
    """The distro, and what is below its ``opt/bitfusion``, which is taken from the distro's copy in its volume."""
    target = str(settings.distro_target)
    inside = f"{package}/{_OPT}/"
    opt = [entry for entry in wanted if entry.path.startswith(inside)]
    return (
        trees.look("distro", package, str(settings.distros), "", target, wanted),
        trees.look("opt", package, target, inside, str(settings.opt_target), opt),
    )


def _copy(distro: Tree, opt: Tree, stop: Stop) -> None:
    for tree in (distro, opt):
        trees.clear(tree)
    ways = {"distro": _distro_ways(distro), "opt": _opt_ways(distro.target, opt)}
    space.check((tree.target, tree.plan, ways[tree.what][0] in content.SHARING) for tree in (distro, opt))
    for tree in (distro, opt):
        stop.check()
        if tree.is_there:
            _log.info("already there", what=tree.what, package=tree.package, path=tree.target)
        else:
            trees.fill(tree, ways[tree.what], stop)


def _distro_ways(distro: Tree) -> tuple[str, ...]:
    # Never a hard link: the workload writes to its volume, and the image is not its own.
    ways = content.WAYS[1:]
    sample = next((entry for entry in distro.plan.files if entry.size), None)
    return content.ways_between(distro.route(sample.path)[0], distro.target, ways) if sample else ways


def _opt_ways(distro_target: str, opt: Tree) -> tuple[str, ...]:
    # The distro's copy is not there yet: a file of our own beside it tells as much.
    if not opt.plan.files:
        return content.WAYS
    sample = Path(distro_target, ".bitfusiond-sample")
    try:
        sample.write_bytes(bytes(4096))
        return content.ways_between(str(sample), opt.target, content.WAYS)
    finally:
        sample.unlink(missing_ok=True)
