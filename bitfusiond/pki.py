"""Certificates: making a CA, signing with it, and how both are kept in a Secret.

The Secret's keys:

- ``ca.crt``: every CA to trust, PEM, the signing one first. It is what each ``caBundle`` holds, byte for byte.
- ``ca.key``: the private key of the CA that signs. Which certificate it belongs to is told by the key itself.
- ``next.key``: the private key of the CA that will sign next, while there is one.
- ``signing-since``: when ``ca.key`` began to sign, in seconds since the epoch.

A CA of which no key is here signs nothing any more.
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bitfusiond.core.certificates import rotation
from bitfusiond.core.certificates.rotation import Authority, Keyring, Lives, Span, Step
from bitfusiond.core.text import from_base64

CA_CRT = "ca.crt"
CA_KEY = "ca.key"
NEXT_KEY = "next.key"
SIGNING_SINCE = "signing-since"
KEYS = (CA_CRT, CA_KEY, NEXT_KEY, SIGNING_SINCE)

_CA_NAME = "bitfusiond webhook CA"
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----\r?\n[^-]*-----END CERTIFICATE-----")
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class BrokenError(Exception):
    """The content of the Secret cannot be used; the message says what of it, and never quotes it."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def authority(self) -> Authority:
        return authority(self.certificate)


@dataclass(frozen=True, slots=True)
class Vault:
    """The content of the Secret."""

    trusted: tuple[x509.Certificate, ...]
    signing: Issuer
    next: Issuer | None
    signing_since: float | None

    @property
    def bundle(self) -> bytes:
        """``ca.crt``"""
        return b"".join(each.public_bytes(serialization.Encoding.PEM) for each in self.trusted)

    @property
    def keyring(self) -> Keyring:
        following = fingerprint(self.next.certificate) if self.next else None
        authorities = tuple(authority(each) for each in self.trusted)
        return Keyring(authorities, fingerprint(self.signing.certificate), following, self.signing_since)

    def data(self) -> dict[str, str]:
        """As ``data`` of the Secret; keys that are not there have to go."""
        content = {CA_CRT: self.bundle, CA_KEY: _pem(self.signing.key)}
        if self.next is not None:
            content[NEXT_KEY] = _pem(self.next.key)
        if self.signing_since is not None:
            content[SIGNING_SINCE] = str(int(self.signing_since)).encode()
        return {key: base64.b64encode(value).decode() for key, value in content.items()}


def decode(data: Mapping[str, str]) -> Vault:
    """The Secret's ``data``. Raises BrokenError for one with which nothing can be signed.

    A ``next.key`` or ``signing-since`` that makes no sense is as good as none: another next CA is made when one is
    needed, and CAs of the past stay trusted for longer.
    """
    trusted = certificates_of(from_base64(data.get(CA_CRT)))
    signing = _issuer(trusted, from_base64(data.get(CA_KEY)), CA_KEY)
    following: Issuer | None
    try:
        following = _issuer(trusted, from_base64(data.get(NEXT_KEY)), NEXT_KEY)
    except BrokenError:
        following = None
    if following is not None and following.certificate == signing.certificate:
        following = None
    since = from_base64(data.get(SIGNING_SINCE))
    return Vault(trusted, signing, following, float(since) if re.fullmatch(rb"\d{1,12}", since) else None)


def remains(data: Mapping[str, str]) -> tuple[x509.Certificate, ...]:
    """The CA certificates that are in a Secret, broken or not."""
    return certificates_of(from_base64(data.get(CA_CRT)))


