"""Writing a caBundle: into what was read, or not at all."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from bitfusiond import pki
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.kube import Object
from bitfusiond.webhook.certificates import cabundles
from bitfusiond.webhook.certificates.cabundles import TARGETS
from tests.fakes.handshakes import ca_bundle
from tests.unit.webhook.certificates.configured import NAMESPACE, Cluster, configuration

MUTATE = TARGETS[0]


def stored(cluster: Cluster) -> Object:
    found = cluster.find(MUTATE.resource, None, MUTATE.name)
    assert found is not None
    return found


async def test_a_late_writer_cannot_put_an_earlier_ca_bundle_over_a_later_one(cluster: Cluster) -> None:
    found = {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}
    assert await cabundles.write(cluster, found, b"later")
    assert await cabundles.write(cluster, found, b"earlier")  # something to be read again
    assert ca_bundle(stored(cluster)) == b"later"


async def test_a_configuration_that_was_deleted_meanwhile_does_not_come_back(cluster: Cluster) -> None:
    found = {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}
    cluster.remove(MUTATE.resource, None, MUTATE.name)
    assert await cabundles.write(cluster, found, b"mine")
    assert cluster.find(MUTATE.resource, None, MUTATE.name) is None


async def test_what_is_right_already_is_not_written(cluster: Cluster) -> None:
    await cabundles.write(cluster, {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}, b"mine")
    cluster.requests.clear()
    assert not await cabundles.write(cluster, {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}, b"mine")
    assert [request.verb for request in cluster.requests] == ["get"]


async def test_a_configuration_that_calls_another_installation_is_not_ours_to_write(cluster: Cluster) -> None:
    assert await cabundles.read(cluster, MUTATE, "another") is None


async def test_a_configuration_that_calls_a_url_names_no_namespace_and_is_ours() -> None:
    cluster = Cluster(NAMESPACE)
    body = configuration(MUTATE.name, MUTATE.webhooks[0])
    body["webhooks"][0]["clientConfig"] = {"url": "https://bitfusiond.example/mutate"}
    cluster.put(MUTATE.resource, body)
    assert await cabundles.read(cluster, MUTATE, NAMESPACE) is not None


@pytest.mark.parametrize("given", [None, "", "!", "Cg=="])
async def test_what_others_left_in_a_ca_bundle_is_written_over(given: str | None) -> None:
    cluster = Cluster(NAMESPACE)
    body = configuration(MUTATE.name, *MUTATE.webhooks)
    if given is not None:
        body["webhooks"][0]["clientConfig"]["caBundle"] = given
    cluster.put(MUTATE.resource, body)
    await cabundles.write(cluster, {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}, b"mine")
    assert ca_bundle(stored(cluster)) == b"mine"


async def test_of_the_webhooks_in_a_configuration_only_those_that_are_ours_and_there_are_written() -> None:
    cluster = Cluster(NAMESPACE)
    ours, another = MUTATE.webhooks
    body = configuration(MUTATE.name, ours)
    body["webhooks"] += configuration(MUTATE.name, "mutate.example.org")["webhooks"]
    body["webhooks"] += configuration(MUTATE.name, another, namespace="another")["webhooks"]
    cluster.put(MUTATE.resource, body)
    held = await cabundles.read(cluster, MUTATE, NAMESPACE)
    assert held is not None
    assert held.bundles == {ours: b""}
    await cabundles.write(cluster, {MUTATE: held}, b"mine")
    written = {webhook["name"]: "caBundle" in webhook["clientConfig"] for webhook in stored(cluster)["webhooks"]}
    assert written == {ours: True, "mutate.example.org": False, another: False}


async def test_where_one_webhook_lacks_the_ca_bundle_all_are_written_in_one_apply() -> None:
    cluster = Cluster(NAMESPACE)
    body = configuration(MUTATE.name, *MUTATE.webhooks)
    body["webhooks"][0]["clientConfig"]["caBundle"] = base64.b64encode(b"mine").decode()
    cluster.put(MUTATE.resource, body)
    assert await cabundles.write(cluster, {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}, b"mine")
    assert ca_bundle(stored(cluster)) == b"mine"
    assert [request.verb for request in cluster.requests] == ["get", "patch"]


def test_trusted_is_only_what_every_webhook_of_a_configuration_trusts() -> None:
    first, second = (pki.make_ca(0, Lives()).certificate for _ in range(2))
    pems = [each.public_bytes(Encoding.PEM) for each in (first, second)]
    held = cabundles.Held({"one": pems[0] + pems[1], "other": pems[1]}, {})
    assert held.trusted == {pki.fingerprint(second)}
    assert {pki.fingerprint(each) for each in held.certificates} == {
        pki.fingerprint(first),
        pki.fingerprint(second),
    }
