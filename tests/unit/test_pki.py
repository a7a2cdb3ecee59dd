"""Certificates as a strict verifier sees them, and the Secret that keeps them."""

from __future__ import annotations

import base64
import ssl
import subprocess
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bitfusiond import pki
from bitfusiond.core.certificates import rotation
from bitfusiond.core.certificates.rotation import AddNext, Drop, Lives, Promote, StartOver
from bitfusiond.pki import BrokenError, Vault

NOW = 1_800_000_000.0
LIVES = Lives()
NAMES = pki.service_names("bwki-webhook-svc", "bwki")


def fresh(now: float = NOW) -> Vault:
    vault, made = pki.perform(StartOver("there is none"), None, (), now, LIVES)
    assert made == vault.signing
    return vault


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_the_names_are_those_of_the_service() -> None:
    assert NAMES == (
        "bwki-webhook-svc",
        "bwki-webhook-svc.bwki",
        "bwki-webhook-svc.bwki.svc",
        "bwki-webhook-svc.bwki.svc.cluster.local",
    )


def test_openssl_verifies_it_as_strictly_as_it_can(tmp_path: Path) -> None:
    vault = fresh(time.time())
    _, pem = pki.sign_leaf(vault.signing, NAMES, time.time(), LIVES)
    (tmp_path / "ca.crt").write_bytes(vault.bundle)
    (tmp_path / "leaf.pem").write_bytes(pem)
    for name in NAMES:
        arguments = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", name]
        subprocess.run([*arguments, "-CAfile", tmp_path / "ca.crt", tmp_path / "leaf.pem"], check=True)
    wrong = ["openssl", "verify", "-verify_hostname", "another.bwki.svc"]
    done = subprocess.run([*wrong, "-CAfile", tmp_path / "ca.crt", tmp_path / "leaf.pem"], check=False)
    assert done.returncode != 0


def test_cryptography_verifies_it_by_the_rules_of_the_web(tmp_path: Path) -> None:
    vault = fresh()
    _, pem = pki.sign_leaf(vault.signing, NAMES, NOW, LIVES)
    store = x509.verification.Store(list(vault.trusted))
    for second in (NOW - LIVES.backdate, NOW, NOW + LIVES.leaf - 1):
        moment = datetime.fromtimestamp(second, UTC)
        verifier = x509.verification.PolicyBuilder().store(store).time(moment)
        verifier.build_server_verifier(x509.DNSName(NAMES[2])).verify(x509.load_pem_x509_certificate(pem), [])


def test_keys_are_p256_and_the_leaf_says_whose_it_is_and_how_long() -> None:
    vault = fresh()
    leaf, pem = pki.sign_leaf(vault.signing, NAMES, NOW, LIVES)
    certificate = x509.load_pem_x509_certificate(pem)
    for key in (certificate.public_key(), vault.signing.key.public_key()):
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)
    assert leaf == rotation.Leaf(vault.keyring.signing, rotation.Span(NOW - LIVES.backdate, NOW + LIVES.leaf))
    assert pki.span(certificate) == leaf.span


def test_two_cas_never_share_a_subject() -> None:
    first, second = fresh().signing.certificate, fresh().signing.certificate
    assert first.subject != second.subject
    assert pki.is_ours(first)
    assert not pki.is_ours(x509.load_pem_x509_certificate(trustme.CA().cert_pem.bytes()))


def test_a_secret_is_read_as_it_was_written_at_every_stage() -> None:
    first = fresh()
    both, made = pki.perform(AddNext(), first, (), NOW, LIVES)
    changed, nothing = pki.perform(Promote(), both, (), NOW + 7, LIVES)
    alone, _ = pki.perform(Drop(changed.keyring.retired), changed, (), NOW, LIVES)
    assert made is not None
    assert nothing is None
    for vault in (first, both, changed, alone):
        again = pki.decode(vault.data())
        assert (again.keyring, again.bundle, again.data()) == (vault.keyring, vault.bundle, vault.data())
    assert set(first.data()) == {"ca.crt", "ca.key", "signing-since"}
    assert set(both.data()) == {"ca.crt", "ca.key", "next.key", "signing-since"}
    assert (both.keyring.signing, both.keyring.next) == (first.keyring.signing, made.authority.id)
    assert (changed.keyring.signing, changed.keyring.next) == (made.authority.id, None)
    assert changed.keyring.signing_since == NOW + 7
    assert set(changed.data()) == {"ca.crt", "ca.key", "signing-since"}
    assert alone.trusted == (made.certificate,)


def test_a_new_start_keeps_trusting_what_is_known_once_each() -> None:
    old = fresh()
    vault, _ = pki.perform(StartOver("it has expired"), old, old.trusted * 2, NOW, LIVES)
    assert vault.trusted == (vault.signing.certificate, old.signing.certificate)
    assert vault.keyring.retired == old.keyring.ids


def rsa_key() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"ca.key": None}, "ca.key is not a private key in PEM", id="no key"),
        pytest.param({"ca.key": "!"}, "ca.key is not a private key in PEM", id="not base64"),
        pytest.param({"ca.key": 7}, "ca.key is not a private key in PEM", id="not even text"),
        pytest.param({"ca.key": encoded(b"hello")}, "ca.key is not a private key in PEM", id="not PEM"),
        pytest.param({"ca.key": encoded(rsa_key())}, "ca.key is not a key of an elliptic curve", id="RSA"),
        pytest.param({"ca.crt": None}, "ca.key is the key of no CA certificate in ca.crt", id="no certificate"),
        pytest.param(
            {"ca.crt": fresh().data()["ca.crt"]}, "ca.key is the key of no CA certificate in ca.crt", id="other"
        ),
        pytest.param(
            {"ca.crt": encoded(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
            "ca.key is the key of no CA certificate in ca.crt",
            id="not a certificate",
        ),
    ],
)
def test_a_broken_secret_is_told_apart_without_a_word_of_its_content(changes: dict[str, str], message: str) -> None:
    data = {key: value for key, value in {**fresh().data(), **changes}.items() if value is not None}
    with pytest.raises(BrokenError) as error:
        pki.decode(data)
    assert str(error.value) == message
    assert error.value.__cause__ is None


def test_a_broken_next_key_or_date_is_as_good_as_none() -> None:
    both, _ = pki.perform(AddNext(), fresh(), (), NOW, LIVES)
    for key in ("hello", both.data()["ca.key"]):
        again = pki.decode({**both.data(), "next.key": key, "signing-since": encoded(b"yesterday")})
        assert again == replace(again, next=None, signing_since=None)
        assert again.trusted == both.trusted


def test_a_leaf_and_strangers_in_a_bundle_are_sorted_out() -> None:
    vault = fresh()
    _, leaf = pki.sign_leaf(vault.signing, NAMES, NOW, LIVES)
    pem = b"Subject: x\r\n" + vault.bundle.replace(b"\n", b"\r\n") + leaf + vault.bundle + b"-----BEGIN"
    assert pki.certificates_of(pem) == vault.trusted


def test_nothing_that_is_shown_of_it_holds_a_key() -> None:
    both, _ = pki.perform(AddNext(), fresh(), (), NOW, LIVES)
    assert "PRIVATE" not in repr(both)
    assert str(both.signing.key.private_numbers().private_value) not in repr(both)


def test_the_pair_loads_into_a_tls_context(tmp_path: Path) -> None:
    _, pem = pki.sign_leaf(fresh().signing, NAMES, NOW, LIVES)
    (tmp_path / "pair.pem").write_bytes(pem)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(tmp_path / "pair.pem")
