"""``--client-ca``: who has no certificate of it is not served, and whoever asks is told."""

from __future__ import annotations

import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry

from bitfusiond import settings
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import watch
from bitfusiond.http import tls
from bitfusiond.operate import settings as operate
from bitfusiond.pki import make_ca, sign_leaf
from bitfusiond.webhook import service
from bitfusiond.webhook.certificates.client_ca import followed_client_ca
from bitfusiond.webhook.certificates.selfmanaged import SelfManagedCertificate
from tests import pods
from tests.fakes.cluster import FakeCluster
from tests.fakes.https_client import HungUpError, review
from tests.fakes.pki import Pki
from tests.fakes.processes import until
from tests.unit.conftest import Events, RunWebhook, Webhook

SERVERS_ONLY = make_ca(time.time(), Lives())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def file(tmp_path: Path, ca: trustme.CA) -> Path:
    """Two CAs, as while one replaces the other."""
    path = tmp_path / "clients.crt"
    path.write_bytes(ca.cert_pem.bytes() + SERVERS_ONLY.certificate.public_bytes(Encoding.PEM))
    return path


def certified(of: Pki, leaf: trustme.LeafCert | None) -> ssl.SSLContext:
    context = of.client("http/1.1")
    if leaf is not None:
        leaf.configure_cert(context)
    return context


async def status(webhook: Webhook, context: ssl.SSLContext, path: str = "/mutate") -> int:
    async with webhook.connect(context) as connection:
        return (await connection.ask(path, review(pods.example("pod")))).status


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_only_a_client_with_a_certificate_of_the_ca_is_served_and_probes_are_open(
    run_webhook: RunWebhook, pki: Pki, ca: trustme.CA, file: Path, events: Events, version: ssl.TLSVersion
) -> None:
    async with run_webhook(client_ca=str(file)) as webhook:
        good, none = certified(pki, ca.issue_cert("kube-apiserver")), certified(pki, None)
        good.maximum_version = none.maximum_version = version
        for path in ("/mutate", "/validate"):
            assert await status(webhook, good, path) == 200
            async with webhook.connect(none) as connection:
                answer = await connection.ask(path, review(pods.example("pod")))
            assert answer.status == 401
            assert "a client certificate of the CA in --client-ca of bitfusiond is needed" in answer.text
        assert len(events("admission")) == 2, "what is answered 401 is not looked at"
        for path in ("/healthz", "/readyz", "/metrics"):
            async with webhook.connect(none) as connection:
                assert (await connection.request("GET", path)).status == 200
        counted = (await webhook.get("/metrics")).text
        assert 'endpoint="mutate",reason="401",verdict="bad_request"} 1.0' in counted
        webhook.context = good


@pytest.mark.parametrize(
    ("which", "why"),
    [
        ("another CA", "certificate"),  # in words that differ between versions of OpenSSL
        ("expired", "certificate has expired"),
        ("of a server", "unsuitable certificate purpose"),
    ],
)
async def test_a_certificate_that_is_not_good_ends_the_handshake_and_is_told_once_for_many(
    run_webhook: RunWebhook, pki: Pki, ca: trustme.CA, file: Path, events: Events, tmp_path: Path, which: str, why: str
) -> None:
    leaves = {
        "another CA": trustme.CA().issue_cert("x"),
        "expired": ca.issue_cert("x", not_after=datetime.now(tz=UTC) - timedelta(hours=1)),
    }
    bad = certified(pki, leaves.get(which))
    if which == "of a server":
        (tmp_path / "leaf.pem").write_bytes(_of_a_server())
        bad.load_cert_chain(tmp_path / "leaf.pem")
    async with run_webhook(client_ca=str(file)) as webhook:
        for _ in range(20):
            with pytest.raises((HungUpError, trio.BrokenResourceError)):
                await status(webhook, bad)
        (line,) = events("client certificate refused")
        assert why in line["reason"]
        assert "if this is the API server, pods that opted in are refused" in line["message"]
        metrics = (await webhook.get("/metrics")).text
        assert 'endpoint="none",reason="certificate",verdict="bad_request"} 20.0' in metrics
        assert not events("admission")
        webhook.context = certified(pki, ca.issue_cert("kube-apiserver"))


def _of_a_server() -> bytes:
    return sign_leaf(SERVERS_ONLY, ["x"], time.time(), Lives())[1]


