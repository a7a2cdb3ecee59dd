"""kubectl with a cluster in a dict: what it would print for the paths and commands that a reader asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bitfusiond.core.fields import Json
from bitfusiond.operate.kubectl import Kubectl, KubectlError

FORBIDDEN = "Forbidden"


def forbidden(what: str) -> KubectlError:
    """As the API server words it."""
    return KubectlError(f'kubectl get: {what} is forbidden: User "u" cannot list resource "{what}"', FORBIDDEN)


class Recorded(Kubectl):
    """``paths`` hold an object, a list of objects, a text (logs) or what is raised; what is not there is NotFound.

    ``created`` is what a dry run returns or raises; without it, what was sent. ``asked`` are the paths in their order.
    """

    def __init__(self, paths: Mapping[str, Any], created: Json | KubectlError | None = None) -> None:
        super().__init__("kubectl-of-the-tests")
        self.paths = dict(paths)
        self.created = created
        self.asked: list[str] = []
        self.sent: list[Json] = []

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        match arguments:
            case ["get", "--raw", path]:
                return self._raw(path)
            case ["create", *_]:
                return self._create(json.loads(stdin or "{}")["items"])
            case ["config", "view", *_]:
                return json.dumps({"contexts": [{"name": "c", "context": {"namespace": "team"}}]})
            case ["config", "get-contexts", *_]:
                return "c\nd\n"
            case ["get", kind, name, "-n", namespace, "-o", "json"]:
                return self._text(f"{kind}/{name}/{namespace}")
        raise AssertionError(arguments)

    def _raw(self, asked: str) -> str:
        self.asked.append(asked)
        parts = urlsplit(asked)
        found = self.paths.get(parts.path)
        if isinstance(found, list):
            start = int(parse_qs(parts.query).get("continue", ["0"])[0])
            size = int(parse_qs(parts.query)["limit"][0])
            following = {"continue": str(start + size)} if start + size < len(found) else {}
            return json.dumps({"items": found[start : start + size], "metadata": following})
        return self._text(parts.path)

    def _text(self, key: str) -> str:
        found = self.paths.get(key)
        if isinstance(found, KubectlError):
            raise found
        if found is None:
            raise KubectlError("kubectl get: the server could not find the requested resource", "NotFound")
        return found if isinstance(found, str) else json.dumps(found)

    def _create(self, documents: Sequence[Json]) -> str:
        self.sent += documents
        if isinstance(self.created, KubectlError):
            raise self.created
        return json.dumps(self.created or documents[0])
