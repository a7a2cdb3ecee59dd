"""The operator's client catalogue: what it says, and every way in which it can be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core.admission.decision import Patch
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.clients import catalogue
from bitfusiond.files import read
from tests.pods import NAMESPACE, pod, rules

TREE = "/bitfusion/bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb"


def _entry(**changes: Any) -> dict[str, Any]:
    return {
        "BitfusionVersion": "450",
        "OSVersion": "ubuntu18",
        "BinaryPath": f"{TREE}/usr/bin/bitfusion",
        "EnvVariable": f"{TREE}/opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/",
        **changes,
    }


@pytest.mark.parametrize(("version", "dotted"), [("450", "4.5.0-4"), ("401", "4.0.1-5")])
@pytest.mark.parametrize(
    ("os", "package"),
    [
        ("ubuntu18", "bitfusion-client-ubuntu1804_{}_amd64.deb"),
        ("ubuntu20", "bitfusion-client-ubuntu2004_{}_amd64.deb"),
        ("centos7", "bitfusion-client-centos7-{}.x86_64.rpm"),
        ("centos8", "bitfusion-client-centos8-{}.x86_64.rpm"),
    ],
)
def test_the_packaged_catalogue_has_the_eight_documented_clients(
    os: str, package: str, version: str, dotted: str
) -> None:
    client = read.load_clients(None).find(os, version)
    tree = f"/bitfusion/{package.format(dotted)}"
    assert client.package == package.format(dotted)
    assert client.binary_path == f"{tree}/usr/bin/bitfusion"
    assert client.library_path == f"{tree}/opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/"
    assert not client.wants_reachable


def test_an_unquoted_version_means_the_same() -> None:
    assert catalogue.parse({"BitfusionClients": [_entry(BitfusionVersion=450)]}).find("ubuntu18", "450")


@pytest.mark.parametrize(
    ("version", "wants"), [("350", True), ("3.5", True), ("250", True), ("401", False), ("x", False)]
)
def test_clients_before_version_4_want_reachable(version: str, wants: bool) -> None:
    clients = catalogue.parse({"BitfusionClients": [_entry(BitfusionVersion=version)]})
    assert clients.find("ubuntu18", version).wants_reachable is wants


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "the file must be a mapping with the key BitfusionClients"),
        ([], "the file must be a mapping with the key BitfusionClients"),
        ({}, "BitfusionClients must be a list with at least one client"),
        ({"BitfusionClients": []}, "BitfusionClients must be a list with at least one client"),
        ({"BitfusionClients": ["x"]}, "BitfusionClients[0] must be a mapping of BitfusionVersion"),
        ({"BitfusionClients": [_entry(OSVersion="")]}, "BitfusionClients[0].OSVersion must be a string that is not empty, not ''"),
        ({"BitfusionClients": [_entry(OSVersion="x" * 64)]}, "[0].OSVersion has 64 characters: at most 63 are allowed"),
        ({"BitfusionClients": [_entry(BitfusionVersion=True)]}, "BitfusionClients[0].BitfusionVersion must be a string"),
        ({"BitfusionClients": [_entry(Size="big")]}, "[0].Size must be a number of bytes such as 350M, not 'big'"),
        ({"BitfusionClients": [_entry(Colour="red")]}, "[0]: unknown key 'Colour': allowed are BitfusionVersion,"),
        ({"BitfusionClients": [_entry(Size=-5)]}, "[0].Size must be a number of bytes such as 350M, not -5"),
        ({"BitfusionClients": [_entry()], "Client": 1}, "unknown key 'Client': allowed are BitfusionClients, Clients, Default"),
        ({"BitfusionClients": [_entry(), _entry()]}, "BitfusionClients[1]: a second client for ubuntu18/450: keep one of them"),
        ({"BitfusionClients": [_entry(BinaryPath="bitfusion")]}, "BinaryPath must be /bitfusion/PACKAGE/usr/bin/bitfusion"),
        ({"BitfusionClients": [_entry(BinaryPath="/../usr/bin/bitfusion")]}, "BinaryPath must be"),
        ({"BitfusionClients": [_entry(EnvVariable="/lib")]}, f"EnvVariable must be a directory below {TREE}, not '/lib'"),
        ({"BitfusionClients": [_entry(EnvVariable=f"{TREE}/../x")]}, "EnvVariable must be a directory below"),
        ({"BitfusionClients": [_entry(BinaryPath="/a\nb/usr/bin/bitfusion")]}, 'EnvVariable must be a directory below "/a\\nb"'),
        ({"BitfusionClients": [_entry(OSVersion="a\nb")] * 2}, 'a second client for "a\\nb/450": keep one of them'),
        ({"BitfusionClients": [_entry()], "Default": {"os": "a\nb", "version": 1}}, 'there is no client for "a\\nb/1"'),
        ({"BitfusionClients": [_entry()], "Default": "x"}, "Default must be a mapping of os and version, not 'x'"),
        (
            {"BitfusionClients": [_entry()], "Default": {"os": "centos7", "version": "450"}},
            "Default: there is no client for centos7/450",
        ),
    ],
)  # fmt: skip
def test_a_wrong_catalogue_says_where_and_what(document: object, message: str) -> None:
    with pytest.raises(catalogue.CatalogueError) as error:
        catalogue.parse(document)
    assert message in str(error.value)


def test_every_problem_is_said_at_once() -> None:
    with pytest.raises(catalogue.CatalogueError) as error:
        catalogue.parse({"BitfusionClients": [_entry(OSVersion=1), "x"], "y": 1})
    assert str(error.value).count("; ") == 2


def test_the_default_serves_pods_that_name_neither() -> None:
    clients = catalogue.parse({"BitfusionClients": [_entry()], "Default": {"os": "ubuntu18", "version": 450}})
    configuration = type(rules())(clients, rules().template, 0)
    nameless = pod(annotations={"bitfusion-client/os": None, "bitfusion-client/version": None})
    assert isinstance(mutate(nameless, NAMESPACE, configuration), Patch)
    half = pod(annotations={"bitfusion-client/os": None})
    assert not isinstance(mutate(half, NAMESPACE, configuration), Patch)
