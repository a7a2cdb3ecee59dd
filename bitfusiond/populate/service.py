"""The run of ``--role init``, from settings to exit status."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.clients import packages
from bitfusiond.core.clients.catalogue import UnknownClientError
from bitfusiond.core.clients.client import BITFUSION, Client
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import read
from bitfusiond.populate import hidden, tokens, trees
from bitfusiond.populate.copy import Tree
from bitfusiond.settings import Populate

_log = logs.Log("populate")


class _Stopped(BaseException):
    """A signal came. Not an Exception: logging, for one, would take that for an error of its own and go on."""


def run(settings: Populate) -> int:
    """Fill the volumes; return 0. It is the last thing that this process does.

    Raises ConfigurationError for a client that the catalogue does not have, Failure for anything that is missing, full
    or not allowed, and at once when SIGTERM or SIGINT comes: status 0 would let the kubelet start the workload without
    its client.
    """
    started = time.monotonic()
    os.umask(0)  # files and directories get their mode when they are made
    try:
        # In a container we are process 1, for which the kernel drops a signal that has no handler.
        _handle_signals(_stop)
        try:
            _populate(settings)
        finally:
            _handle_signals(signal.SIG_IGN)  # a further one would only spoil the end
    except _Stopped as stopped:
        raise Failure(f"stopped by {stopped} before the copy was whole") from None
    except OSError as error:
        # Files are copied under a message of their own; this is for all that is done around them.
        raise Failure(": ".join(str(part) for part in (error.filename, error.strerror) if part)) from None
    _log.info("done", seconds=round(time.monotonic() - started, 3))
    return 0


def _handle_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, handler)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    raise _Stopped(signal.Signals(number).name)


def _populate(settings: Populate) -> None:
    """Look at everything first, then copy. Raises as :func:`run` says, and OSError."""
    client = _client(settings)
    chosen = _chosen(settings)
    tree: Tree = {}
    token_files: dict[str, bytes] = {}
    problems = []
    copies = client.tree is not None and settings.delivery == "init"
    if copies:
        tree = trees.listed(str(settings.distros), client.package)
        problems += _distro_problems(settings, client, tree)
    if client.takes_tokens:
        token_files, token_problems = tokens.read(
            settings.tokens, wants_reachable=client.wants_reachable, chosen=chosen
        )
        problems += token_problems
    volumes = _volumes(settings, client, copies=copies)
    problems = [*_volume_problems(volumes), *problems]
    if problems:
        raise Failure("; ".join(problems))
    for volume in volumes:
        if volume.may_be_made:
            volume.path.mkdir(mode=0o777, exist_ok=True)  # the mode that the kubelet gives an emptyDir
    if copies:
        _lock(settings.distro_target)
    for path in {volume.path for volume in volumes}:
        hidden.clear(str(path))
    if copies:
        trees.place("distro", client.package, tree, str(settings.distros), str(settings.distro_target))
        if client.is_bitfusion:
            _place_opt(settings, client, tree)
    if client.takes_tokens:
        tokens.write(token_files, settings.client_dir)


def _chosen(settings: Populate) -> dict[str, tuple[str, ...]] | None:
    """The servers of each servers.conf that claims want, by its path below the client's directory: one a claim, and one
    with those of all. None without claims.

    Raises ConfigurationError where the environment does not tell of every claim: the client would run on any server.
    """
    if settings.claims is None:
        return None
    from bitfusiond.core.pool import allocation  # noqa: PLC0415 - most clusters have no pool

    try:
        given = allocation.of_claims(settings.claims, os.environ)
    except allocation.AllocationError as error:
        raise ConfigurationError(f"--claims: {error}") from None
    every = dict.fromkeys(address for each in given.values() for address in each.addresses)
    of_each = {f"{claim}/{names.SERVERS_CONF}": each.addresses for claim, each in given.items()}
    return {names.SERVERS_CONF: tuple(every), **of_each}


def _place_opt(settings: Populate, client: Client, tree: Tree) -> None:
    """What Bitfusion's client wants at ``/opt/bitfusion``: a link into its tree where that will do, else a copy."""
    inside = f"{client.package}/{packages.OPT}"
    if _may_be_link(settings.opt_target, settings.distro_target):
        _link_opt(settings.opt_target, settings.distro_target / inside)
        return
    opt = {path.removeprefix(f"{inside}/"): info for path, info in tree.items() if path.startswith(f"{inside}/")}
    # The distro's own copy in the same volume gives its bytes; the image's are not the workload's to change.
    source = f"{settings.distro_target}/{inside}"
    trees.place("opt", client.package, opt, source, str(settings.opt_target), link=True)


