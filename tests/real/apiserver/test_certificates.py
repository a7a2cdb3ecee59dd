"""Self-managed certificates on a real API server: what it lets us write, what it says is ours, and whom it trusts."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography import x509
from prometheus_client import CollectorRegistry

from bitfusiond import pki
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.http import server
from bitfusiond.http.messages import JSON, Request, Response
from bitfusiond.kube import MUTATING, VALIDATING, Resource, apiserver
from bitfusiond.settings.values import Address
from bitfusiond.webhook.certificates.cabundles import FIELD_MANAGER, Target
from bitfusiond.webhook.certificates.selfmanaged import SelfManagedCertificate
from tests.fakes.handshakes import ca_bundle, ca_bundles, shake
from tests.fakes.processes import until
from tests.real.harness.apiserver import APPLY, APIServer, Refused

NAMESPACE = "certificates"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/bwki-webhook-certs"
TARGETS = (
    Target(MUTATING, "certificates-mutating", ("mutating.certificates.example", "other-mutating.certificates.example")),
    Target(VALIDATING, "certificates-validating", ("validating.certificates.example",)),
)
LONG = Lives(settle=1)
SHORT = Lives(ca=15, leaf=8, backdate=1, settle=1.5)
# The API server reaches the webhook by a URL here, and a Service of this name makes a certificate for that host.
SERVICE = "localhost"


@pytest.fixture(autouse=True)
def scene(api: APIServer) -> Iterator[None]:
    """A namespace of our own; no Secret and no configuration before and after."""
    api.namespace(NAMESPACE)
    clean(api)
    yield
    clean(api)


def clean(api: APIServer) -> None:
    for path in (SECRET, *(target.resource.path(None, target.name) for target in TARGETS)):
        api.delete(path)


def manifest(target: Target, url: str = "https://localhost:1/", **more: Any) -> dict[str, Any]:
    """As an operator keeps it in git: without a caBundle. It is about no pod but those of our namespace."""
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}
    webhook = {
        "clientConfig": {"url": url},
        "rules": [{**rule, "scope": "Namespaced"}],
        "namespaceSelector": {"matchLabels": {"certificates": "tested"}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        **more,
    }
    kind = {"apiVersion": target.resource.group + "/v1", "kind": target.resource.kind}
    webhooks = [{"name": name, **webhook} for name in target.webhooks]
    return {**kind, "metadata": {"name": target.name}, "webhooks": webhooks}


def git(api: APIServer, target: Target, **more: Any) -> dict[str, Any]:
    """``kubectl apply --server-side``, without --force-conflicts."""
    path = f"{target.resource.path(None, target.name)}?fieldManager=kubectl"
    applied: dict[str, Any] = api.request("PATCH", path, manifest(target, **more), APPLY)
    return applied


def git_all(api: APIServer) -> None:
    for target in TARGETS:
        git(api, target)


def stored(api: APIServer, resource: Resource, name: str) -> dict[str, Any]:
    found: dict[str, Any] = api.request("GET", resource.path(None, name))
    return found


def bundles(api: APIServer) -> list[bytes]:
    return [ca_bundle(stored(api, target.resource, target.name)) for target in TARGETS]


@asynccontextmanager
async def running(
    api: APIServer, tmp_path: Path, count: int = 1, lives: Lives = LONG
) -> AsyncIterator[list[SelfManagedCertificate]]:
    kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
    replicas = [
        SelfManagedCertificate(
            apiserver.connect(str(kubeconfig)),
            CollectorRegistry(),
            namespace=NAMESPACE,
            service=SERVICE,
            targets=TARGETS,
            lives=lives,
            poll_seconds=0.5 if lives is SHORT else 60,
        )
        for _ in range(count)
    ]
    async with trio.open_nursery() as nursery:
        for replica in replicas:
            await nursery.start(replica.run)
        yield replicas
        nursery.cancel_scope.cancel()


async def ready(*replicas: SelfManagedCertificate) -> None:
    await until(lambda: not any(replica.ready_reason() for replica in replicas), 10)


async def has_bundles(api: APIServer, old: bytes = b"") -> bytes:
    """Once all caBundles are the same and none is ``old``."""
    with trio.fail_after(10):
        while len(found := set(await trio.to_thread.run_sync(bundles, api))) > 1 or found & {b"", old}:
            await trio.sleep(0.05)
    return found.pop()


def accepted(bundle: bytes, *replicas: SelfManagedCertificate) -> None:
    for replica in replicas:
        shake(replica.context, bundle, replica._clock(), SERVICE)


async def test_two_replicas_that_start_at_the_same_moment_end_with_one_ca(api: APIServer, tmp_path: Path) -> None:
    git_all(api)
    async with running(api, tmp_path, 2) as replicas:
        await ready(*replicas)
        bundle = await has_bundles(api)
        assert len(pki.certificates_of(bundle)) == 1
        accepted(bundle, *replicas)


async def test_only_the_ca_bundle_is_ours_and_git_never_drifts(api: APIServer, tmp_path: Path) -> None:
    git_all(api)
    async with running(api, tmp_path) as (replica,):
        await ready(replica)
        bundle = await has_bundles(api)
        for target in TARGETS:
            applied = git(api, target, timeoutSeconds=7)  # a conflict would be an error
            assert ca_bundle(applied) == bundle
            assert applied["webhooks"][0]["timeoutSeconds"] == 7
            owned = {each["manager"]: each for each in applied["metadata"]["managedFields"]}
            element: dict[str, Any] = {".": {}, "f:name": {}, "f:clientConfig": {"f:caBundle": {}}}
            assert owned[FIELD_MANAGER]["operation"] == "Apply"
            elements = {f'k:{{"name":"{name}"}}': element for name in target.webhooks}
            assert owned[FIELD_MANAGER]["fieldsV1"] == {"f:webhooks": elements}
            assert "f:caBundle" not in json.dumps(owned["kubectl"]["fieldsV1"])


async def test_a_configuration_is_neither_made_nor_filled_by_us(api: APIServer, tmp_path: Path) -> None:
    other = Target(MUTATING, TARGETS[0].name, ("other.certificates.example",))
    async with running(api, tmp_path) as (replica,):
        await ready(replica)
        git(api, other)
        await trio.sleep(1.5)
        assert [each["name"] for each in stored(api, MUTATING, other.name)["webhooks"]] == [*other.webhooks]
        assert ca_bundle(stored(api, MUTATING, other.name)) == b""
        with pytest.raises(Refused, match="not found"):
            stored(api, VALIDATING, TARGETS[1].name)


async def test_a_configuration_that_is_deleted_and_applied_again_has_its_ca_bundle_within_seconds(
    api: APIServer, tmp_path: Path
) -> None:
    git_all(api)
    async with running(api, tmp_path, 2) as replicas:
        await ready(*replicas)
        bundle = await has_bundles(api)
        for target in TARGETS:
            api.request("DELETE", target.resource.path(None, target.name))
            git(api, target)
            with trio.fail_after(3):
                assert await has_bundles(api) == bundle
        await ready(*replicas)


@pytest.mark.parametrize("what", ["deleted", "broken", "expired"])
async def test_a_secret_that_is_no_use_is_made_anew_and_nobody_is_refused(
    api: APIServer, tmp_path: Path, what: str
) -> None:
    git_all(api)
    async with running(api, tmp_path, 2) as replicas:
        await ready(*replicas)
        old = await has_bundles(api)
        if what == "deleted":
            api.request("DELETE", SECRET)
        else:
            issuer = pki.make_ca(0, LONG)  # of 1970
            data = pki.Vault((issuer.certificate,), issuer, None, 0).data()
            body = {"data": data if what == "expired" else {"ca.key": "AAAA"}}
            api.merge(SECRET, body)
        bundle = await has_bundles(api, old)
        assert old in bundle
        with trio.fail_after(10):
            while True:
                accepted(bundle, *replicas)
                shown = {shake(each.context, bundle, each._clock(), SERVICE).issuer for each in replicas}
                if shown == {pki.certificates_of(bundle)[0].subject}:
                    break
                api.merge(SECRET, {"metadata": {"labels": {"seen": str(id(shown))}}})
                await trio.sleep(0.3)


async def test_a_webhook_that_is_added_to_a_configuration_has_its_ca_bundle_within_seconds(
    api: APIServer, tmp_path: Path
) -> None:
    first = TARGETS[0]._replace(webhooks=TARGETS[0].webhooks[:1])
    git(api, first)
    git(api, TARGETS[1])
    async with running(api, tmp_path) as (replica,):
        await ready(replica)
        bundle = await has_bundles(api)
        git(api, TARGETS[0])
        await until(lambda: ca_bundles(stored(api, MUTATING, first.name)) == [bundle, bundle], 3)
        await ready(replica)


async def test_rotations_lose_no_call_of_the_api_server(api: APIServer, tmp_path: Path) -> None:
    """The API server itself asks the webhook, over the connections and with the trust that it chooses."""
    api.merge(f"/api/v1/namespaces/{NAMESPACE}", {"metadata": {"labels": {"certificates": "tested"}}})
    async with running(api, tmp_path, 2, SHORT) as replicas, trio.open_nursery() as nursery:
        sock = server.listen(Address("127.0.0.1", 0), "--listen")
        url = f"https://localhost:{server.bound_address(sock).port}/"
        turns = iter(range(10**9))

        def as_a_service_would() -> ssl.SSLContext:
            return replicas[next(turns) % 2].context

        nursery.start_soon(
            partial(server.serve, admit, sock, as_a_service_would, stop=trio.Event(), graceful_seconds=1)
        )
        for target in TARGETS:
            git(api, target, clientConfig={"url": url})
        await has_bundles(api)
        await ready(*replicas)
        await trio.sleep(1)  # the API server's own watch of the configurations
        issuers: set[x509.Name] = set()
        document = {"metadata": {"generateName": "asked-"}}
        with trio.move_on_after(3 * SHORT.ca):
            while len(issuers) < 4:
                path = f"/api/v1/namespaces/{NAMESPACE}/configmaps?dryRun=All"
                created = await trio.to_thread.run_sync(api.create, path, document)
                assert created["metadata"]["name"]
                for bundle in await trio.to_thread.run_sync(bundles, api):
                    accepted(bundle, *replicas)
                    issuers.add(shake(replicas[0].context, bundle, replicas[0]._clock(), SERVICE).issuer)
                await trio.sleep(0.05)
        assert len(issuers) == 4
        assert next(turns) > 100
        nursery.cancel_scope.cancel()


async def admit(request: Request) -> Response:
    """Says yes, and hangs up, so that the next call has a handshake of its own."""
    body = b""
    while part := await request.more():
        body += part
    review = json.loads(body)
    answer = {**review, "response": {"uid": review["request"]["uid"], "allowed": True}}
    return Response(200, json.dumps(answer).encode(), JSON, (("connection", "close"),))
