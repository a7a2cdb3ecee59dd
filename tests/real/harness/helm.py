"""Helm itself, and what it makes of a chart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.files import yaml_documents
from tests.real.harness.cluster import Done

PROGRAM = "BITFUSIOND_TEST_HELM"


def program() -> str:
    """Helm's. Skips the test where there is none."""
    found = os.environ.get(PROGRAM) or shutil.which("helm")
    if not found:
        pytest.skip(
            f"set {PROGRAM} to helm's program to run this: what `go install helm.sh/helm/v4/cmd/helm@latest` makes, or"
            " helm.sh/helm/v3"
        )
    return found


@dataclass(frozen=True, slots=True)
class Helm:
    """``chart`` is a package; nothing of this user's own settings is read."""

    program: str
    chart: Path

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None, timeout: float = 300) -> Done:
        """Helm with ``arguments``, in our namespace, and with ``values`` if there are any."""
        given = ["--values", "-"] if values is not None else []
        done = subprocess.run(
            [self.program, *arguments, *_namespace(arguments), *given],
            input=json.dumps(values, ensure_ascii=False),  # JSON is YAML, but for its escapes beyond U+FFFF
            env={**os.environ, "HELM_CONFIG_HOME": "/nonexistent", "HELM_CACHE_HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        print(done.stdout, done.stderr)  # pytest shows it where a test fails
        return Done(done.returncode, done.stdout + done.stderr, done.stdout)

    def template(self, version: str, values: Mapping[str, Any], *more: str) -> Done:
        """What it would install into a cluster of that version, without the pod of ``helm test``."""
        options = ["--kube-version", version, "--skip-tests", *more]
        return self.run("template", "bitfusiond", str(self.chart), *options, values=values)

    def objects(self, version: str, values: Mapping[str, Any]) -> list[Any]:
        done = self.template(version, values)
        assert done.status == 0, done.output
        return yaml_documents.load(done.answer)


def _namespace(arguments: tuple[str, ...]) -> list[str]:
    return [] if "--namespace" in arguments else ["--namespace", "bwki"]
