"""servers.conf as the core knows it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core.clients import servers_conf
from bitfusiond.files.read import load_yaml

DOCUMENTED = "servers:\n- addresses:\n  - 10.202.122.248:56001\n"
WITH_REACHABLE = "servers:\n- reachable: 10.202.122.248:56001\n  addresses:\n  - 10.202.122.248:56001\n"
MISPRINT = WITH_REACHABLE.replace("reachable: ", "reachable:")
ALLOWED = "HOST:PORT with a port from 1 to 65535, for example 10.202.122.248:56001 or [2001:db8::1]:56001"


def test_the_documented_form_gives_its_address() -> None:
    assert servers_conf.addresses(load_yaml(DOCUMENTED)) == [("10.202.122.248", 56001)]


def test_addresses_come_once_in_the_order_of_the_file_and_reachable_first() -> None:
    document = {
        "servers": [
            {"addresses": ["a:1", "b:2"], "reachable": "b:2"},
            {"addresses": ["[2001:db8::1]:3", "a:1"], "name": "unknown fields are left alone"},
        ]
    }
    assert servers_conf.addresses(document) == [("b", 2), ("a", 1), ("2001:db8::1", 3)]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "it must be a mapping with the key servers, not missing"),
        ("key: secret", "it must be a mapping with the key servers, not a text"),
        ([], "it must be a mapping with the key servers, not an empty list"),
        ({}, "servers must be a list with at least one server, not missing"),
        ({"servers": []}, "servers must be a list with at least one server, not an empty list"),
        ({"servers": {"addresses": []}}, "servers must be a list with at least one server, not a mapping"),
        ({"servers": ["a:1"]}, "servers[0] must be a mapping with the key addresses, not a text"),
        (
            {"servers": [{"addresses": ["a:1"]}, {"reachable": "a:1"}]},
            f"servers[1].addresses must be a list with at least one {ALLOWED}; it is missing",
        ),
        (
            {"servers": [{"addresses": "a:1"}]},
            f"servers[0].addresses must be a list with at least one {ALLOWED}; it is a text",
        ),
        ({"servers": [{"addresses": ["a:1", "a"]}]}, f"servers[0].addresses[1]: 'a' is not {ALLOWED}"),
        ({"servers": [{"addresses": ["a:1"], "reachable": 7}]}, f"servers[0].reachable: 7 is not {ALLOWED}"),
        ({"servers": [{"addresses": [{"a": 1}]}]}, f"servers[0].addresses[0]: a mapping is not {ALLOWED}"),
        (
            {"servers": [{"addresses": ["x" * 100]}]},
            f"servers[0].addresses[0]: '{'x' * 76}... is not {ALLOWED}",
        ),
    ],
)
def test_a_wrong_file_is_refused_with_the_field_and_what_is_allowed(document: object, message: str) -> None:
    with pytest.raises(servers_conf.ServersError) as refusal:
        servers_conf.addresses(document)
    assert str(refusal.value) == message
    with pytest.raises(servers_conf.ServersError):
        servers_conf.with_reachable(document)


@pytest.mark.parametrize(
    "address",
    [
        "a",
        "a:",
        ":1",
        "a:0",
        "a:65536",
        "a:1x",
        "a:١",
        "a:000001",
        "::1:5",
        "[::1]",
        "[a]:1",
        "a b:1",
        "http://a:1",
        "[]:1",
        "a:01",
        "a,b:1",
        "$(A):1",
        'a";b:1',
        "a\0:1",
        "a\u00a0b:1",
        "[2001:db8::1 ]:1",
        "[2001:db8::1%]:1",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(servers_conf.ServersError, match=r"servers\[0\]\.addresses\[0\]"):
        servers_conf.addresses({"servers": [{"addresses": [address]}]})


@pytest.mark.parametrize("host", ["gpu-a", "gpu_a.example.com.", "10.1.2.3", "[2001:db8::1]", "[fe80::1%eth0]", "gpü"])
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    assert servers_conf.address(f"{host}:65535") == (host.strip("[]"), 65535)


def test_blanks_around_an_address_are_no_part_of_it() -> None:
    document = {"servers": [{"addresses": [" a:1 ", "b:1\n"]}]}
    assert servers_conf.addresses(document) == [("a", 1), ("b", 1)]
    assert servers_conf.one_each(document) == ["a:1"]


def test_reachable_is_put_first_as_documented() -> None:
    document = load_yaml(DOCUMENTED)
    assert yaml.safe_dump(servers_conf.with_reachable(document), sort_keys=False) == WITH_REACHABLE
    assert document == load_yaml(DOCUMENTED)


def test_an_empty_reachable_counts_as_none() -> None:
    assert servers_conf.with_reachable({"servers": [{"addresses": ["a:1"], "reachable": None}]}) == {
        "servers": [{"reachable": "a:1", "addresses": ["a:1"]}]
    }


def test_the_misprint_of_the_readme_is_not_yaml_and_is_repaired() -> None:
    with pytest.raises(ValueError, match="not YAML"):
        load_yaml(MISPRINT)
    assert servers_conf.repaired(MISPRINT) == WITH_REACHABLE


@pytest.mark.parametrize("text", [DOCUMENTED, WITH_REACHABLE, "", "- unreachable:1\n", "# see - reachable:1\n"])
def test_any_other_text_is_left_as_it_is(text: str) -> None:
    assert servers_conf.repaired(text) == text


hosts = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True) | st.ip_addresses(v=6).map("[{}]".format)
written = st.builds("{}:{}".format, hosts, st.integers(1, 65535))
servers = st.fixed_dictionaries(
    {"addresses": st.lists(written, min_size=1, max_size=3)},
    optional={"reachable": written, "weight": st.integers(), "note": st.text("ab: #-'\"", max_size=8)},
)
files = st.fixed_dictionaries({"servers": st.lists(servers, min_size=1, max_size=3)}, optional={"extra": st.booleans()})


@given(files)
def test_after_a_round_trip_only_the_field_is_new(document: dict[str, Any]) -> None:
    changed = servers_conf.with_reachable(document)
    if changed is None:
        assert all("reachable" in server for server in document["servers"])
        return
    read = load_yaml(yaml.safe_dump(changed, sort_keys=False, allow_unicode=True))
    assert read == changed
    assert servers_conf.with_reachable(read) is None
    assert set(servers_conf.addresses(read)) == set(servers_conf.addresses(document))
    for before, after in zip(document["servers"], changed["servers"], strict=True):
        added = {} if "reachable" in before else {"reachable": before["addresses"][0]}
        assert after == added | before
        if added:
            assert next(iter(after)) == "reachable"
    assert {**changed, "servers": []} == {**document, "servers": []}
