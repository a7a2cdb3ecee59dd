"""The token files that the workload gets."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.fakes.volumes import PACKAGE, SERVERS_CONF, Pod, hidden

MISPRINT = b"servers:\n- reachable:10.202.122.248:56001\n  addresses:\n  - 10.202.122.248:56001\n"
REPAIRED = b"servers:\n- reachable: 10.202.122.248:56001\n  addresses:\n  - 10.202.122.248:56001\n"


@pytest.fixture
def clients(pod: Pod) -> Path:
    """A catalogue with a client of version 3.5 and one of 4.5, both the same tree."""
    return pod.catalogue(
        {"os": "ubuntu18", "version": "350", "package": PACKAGE},
        {"os": "ubuntu18", "version": "450", "package": PACKAGE},
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_they_are_copied_and_the_workload_can_change_them(pod: Pod) -> None:
    for path in pod.tokens.iterdir():
        path.chmod(0o444)

    result = pod.run()

    copied = {path.name: (mode(path), path.read_bytes()) for path in pod.client_dir.iterdir()}
    assert copied == {
        "ca.crt": (0o644, b"certificate\n"),
        "client.yaml": (0o600, b"key: s3cret\n"),
        "servers.conf": (0o644, SERVERS_CONF),
    }
    assert result.event("copied tokens")["names"] == ["ca.crt", "client.yaml", "servers.conf"]


def test_they_alone_are_put_in_place_where_the_client_is_mounted_from_its_image(pod: Pod) -> None:
    result = pod.run("--delivery", "image")

    assert sorted(path.name for path in pod.client_dir.iterdir()) == ["ca.crt", "client.yaml", "servers.conf"]
    assert not pod.distro.exists()
    assert [each["event"] for each in result.events] == ["copied tokens", "done"]


def test_what_they_hold_is_never_logged(pod: Pod) -> None:
    """Not even by mistake: here the operator mixed two files up."""
    (pod.tokens / "servers.conf").write_bytes(b"key: s3cret\n")

    assert "s3cret" not in pod.run().stderr


def test_a_client_yaml_that_differs_is_replaced(pod: Pod) -> None:
    pod.run()
    (pod.client_dir / "client.yaml").write_text("a stale token, or what the client added")
    (pod.client_dir / ".bitfusiond-0123456789abcdef").write_text("half")

    result = pod.run()

    assert result.event("copied tokens")["names"] == ["client.yaml"]
    assert (pod.client_dir / "client.yaml").read_bytes() == b"key: s3cret\n"
    assert mode(pod.client_dir / "client.yaml") == 0o600
    assert hidden(pod.client_dir) == set()


def test_a_client_before_version_4_gets_the_field_reachable(pod: Pod, clients: Path) -> None:
    result = pod.run("--clients", str(clients), version="350")

    assert (pod.client_dir / "servers.conf").read_bytes() == REPAIRED
    assert result.event("added the field reachable to servers.conf")["servers"] == 1
    assert pod.run("--clients", str(clients), version="350").event("already there", what="tokens")


def test_a_servers_conf_that_has_the_field_stays_as_it_is(pod: Pod, clients: Path) -> None:
    text = b"# ours\nservers:\n - reachable: a:1\n   addresses: [ 'b:2' ]\n"
    (pod.tokens / "servers.conf").write_bytes(text)

    assert pod.run("--clients", str(clients), version="350").status == 0

    assert (pod.client_dir / "servers.conf").read_bytes() == text


@pytest.mark.parametrize("version", ["350", "450"])
def test_the_misprint_of_the_readme_is_repaired_and_told(pod: Pod, clients: Path, version: str) -> None:
    """No client can read the file as it was pasted, so this is not about the version."""
    (pod.tokens / "servers.conf").write_bytes(MISPRINT)

    result = pod.run("--clients", str(clients), version=version)

    assert (pod.client_dir / "servers.conf").read_bytes() == REPAIRED
    assert result.event("repaired servers.conf")["problem"] == "no blank after `reachable:`"


UNREADABLE = {b"servers: a: b\n": "not YAML (line 1, column 11)", b"\xff\xfe": "not UTF-8 text"}
STRANGE = {
    b"key: s3cret\n": "servers must be a list with at least one server, not missing",
    b"servers:\n- addresses:\n  - 10.0.0.1\n": (
        "servers[0].addresses[0]: '10.0.0.1' is not HOST:PORT with a port from 1 to 65535, for example "
        "10.202.122.248:56001 or [2001:db8::1]:56001"
    ),
}


@pytest.mark.parametrize("version", ["350", "450"])
@pytest.mark.parametrize(("text", "problem"), UNREADABLE.items(), ids=["yaml", "text"])
def test_a_servers_conf_that_is_not_yaml_is_refused(
    pod: Pod, clients: Path, text: bytes, problem: str, version: str
) -> None:
    (pod.tokens / "servers.conf").write_bytes(text)

    result = pod.run("--clients", str(clients), version=version)

    assert result.message == f"--tokens: {pod.tokens}/servers.conf: {problem}"
    assert [*pod.client_dir.iterdir(), *pod.distro_target.iterdir(), *pod.opt_target.iterdir()] == []


@pytest.mark.parametrize(("text", "problem"), STRANGE.items(), ids=["servers", "address"])
def test_a_servers_conf_that_cannot_be_given_the_field_is_refused(
    pod: Pod, clients: Path, text: bytes, problem: str
) -> None:
    (pod.tokens / "servers.conf").write_bytes(text)

    result = pod.run("--clients", str(clients), version="350")

    assert result.message == (
        f"--tokens: {pod.tokens}/servers.conf: {problem}; this client needs the field reachable in it"
    )
    assert list(pod.client_dir.iterdir()) == []


@pytest.mark.parametrize(("text", "problem"), STRANGE.items(), ids=["servers", "address"])
def test_for_a_client_that_needs_no_change_a_strange_servers_conf_is_a_warning(
    pod: Pod, text: bytes, problem: str
) -> None:
    (pod.tokens / "servers.conf").write_bytes(text)

    result = pod.run()

    assert result.status == 0
    assert result.event("servers.conf is not as documented")["problem"] == problem
    assert (pod.client_dir / "servers.conf").read_bytes() == text
