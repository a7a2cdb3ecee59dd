"""``--claims``: the client's servers.conf names the servers that were allocated, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.volumes import PACKAGE, Pod, Result, hidden

A, B, C = "10.202.122.248:56001", "10.202.122.249:56001", "[2001:db8::3]:56001"
CONF = f"""\
cluster: ours
servers:
- addresses: ['10.202.122.248:56001', '10.0.0.1:56001'] # ours
  weight: 3
- reachable: {B}
  addresses: [{B}]
"""


def given(*addresses: str) -> str:
    """What the driver says of a claim with a GPU of each address."""
    gpus = [
        {"server": f"gpu-{index}", "address": each, "id": "0", "shares": 60} for index, each in enumerate(addresses)
    ]
    return json.dumps({"claim": "train-abc", "gpus": gpus})


@pytest.fixture
def claims(pod: Pod, monkeypatch: pytest.MonkeyPatch) -> Pod:
    """A pod with two claims, ``bitfusion-0`` and ``bitfusion-1``; its servers.conf knows two of the three servers."""
    (pod.tokens / "servers.conf").write_text(CONF)
    monkeypatch.setenv("BITFUSIOND_ALLOCATION", given(A))  # what the last of the claims left of it
    monkeypatch.setenv("BITFUSIOND_ALLOCATION_BITFUSION_0", given(B, A, B))
    monkeypatch.setenv("BITFUSIOND_ALLOCATION_BITFUSION_1", given(C))
    return pod


def servers(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


FIRST = {"addresses": [A, "10.0.0.1:56001"], "weight": 3}
SECOND = {"reachable": B, "addresses": [B]}
THIRD = {"addresses": [C]}


def test_each_claim_has_its_servers_and_one_file_has_those_of_all(claims: Pod) -> None:
    result = claims.run("--claims", "bitfusion-0,bitfusion-1")

    assert result.status == 0
    found = {str(path.relative_to(claims.client_dir)) for path in claims.client_dir.rglob("*")}
    assert found == {
        *("ca.crt", "client.yaml", "servers.conf"),
        *("bitfusion-0", "bitfusion-0/servers.conf", "bitfusion-1", "bitfusion-1/servers.conf"),
    }
    assert servers(claims.client_dir / "bitfusion-0/servers.conf") == {"cluster": "ours", "servers": [SECOND, FIRST]}
    assert servers(claims.client_dir / "bitfusion-1/servers.conf") == {"cluster": "ours", "servers": [THIRD]}
    assert servers(claims.client_dir / "servers.conf") == {"cluster": "ours", "servers": [SECOND, FIRST, THIRD]}
    assert result.event("servers.conf has the servers of claims", path="bitfusion-0/servers.conf")["servers"] == [B, A]
    assert hidden(claims.client_dir, claims.client_dir / "bitfusion-0") == set()
    assert claims.run("--claims", "bitfusion-0,bitfusion-1").event("already there", what="tokens")


def test_everybody_may_read_them_and_the_client_may_change_them(claims: Pod) -> None:
    claims.run("--claims", "bitfusion-0")

    assert oct((claims.client_dir / "bitfusion-0").stat().st_mode) == oct(0o40755)
    assert oct((claims.client_dir / "bitfusion-0/servers.conf").stat().st_mode) == oct(0o100644)


def test_a_client_before_version_4_gets_the_field_reachable(claims: Pod) -> None:
    catalogue = claims.catalogue({"os": "ubuntu18", "version": "350", "package": PACKAGE})

    assert claims.run("--claims", "bitfusion-0,bitfusion-1", "--clients", str(catalogue), version="350").status == 0

    assert servers(claims.client_dir / "bitfusion-0/servers.conf")["servers"] == [SECOND, {"reachable": A, **FIRST}]
    assert servers(claims.client_dir / "bitfusion-1/servers.conf")["servers"] == [{"reachable": C, **THIRD}]


def test_a_servers_conf_of_another_form_is_left_for_one_of_the_allocated_servers(claims: Pod) -> None:
    (claims.tokens / "servers.conf").write_text("key: s3cret\n")

    result = claims.run("--claims", "bitfusion-1")

    assert result.event("servers.conf is not as documented")
    assert servers(claims.client_dir / "servers.conf") == {"servers": [THIRD]}
    assert "s3cret" not in result.stderr


def refused(pod: Pod, result: Result) -> str:
    """The only line of a run that ended with exit status 2. Nothing was copied."""
    assert result.status == 2
    assert [*pod.client_dir.iterdir(), *pod.distro_target.iterdir(), *pod.opt_target.iterdir()] == []
    assert result.stderr.startswith("bitfusiond: --claims: ")
    (line,) = result.stderr.splitlines()
    return line.removeprefix("bitfusiond: --claims: ")


def test_without_the_variable_of_a_claim_nothing_is_copied(claims: Pod) -> None:
    """BITFUSIOND_ALLOCATION is there: it is of some claim, and not of this one."""
    assert refused(claims, claims.run("--claims", "bitfusion-0,other,bitfusion-9")) == (
        "other: the variable BITFUSIOND_ALLOCATION_OTHER is not set: the node did not prepare this claim; "
        "bitfusion-9: the variable BITFUSIOND_ALLOCATION_BITFUSION_9 is not set: the node did not prepare this claim"
    )


FORM = "it is not of the form {claim, gpus} with 1 to 32 GPUs: "
BROKEN = {
    "": "it is not JSON: \"\"",
    "{": "it is not JSON: {",
    "[" * 60000: "it is not JSON: " + "[" * 77 + "...",
    "x" * 70000: "it has 70000 characters: bitfusiond takes at most 65536",
    "[]": f"{FORM}[]",
    '{"claim": "c", "gpus": []}': f"{FORM}{{\"claim\": \"c\", \"gpus\": []}}",
    '{"claim": 1, "gpus": [{}]}': f"{FORM}{{\"claim\": 1, \"gpus\": [{{}}]}}",
    given("10.0.0.1"): (
        "gpus[0].address: '10.0.0.1' is not HOST:PORT with a port from 1 to 65535, for example 10.202.122.248:56001 or "
        "[2001:db8::1]:56001"
    ),
    given(A).replace(": 60", ": 101"): "gpus[0] is not of the form {server, address, id, shares}: {\"server\": ",
    given(A).replace(": 60", ": true"): "gpus[0] is not of the form {server, address, id, shares}: {\"server\": ",
    given(*[A] * 33): FORM,
}  # fmt: skip


@pytest.mark.parametrize(("text", "problem"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_variable_that_tells_of_no_allocation_is_refused(
    claims: Pod, monkeypatch: pytest.MonkeyPatch, text: str, problem: str
) -> None:
    monkeypatch.setenv("BITFUSIOND_ALLOCATION_BITFUSION_0", text)

    line = refused(claims, claims.run("--claims", "bitfusion-0"))

    assert line.startswith(
        f"bitfusion-0: the variable BITFUSIOND_ALLOCATION_BITFUSION_0 tells of no allocation: {problem}"
    )


def test_a_client_without_tokens_is_not_copied_for_a_claim_that_was_not_prepared(claims: Pod) -> None:
    catalogue = claims.directory / "clients.yaml"
    catalogue.write_text("Clients:\n- Name: lupine\n  Tree: /bitfusion/" + PACKAGE + "\n  Wrap: [usr/bin/x]\n")
    more = ("--clients", str(catalogue), "--client-name", "lupine")

    refused(claims, claims.run("--claims", "bitfusion-2", *more))
    assert claims.run("--claims", "bitfusion-1", *more).status == 0

    assert list(claims.client_dir.iterdir()) == []
