"""Entries of ``Clients``: what each field may say, and the words where it says something else."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import pytest
import yaml

from bitfusiond.core.clients import catalogue
from bitfusiond.core.clients.catalogue import CatalogueError, UnknownClientError
from bitfusiond.core.clients.client import Variable
from bitfusiond.files import read
from tests import ROOT

Entry = dict[str, Any]


def _entry(**fields: Any) -> Entry:
    return {"Name": "other", "Libraries": "/bitfusion/other/lib", **fields}


def _parsed(*entries: Any) -> catalogue.Catalogue:
    return catalogue.parse({"Clients": list(entries)})


def test_the_packaged_clients_say_what_their_projects_document() -> None:
    known = read.load_clients(None)
    lupine, pocl = (known.named(name, None, None) for name in ("lupine", "pocl"))
    assert lupine.env == (Variable("LUPINE_SERVER", "{servers}"),)
    assert (lupine.tree, lupine.library_path) == ("/bitfusion/lupine", "/bitfusion/lupine/lib")
    assert {each.name for each in pocl.env} >= {"OCL_ICD_VENDORS", "POCL_DEVICES", "POCL_REMOTE{index}_PARAMETERS"}
    assert not lupine.takes_tokens
    assert not pocl.takes_tokens


def test_the_entries_of_the_documentation_can_be_pasted() -> None:
    page = (ROOT / "docs/clients.md").read_text()
    blocks = [textwrap.dedent(each) for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    entries = [yaml.safe_load(each) for each in blocks if each.startswith("Clients:")]
    assert len(entries) == 2
    for document in entries:
        assert catalogue.parse(document).others


def test_a_catalogue_may_hold_other_clients_alone() -> None:
    known = _parsed(_entry())
    assert known.named("other", "ubuntu18", "1").library_path == "/bitfusion/other/lib"
    assert not known.clients


def test_every_field_is_read() -> None:
    client = _parsed(
        {
            "Name": "other",
            "Version": "2.1",
            "OSVersion": "debian12",
            "Tree": "/bitfusion/other",
            "Binary": "/bitfusion/other/run",
            "Wrap": ["{binary}", ["-n", "{gpus}"], "--"],
            "Env": {"A": "x", "B": {"Value": "y", "Prepend": ":"}, "C": {"PerServer": "{server}", "Join": ";"}},
            "Libraries": "/bitfusion/other/lib/",
            "Servers": ["gpu-a:1", "[2001:db8::1]:2"],
            "Tokens": "bitfusion",
            "Size": "350M",
        }
    ).others[0]
    assert (client.name, client.version, client.os, client.size) == ("other", "2.1", "debian12", 350 * 10**6)
    assert client.wrap == (("{binary}",), ("-n", "{gpus}"), ("--",))
    assert client.env == (Variable("A", "x"), Variable("B", "y", None, ":"), Variable("C", "{server}", ";"))
    assert client.servers == ("gpu-a:1", "[2001:db8::1]:2")
    assert client.takes_tokens


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"Libraries": "/x"}, "Clients[0].Name: null is not a name of at most 63 lower-case letters, digits and -"),
        (_entry(Name="Other"), "Clients[0].Name: Other is not a name"),
        (_entry(Name="bitfusion"), "bitfusion is the name of the entries of BitfusionClients: take another"),
        (_entry(Colour="red"), "Clients[0]: unknown key 'Colour': allowed are Name, Version,"),
        (_entry(Version=True), "Clients[0].Version: true is not a string that is not empty"),
        (_entry(Version=2.10), "Clients[0].Version: 2.1 is not a string that is not empty: put it in quotation marks"),
        (_entry(OSVersion="x" * 64), "Clients[0].OSVersion: has 64 characters: at most 63 are allowed"),
        (_entry(Tree="/opt/other"), "Clients[0].Tree: /opt/other must be /bitfusion/NAME, and not /bitfusion/opt"),
        (_entry(Tree="/bitfusion/opt"), "Clients[0].Tree: /bitfusion/opt must be /bitfusion/NAME"),
        (_entry(Tree="/bitfusion/a/b"), "Clients[0].Tree: /bitfusion/a/b must be /bitfusion/NAME"),
        (
            _entry(Tree="/bitfusion/.."),
            "Tree: /bitfusion/.. is not an absolute path of plain characters without . and ..",
        ),
        (
            _entry(Libraries="lib"),
            "Libraries: lib is not an absolute path of plain characters without . and ..",
        ),
        (_entry(Binary=7), "Clients[0].Binary: 7 is not an absolute path"),
        (_entry(Libraries="/a/{servers}"), "Clients[0].Libraries: /a/{servers} is not an absolute path of plain"),
        (_entry(Libraries="//a"), "Clients[0].Libraries: //a is not an absolute path"),
        (
            _entry(Tree="/bitfusion/othr"),
            "Libraries: /bitfusion/other/lib is not below the Tree /bitfusion/othr",
        ),
        (_entry(Wrap=["run", ""]), 'Clients[0].Wrap[1]: "" is not a word, or a list of words'),
        (_entry(Env={"PATH": "/x"}), "Clients[0].Env[PATH]: would take the place of the image's"),
        (
            _entry(Env={"X_{index}": "{server}", "X_0": "x"}),
            "Env[X_0]: is there again, by a name with {index}",
        ),
        (_entry(Servers=["h:1"] * 65), "Clients[0].Servers: names 65 servers: bitfusiond takes at most 64"),
        (_entry(Wrap="run"), "Clients[0].Wrap: must be a list of words, not run"),
        (_entry(Wrap=["run", 7]), "Clients[0].Wrap[1]: 7 is not a word, or a list of words"),
        (_entry(Wrap=["run", "{gpu}"]), "Clients[0].Wrap[1]: {gpu} is unknown here: allowed are {gpus}, {fraction},"),
        (_entry(Wrap=["run", "{gpus!r}"]), "Wrap[1]: {gpus!r}: a placeholder is a name in braces, such as {servers}"),
        (_entry(Wrap=["run", "{"]), "Clients[0].Wrap[1]: {: a placeholder is a name in braces, such as {servers}"),
        (_entry(Env={"A": "}"}), "Clients[0].Env[A]: }: a placeholder is a name in braces, such as {servers}"),
        (_entry(Wrap=["{binary}"]), "Clients[0].Wrap: {binary} needs the field Binary"),
        (_entry(Wrap=["{gpus}"]), "Clients[0].Wrap: begins with {gpus}: the first word must be the client's program"),
        (_entry(Env=["A=x"]), "Clients[0].Env: must be an object"),
        (_entry(Env=5), "Clients[0].Env: must be an object, not 5"),
        (_entry(Env={"A": 1}), "Clients[0].Env[A]: 1 is not a text, nor {Value: TEXT, Prepend: SEPARATOR}, nor"),
        (_entry(Env={"A": {"Value": "x", "Join": "y"}}), "Clients[0].Env[A]: "),
        (_entry(Env={"A-B": "x"}), "Clients[0].Env[A-B]: is not the name of a variable"),
        (_entry(Env={"LD_LIBRARY_PATH": "x"}), "Clients[0].Env[LD_LIBRARY_PATH]: is what Libraries is for"),
        (_entry(Env={"A": "{server}"}), "Clients[0].Env[A]: {server} is of one server: put {index} into the name"),
        (_entry(Env={"A{index}": "{servers}"}), "{servers} are all servers, and this is once a server"),
        (_entry(Env={"A": {"PerServer": "{servers}"}}), "{servers} are all servers, and this is once a server"),
        (_entry(Env={"A{index}": {"PerServer": "x"}}), "PerServer joins all servers in one variable"),
        (_entry(Env={"A": "{binary}"}), "Clients[0].Env[A]: {binary} is unknown here: allowed are {gpus}"),
        (_entry(Servers=[]), "Clients[0].Servers: must name at least one server, HOST:PORT"),
        (_entry(Servers="gpu-a:1"), "Clients[0].Servers: must be a list of strings"),
        (_entry(Servers=["gpu-a"]), "Clients[0].Servers[0]: 'gpu-a' is not HOST:PORT with a port from 1 to 65535"),
        (
            _entry(Servers=["gpu-a:1 "]),
            "Clients[0].Servers[0]: 'gpu-a:1 ' is not HOST:PORT with a port from 1 to 65535",
        ),
        (_entry(Tokens="yes"), "Clients[0].Tokens: yes is not one of none, bitfusion"),
        (_entry(Size="-5M"), "Clients[0].Size: must be a number of bytes such as 350M, not -5M"),
        (_entry(Size="big"), "Clients[0].Size: must be a number of bytes such as 350M, not big"),
        ({"Name": "other"}, "Clients[0]: needs Wrap, Env or Libraries: with none of them no program would reach a GPU"),
    ],
)
def test_a_wrong_entry_says_where_and_what(entry: Entry, message: str) -> None:
    with pytest.raises(CatalogueError) as error:
        _parsed(entry)
    assert message in str(error.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(CatalogueError) as error:
        catalogue.parse({"Clients": [_entry(Tokens=1), _entry(Wrap=1), 7], "BitfusionClients": ["x"]})
    assert "Clients: must be a list of objects" in str(error.value)
    with pytest.raises(CatalogueError) as error:
        catalogue.parse({"Clients": [_entry(Tokens=1), _entry(Name="b", Wrap=1)], "BitfusionClients": ["x"]})
    for words in ("Clients[0].Tokens", "Clients[1].Wrap", "BitfusionClients[0]"):
        assert words in str(error.value)


def test_one_client_is_there_once() -> None:
    with pytest.raises(CatalogueError, match=r"Clients\[1\]: a second client other 1: keep one of them"):
        _parsed(_entry(Version="1"), _entry(Version="1"))


@pytest.mark.parametrize("field", ["Version", "OSVersion"])
def test_entries_of_one_name_all_say_which_they_are(field: str) -> None:
    with pytest.raises(CatalogueError, match=r"Clients\[1\]: not all entries of other name Version, or OSVersion"):
        _parsed(_entry(), _entry(**{field: "2"}))


def test_a_pod_gets_the_version_that_it_asks_for() -> None:
    known = _parsed(_entry(Version="1", OSVersion="ubuntu22"), _entry(Version="2", OSVersion="debian12"))
    assert known.named("other", None, "1").version == "1"
    assert known.named("other", "ubuntu22", None).version == "1"
    assert known.named("other", "debian12", "2").version == "2"


@pytest.mark.parametrize(
    ("name", "os", "version", "message"),
    [
        ("strange", None, None, "there is no client strange; choose one of bitfusion, other"),
        (
            "other",
            None,
            "3",
            "there is no client other for version 3; choose os and version of one of other 1, other 2",
        ),
        ("other", None, None, "several clients other fit; choose os and version of one of other 1, other 2"),
    ],
)
def test_a_client_that_is_not_there_is_refused_with_those_that_are(
    name: str, os: str | None, version: str | None, message: str
) -> None:
    with pytest.raises(UnknownClientError) as error:
        _parsed(_entry(Version="1"), _entry(Version="2")).named(name, os, version)
    assert str(error.value).endswith(message)
