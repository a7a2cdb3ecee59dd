"""The operator's YAML files: read from disk or from the package, parsed, handed to the core; errors name the option."""

from __future__ import annotations

from pathlib import Path

from bitfusiond.core.clients import catalogue
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import yaml_documents


def load_yaml(text: str) -> object:
    """One YAML document as plain values; None for an empty one. Raises ValueError with the problem in one line."""
    documents = yaml_documents.load(text)
    if len(documents) > 1:
        raise ValueError(f"not YAML of one document: there are {len(documents)}")
    return documents[0] if documents else None


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


CATALOGUE = "bitfusion-client-config.yaml"


def load_clients(path: Path | None) -> catalogue.Catalogue:
    """The client catalogue of ``--clients``; None = the packaged one. Raises ConfigurationError."""
    text = packaged(CATALOGUE) if path is None else read_text(path, "--clients")
    try:
        return catalogue.parse(load_yaml(text))
    except ValueError as error:
        raise ConfigurationError(f"--clients: {path or 'the packaged catalogue'}: {error}") from None
