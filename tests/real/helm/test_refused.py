"""What Helm refuses, in which words, and what `helm lint` says."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import devices
from tests.real.harness.helm import Helm

_SHARES = (
    "resourceNums: with a pool give the shares that it has, which each node offers: 100 for each GPU (100 x memory /"
    " smallest memory, rounded up, where memories differ)"
)


def test_lint_finds_nothing(chart: Helm) -> None:
    done = chart.run("lint", "--strict", "--kube-version", "1.37.2", str(chart.chart))
    assert done.status == 0, done.output
    assert "[WARNING]" not in done.output


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"imagee": {}}, "at '': additional properties 'imagee' not allowed"),
        ({"image": {"digests": {"other": "x"}}}, "at '/image/digests': additional properties 'other' not allowed"),
        ({"image": {"tag": "a b"}}, "at '/image/tag': 'a b' does not match pattern"),
        ({"image": {"repository": "UPPER"}}, "at '/image/repository': 'UPPER' does not match pattern"),
        ({"image": {"digests": {"bitfusiond": "x"}}}, "at '/image/digests/bitfusiond': 'x' does not match pattern"),
        ({"totalGpuMemory": -1}, "at '/totalGpuMemory': minimum: got -1, want 0"),
        ({"totalGpuMemory": "1"}, "at '/totalGpuMemory': got string, want integer"),
        ({"resourceNums": 0}, "at '/resourceNums': minimum: got 0, want 1"),
        ({"resourceNums": 10**7}, f"want {devices.largest_size():,}"),
        ({"platform": "other"}, "at '/platform': value must be one of 'community', 'legacy', 'tkgi'"),
        ({"tokenNamespace": "Team"}, "at '/tokenNamespace': 'Team' does not match pattern"),
        ({"allowNamespaces": "a,b"}, "at '/allowNamespaces': got string, want array"),
        ({"allowNamespaces": ["a,b"]}, "at '/allowNamespaces/0': 'a,b' does not match pattern"),
        ({"allowNamespaces": ["a", "-b"]}, "at '/allowNamespaces/1': '-b' does not match pattern"),
        ({"allowNamespaces": ["a", "a"]}, "at '/allowNamespaces': items at 0 and 1 are equal"),
        ({"clientCa": "of whom?"}, "at '/clientCa': 'of whom?' does not match pattern"),
        ({"apiServers": ["10.0.0.300"]}, "at '/apiServers/0': '10.0.0.300' does not match pattern"),
        ({"imageLookup": "on"}, "at '/imageLookup': got string, want boolean"),
        ({"imageRegistries": ["a/b"]}, "at '/imageRegistries/0': 'a/b' does not match pattern"),
        ({"insecureRegistries": ["a"]}, "at '/insecureRegistries/0': 'a' does not match pattern"),
        ({"delivery": "auto"}, "at '/delivery': value must be one of 'init', 'image'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(chart: Helm, values: dict[str, Any], told: str) -> None:
    done = chart.template("1.37.2", values)
    assert done.status == 1
    assert told in done.output


@pytest.mark.parametrize(
    ("version", "values", "told"),
    [
        (
            "1.37.2",
            {"clients": "a: ["},
            "clients: not a catalogue, which has BitfusionClients or Clients: give its text",
        ),
        ("1.37.2", {"clients": "clients.yaml"}, "by --set-file clients=FILE (error unmarshaling JSON"),
        ("1.37.2", {"pool": "a: 1", "resourceNums": 1}, "pool: not an inventory, which has servers: give its text by"),
        ("1.37.2", {"pool": "servers: [a]"}, _SHARES),
        ("1.35.1", {"pool": "servers: [a]"}, "pool: the API server is v1.35.1; a pool is counted once from 1.36 on"),
        ("1.35.1", {"delivery": "image"}, "delivery: the API server is v1.35.1; images are mounted from 1.36 on"),
        ("1.20.2", {}, "chart requires kubeVersion: >=1.21.0-0 which is incompatible with Kubernetes v1.20.2"),
    ],
)
def test_what_no_schema_can_say_is_refused_too(chart: Helm, version: str, values: dict[str, Any], told: str) -> None:
    done = chart.template(version, values)
    assert done.status == 1
    assert told in done.output


def test_all_that_is_wrong_is_told_at_once(chart: Helm) -> None:
    done = chart.template("1.35.1", {"pool": "servers: [a]", "delivery": "image"})
    assert done.output.count("\n  - ") == 3


def test_the_release_is_in_our_namespace_or_nowhere(chart: Helm) -> None:
    done = chart.run("template", "b", str(chart.chart), "--kube-version", "1.37.2", "--namespace", "other")
    assert done.status == 1
    assert "the release must be in the namespace bwki, not other: add -n bwki" in done.output
