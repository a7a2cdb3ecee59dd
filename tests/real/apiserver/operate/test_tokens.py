"""``tokens``: from an unpacked token to the Secrets."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme

from bitfusiond.core import names
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate import tokens
from tests.real.harness.apiserver import APIServer, secret_path
from tests.real.harness.operator import Operator
from tests.real.harness.tokens import SERVERS, remove_tokens, token_files


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    directory = tmp_path / "tokens"
    directory.mkdir()
    for name, content in token_files().items():
        (directory / name).write_bytes(content)
    return directory


def test_the_secrets_are_made_then_changed_in_place_then_left_alone(
    api: APIServer, operator: Operator, unpacked: Path
) -> None:
    remove_tokens(api)
    made = operator.run("tokens", str(unpacked))
    assert made.status == 0, made.err
    assert made.out.count(": made") == 3
    assert "servers: 192.0.2.1:56001" in made.out
    assert made.lines[1].startswith("cluster: context c, API server 1.")
    assert made.lines[-1] == "bitfusiond is not installed yet: `just deploy`"
    assert "within seconds" not in made.out
    (unpacked / "servers.conf").write_text(SERVERS.replace("56001", "56002"))
    uid = api.request("GET", secret_path("kube-system", names.TOKEN_SECRETS[names.SERVERS_CONF]))["metadata"]["uid"]
    changed = operator.run("tokens", str(unpacked))
    assert (changed.out.count(": changed"), changed.out.count(": unchanged")) == (1, 2)
    secret = api.request("GET", secret_path("kube-system", names.TOKEN_SECRETS[names.SERVERS_CONF]))
    assert secret["metadata"]["uid"] == uid
    assert "annotations" not in secret["metadata"], "no second copy of the content"
    assert operator.run("tokens", str(unpacked)).out.count(": unchanged") == 3


def test_every_problem_of_the_files_is_told_at_once_and_nothing_of_their_content(unpacked: Path) -> None:
    (unpacked / "ca.crt").write_text("s3cret")
    (unpacked / "client.yaml").unlink()
    (unpacked / "servers.conf").write_text("servers: [s3cret")
    with pytest.raises(ConfigurationError) as error:
        tokens.read(unpacked)
    message = str(error.value)
    for part in ("ca.crt: it has no certificate in PEM", "client.yaml: it is not in", "servers.conf: not YAML"):
        assert part in message
    assert "s3cret" not in message


def test_a_certificate_that_ended_is_refused(unpacked: Path) -> None:
    ended = trustme.CA().issue_cert("bitfusion", not_after=datetime(2024, 2, 29, tzinfo=UTC))
    (unpacked / "ca.crt").write_bytes(ended.cert_chain_pems[0].bytes())
    with pytest.raises(ConfigurationError, match=r"ca\.crt: its certificate ended 2024-02-29: download the token anew"):
        tokens.read(unpacked)


def test_files_that_lie_one_directory_deeper_are_told_where(unpacked: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"just tokens {unpacked}$"):
        tokens.read(unpacked.parent)
    (unpacked / "ca.crt").unlink()
    with pytest.raises(ConfigurationError, match="is not a whole token"):
        tokens.read(unpacked.parent)


def test_an_archive_that_is_not_unpacked_is_told_how(tmp_path: Path) -> None:
    (tmp_path / "CA7.tar").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match=r"mkdir tokens && tar -xf .*CA7\.tar -C tokens"):
        tokens.read(tmp_path / "CA7.tar")


@pytest.mark.parametrize(
    ("servers", "problem"),
    [
        ("servers: []\n", "servers must be a list with at least one server"),
        ("servers:\n- addresses:\n  - 192.0.2.1\n", r"servers\[0\]\.addresses\[0\]: '192.0.2.1' is not HOST:PORT"),
        ("", "servers.conf: it is empty"),
    ],
)
def test_a_servers_conf_without_a_usable_server_is_refused(unpacked: Path, servers: str, problem: str) -> None:
    (unpacked / "servers.conf").write_text(servers)
    with pytest.raises(ConfigurationError, match=problem):
        tokens.read(unpacked)


def test_the_form_that_the_documentation_of_04_prints_is_taken(unpacked: Path) -> None:
    text = "servers:\n- reachable:192.0.2.1:56001\n  addresses:\n  - 192.0.2.1:56001\n"
    (unpacked / "servers.conf").write_text(text)
    assert set(tokens.read(unpacked)) == set(names.TOKEN_FILES)
