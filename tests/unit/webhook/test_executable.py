"""The real executable as a process of its own: what an operator and the kubelet see of it."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization

from bitfusiond.core import names
from bitfusiond.settings import values
from tests import pods
from tests.fakes import https_client as client
from tests.fakes.daemons import Daemon, daemon, refused
from tests.fakes.https_client import Connection, HungUpError, head, review
from tests.fakes.pki import Pki

pytestmark = pytest.mark.slow
BODY = json.dumps(review(pods.pod())).encode()
HEAD = head("POST", "/mutate", {"Content-Type": "application/json", "Content-Length": str(len(BODY))})


def command(pki: Pki, *options: str) -> list[str]:
    """Later options win over these."""
    here = ["--listen", "127.0.0.1:0", "--observe", "none", "--kubeconfig", "none", "--drain-seconds", "0"]
    files = ["--tls-cert", str(pki.cert), "--tls-key", str(pki.key)]
    return [sys.executable, "-W", "error", "-m", "bitfusiond", "--role", "webhook", *here, *files, *options]


async def address_of(running: Daemon) -> values.Address:
    return values.address((await running.event("listening"))["address"])


async def connected(running: Daemon, pki: Pki) -> AbstractAsyncContextManager[Connection]:
    return client.connect(await address_of(running), pki.client("http/1.1"))


async def test_it_starts_answers_and_stops_on_sigterm(pki: Pki) -> None:
    """The old webhook had no way to say whether it was ready."""
    async with daemon(command(pki, "--drain-seconds", "1", "--observe", "127.0.0.1:0")) as running:
        address = await address_of(running)
        async with client.connect(address, pki.client("http/1.1")) as connection:
            assert (await connection.request("GET", "/readyz")).text == "ok\n"
            assert (await connection.ask("/mutate", review(pods.pod()))).review["response"]["allowed"] is True
            running.process.send_signal(signal.SIGTERM)
            await running.event("draining")
            assert (await connection.ask("/mutate", review(pods.pod()))).headers["connection"] == "close"
        observe = values.address((await running.event("observing"))["address"])
        async with client.connect(observe, None) as connection:
            response = await connection.request("GET", "/readyz")
            assert (response.status, response.text) == (503, "not ready: stopping\n")
        async with client.connect(address, pki.client("http/1.1")) as connection:
            response = await connection.ask("/mutate", review(pods.pod()))
            assert response.review["response"]["allowed"] is True
        assert await running.ended() == 0
        await running.event("stopped")
    assert [line["event"] for line in running.lines] == [
        "observing", "listening", "admission", "stopping", "draining", "admission", "admission", "stopped",
    ]  # fmt: skip
    assert all(line["ts"].endswith("Z") and line["level"] == "info" for line in running.lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_both_signals_stop_it_with_status_0(pki: Pki, number: signal.Signals) -> None:
    async with daemon(command(pki)) as running:
        await address_of(running)
        running.process.send_signal(number)
        assert await running.ended() == 0
        assert (await running.event("stopping"))["signal"] == number.name


async def test_a_second_signal_stops_it_at_once(pki: Pki) -> None:
    async with daemon(command(pki, "--drain-seconds", "600")) as running:
        await address_of(running)
        running.process.send_signal(signal.SIGTERM)
        await running.event("draining")
        running.process.send_signal(signal.SIGTERM)
        assert await running.ended() == 0
        await running.event("stopping at once")


async def test_a_request_in_flight_at_sigterm_is_answered(pki: Pki) -> None:
    async with (
        daemon(command(pki)) as running,
        await connected(running, pki) as connection,
    ):
        await connection.send(HEAD + BODY[:10])
        async with await connected(running, pki) as other:
            await other.request("GET", "/healthz")
        running.process.send_signal(signal.SIGTERM)
        await running.event("draining")
        await trio.sleep(0.2)
        await connection.send(BODY[10:])
        assert (await connection.response()).review["response"]["allowed"] is True
        with pytest.raises(HungUpError):
            await connection.response()
        assert await running.ended() == 0


async def test_a_new_certificate_is_shown_within_two_seconds(pki: Pki) -> None:
    async with (
        daemon(command(pki)) as running,
        await connected(running, pki) as connection,
    ):
        await connection.request("GET", "/healthz")
        pki.issue()
        with trio.fail_after(3):
            await running.event("certificate taken up")
        assert (await connection.request("GET", "/healthz")).text == "ok\n"


@pytest.mark.parametrize(
    ("options", "variables", "shares"),
    [
        pytest.param((), {"TOTAL_GPU_MEMORY": "16000"}, "50", id="the documented variable"),
        pytest.param(("--total-gpu-memory", "32000"), {"TOTAL_GPU_MEMORY": "16000"}, "25", id="a flag wins"),
        pytest.param(
            (), {"TOTAL_GPU_MEMORY": "16000", "BITFUSIOND_TOTAL_GPU_MEMORY": "8000"}, "100", id="our variable wins"
        ),
    ],
)
async def test_the_memory_of_a_gpu_comes_from_flag_or_environment(
    pki: Pki, options: tuple[str, ...], variables: Mapping[str, str], shares: str
) -> None:
    given = pods.example("pod-memory")
    async with (
        daemon(command(pki, *options), variables) as running,
        await connected(running, pki) as connection,
    ):
        answer = (await connection.ask("/mutate", review(given))).review
    limits = client.patched(given, answer)["spec"]["containers"][0]["resources"]["limits"]
    assert limits == {names.GPU: shares}


@pytest.mark.parametrize("option", ["--listen", "--observe"])
async def test_a_busy_port_is_one_line_and_status_1(pki: Pki, option: str) -> None:
    """The old webhook ran on and served nothing."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        options = (option, address, "--observe", "none") if option == "--listen" else (option, address)
        status, line = await refused(command(pki, *options))
    assert status == 1
    logged: Any = json.loads(line.splitlines()[-1])
    assert logged["message"] == f"{option}: cannot listen on {address}: Address already in use"
    assert (logged["level"], logged["event"]) == ("error", "failed")