def _client(settings: Populate) -> Client:
    """The entry of the catalogue: the one given, else the one that lies with the distros, else the packaged one.

    Distros that an operator adds to the image are in no packaged catalogue. Raises ConfigurationError where the
    catalogue given has no such client, Failure where the image has none: the pod was admitted by another catalogue.
    """
    beside = settings.distros / read.CATALOGUE
    path = settings.clients or (beside if beside.is_file() else None)
    try:
        known = read.load_clients(path)
        if settings.client_name not in {None, BITFUSION}:
            return known.named(str(settings.client_name), settings.client_os, settings.client_version)
        return known.find(str(settings.client_os), str(settings.client_version))
    except UnknownClientError as error:
        if path != beside:
            name = "--client-name, " if settings.client_name else ""
            raise ConfigurationError(f"{name}--client-os, --client-version: {error}") from None
        raise Failure(
            f"--distros: {beside}: {error}: build the image with its package (PACKAGES=DIR just build-image), or "
            "deploy the image's catalogue (CLIENTS=FILE just deploy): such a pod is then refused when it is created"
        ) from None


class _Volume(NamedTuple):
    """Where a volume is. One that may be made is a directory of another volume."""

    option: str
    path: Path
    may_be_made: bool


def _volumes(settings: Populate, client: Client, *, copies: bool) -> list[_Volume]:
    """Those that ``client`` needs; those of its tree where somebody ``copies`` it.

    Distro and opt may be two directories of one volume, still to be made; in ``/`` itself they would be the container's
    own, which no workload ever sees.
    """
    found = []
    if copies:
        found.append(_Volume("--distro-target", settings.distro_target, may_be_made=True))
    if copies and client.is_bitfusion:
        linked = _may_be_link(settings.opt_target, settings.distro_target)
        opt = settings.opt_target.parent if linked else settings.opt_target
        found.append(_Volume("--opt-target", opt, may_be_made=True))
    if client.takes_tokens:
        found.append(_Volume("--client-dir", settings.client_dir, may_be_made=False))
    return found


def _volume_problems(volumes: Iterable[_Volume]) -> list[str]:
    """What is wrong with the volumes' directories."""
    problems = []
    for option, path, may_be_made in volumes:
        can_be_made = may_be_made and path.parent.is_dir() and not path.parent.samefile("/")
        if path.is_dir() or (can_be_made and not os.path.lexists(path)):
            continue
        if path.exists():
            problem = "not a directory"
        elif path.parent.exists():
            problem = "not there"
        else:
            problem = f"not there, nor is {path.parent}"
        problems.append(f"{option}: {path} is {problem}: a volume must be mounted on it")
    return problems


def _distro_problems(settings: Populate, client: Client, tree: Tree) -> list[str]:
    """What is wrong with ``tree``, the client's in the image."""
    where = settings.distros / client.package
    if not where.is_dir() or where.is_symlink():
        asked = f"os {client.os}, version {client.version}" if client.is_bitfusion else f"the client {client}"
        there = _distros_in(settings.distros)
        return [f"--distros: there is no distro {client.package} (for {asked}) in {settings.distros}: {there}"]
    problems = []
    if client.is_bitfusion:
        needed = {name: tree.get(f"{client.package}/{name}") for name in (packages.PROGRAM, packages.OPT)}
        lacks = packages.shortcomings({name: (info.st_mode, info.st_size) for name, info in needed.items() if info})
        problems += [f"--distros: {where} is not a whole client: {each}" for each in lacks]
    if strange := trees.uncopyable(tree):
        problems.append(f"{settings.distros}: cannot copy the distro: {'; '.join(strange)}")
    return problems


def _distros_in(directory: Path) -> str:
    """The distros that there are, in words."""
    try:
        names = sorted(each.name for each in os.scandir(directory) if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        return error.strerror or "it cannot be read"
    return "there are " + ", ".join(names) if names else "there is none at all"


def _lock(directory: Path) -> None:
    """Be alone in ``directory`` until this process ends: two runs would take each other's hidden names away."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Failure(f"--distro-target: {directory}: another run is at work there: wait for its end") from None
    except OSError:
        pass  # not every filesystem has locks for directories; a pod has one run at a time anyway


def _may_be_link(opt: Path, distro_target: Path) -> bool:
    """Whether ``opt`` may be a link: it lies in the distro's directory, and is nothing yet or a link already.

    One name in place of thousands. The workload mounts ``opt`` of the distro's volume as a ``subPath``: the kubelet
    resolves symbolic links in it, refuses only those that lead out of the volume, and does so after we ended.
    """
    return (
        (opt.is_symlink() or not opt.exists())
        and opt.parent.is_dir()
        and opt.parent.resolve().is_relative_to(distro_target.resolve())
    )


def _link_opt(opt: Path, tree: Path) -> None:
    """Let ``opt`` lead to the directory ``tree``, wherever it led; logs ``linked opt``. Raises OSError."""
    wanted = os.path.relpath(tree.resolve(), opt.parent.resolve())
    if opt.is_symlink() and os.readlink(opt) == wanted:
        _log.info("already there", what="opt", path=str(opt))
        return
    partial = hidden.name(str(opt.parent))
    os.symlink(wanted, partial)
    os.rename(partial, opt)
    _log.info("linked opt", path=str(opt), to=wanted)
