"""Replicas that keep their own certificates in a cluster, with TLS handshakes all the while."""

from __future__ import annotations

import base64
import logging
import math
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from bitfusiond import pki
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.http import tls
from bitfusiond.kube import MUTATING, SECRETS, ForbiddenError, UnavailableError
from bitfusiond.webhook.certificates.cabundles import TARGETS
from bitfusiond.webhook.certificates.selfmanaged import SECRET, SelfManagedCertificate
from tests.fakes.cluster import FakeCluster
from tests.fakes.handshakes import ca_bundles, shake
from tests.unit.webhook.certificates.configured import Cluster, configuration, put_configurations
from tests.unit.webhook.certificates.replicas import (
    LIVES,
    NAMESPACE,
    POLL,
    Time,
    accepted,
    bundles,
    ready,
    running,
    secret,
    serving,
)

PEM = Encoding.PEM


async def test_alone_it_makes_a_ca_and_serves_by_every_name(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    async with running(cluster, clock) as (replica,):
        with pytest.raises(ssl.SSLError):
            shake(replica.context, pki.make_ca(clock(), LIVES).certificate.public_bytes(PEM), clock())
        await ready(replica)
        (bundle,) = set(bundles(cluster))
        assert bundle == base64.b64decode(secret(cluster)["ca.crt"])
        for name in pki.service_names("bwki-webhook-svc", NAMESPACE):
            shake(replica.context, bundle, clock(), name)
        with pytest.raises(ssl.SSLError, match=r"[Hh]ostname mismatch"):
            shake(replica.context, bundle, clock(), "bwki-webhook-svc.other.svc")
    for resource, name, webhooks in TARGETS:
        stored = cluster.find(resource, None, name)
        assert stored is not None
        fields = {each["manager"]: each["fieldsV1"] for each in stored["metadata"]["managedFields"]}
        element: dict[str, Any] = {".": {}, "f:name": {}, "f:clientConfig": {"f:caBundle": {}}}
        elements = {f'k:{{"name":"{webhook}"}}': element for webhook in webhooks}
        assert fields["bitfusiond-certificates"] == {"f:webhooks": elements}


async def test_replicas_that_start_at_the_same_moment_end_with_one_ca(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    async with serving(cluster, clock, 5) as replicas:
        await trio.sleep(60)
        assert len(pki.decode(secret(cluster)).trusted) == 1
        accepted(cluster, clock, *replicas)
        shown = {shake(replica.context, bundles(cluster)[0], clock()).serial_number for replica in replicas}
        assert len(shown) == 5


async def test_without_an_api_server_it_is_not_ready_and_says_so_seldom(
    cluster: Cluster, clock: Time, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with running(cluster, clock) as (replica,):
            with cluster.failing(UnavailableError("no connection to https://10.0.0.1")):
                await trio.sleep(250)
                assert replica.ready_reason() == "certificates: no connection to https://10.0.0.1"
            await ready(replica, seconds=10)
    ours = [record.getMessage() for record in caplog.records if record.name == "bitfusiond.certificates"]
    assert ours.count("certificates cannot be kept") == 1
    assert ours.count("certificates are kept again") == 1
    assert "PRIVATE" not in caplog.text


async def test_without_permission_the_reason_says_what_is_missing(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    cluster.fail_with(ForbiddenError("cannot patch validatingwebhookconfigurations"), math.inf, verb="patch")
    async with running(cluster, clock) as (replica,):
        await trio.sleep(3)
        assert replica.ready_reason() == (
            "certificates: the CA of the serving certificate is not in the caBundle of bwki-webhook-cfg and"
            " validation.bitfusion.io-cfg (cannot patch validatingwebhookconfigurations)"
        )


async def test_one_configuration_that_cannot_be_written_does_not_keep_the_other_from_it(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    cluster.fail_with(ForbiddenError("cannot patch"), math.inf, verb="patch", resource=MUTATING)
    async with running(cluster, clock):
        await trio.sleep(3)
        assert [bool(bundle) for bundle in bundles(cluster)] == [False, True]


async def test_an_api_server_that_goes_away_later_takes_no_readiness_with_it(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    async with serving(cluster, clock) as (replica,):
        cluster.fail_with(UnavailableError("no connection"), math.inf)
        cluster.disconnect()
        await trio.sleep(60)
        assert replica.ready_reason() is None
        await trio.sleep(60)
        assert "the serving certificate has expired" in str(replica.ready_reason())
        with pytest.raises(ssl.SSLError):
            shake(replica.context, bundles(cluster)[0], clock())


async def test_a_configuration_that_is_applied_again_has_its_ca_bundle_within_seconds(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    async with serving(cluster, clock, 2) as replicas:
        for resource, name, webhooks in TARGETS:
            cluster.remove(resource, None, name)
            await trio.sleep(2)
            assert [replica.ready_reason() for replica in replicas] == [None, None]
            assert cluster.find(resource, None, name) is None
            cluster.put(resource, configuration(name, *webhooks))
            await trio.sleep(1)
            await ready(*replicas)
            assert len(set(bundles(cluster))) == 1
            accepted(cluster, clock, *replicas)


async def test_a_rollout_does_not_wait_for_configurations_that_are_applied_after_it(
    clock: Time, autojump_clock: MockClock
) -> None:
    cluster = Cluster(NAMESPACE)
    async with serving(cluster, clock) as (replica,):
        put_configurations(cluster)
        await trio.sleep(1)
        await ready(replica)
        accepted(cluster, clock, replica)


async def test_a_webhook_that_an_operator_took_away_is_not_put_back(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    async with serving(cluster, clock) as (replica,):
        other = configuration("bwki-webhook-cfg", "other.example.org")
        cluster.put(MUTATING, other)
        await trio.sleep(30)
        stored = cluster.find(MUTATING, None, "bwki-webhook-cfg")
        assert stored is not None
        assert stored["webhooks"] == other["webhooks"]
        assert replica.ready_reason() is None


async def test_a_webhook_that_an_operator_puts_beside_the_first_is_trusted_before_anything_is_ready(
    clock: Time, autojump_clock: MockClock
) -> None:
    """From manifests with matchConditions, one webhook a configuration, to those of older API servers, with two."""
    cluster = Cluster(NAMESPACE)
    for resource, name, webhooks in TARGETS:
        cluster.put(resource, configuration(name, webhooks[0]))
    async with serving(cluster, clock) as (replica,):
        (before,) = set(bundles(cluster))
        stored = cluster.find(MUTATING, None, TARGETS[0].name) or {}
        stored["webhooks"] += configuration("other", TARGETS[0].webhooks[1])["webhooks"]
        cluster.put(MUTATING, stored)
        with trio.fail_after(3):
            while ca_bundles(cluster.find(MUTATING, None, TARGETS[0].name) or {}) != [before, before]:
                await trio.sleep(0.1)
        await ready(replica)
        accepted(cluster, clock, replica)


async def test_stalled_watches_cost_time_and_nothing_else(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    async with serving(cluster, clock) as (replica,):
        cluster.stall()
        cluster.put(MUTATING, configuration(TARGETS[0].name, *TARGETS[0].webhooks))
        await trio.sleep(POLL + 1)
        accepted(cluster, clock, replica)


def break_(what: str) -> Callable[[FakeCluster], None]:
    def doing(cluster: FakeCluster) -> None:
        body = cluster.find(SECRETS, NAMESPACE, SECRET)
        assert body is not None
        match what:
            case "deleted":
                cluster.remove(SECRETS, NAMESPACE, SECRET)
                return
            case "emptied":
                body["data"] = {"other": "eA=="}
            case "key":
                body["data"]["ca.key"] = "AAAA"
            case "certificates":
                body["data"]["ca.crt"] = "AAAA"
        cluster.put(SECRETS, body, NAMESPACE)

    return doing


@pytest.mark.slow
@pytest.mark.parametrize("what", ["deleted", "emptied", "key", "certificates"])
async def test_a_secret_that_is_lost_is_made_anew_without_a_refused_call(
    cluster: Cluster, clock: Time, autojump_clock: MockClock, what: str
) -> None:
    async with serving(cluster, clock, 3) as replicas:
        before = pki.decode(secret(cluster)).keyring
        break_(what)(cluster)
        for _ in range(200):
            await trio.sleep(1.1)
            accepted(cluster, clock, *replicas)
            assert [replica.ready_reason() for replica in replicas] == [None] * 3
        after = pki.decode(secret(cluster)).keyring
        assert not before.ids & after.ids
        if what == "emptied":
            assert secret(cluster)["other"] == "eA=="


async def test_an_expired_ca_never_serves_and_is_made_anew(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    async with running(cluster, clock) as (replica,):
        await ready(replica)
    old = pki.decode(secret(cluster)).keyring
    clock.offset += LIVES.ca + 1
    async with serving(cluster, clock, 2) as replicas:
        new = pki.decode(secret(cluster)).keyring
        assert new.signing not in old.ids
        accepted(cluster, clock, *replicas)


@pytest.mark.slow
async def test_rotations_go_on_for_years_without_a_refused_handshake(
    cluster: Cluster, clock: Time, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(cluster, clock, 3) as replicas:
        seen: set[str] = set()
        while trio.current_time() < 3 * LIVES.ca:
            await trio.sleep(4.3)
            accepted(cluster, clock, *replicas)
            keyring = pki.decode(secret(cluster)).keyring
            seen.add(keyring.signing)
            assert len(keyring.ids) <= 2
        assert len(seen) in {4, 5}
        # Of a rotation: the next CA is trusted, signs, and is alone. Whoever comes second is told of the conflict once.
        changes = sum(each.getMessage() == "certificate authority changed" for each in caplog.records)
        assert changes <= 3 * len(seen)
        assert sum(each.verb == "update" for each in cluster.requests) <= len(replicas) * changes


async def test_metrics_tell_the_expiry_of_both_and_what_was_made(
    cluster: Cluster, clock: Time, autojump_clock: MockClock
) -> None:
    registry = CollectorRegistry()
    certificate = SelfManagedCertificate(cluster, registry, namespace=NAMESPACE, clock=clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(certificate.run)
        await ready(certificate)
        nursery.cancel_scope.cancel()
    expiry, renewals = "bitfusiond_certificate_expiry_timestamp_seconds", "bitfusiond_certificate_renewals_total"
    lives = Lives()
    for which, life in (("ca", lives.ca), ("serving", lives.leaf)):
        assert registry.get_sample_value(expiry, {"certificate": which}) == pytest.approx(clock() + life, abs=10)
        left = registry.get_sample_value("bitfusiond_certificate_expiry_seconds", {"certificate": which})
        assert left == pytest.approx(life, abs=10)
        assert registry.get_sample_value(renewals, {"certificate": which}) == 1


async def test_no_key_is_logged_and_no_file_stays_open(
    cluster: Cluster, clock: Time, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with serving(cluster, clock):
            before = len(list(Path("/proc/self/fd").iterdir()))
            await trio.sleep(2 * LIVES.ca)
            assert len(list(Path("/proc/self/fd").iterdir())) <= before
    shown = caplog.text + "".join(str(getattr(record, "fields", "")) for record in caplog.records)
    assert "serving certificate signed" in shown
    assert "PRIVATE" not in shown
    assert secret(cluster)["ca.key"] not in shown


def test_the_pair_is_loaded_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []
    real = ssl.SSLContext.load_cert_chain

    def spied(context: ssl.SSLContext, cert: str, key: str, password: Any) -> None:
        loaded.extend((cert, key))
        real(context, cert, key, password)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spied)
    issuer = pki.make_ca(time.time(), LIVES)
    pem = pki.sign_leaf(issuer, ["x"], time.time(), LIVES)[1]
    tls.ServerTLS(pem, pem)
    assert len(loaded) == 2
    assert all(path.startswith("/proc/self/fd/") for path in loaded)