@pytest.mark.parametrize("address", ["nowhere.invalid:8443", "203.0.113.7:8443", "a..b:8443", f"{'x' * 70}.y:8443"])
async def test_an_address_that_cannot_be_had_is_one_line_and_status_1(pki: Pki, address: str) -> None:
    status, line = await refused(command(pki, "--listen", address))
    assert status == 1
    assert f"--listen: cannot listen on {address}: " in json.loads(line)["message"]


def encrypted(pem: bytes) -> bytes:
    key = serialization.load_pem_private_key(pem, None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


BAD_PEM = "--tls-cert, --tls-key: {cert} and {key} must be a certificate chain and its unencrypted key, both PEM"


@pytest.mark.parametrize(
    ("cert", "key", "message"),
    [
        pytest.param(b"nonsense", None, BAD_PEM, id="a certificate that is none"),
        pytest.param(b"", None, BAD_PEM, id="an empty certificate"),
        pytest.param(None, b"nonsense", BAD_PEM, id="a key that is none"),
        pytest.param(
            None, "encrypted", "--tls-key: {key} is encrypted: give one without a password", id="an encrypted key"
        ),
        pytest.param(None, "another", "--tls-key: {key} is not the key of {cert}", id="another's key"),
        pytest.param("gone", None, "--tls-cert: cannot read {cert}: No such file or directory", id="no certificate"),
        pytest.param(None, "gone", "--tls-key: cannot read {key}: No such file or directory", id="no key"),
        pytest.param("directory", None, "--tls-cert: cannot read {cert}: Is a directory", id="a directory"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_one_line_and_status_2(
    pki: Pki, cert: bytes | str | None, key: bytes | str | None, message: str
) -> None:
    """The old webhook ran on, and every handshake failed."""
    for path, content in ((pki.cert, cert), (pki.key, key)):
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "encrypted":
            path.write_bytes(encrypted(path.read_bytes()))
        elif content == "another":
            path.write_bytes(pki.ca.issue_cert("x").private_key_pem.bytes())
        elif content is not None:
            path.unlink()
            if content == "directory":
                path.mkdir()
    status, line = await refused(command(pki))
    assert status == 2
    assert line.startswith("bitfusiond: " + message.format(cert=pki.cert, key=pki.key))


FILES = {"--clients": "catalogue", "--injection": "template"}


@pytest.mark.parametrize("option", FILES, ids=FILES.values())
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read {path}: No such file or directory"),
        (b"a: [", "{path}: not YAML: while parsing a flow node"),
        (b"\xff\xfe\xfd", "cannot read {path}: it is not UTF-8 text"),
        (b"- 1", "{path}: the file must be a mapping"),
        (b"containerz: []\nBitfusionClients: []", "{path}: "),
        (b"[" * 100_000, "{path}: not YAML: nested too deeply (more than 200 levels)"),
    ],
    ids=["missing", "malformed", "not UTF-8", "a list", "wrong keys", "nested deeply"],
)
async def test_a_catalogue_or_template_that_cannot_be_used_is_one_line_and_status_2(
    pki: Pki, tmp_path: Path, option: str, content: bytes | None, message: str
) -> None:
    """Without a catalogue the old webhook panicked; with a broken template it ran, and every mutation panicked."""
    path = tmp_path / "file.yaml"
    if content is not None:
        path.write_bytes(content)
    status, line = await refused(command(pki, option, str(path)))
    assert status == 2
    assert line.startswith(f"bitfusiond: {option}: " + message.format(path=path))