def certificates_of(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The CAs of a bundle, each once. What cannot be read is left out."""
    by_fingerprint: dict[str, x509.Certificate] = {}
    for block in _BLOCK.findall(pem):
        try:
            with warnings.catch_warnings():  # of certificates that no standard allows
                warnings.simplefilter("ignore")
                certificate = x509.load_pem_x509_certificate(block)
                if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                    continue
            str(certificate.subject.rfc4514_string()), certificate.public_key()  # read lazily, and may not be readable
            by_fingerprint.setdefault(fingerprint(certificate), certificate)
        except Exception:  # noqa: BLE001, S112 - the library has a class of its own for each odd thing in a certificate
            continue
    return tuple(by_fingerprint.values())


def bundle_of(text: str) -> str:
    """The CAs in ``text`` as PEM, without what stands beside them: a private key, words. Empty without any."""
    pem = b"".join(each.public_bytes(serialization.Encoding.PEM) for each in certificates_of(text.encode()))
    return pem.decode("ascii")


def is_ours(certificate: x509.Certificate) -> bool:
    """Whether it looks like a CA that this module made, and not like somebody else's in a caBundle."""
    return any(
        str(each.value).startswith(f"{_CA_NAME} ")
        for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    )


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def authority(certificate: x509.Certificate) -> Authority:
    return Authority(fingerprint(certificate), span(certificate))


def span(certificate: x509.Certificate) -> Span:
    return Span(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


def make_ca(now: float, lives: Lives) -> Issuer:
    """A CA for serving certificates and for nothing below it.

    Its subject is its own: verifiers look for an issuer by name, and several of these are in one bundle.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_CA_NAME} {serial:x}"[:64])])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _builder(name, name, key.public_key(), serial, rotation.span_of_ca(now, lives))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(_key_id(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Issuer(certificate, key)


def sign_leaf(issuer: Issuer, names: Iterable[str], now: float, lives: Lives) -> tuple[rotation.Leaf, bytes]:
    """A serving certificate for ``names``, and both it and its key as PEM, to be loaded and forgotten."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bitfusiond webhook")])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    validity = rotation.span_of_leaf(now, issuer.authority, lives)
    serial = x509.random_serial_number()
    certificate = (
        _builder(subject, issuer.certificate.subject, key.public_key(), serial, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .add_extension(_key_id(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(_key_id(issuer.key.public_key())),
            critical=False,
        )
        .sign(issuer.key, hashes.SHA256())
    )
    leaf = rotation.Leaf(fingerprint(issuer.certificate), span(certificate))
    return leaf, certificate.public_bytes(serialization.Encoding.PEM) + _pem(key)


def service_names(service: str, namespace: str) -> tuple[str, ...]:
    """How a Service is called in a cluster. The API server asks for the third name, people for the others."""
    full = f"{service}.{namespace}.svc"
    return service, f"{service}.{namespace}", full, f"{full}.cluster.local"


def perform(
    step: Step, vault: Vault | None, known: Iterable[x509.Certificate], now: float, lives: Lives
) -> tuple[Vault, Issuer | None]:
    """The content of the Secret after ``step``, and the CA that was made for it.

    ``known``: CAs that a new start takes over; the other steps do not look at them.
    """
    match step, vault:
        case rotation.AddNext(), Vault():
            made = make_ca(now, lives)
            return replace(vault, trusted=(*vault.trusted, made.certificate), next=made), made
        case rotation.Promote(), Vault(next=Issuer() as following):
            others = (each for each in vault.trusted if each != following.certificate)
            return Vault((following.certificate, *others), following, None, now), None
        case rotation.Drop(ids), Vault():
            return replace(vault, trusted=tuple(each for each in vault.trusted if fingerprint(each) not in ids)), None
    made = make_ca(now, lives)
    by_id = {fingerprint(each): each for each in known}
    kept = rotation.taken_over([authority(each) for each in by_id.values()])
    return Vault((made.certificate, *(by_id[each.id] for each in kept)), made, None, now), made


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, serial: int, validity: Span
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial)
        # Certificates know whole seconds. Rounded down: never valid for longer than was said.
        .not_valid_before(datetime.fromtimestamp(int(validity.not_before), UTC))
        .not_valid_after(datetime.fromtimestamp(int(validity.not_after), UTC))
    )


def _key_id(key: ec.EllipticCurvePublicKey) -> x509.SubjectKeyIdentifier:
    return x509.SubjectKeyIdentifier.from_public_key(key)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _issuer(trusted: tuple[x509.Certificate, ...], pem: bytes, name: str) -> Issuer:
    """The CA among ``trusted`` whose private key ``pem`` is. Raises BrokenError, which calls the key ``name``."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except _UNREADABLE:
        raise BrokenError(f"{name} is not a private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise BrokenError(f"{name} is not a key of an elliptic curve")
    for certificate in trusted:
        if certificate.public_key() == key.public_key():
            return Issuer(certificate, key)
    raise BrokenError(f"{name} is the key of no CA certificate in {CA_CRT}")
