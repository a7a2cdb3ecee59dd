"""A real Prometheus as a process, which scrapes what it is told to and follows the rules of manifests/monitoring."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bitfusiond.core.fields import Json
from tests import MANIFESTS
from tests.fakes.processes import free_port, get, running, wait_until

PROGRAMS = "BITFUSIOND_TEST_PROMETHEUS"


def program(name: str) -> str:
    """``prometheus`` or ``promtool``. Skips the test where there is none."""
    directory = os.environ.get(PROGRAMS)
    found = shutil.which(name, path=directory) if directory else shutil.which(name)
    if found is None:
        pytest.skip(
            f"install {name} (Debian: package prometheus), or name a directory with it in {PROGRAMS}, to run this"
        )
    return found


def write_rules(path: Path, *, with_words: bool = True) -> Path:
    """The groups of manifests/monitoring/rules.yaml as Prometheus itself reads them; without what people read."""
    (document,) = yaml.safe_load_all((MANIFESTS / "monitoring/rules.yaml").read_text())
    for group in document["spec"]["groups"]:
        for rule in group["rules"]:
            rule["annotations"] = rule["annotations"] if with_words else {}
    path.write_text(yaml.safe_dump(document["spec"]))
    return path


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running one."""

    address: str

    def query(self, expression: str) -> list[Json]:
        """Its samples now. Raises HTTPError where the expression is wrong."""
        found: list[Json] = self._ask("query", query=expression)["result"]
        return found

    def rules(self) -> list[Json]:
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def _ask(self, what: str, **words: str) -> Json:
        url = f"http://{self.address}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found: Json = json.load(answer)["data"]
        return found


@contextmanager
def scraping(directory: Path, targets: Sequence[tuple[str, Mapping[str, str]]]) -> Iterator[Prometheus]:
    """One that asks each of ``targets``, an address with the labels of its series, every second."""
    configuration = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(write_rules(directory / "rules.yaml"))],
        "scrape_configs": [
            {
                "job_name": "bitfusiond",
                "static_configs": [{"targets": [address], "labels": dict(labels)} for address, labels in targets],
            }
        ],
    }
    file = directory / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}", f"--web.listen-address={address}"]
    log = directory / "log"
    with running([program("prometheus"), *options], log):
        wait_until(lambda: get(address, "/-/ready")[0] == 200, f"a Prometheus that is ready (its log: {log})")
        yield Prometheus(address)
