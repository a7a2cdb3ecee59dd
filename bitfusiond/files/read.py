"""The operator's YAML files: read from disk or from the package, parsed, handed to the core; errors name the option."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from bitfusiond.core.clients import catalogue
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import yaml_documents

CATALOGUE = "bitfusion-client-config.yaml"
TEMPLATE = "sidecarconfig.yaml"
_WORDS = {CATALOGUE: "catalogue", TEMPLATE: "template"}

ValueT = TypeVar("ValueT")


def load_yaml(text: str) -> object:
    """One YAML document as plain values; None for an empty one. Raises ValueError with the problem in one line."""
    documents = yaml_documents.load(text)
    if len(documents) > 1:
        raise ValueError(f"not YAML of one document: there are {len(documents)}")
    return documents[0] if documents else None


@cache  # it does not change, and must be there for a reload when no file can be opened
def packaged(name: str) -> str:
    """The text of a file in ``bitfusiond/data``."""
    # By path: the package is always unpacked, and importlib.resources would cost each pod some ten milliseconds.
    return Path(__file__).parent.with_name("data").joinpath(name).read_text("utf-8")


def read_text(path: Path, option: str) -> str:
    """Raises ConfigurationError that names ``option``, the path and what is wrong with it."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigurationError(f"{option}: cannot read {path}: {reason}") from None


def read_bytes(path: Path, option: str) -> bytes:
    """Raises ConfigurationError that names ``option``, the path and what is wrong with it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{option}: cannot read {path}: {error.strerror}") from None


def load(path: Path | None, option: str, default: str, parse: Callable[[object], ValueT]) -> ValueT:
    """What ``parse`` makes of the file that ``option`` names; None = the packaged file ``default``.

    Raises ConfigurationError with every problem that ``parse`` raises as ValueError.
    """
    text = packaged(default) if path is None else read_text(path, option)
    try:
        return parse(load_yaml(text))
    except ValueError as error:
        raise ConfigurationError(f"{option}: {path or 'the packaged ' + _WORDS[default]}: {error}") from None


def load_clients(path: Path | None) -> catalogue.Catalogue:
    """The client catalogue of ``--clients``; None = the packaged one. Raises ConfigurationError."""
    return load(path, "--clients", CATALOGUE, catalogue.parse)
