"""What Helm refuses, in which words, and what `helm lint` says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bitfusiond.core import devices
from tests.real.harness.helm import Helm

_SHARES = (
    "resourceNums: with a pool give the shares that it has, which each node offers: 100 for each GPU (100 x memory /"
    " smallest memory, rounded up, where memories differ)"
)
_NO_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"


def test_lint_finds_nothing(chart: Helm) -> None:
    done = chart.run("lint", "--strict", "--kube-version", "1.37.2", str(chart.chart))
    assert done.status == 0, done.output
    assert "[WARNING]" not in done.output


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"imagee": {}}, "at '': additional properties 'imagee' not allowed"),
        ({"image": {"digests": {"other": "x"}}}, "at '/image/digests': additional properties 'other' not allowed"),
        ({"image": {"tag": "a b"}}, "image.tag: \"a b\" is not up to 128 letters, digits, '_', '.', '-'"),
        ({"image": {"repository": "UPPER"}}, 'image.repository: "UPPER" is not a registry\'s name and a path in lower'),
        ({"image": {"digests": {"bitfusiond": "x"}}}, 'image.digests.bitfusiond: "x" is not sha256: and 64 digits of'),
        ({"totalGpuMemory": -1}, "at '/totalGpuMemory': minimum: got -1, want 0"),
        ({"totalGpuMemory": "1"}, "at '/totalGpuMemory': got string, want integer"),
        ({"resourceNums": 0}, "at '/resourceNums': minimum: got 0, want 1"),
        ({"resourceNums": 10**7}, f"want {devices.largest_size():,}"),
        ({"platform": "other"}, "at '/platform': value must be one of 'community', 'legacy', 'tkgi'"),
        ({"tokenNamespace": "Team"}, 'tokenNamespace: "Team" is not the name of a namespace'),
        ({"tokenNamespace": ""}, 'tokenNamespace: "" is not the name of a namespace'),
        ({"allowNamespaces": "a,b"}, "at '/allowNamespaces': got string, want array"),
        (
            {"allowNamespaces": ["a,b"]},
            'allowNamespaces[0]: "a,b" is not the name of a namespace or a glob such as team-*',
        ),
        ({"allowNamespaces": ["a", "-b"]}, 'allowNamespaces[1]: "-b" is not the name of a namespace or a glob'),
        ({"allowNamespaces": ["a", "a"]}, "at '/allowNamespaces': items at 0 and 1 are equal"),
        ({"clientCa": "of whom?"}, 'clientCa: "of whom?" is not certificates in PEM and nothing beside them'),
        ({"registryCa": _NO_CERTIFICATE}, 'registryCa: "-----BEGIN CERTIFICATE-----" is not certificates in PEM'),
        ({"apiServers": ["10.0.0.300"]}, 'apiServers[0]: "10.0.0.300" is not an IPv4 or IPv6 address such as 10.0.0.1'),
        ({"apiServers": ["fd00::1", ":::::"]}, 'apiServers[1]: ":::::" is not an IPv4 or IPv6 address'),
        ({"imageLookup": "on"}, "at '/imageLookup': got string, want boolean"),
        ({"imageRegistries": ["a/b"]}, 'imageRegistries[0]: "a/b" is not a registry or a glob such as'),
        ({"insecureRegistries": ["a"]}, 'insecureRegistries[0]: "a" is not http://HOST:PORT or https://HOST:PORT'),
        ({"delivery": "auto"}, "at '/delivery': value must be one of 'init', 'image'"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(chart: Helm, values: dict[str, Any], told: str) -> None:
    done = chart.template("1.37.2", values)
    assert done.status == 1
    assert told in done.output


_POOL = "servers: [{name: a, address: b, gpus: [{}]}]"
_CLIENTS = (
    ("BitfusionClients: [{a: b}]", 'BitfusionClients[0].OSVersion must be a string that is not empty, not ""'),
    (
        "BitfusionClients: [{OSVersion: [1]}]",
        "BitfusionClients[0].OSVersion must be a string that is not empty, not [1]",
    ),
    ("BitfusionClients: [{BinaryPath: ' '}]", "BitfusionClients[0].BinaryPath must be a string that is not empty"),
    ("BitfusionClients: [{}, x]", "BitfusionClients[1] must be a mapping of BitfusionVersion, OSVersion, BinaryPath"),
    ("BitfusionClients: x", "BitfusionClients must be a list"),
    ("{BitfusionClients: '', Clients: [{Name: a}]}", "BitfusionClients must be a list"),
    ("Clients: [{Name: 1}]", "Clients[0].Name must be a string that is not empty, not 1"),
)
_POOLS = (
    ("servers: [{name: 1}]", "servers[0].name must be a string that is not empty, not 1"),
    ("servers: [{name: a}]", 'servers[0].address must be a string that is not empty, not ""'),
    ("servers: [{name: a, address: b}]", "servers[0].gpus must be a list that is not empty"),
    ("servers: [a]", "servers[0] must be a mapping of name, address, gpus"),
    ("servers: {a: b}", "servers must be a list"),
)


def test_a_version_without_quotation_marks_is_one_as_for_the_webhook(chart: Helm) -> None:
    client = {"BitfusionVersion": 450, "OSVersion": "o", "BinaryPath": "/b", "EnvVariable": "/l"}
    assert chart.template("1.37.2", {"clients": json.dumps({"BitfusionClients": [client]})}).status == 0


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
        ("1.37.2", {"pool": _POOL}, _SHARES),
        ("1.35.1", {"pool": _POOL}, "pool: the API server is v1.35.1; a pool is counted once from 1.36 on"),
        *(("1.37.2", {"clients": text}, f"- clients: {told}") for text, told in _CLIENTS),
        *(("1.37.2", {"pool": text, "resourceNums": 1}, f"- pool: {told}") for text, told in _POOLS),
        (
            "1.37.2",
            {"allowNamespaces": ["kube-system"]},
            "allowNamespaces: no pod of kube-system is ever served: name a",
        ),
        ("1.37.2", {"allowNamespaces": ["bwki", "kube-public"]}, "no pod of bwki, kube-public is ever served"),
        ("1.35.1", {"delivery": "image"}, "delivery: the API server is v1.35.1; images are mounted from 1.36 on"),
        ("1.20.2", {}, "chart requires kubeVersion: >=1.21.0-0 which is incompatible with Kubernetes v1.20.2"),
    ],
)
def test_what_no_schema_can_say_is_refused_too(chart: Helm, version: str, values: dict[str, Any], told: str) -> None:
    done = chart.template(version, values)
    assert done.status == 1
    assert told in done.output


def test_all_that_is_wrong_is_told_at_once(chart: Helm) -> None:
    done = chart.template("1.35.1", {"pool": _POOL, "delivery": "image"})
    assert done.output.count("\n  - ") == 3


def test_the_release_is_in_our_namespace_or_nowhere(chart: Helm) -> None:
    done = chart.run("template", "b", str(chart.chart), "--kube-version", "1.37.2", "--namespace", "other")
    assert done.status == 1
    assert "the release must be in the namespace bwki, not other: add -n bwki" in done.output
