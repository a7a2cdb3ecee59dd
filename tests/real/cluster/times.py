"""How long pods take to run, and what they cost the API server, seen without a process for each question."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from http.client import HTTPSConnection
from typing import Any

from tests.real.harness.apiserver import Door

Object = dict[str, Any]
_REQUESTS = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<count>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
# Of any cluster all the time, whatever pods do.
_BACKGROUND = ("leases", "nodes", "endpointslices", "events")


class Watcher:
    """An administrator with one connection to the API server."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._connection: HTTPSConnection = door.connect()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _ask(self, method: str, path: str, body: Object | None = None) -> bytes:
        headers = {**self._door.headers, "Content-Type": "application/json"}
        self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return text

    def until_running(self, pods: list[Object], namespace: str, seconds: float) -> list[float]:
        """Create the pods, and say for each how long it took until it was seen running, in seconds, ascending."""
        path = f"/api/v1/namespaces/{namespace}/pods"
        created = {}
        for pod in pods:
            created[pod["metadata"]["name"]] = time.monotonic()
            self._ask("POST", path, pod)
        took: dict[str, float] = {}
        end = time.monotonic() + seconds
        while len(took) < len(pods) and time.monotonic() < end:
            found = json.loads(self._ask("GET", f"{path}?resourceVersion=0"))["items"]
            now = time.monotonic()
            for each in found:
                name = each["metadata"]["name"]
                if name in created and each["status"].get("phase") == "Running":
                    took.setdefault(name, now - created[name])
            time.sleep(0.02)
        assert len(took) == len(pods), f"{len(took)} of {len(pods)} pods ran within {seconds:g} s"
        return sorted(took.values())

    def requests(self) -> Counter[str]:
        """How often the API server was asked, by ``VERB RESOURCE``, but for what goes on all the time."""
        found: Counter[str] = Counter()
        for match in _REQUESTS.finditer(self._ask("GET", "/metrics").decode()):
            labels = dict(_LABEL.findall(match["labels"]))
            if labels.get("resource") not in {"", *_BACKGROUND} and labels.get("verb") != "WATCH":
                found[f"{labels['verb']} {labels['resource']}"] += int(float(match["count"]))
        return found
