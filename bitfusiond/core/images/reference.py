"""The name of an image, as a container runtime reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bitfusiond.core.text import shown

DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset({DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
_HUB_REGISTRY = "registry-1.docker.io"
_LONGEST = 512  # characters; of a repository and a tag together the grammar allows fewer

# Source: github.com/distribution/reference, the grammar of a reference.
_HOST = (
    r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*)"
)
REGISTRY = rf"{_HOST}(?::[0-9]{{1,5}})?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DIGEST = r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}"
_REFERENCE = re.compile(
    rf"(?:(?P<registry>{REGISTRY})/)?(?P<repository>{_PART}(?:/{_PART})*)"
    rf"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?(?:@(?P<digest>{_DIGEST}))?"
)
_IS_DIGEST = re.compile(_DIGEST)


@dataclass(frozen=True, slots=True)
class Reference:
    """``registry`` is ``HOST`` or ``HOST:PORT`` as the name has it, ``docker.io`` where it has none.

    ``tag`` and ``digest`` are empty where there is none; a digest goes before a tag.
    """

    registry: str
    repository: str
    tag: str
    digest: str

    @property
    def tag_or_digest(self) -> str:
        """What a registry is asked for in this repository."""
        return self.digest or self.tag or "latest"

    @property
    def is_latest(self) -> bool:
        """Whether Kubernetes pulls it always, where the pod says nothing of it."""
        return self.tag_or_digest == "latest"

    @property
    def api(self) -> str:
        """``HOST`` or ``HOST:PORT`` that answers for the registry."""
        return _HUB_REGISTRY if self.registry == DOCKER_HUB else self.registry

    @property
    def known_as(self) -> frozenset[str]:
        """What pull secrets may call the registry."""
        return _HUB_NAMES if self.registry == DOCKER_HUB else frozenset({self.registry})


def parse(name: str) -> Reference:
    """Raises ValueError with one line."""
    match = _REFERENCE.fullmatch(name) if len(name) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{shown(name)} is not the name of an image")
    registry, repository = match["registry"], match["repository"]
    # team/app is of the Docker Hub, localhost/app and team.example/app are not.
    if registry is not None and not (
        set(".:") & set(registry) or registry == "localhost" or registry.lower() != registry
    ):
        registry, repository = None, f"{registry}/{repository}"
    if registry is None or registry in _HUB_NAMES:
        registry = DOCKER_HUB
        if "/" not in repository:
            repository = f"library/{repository}"
    return Reference(registry.lower(), repository, match["tag"] or "", match["digest"] or "")


def is_digest(text: object) -> bool:
    """Whether it is a digest by an algorithm that we can check."""
    return isinstance(text, str) and _IS_DIGEST.fullmatch(text) is not None
