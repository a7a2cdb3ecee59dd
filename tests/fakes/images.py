"""Images as a registry stores them: documents of JSON, each called by its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker.distribution.manifest"


class Document(NamedTuple):
    """A manifest, a list of them, or a configuration."""

    media_type: str
    data: bytes

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data)}


def config(
    entrypoint: Sequence[str] | None = None, cmd: Sequence[str] | None = None, env: Sequence[str] = ("PATH=/bin",)
) -> Document:
    """The configuration of an image without layers."""
    settings = {"Entrypoint": entrypoint and list(entrypoint), "Cmd": cmd and list(cmd), "Env": list(env)}
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    return written(f"{OCI}.config.v1+json", document)


def manifest(of: Document, media_type: str = f"{OCI}.manifest.v1+json") -> Document:
    return written(media_type, {"schemaVersion": 2, "mediaType": media_type, "config": of.descriptor, "layers": []})


def index(*of: tuple[Document, str], media_type: str = f"{OCI}.index.v1+json") -> Document:
    """Of manifests, each with its ``OS/ARCHITECTURE``."""
    manifests = [
        {**each.descriptor, "platform": dict(zip(("os", "architecture"), platform.split("/"), strict=True))}
        for each, platform in of
    ]
    return written(media_type, {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests})


def written(media_type: str, document: object) -> Document:
    return Document(media_type, json.dumps(document).encode())
