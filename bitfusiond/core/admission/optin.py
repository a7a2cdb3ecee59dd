"""What the annotations of a pod say: whether it opted in, which client and servers it names, its filters.

Here stand the bounds on how long they may be.
"""

from __future__ import annotations

import enum
import shlex
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.clients import entries
from bitfusiond.core.clients.catalogue import Catalogue, UnknownClientError
from bitfusiond.core.clients.client import BITFUSION, Client
from bitfusiond.core.clients.entries import LONGEST_CLIENT_NAME
from bitfusiond.core.fields import Field
from bitfusiond.core.text import shown

_LONGEST_NAME = 253  # characters; of an object in Kubernetes
_LONGEST_FILTER = 4096  # characters; shlex takes time that grows with the square of a word's length
_LONGEST_SERVERS = 4096


class Mode(enum.Enum):
    """What ``auto-management/bitfusion`` says."""

    ALL = "all"
    INJECTION = "injection"
    NONE = "none"


_MODES = {
    **dict.fromkeys(("all", "y", "yes", "true", "on"), Mode.ALL),
    "injection": Mode.INJECTION,
    **dict.fromkeys(("none", "n", "no", "false", "off", ""), Mode.NONE),
}

_FILTER_KEYS = {
    key: key
    for key in (
        "server.addr",
        "server.hostname",
        "server.has-rdma",
        "server.cuda-version",
        "server.driver-version",
        "device.id",
        "device.name",
        "device.phy-memory",
    )
} | {"server.dirver-version": "server.driver-version"}  # as the README of the 0.4 integration spells it


@dataclass(frozen=True, slots=True)
class OptIn:
    """Whether and how a pod opted in. ``mode`` is None where the annotation says something unknown.

    ``is_mirror``: the kubelet shows a pod that it runs from a file, and nothing said of it changes what runs.
    """

    mode: Mode | None
    is_injected: bool
    is_mirror: bool


def opt_in(pod: Field, namespace: str) -> OptIn:
    """How ``pod``, of ``namespace``, opted in; no annotation is Mode.NONE."""
    metadata = pod["metadata"]
    metadata.mapping()
    annotations = metadata["annotations"]
    annotations.mapping()
    for field, longest in (
        (metadata["name"], _LONGEST_NAME),
        (metadata["generateName"], _LONGEST_NAME),
        (metadata["namespace"].read_as(namespace), names.LONGEST_NAMESPACE),
    ):
        _is_short(field, longest)
    status = annotations.entry(names.STATUS).value
    is_mirror = annotations.entry(names.MIRROR).value is not None
    return OptIn(_mode(annotations.entry(names.MANAGEMENT)), status == names.STATUS_INJECTED, is_mirror)


def _mode(field: Field) -> Mode | None:
    """What the annotation says; None, with a problem, for an unknown word."""
    if field.value is None:
        return Mode.NONE
    text = _string(field)
    mode = None if text is None else _MODES.get(text.lower())
    if mode is None and text is not None:
        field.problem(f"{shown(text)} is not one of all, injection, none")
    return mode


def client(annotations: Field, catalogue: Catalogue) -> Client | None:
    """The client that a pod with these ``annotations`` asks for; None, with a problem, where there is none such."""
    asked = [_client_name(annotations.entry(key)) for key in (names.CLIENT_NAME, names.CLIENT_OS, names.CLIENT_VERSION)]
    name, os, version = asked
    if name not in {None, BITFUSION}:
        try:
            return catalogue.named(str(name), os, version)
        except UnknownClientError as error:
            annotations.entry(names.CLIENT_NAME).problem(str(error))
            return None
    if os is None and version is None and catalogue.default is not None:
        os, version = catalogue.default
    if os is None or version is None:
        for key, value in ((names.CLIENT_OS, os), (names.CLIENT_VERSION, version)):
            if value is None:
                annotations.entry(key).problem(f"must be set; {catalogue.choices()}")
        return None
    try:
        return catalogue.find(os, version)
    except UnknownClientError as error:
        annotations.entry(f"{names.CLIENT_OS}, {names.CLIENT_VERSION}").problem(str(error))
        return None


def _string(field: Field) -> str | None:
    """An annotation's text. YAML reads ``450`` as a number and ``yes`` as a boolean; an annotation is neither."""
    if field.value is None or isinstance(field.value, str):
        return field.value
    field.problem(f"{shown(field.value)} is not a string: put it in quotation marks")
    return None


def _is_short(field: Field, longest: int) -> bool:
    """Whether a text has at most ``longest`` characters; a problem where it has more."""
    if isinstance(field.value, str) and len(field.value) > longest:
        field.problem(f"has {len(field.value)} characters: at most {longest} are allowed")
        return False
    return True


def _client_name(field: Field) -> str | None:
    """An OS or a version of the client as the annotation names it; None where it names none."""
    text = _string(field)
    if text is None and field.value is None:
        return None
    _is_short(field, LONGEST_CLIENT_NAME)
    # Wrong or not: what was meant serves to find what else is wrong.
    return (str(field.value) if text is None else text)[:LONGEST_CLIENT_NAME] or None


def filters(field: Field) -> tuple[str, ...]:
    """``key=value`` words of the filter annotation, in order, with their quoting taken off."""
    text = _string(field)
    if text is None or not _is_short(field, _LONGEST_FILTER):
        return ()
    try:
        words = shlex.split(text)
    except ValueError:
        field.problem(f"{shown(text)} has a quotation mark or backslash that is not closed")
        return ()
    pairs = [word.partition("=") for word in words]
    for problem in dict.fromkeys(_wrong_filter(*pair) for pair in pairs):
        if problem:
            field.problem(problem)
    return tuple(f"{_FILTER_KEYS.get(key, key)}={wanted}" for key, _, wanted in pairs)


def servers(field: Field) -> tuple[str, ...]:
    """HOST:PORT words of the servers annotation, separated by blanks or commas."""
    text = _string(field)
    if text is None or not _is_short(field, _LONGEST_SERVERS):
        return ()
    return tuple(entries.servers(field.read_as(text.replace(",", " ").split())))


def _wrong_filter(key: str, equals: str, wanted: str) -> str:
    """What is wrong with one word of the filter, ``KEY=VALUE`` cut at the first ``=``; empty for nothing."""
    if not equals:
        return f"{shown(key)} is not of the form key=value"
    if not wanted:
        return f"{shown(key + equals)} has no value behind the ="
    if key not in _FILTER_KEYS:
        return f"{shown(key)} is not a filter key: allowed are {', '.join(sorted(set(_FILTER_KEYS.values())))}"
    return ""
