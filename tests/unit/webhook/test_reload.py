"""Files that change under the running webhook: certificate, catalogue, template."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio
import trustme
from cryptography import x509

from bitfusiond.core import names
from bitfusiond.files import read, watch
from tests import pods
from tests.fakes.https_client import patched, review
from tests.fakes.pki import Pki
from tests.fakes.processes import until
from tests.unit.conftest import Events, RunWebhook, Webhook


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch.POLL_SECONDS <= 2
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)


async def serial(webhook: Webhook) -> int:
    """The number of the certificate that a new connection is shown."""
    async with webhook.connect() as connection:
        stream: object = connection.stream
        assert isinstance(stream, trio.SSLStream)
        return int(stream.getpeercert()["serialNumber"], 16)


def number(leaf: trustme.LeafCert) -> int:
    return x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes()).serial_number


async def test_a_new_certificate_is_shown_from_the_next_handshake_on(
    run_webhook: RunWebhook, pki: Pki, events: Events
) -> None:
    async with run_webhook() as webhook, webhook.connect() as connection:
        await connection.request("GET", "/healthz")
        leaf = pki.issue()
        await until(lambda: events("certificate taken up"))
        assert await serial(webhook) == number(leaf)
        assert (await connection.ask("/mutate", review(pods.pod()))).status == 200


async def test_a_certificate_of_another_kind_of_key_replaces_the_old_one(
    run_webhook: RunWebhook, pki: Pki, events: Events
) -> None:
    """OpenSSL keeps one certificate for each kind of key, and would go on showing the old one to some clients."""
    only_rsa = pki.client()
    only_rsa.maximum_version = ssl.TLSVersion.TLSv1_2
    only_rsa.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    pki.issue(key_type=trustme.KeyType.RSA)
    async with run_webhook() as webhook:
        async with webhook.connect(only_rsa) as connection:
            await connection.request("GET", "/healthz")
        leaf = pki.issue(key_type=trustme.KeyType.ECDSA)
        await until(lambda: events("certificate taken up"))
        assert await serial(webhook) == number(leaf)
        with pytest.raises(trio.BrokenResourceError):
            async with webhook.connect(only_rsa):
                pass


async def test_a_certificate_swapped_as_the_kubelet_does_is_taken_up(
    run_webhook: RunWebhook, pki: Pki, tmp_path: Path, events: Events
) -> None:
    """The kubelet lets `..data` point to a new directory; the links of the files themselves never change."""
    mount = tmp_path / "mount"
    mount.mkdir()
    for name, generation in (("tls.crt", pki.cert), ("tls.key", pki.key)):
        (mount / name).symlink_to(f"..data/{generation.name}")

    def swap(to: str) -> trustme.LeafCert:
        directory = mount / to
        directory.mkdir()
        leaf = pki.issue()
        for file in (pki.cert, pki.key):
            (directory / file.name).write_bytes(file.read_bytes())
        (mount / "..data_tmp").symlink_to(to)
        (mount / "..data_tmp").rename(mount / "..data")
        return leaf

    swap("..first")
    async with run_webhook(tls_cert=str(mount / "tls.crt"), tls_key=str(mount / "tls.key")) as webhook:
        leaf = swap("..second")
        await until(lambda: events("certificate taken up"))
        assert await serial(webhook) == number(leaf)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("no PEM", "must be a certificate chain and its unencrypted key, both PEM"),
        ("another key", "is not the key of"),
        ("gone", "cannot read"),
        ("empty", "must be a certificate chain and its unencrypted key, both PEM"),
    ],
)
async def test_a_broken_certificate_is_logged_and_the_last_good_one_kept(
    run_webhook: RunWebhook, pki: Pki, events: Events, broken: str, message: str
) -> None:
    async with run_webhook() as webhook:
        before = await serial(webhook)
        if broken == "gone":
            pki.cert.unlink()
        elif broken == "another key":
            pki.key.write_bytes(pki.ca.issue_cert("x").private_key_pem.bytes())
        else:
            pki.cert.write_text("" if broken == "empty" else "-----BEGIN NONSENSE-----\n")
        event = "certificate not taken up, keeping the last good one"
        await until(lambda: events(event))
        line = events(event)[0]
        assert line["level"] == "ERROR"
        assert message in line["message"]
        assert await serial(webhook) == before
        leaf = pki.issue()
        await until(lambda: events("certificate taken up"))
        assert await serial(webhook) == number(leaf)


async def test_a_changed_catalogue_and_template_hold_from_the_next_pod_on(
    run_webhook: RunWebhook, tmp_path: Path, events: Events
) -> None:
    clients, injection = tmp_path / "clients.yaml", tmp_path / "sidecarconfig.yaml"
    clients.write_text(read.packaged("bitfusion-client-config.yaml"))
    injection.write_text(read.packaged("sidecarconfig.yaml"))
    given = pods.pod()
    async with run_webhook(clients=str(clients), injection=str(injection)) as webhook:
        clients.write_text(clients.read_text().replace("/bitfusion/bitfusion-client", "/bitfusion/other-client"))
        await until(lambda: len(events("configuration taken up")) == 1)
        after = patched(given, await webhook.ask("/mutate", review(given)))
        assert after["spec"]["containers"][0]["command"][0] == pods.BINARY.replace(
            "/bitfusion/bitfusion-client", "/bitfusion/other-client"
        )
        injection.write_text(injection.read_text().replace("docker.io/", "registry.local/"))
        await until(lambda: len(events("configuration taken up")) == 2)
        after = patched(given, await webhook.ask("/mutate", review(given)))
        assert after["spec"]["initContainers"][0]["image"].startswith("registry.local/")
        clients.write_text(read.packaged("bitfusion-client-config.yaml"))
        await until(lambda: len(events("configuration taken up")) == 3)
        injection.write_text(read.packaged("sidecarconfig.yaml"))
        await until(lambda: len(events("configuration taken up")) == 4)


async def test_a_changed_pool_holds_from_the_next_pod_on_and_a_broken_one_is_not_taken_up(
    run_webhook: RunWebhook, tmp_path: Path, events: Events
) -> None:
    gpus = "gpus: [{id: '0', name: V100, memory: 16000M}]"
    pool = tmp_path / "pool.yaml"
    pool.write_text(f"servers: [{{name: a, address: 'gpu-a:14833', {gpus}}}]")
    given = pods.pod(pods.container({names.GPU_AMOUNT: "2"}))

    async def is_allowed(webhook: Webhook) -> bool:
        return bool((await webhook.ask("/mutate", review(given)))["response"]["allowed"])

    async with run_webhook(pool=str(pool)) as webhook:
        assert not await is_allowed(webhook)
        pool.write_text(
            f"servers: [{{name: a, address: 'gpu-a:14833', {gpus}}}, {{name: b, address: 'gpu-b:14833', {gpus}}}]"
        )
        await until(lambda: len(events("configuration taken up")) == 1)
        assert await is_allowed(webhook)
        pool.write_text("servers: [{name: a}]")
        await until(lambda: events("configuration not taken up, keeping the last good one"))
        assert await is_allowed(webhook)
        webhook.stop.set()


@pytest.mark.parametrize("option", ["clients", "injection"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (": {", "not YAML"),
        ("[]", "the file must be a mapping"),
        ("", "the file must be a mapping"),
        ("volumes: 3\nBitfusionClients: 3\n", "must be a list"),
        ("\x00", "not YAML"),
    ],
    ids=["malformed", "a list", "empty", "wrong types", "NUL"],
)
async def test_a_broken_catalogue_or_template_is_logged_and_the_last_good_one_kept(
    run_webhook: RunWebhook, tmp_path: Path, events: Events, option: str, text: str, message: str
) -> None:
    """The old webhook ran on with a broken template, and every mutation panicked."""
    packaged = {"clients": "bitfusion-client-config.yaml", "injection": "sidecarconfig.yaml"}[option]
    file = tmp_path / packaged
    file.write_text(read.packaged(packaged))
    async with run_webhook(**{option: str(file)}) as webhook:
        file.write_text(text)
        event = "configuration not taken up, keeping the last good one"
        await until(lambda: events(event))
        line = events(event)[0]
        assert line["level"] == "ERROR"
        assert line["message"].startswith(f"--{option}: {file}: ")
        assert message in line["message"]
        await webhook.still_answers()


async def test_a_broken_file_keeps_no_other_from_being_taken_up(
    run_webhook: RunWebhook, tmp_path: Path, events: Events
) -> None:
    clients, pool = tmp_path / "clients.yaml", tmp_path / "pool.yaml"
    clients.write_text(read.packaged("bitfusion-client-config.yaml"))
    pool.write_text('servers: [{name: gpu-a, address: "a:1", gpus: [{id: "0", name: V100, memory: 16G}]}]')
    asking = review(pods.pod(annotations={names.CLIENT_FILTER: "server.hostname=none"}))
    async with run_webhook(clients=str(clients), pool=str(pool)) as webhook:
        clients.write_text("Clients: [{Name: A}]")
        await until(lambda: events("configuration not taken up, keeping the last good one"))
        pool.write_text(pool.read_text().replace("gpu-a", "gpu-b"))
        await until(lambda: events("configuration taken up"))
        answer = await webhook.ask("/mutate", asking)
        assert "server of the pool: choose of gpu-b" in answer["response"]["status"]["message"]
        # All that is wrong is told at once, whichever file it is in.
        pool.write_text("servers: []")
        await until(
            lambda: "--pool: " in events("configuration not taken up, keeping the last good one")[-1]["message"]
        )
        assert "--clients: " in events("configuration not taken up, keeping the last good one")[-1]["message"]
        webhook.stop.set()
