"""What the chart refuses after a look at the cluster, by Helm and a real API server; nothing is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.operate.chart import package
from tests.real.harness import helm
from tests.real.harness.apiserver import APIServer
from tests.real.harness.helm import Helm
from tests.real.harness.programs import since
from tests.unit.manifests.overlays import overlay

Told = Callable[[dict[str, Any]], str]


@pytest.fixture(scope="module")
def told(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """What Helm says to an installation with such values; empty where it would install."""
    program = helm.program()
    since(21, api.minor, "what the chart needs")
    directory = tmp_path_factory.mktemp("chart")
    package.run(overlay, directory, print)
    kubeconfig = api.write_kubeconfig(directory / "kubeconfig")
    for name in ("bwki", "chart-tokens", "chart-team"):
        api.namespace(name)

    def install(values: dict[str, Any]) -> str:
        chart = Helm(program, Path(directory / f"bitfusiond-{package.version()}.tgz"))
        options = ["--kubeconfig", str(kubeconfig), "--dry-run=server"]
        done = chart.run("install", "bitfusiond", str(chart.chart), *options, values=values)
        return done.output if done.status else ""

    return install


def test_what_is_there_is_taken(told: Told) -> None:
    assert told({}) == ""
    assert told({"tokenNamespace": "chart-tokens", "allowNamespaces": ["chart-team", "kube-public"]}) == ""
    assert told({"tokenNamespace": "bwki"}) == ""


def test_a_namespace_of_tokens_that_is_not_there_is_refused(told: Told) -> None:
    assert 'tokenNamespace: there is no namespace "nope": make it first' in told({"tokenNamespace": "nope"})


def test_a_name_of_a_namespace_that_is_not_there_is_refused(told: Told) -> None:
    said = told({"allowNamespaces": ["chart-team", "gone", "lost"]})
    assert [name for name in ("chart-team", "gone", "lost") if f'there is no namespace "{name}"' in said] == [
        "gone",
        "lost",
    ]


def test_globs_and_more_names_than_have_bindings_may_name_what_is_to_come(told: Told) -> None:
    assert told({"allowNamespaces": ["gone", "team-*"]}) == ""
    assert told({"allowNamespaces": [f"n{number}" for number in range(33)]}) == ""
