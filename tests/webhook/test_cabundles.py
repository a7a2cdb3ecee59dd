"""Writing a caBundle: into what was read, or not at all."""

from __future__ import annotations

import base64

import pytest

from bitfusiond.webhook.certificates import cabundles
from bitfusiond.webhook.certificates.cabundles import TARGETS
from bitfusiond.webhook.cluster import Object
from tests.webhook.configured import NAMESPACE, Cluster, configuration, put_configurations
from tests.webhook.handshakes import ca_bundle

MUTATE = TARGETS[0]


def stored(cluster: Cluster) -> Object:
    found = cluster.find(MUTATE.resource, None, MUTATE.name)
    assert found is not None
    return found


async def test_a_late_writer_cannot_put_an_earlier_ca_bundle_over_a_later_one() -> None:
    cluster = Cluster(NAMESPACE)
    put_configurations(cluster)
    found = {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}
    assert await cabundles.write(cluster, found, b"later")
    assert await cabundles.write(cluster, found, b"earlier")  # something to be read again
    assert ca_bundle(stored(cluster)) == b"later"


async def test_a_configuration_that_was_deleted_meanwhile_does_not_come_back() -> None:
    cluster = Cluster(NAMESPACE)
    put_configurations(cluster)
    found = {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}
    cluster.remove(MUTATE.resource, None, MUTATE.name)
    assert await cabundles.write(cluster, found, b"mine")
    assert cluster.find(MUTATE.resource, None, MUTATE.name) is None


async def test_what_is_right_already_is_not_written() -> None:
    cluster = Cluster(NAMESPACE)
    put_configurations(cluster)
    await cabundles.write(cluster, {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}, b"mine")
    cluster.requests.clear()
    assert not await cabundles.write(cluster, {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}, b"mine")
    assert [request.verb for request in cluster.requests] == ["get"]


async def test_a_configuration_that_calls_another_installation_is_not_ours_to_write() -> None:
    cluster = Cluster(NAMESPACE)
    put_configurations(cluster)
    assert await cabundles.read(cluster, MUTATE, "another") is None


async def test_a_configuration_that_calls_a_url_names_no_namespace_and_is_ours() -> None:
    cluster = Cluster(NAMESPACE)
    body = configuration(MUTATE.name, MUTATE.webhook)
    body["webhooks"][0]["clientConfig"] = {"url": "https://bitfusiond.example/mutate"}
    cluster.put(MUTATE.resource, body)
    assert await cabundles.read(cluster, MUTATE, NAMESPACE) is not None


@pytest.mark.parametrize("given", [None, "", "!", "Cg=="])
async def test_what_others_left_in_a_ca_bundle_is_written_over(given: str | None) -> None:
    cluster = Cluster(NAMESPACE)
    body = configuration(MUTATE.name, MUTATE.webhook)
    if given is not None:
        body["webhooks"][0]["clientConfig"]["caBundle"] = given
    cluster.put(MUTATE.resource, body)
    await cabundles.write(cluster, {MUTATE: await cabundles.read(cluster, MUTATE, NAMESPACE)}, b"mine")
    assert stored(cluster)["webhooks"][0]["clientConfig"]["caBundle"] == base64.b64encode(b"mine").decode()