async def test_a_changed_ca_holds_from_the_next_connection_and_a_broken_one_is_logged_and_the_last_good_one_kept(
    run_webhook: RunWebhook, pki: Pki, ca: trustme.CA, file: Path, events: Events
) -> None:
    old, other = certified(pki, ca.issue_cert("x")), trustme.CA()
    new = certified(pki, other.issue_cert("x"))
    async with run_webhook(client_ca=str(file)) as webhook:
        file.write_text("-----BEGIN NONSENSE-----\n")
        await until(lambda: events("client CA not taken up, keeping the last good one"))
        (line,) = events("client CA not taken up, keeping the last good one")
        assert line["message"].startswith(
            f"--client-ca: {file} holds no certificate of a CA: give the PEM file of the CA"
        )
        assert await status(webhook, old) == 200
        file.write_bytes(other.cert_pem.bytes())
        await until(lambda: events("client CA taken up"))
        assert await status(webhook, new) == 200
        with pytest.raises((HungUpError, trio.BrokenResourceError)):
            await status(webhook, old)
        pki.issue()  # a new serving certificate brings no old CA back, nor loses this one
        await until(lambda: events("certificate taken up"))
        assert await status(webhook, new) == 200
        with pytest.raises((HungUpError, trio.BrokenResourceError)):
            await status(webhook, old)
        assert await status(webhook, certified(pki, None)) == 401
        webhook.context = new


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read {}: No such file or directory"),
        (b"", "{} holds no certificate of a CA: give the PEM file of the CA"),
        (b"\xff\xfe", "cannot read {}: it is not UTF-8 text"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "{} holds no certificate of a CA"),
    ],
)
async def test_a_file_that_is_missing_or_broken_at_the_start_is_a_wrong_configuration(
    tmp_path: Path, pki: Pki, content: bytes | None, words: str
) -> None:
    path = tmp_path / "clients.crt"
    if content is not None:
        path.write_bytes(content)
    flags = {"client_ca": str(path), "tls_cert": str(pki.cert), "tls_key": str(pki.key), "kubeconfig": "none"}
    chosen = settings.resolve(settings.Webhook, flags, {})
    assert isinstance(chosen, settings.Webhook)
    with pytest.raises(ConfigurationError) as raised:
        await service.serve(chosen, trio.Event())
    assert str(raised.value).startswith("--client-ca: " + words.format(path))
    assert raised.value.exit_status == 2


async def test_an_intermediate_ca_without_its_root_will_do_for_the_webhook_and_for_deploy(
    run_webhook: RunWebhook, pki: Pki, ca: trustme.CA, tmp_path: Path
) -> None:
    intermediate, path = ca.create_child_ca(), tmp_path / "clients.crt"
    intermediate.cert_pem.write_to_path(path)
    assert operate.resolve({"CLIENT_CA": str(path)}).client_ca == path.read_text()
    async with run_webhook(client_ca=str(path)) as webhook:
        webhook.context = certified(pki, intermediate.issue_cert("kube-apiserver"))
        assert await status(webhook, webhook.context) == 200
        with pytest.raises((HungUpError, trio.BrokenResourceError)):
            await status(webhook, certified(pki, ca.issue_cert("of.the.root")))


def test_a_certificate_that_is_no_ca_will_do_for_neither(ca: trustme.CA, tmp_path: Path) -> None:
    """It signs nothing: whoever names it means its CA."""
    (tmp_path / "leaf.crt").write_bytes(ca.issue_cert("kube-apiserver").cert_chain_pems[0].bytes())
    with pytest.raises(ConfigurationError, match="holds no certificate of a CA"):
        followed_client_ca(tmp_path / "leaf.crt")
    with pytest.raises(ConfigurationError, match="is not a PEM file with the CA of the API server"):
        operate.resolve({"CLIENT_CA": str(tmp_path / "leaf.crt")})


def test_what_stands_beside_the_ca_in_its_file_is_no_matter(tmp_path: Path, pki: Pki) -> None:
    path = tmp_path / "clients.crt"
    path.write_text("\ufeff# CA der Firma Müller\n" + pki.ca.cert_pem.bytes().decode() + "# Ende\n")
    assert followed_client_ca(path)().count("BEGIN CERTIFICATE") == 1


async def test_a_self_managed_certificate_asks_for_a_clients_as_the_file_says_now(
    tmp_path: Path, ca: trustme.CA
) -> None:
    file = tmp_path / "clients.crt"
    file.write_bytes(ca.cert_pem.bytes())
    trusted = followed_client_ca(file)
    cluster = FakeCluster("bwki")
    managed = SelfManagedCertificate(cluster, CollectorRegistry(), namespace="bwki", client_ca=trusted)
    async with trio.open_nursery() as nursery:
        await nursery.start(managed.run)
        await until(lambda: managed.context.get_ca_certs() != [])
        before = managed.context
        assert (before.verify_mode, before.minimum_version) == (ssl.CERT_OPTIONAL, ssl.TLSVersion.TLSv1_2)
        assert managed.context is before, "made once"
        nursery.start_soon(trusted.follow)
        other = trustme.CA()
        file.write_bytes(other.cert_pem.bytes())
        der = ssl.PEM_cert_to_DER_cert(other.cert_pem.bytes().decode())
        await until(lambda: managed.context.get_ca_certs(binary_form=True) == [der])
        nursery.cancel_scope.cancel()


def test_without_the_option_no_client_is_asked_for_a_certificate(pki: Pki) -> None:
    context = tls.ServerTLS(pki.cert.read_bytes(), pki.key.read_bytes()).context
    assert context.verify_mode is ssl.CERT_NONE
