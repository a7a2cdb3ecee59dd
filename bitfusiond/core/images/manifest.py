"""Manifests and image configurations: JSON of a registry, which may be anybody's, as the few words that we want."""

from __future__ import annotations

import hashlib
import json
import re

from bitfusiond.core import names
from bitfusiond.core.fields import Json, mapping, objects
from bitfusiond.core.images.image import Image
from bitfusiond.core.images.reference import is_digest

# Bytes. Real ones have some kilobytes; a registry takes manifests of up to 4 MiB, and text of that size takes 16 MiB
# when one sign of it is rare enough, twice.
MANIFEST_LIMIT = CONFIG_LIMIT = 2**20
_MOST_VALUES = 50_000  # in one document: JSON of many small values takes thirty times its size when it is read
_LONGEST_COMMAND = 32 * 1024  # characters of ENTRYPOINT and CMD
_LONGEST_VARIABLE = 32 * 1024

_OCI, _DOCKER = "application/vnd.oci.image", "application/vnd.docker.distribution.manifest"
ACCEPT = ", ".join(
    (f"{_OCI}.index.v1+json", f"{_OCI}.manifest.v1+json", f"{_DOCKER}.list.v2+json", f"{_DOCKER}.v2+json")
)
PLATFORM = ("linux", "amd64")


class WrongContentError(ValueError):
    """What a registry gave is not what was asked for, or is none that we can read. One line for a person."""


def check_digest(data: bytes, digest: str, what: str) -> None:
    """Raise WrongContentError where ``data`` is not what ``digest`` says."""
    algorithm, _, wanted = digest.partition(":")
    if hashlib.new(algorithm, data, usedforsecurity=True).hexdigest() != wanted:
        raise WrongContentError(f"{what} is not what its digest {digest} says: nothing of it was used")


def chosen(data: bytes) -> tuple[str | None, str | None]:
    """What a manifest leads to, as digests: the manifest of our platform where it is a list, else the configuration."""
    document = _document(data, "the manifest")
    is_list, is_image = "manifests" in document, "config" in document or "layers" in document
    if is_list and is_image:
        raise WrongContentError("the manifest is a list and an image at once")
    if not is_list:
        return None, _digest(mapping(document, "config"), "the manifest names no configuration by a digest")
    for each in objects(document["manifests"]):
        platform = mapping(each, "platform")
        if (platform.get("os"), platform.get("architecture")) == PLATFORM:
            return _digest(each, "the list of manifests names one by no digest"), None
    raise WrongContentError(f"the image is not there for {'/'.join(PLATFORM)}")


def read_config(data: bytes) -> Image:
    """What is in an image's configuration. A word too much is refused, as the list goes into a pod."""
    config = mapping(_document(data, "the configuration"), "config")
    entrypoint, cmd, env = (_strings(config.get(key), key) for key in ("Entrypoint", "Cmd", "Env"))
    if sum(len(word) for word in (*entrypoint, *cmd)) > _LONGEST_COMMAND:
        raise WrongContentError(f"ENTRYPOINT and CMD have more than {_LONGEST_COMMAND} characters")
    kept = dict(each.partition("=")[::2] for each in env if each.startswith(f"{names.LD_LIBRARY_PATH}="))
    if any(len(value) > _LONGEST_VARIABLE for value in kept.values()):
        raise WrongContentError(f"{names.LD_LIBRARY_PATH} has more than {_LONGEST_VARIABLE} characters")
    return Image(tuple(entrypoint), tuple(cmd), kept)


def _document(data: bytes, what: str) -> Json:
    if data.count(b'"') + data.count(b",") + data.count(b"[") + data.count(b"{") > 4 * _MOST_VALUES:
        raise WrongContentError(f"{what} holds more than {_MOST_VALUES} values")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise WrongContentError(f"{what} is no JSON object")
    return document


def _digest(descriptor: Json, problem: str) -> str:
    digest = descriptor.get("digest")
    if not is_digest(digest):
        raise WrongContentError(problem)
    return str(digest)


_NEVER = re.compile("[\x00\ud800-\udfff]")  # what no program can be given: NUL, and halves of characters


def _strings(value: object, key: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) and not _NEVER.search(each) for each in value):
        raise WrongContentError(f"{key} in the configuration is no list of strings")
    return value
