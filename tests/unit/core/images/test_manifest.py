"""Manifests, lists of them, and configurations: good ones, and those that a registry should never have."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from bitfusiond.core.images import manifest
from bitfusiond.core.images.image import Image
from bitfusiond.core.images.manifest import WrongContentError
from tests.fakes import images


def test_a_manifest_leads_to_its_configuration_and_a_list_to_the_manifest_of_our_platform() -> None:
    config = images.config(["python"])
    ours, other = images.manifest(config), images.manifest(images.config(["other"]))
    assert manifest.chosen(ours.data) == (None, config.digest)
    for kind in (f"{images.OCI}.index.v1+json", f"{images.DOCKER}.list.v2+json"):
        listed = images.index((other, "linux/arm64"), (other, "windows/amd64"), (ours, "linux/amd64"), media_type=kind)
        assert manifest.chosen(listed.data) == (ours.digest, None)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"no JSON", "is no JSON object"),
        (b"[" * 100_000, "is no JSON object"),
        (b"[" * 300_000, "holds more than 50000 values"),
        (b"[]", "is no JSON object"),
        ({}, "names no configuration by a digest"),
        ({"schemaVersion": 1, "fsLayers": []}, "names no configuration by a digest"),
        ({"config": {"digest": "md5:1"}}, "names no configuration by a digest"),
        ({"config": {"digest": "sha256:" + "A" * 64}}, "names no configuration by a digest"),
        ({"config": {"digest": "sha256:../../x"}}, "names no configuration by a digest"),
        ({"config": 1}, "names no configuration by a digest"),
        ({"manifests": [], "layers": []}, "is a list and an image at once"),
        ({"manifests": []}, "is not there for linux/amd64"),
        ({"manifests": "x"}, "is not there for linux/amd64"),
        ({"manifests": [{"platform": {"os": "linux", "architecture": "amd64"}}]}, "names one by no digest"),
    ],
)
def test_a_wrong_manifest_is_refused_in_words(document: Any, words: str) -> None:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(WrongContentError, match=words):
        manifest.chosen(data)


def test_of_a_configuration_only_what_we_want_is_kept() -> None:
    data = images.config(["a"], ["b", "c"], ["PATH=/bin", "LD_LIBRARY_PATH=/x", "LD_LIBRARY_PATH=/y=z"]).data
    assert manifest.read_config(data) == Image(("a",), ("b", "c"), {"LD_LIBRARY_PATH": "/y=z"})
    assert manifest.read_config(images.config().data) == Image()
    assert manifest.read_config(b"{}") == Image()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"Entrypoint": "python"}, "Entrypoint in the configuration is no list of strings"),
        ({"Cmd": [1]}, "Cmd in the configuration is no list of strings"),
        ({"Cmd": ["\ud800"]}, "Cmd in the configuration is no list of strings"),
        ({"Cmd": ["a\0b"]}, "Cmd in the configuration is no list of strings"),
        ({"Env": {"A": "b"}}, "Env in the configuration is no list of strings"),
        ({"Cmd": ["x" * 32_769]}, "ENTRYPOINT and CMD have more than 32768 characters"),
        ({"Env": ["LD_LIBRARY_PATH=" + "x" * 32_769]}, "LD_LIBRARY_PATH has more than 32768 characters"),
    ],
)
def test_a_wrong_configuration_is_refused_in_words(config: Any, words: str) -> None:
    with pytest.raises(WrongContentError, match=words):
        manifest.read_config(json.dumps({"config": config}).encode())


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_is_checked(algorithm: str) -> None:
    digest = f"{algorithm}:{hashlib.new(algorithm, b'good').hexdigest()}"
    manifest.check_digest(b"good", digest, "it")
    with pytest.raises(WrongContentError, match="it is not what its digest"):
        manifest.check_digest(b"bad", digest, "it")
