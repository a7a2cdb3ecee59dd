"""What our code relies on, asked of the fake, alone and over HTTPS, and of a real API server by the same tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from bitfusiond.kube import (
    MUTATING,
    NODES,
    SECRETS,
    Change,
    Cluster,
    ConflictError,
    ExpiredError,
    InvalidError,
    NotFoundError,
    Object,
)
from bitfusiond.kube.apiserver import connect
from tests.fakes.cluster import FakeCluster
from tests.fakes.cluster_server import Server
from tests.real.harness.apiserver import APIServer, Refused

SPACES = ("contract-a", "contract-b")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(FakeCluster(*SPACES), tmp_path).running() as running:
        yield running


@pytest.fixture(params=["fake", "served", "real"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """``served``: the fake over HTTPS, asked as a real one is."""
    if request.param == "fake":
        yield FakeCluster(*SPACES)
        return
    if request.param == "served":
        server: Server = request.getfixturevalue("server")
        yield connect(str(server.write_kubeconfig(tmp_path / "kubeconfig")))
        return
    api: APIServer = request.getfixturevalue("api")
    for path in (
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/contract",
        *(f"/api/v1/namespaces/{space}/secrets" for space in SPACES),
    ):
        _ignoring_refusal(api, "DELETE", path)
    for space in SPACES:
        _ignoring_refusal(api, "POST", "/api/v1/namespaces", {"metadata": {"name": space}})
    yield connect(str(api.write_kubeconfig(tmp_path / "kubeconfig")))


def _ignoring_refusal(api: APIServer, method: str, path: str, body: object = None) -> None:
    try:
        api.request(method, path, body)
    except Refused as refused:
        if refused.code not in (404, 409):
            raise


def secret(name: str = "s", **data: str) -> Object:
    return {"metadata": {"name": name}, "stringData": data}


def configuration(**webhooks: str) -> Object:
    rule = {"operations": ["CREATE"], "apiGroups": ["none.example"], "apiVersions": ["v1"], "resources": ["nothings"]}
    return {
        "metadata": {"name": "contract"},
        "webhooks": [
            {
                "name": f"{name}.contract.example",
                "clientConfig": {"service": {"name": service, "namespace": "default"}},
                "rules": [rule],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
            for name, service in webhooks.items()
        ],
    }


async def test_an_object_comes_back_as_it_was_written_with_a_resource_version(cluster: Cluster) -> None:
    created = await cluster.create(SECRETS, SPACES[0], secret(k="v"))
    assert created["data"] == {"k": "dg=="}
    assert created["metadata"]["resourceVersion"]
    assert await cluster.get(SECRETS, SPACES[0], "s") == created
    assert (created["kind"], created["apiVersion"]) == ("Secret", "v1")


async def test_what_is_not_there_is_not_found(cluster: Cluster) -> None:
    with pytest.raises(NotFoundError, match='secrets "no" not found'):
        await cluster.get(SECRETS, SPACES[0], "no")
    with pytest.raises(NotFoundError, match='namespaces "nowhere" not found'):
        await cluster.create(SECRETS, "nowhere", secret())
    with pytest.raises(NotFoundError):
        await cluster.delete(SECRETS, SPACES[0], "no")
    with pytest.raises(NotFoundError):
        await cluster.replace(SECRETS, SPACES[0], "no", secret("no"))
    assert (await cluster.list(SECRETS, "nowhere")).items == []


async def test_creating_what_is_there_is_a_conflict(cluster: Cluster) -> None:
    await cluster.create(SECRETS, SPACES[0], secret())
    with pytest.raises(ConflictError, match="already exists"):
        await cluster.create(SECRETS, SPACES[0], secret())


async def test_a_dry_run_answers_and_stores_nothing(cluster: Cluster) -> None:
    created = await cluster.create(SECRETS, SPACES[0], secret(k="v"), dry_run=True)
    assert created["metadata"]["name"] == "s"
    assert (await cluster.list(SECRETS, SPACES[0])).items == []


async def test_a_replace_needs_the_version_that_was_read(cluster: Cluster) -> None:
    old = await cluster.create(SECRETS, SPACES[0], secret())
    new = await cluster.replace(SECRETS, SPACES[0], "s", {**old, "data": {"k": "dg=="}})
    assert new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"]
    with pytest.raises(ConflictError):
        await cluster.replace(SECRETS, SPACES[0], "s", old)
    same = await cluster.replace(SECRETS, SPACES[0], "s", new)
    assert same["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"]


async def test_a_delete_can_name_the_version_that_it_means(cluster: Cluster) -> None:
    created = await cluster.create(SECRETS, SPACES[0], secret())
    with pytest.raises(ConflictError):
        await cluster.delete(SECRETS, SPACES[0], "s", resource_version="1")
    await cluster.delete(SECRETS, SPACES[0], "s", resource_version=created["metadata"]["resourceVersion"])
    with pytest.raises(NotFoundError):
        await cluster.get(SECRETS, SPACES[0], "s")


async def test_a_list_of_one_name_is_over_all_namespaces_and_says_no_kinds(cluster: Cluster) -> None:
    for space in SPACES:
        await cluster.create(SECRETS, space, secret("contract-wanted"))
        await cluster.create(SECRETS, space, secret("contract-other"))
    listing = await cluster.list(SECRETS, name="contract-wanted")
    assert [item["metadata"]["namespace"] for item in listing.items] == list(SPACES)
    assert not {"kind", "apiVersion"} & listing.items[0].keys()
    kept = await cluster.list(SECRETS, SPACES[0], keep=lambda item: {"n": item["metadata"]["name"]})
    assert [item["n"] for item in kept.items if item["n"].startswith("contract")] == [
        "contract-other",
        "contract-wanted",
    ]


async def test_a_watch_tells_what_happened_since_the_list_and_what_happens(cluster: Cluster) -> None:
    await cluster.create(SECRETS, SPACES[0], secret("before"))
    version = (await cluster.list(SECRETS)).resource_version
    await cluster.create(SECRETS, SPACES[0], secret("other"))
    created = await cluster.create(SECRETS, SPACES[0], secret("watched"))
    async with _watching(cluster, version) as changes:
        assert (await _change(changes)).type == "ADDED"
        await cluster.replace(SECRETS, SPACES[0], "watched", {**created, "data": {"k": "dg=="}})
        change = await _change(changes)
        assert change.type == "MODIFIED"
        assert change.object["data"] == {"k": "dg=="}
        assert change.object["kind"] == "Secret"
        await cluster.delete(SECRETS, SPACES[0], "watched")
        gone = await _change(changes)
        assert gone.type == "DELETED"
        assert int(gone.object["metadata"]["resourceVersion"]) > int(change.object["metadata"]["resourceVersion"])


@asynccontextmanager
async def _watching(cluster: Cluster, version: str) -> AsyncIterator[AsyncIterator[Change]]:
    async with cluster.watch(SECRETS, version, SPACES[0], "watched") as changes:
        yield changes


async def _change(changes: AsyncIterator[Change]) -> Change:
    with trio.fail_after(10):
        return await anext(changes)


async def test_labels_choose_what_is_listed_and_watched(cluster: Cluster) -> None:
    labels = {"contract": "wanted", "second": "too"}
    wanted = secret("wanted")
    wanted["metadata"]["labels"] = labels
    version = (await cluster.list(SECRETS, SPACES[0])).resource_version
    async with cluster.watch(SECRETS, version, SPACES[0], labels=labels) as changes:
        await cluster.create(SECRETS, SPACES[0], secret("other"))
        created = await cluster.create(SECRETS, SPACES[0], wanted)
        listing = await cluster.list(SECRETS, SPACES[0], labels=labels)
        assert [item["metadata"]["name"] for item in listing.items] == ["wanted"]
        assert (await _change(changes)).object == created
        created["metadata"]["labels"] = {"contract": "wanted"}
        await cluster.replace(SECRETS, SPACES[0], "wanted", created)
        assert (await _change(changes)).type == "DELETED"


async def test_an_apply_can_name_the_version_that_it_means(cluster: Cluster) -> None:
    created = await cluster.create(SECRETS, SPACES[0], secret(k="v"))

    async def applied(value: str, version: str, name: str = "s") -> Object:
        body = {"metadata": {"resourceVersion": version}, "data": {"k": value}}
        return await cluster.apply(SECRETS, SPACES[0], name, body, field_manager="tests")

    first = created["metadata"]["resourceVersion"]
    assert (await applied("Mg==", first))["data"] == {"k": "Mg=="}
    with pytest.raises(ConflictError):
        await applied("Mw==", first)
    assert (await applied("Mw==", first, "not-there"))["data"] == {"k": "Mw=="}


async def test_a_watch_from_a_version_that_was_forgotten_has_expired(
    cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    await cluster.create(SECRETS, SPACES[0], secret())
    if isinstance(cluster, FakeCluster):
        cluster.expire()
    elif request.node.callspec.params["cluster"] == "served":
        await trio.to_thread.run_sync(request.getfixturevalue("server").do, FakeCluster.expire)
    else:  # its watch cache begins anew with what is there
        with request.getfixturevalue("api").stopped():
            pass
    with pytest.raises(ExpiredError, match="too old resource version"):
        async with cluster.watch(SECRETS, "1") as changes:
            await _change(changes)


async def test_an_apply_owns_what_it_names_and_nothing_else(cluster: Cluster) -> None:
    await cluster.create(MUTATING, None, configuration(one="a", two="b"))
    ours = {"webhooks": [{"name": "two.contract.example", "clientConfig": {"caBundle": "Q0E="}}]}
    applied = await cluster.apply(MUTATING, None, "contract", ours, field_manager="tests")
    one, two = applied["webhooks"]
    assert "caBundle" not in one["clientConfig"]
    assert two["clientConfig"]["caBundle"] == "Q0E="
    assert two["clientConfig"]["service"]["name"] == "b"
    fields = {entry["manager"]: entry["fieldsV1"] for entry in applied["metadata"]["managedFields"]}

    owned = fields["tests"]["f:webhooks"]['k:{"name":"two.contract.example"}']
    assert owned["f:clientConfig"] == {"f:caBundle": {}}
    assert "bitfusiond" in fields
    again = await cluster.apply(MUTATING, None, "contract", ours, field_manager="tests")
    assert again["metadata"]["resourceVersion"] == applied["metadata"]["resourceVersion"]


async def test_an_apply_alone_does_not_bring_a_deleted_configuration_back(cluster: Cluster) -> None:
    ours = {"webhooks": [{"name": "two.contract.example", "clientConfig": {"caBundle": "Q0E="}}]}
    with pytest.raises(InvalidError):
        await cluster.apply(MUTATING, None, "contract", ours, field_manager="tests")
    await cluster.create(MUTATING, None, configuration(one="a"))
    with pytest.raises(InvalidError):
        await cluster.apply(MUTATING, None, "contract", ours, field_manager="tests")


async def test_an_object_that_is_wrong_is_invalid(cluster: Cluster) -> None:
    with pytest.raises(InvalidError):
        await cluster.create(SECRETS, SPACES[0], {"metadata": {}})
    created = await cluster.create(SECRETS, SPACES[0], secret())
    with pytest.raises(InvalidError, match="immutable"):
        await cluster.replace(SECRETS, SPACES[0], "s", {**created, "type": "example.com/other"})


async def test_nodes_are_of_no_namespace(cluster: Cluster) -> None:
    listing = await cluster.list(NODES)
    assert int(listing.resource_version) > 0
