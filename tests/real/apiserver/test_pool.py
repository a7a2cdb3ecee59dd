"""The pool on a real API server, with no more permissions than it needs: what is sent comes back, and is sent once."""

from __future__ import annotations

import dataclasses
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import yaml
from prometheus_client import CollectorRegistry

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.pool import slices
from bitfusiond.core.pool.claims import ClaimTemplate
from bitfusiond.core.pool.inventory import Gpu, Pool, Server
from bitfusiond.kube import CLAIM_TEMPLATES, CLAIMS, DEVICE_CLASSES, EVENTS, RESOURCE_SLICES, ForbiddenError, Resource
from bitfusiond.kube.apiserver import connect
from bitfusiond.webhook.events import SERVER_GONE, Events
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.pool import probing
from bitfusiond.webhook.pool import templates as templates_module
from bitfusiond.webhook.pool import view as view_module
from bitfusiond.webhook.pool.view import PoolView
from tests import MANIFESTS
from tests.fakes.processes import until, wait_until
from tests.real.harness import grants, programs
from tests.real.harness.apiserver import APIServer, started
from tests.real.harness.webhook import Installation, put_sources

SERVED_SINCE = 34  # resource.k8s.io/v1
SINCE, WHAT = 36, "consumable capacity and taints of devices"
PERMISSIONS = MANIFESTS / "pool" / "permissions.yaml"
ROLE = "bitfusiond-webhook-pool"
RULES: list[Json] = [
    *next(
        document["rules"]
        for document in yaml.safe_load_all(PERMISSIONS.read_text())
        if (document["kind"], document["metadata"]["name"]) == ("ClusterRole", ROLE)
    ),
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]
FULL = Server("gpu-a", "[2001:db8::1]:56001", (Gpu("0", "Tesla V100", 16000),), "host-a", True, "12.4", "550")
_numbers = itertools.count(1)


def server(name: str, gpus: int = 2) -> Server:
    each = Gpu("0", "Tesla V100", 16000)
    return Server(name, f"{name}.example:1", tuple(dataclasses.replace(each, id=str(n)) for n in range(gpus)), name)


def template(shares: int = 50, name: str = "bitfusion-1") -> ClaimTemplate:
    exactly = {"deviceClassName": names.DRIVER, "capacity": {"requests": {"shares": str(shares)}}}
    return ClaimTemplate(name, {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}})


class Scene:
    """An API server of the version that has the pool, a namespace for each test, and replicas of the webhook's part."""

    def __init__(self, api: APIServer, directory: Path) -> None:
        self.api = api
        self.directory = directory
        self.team = api.namespace(f"pool-{next(_numbers)}")
        self._kubeconfig = str(api.write_kubeconfig(directory / "kubeconfig", api.account(self.team, self.team, RULES)))
        self.pool = Pool((server("a"), server("b")))
        self.dead: set[str] = set()
        for resource in (RESOURCE_SLICES, DEVICE_CLASSES):
            api.request("DELETE", resource.path())

    def stored(self, name: str = "a") -> Json | None:
        found: Json | None = self.api.find(RESOURCE_SLICES.path(None, slices.slice_name(name)))
        return found

    def all(self, resource: Resource, namespace: str | None = None) -> list[Json]:
        items: list[Json] = self.api.request("GET", resource.path(namespace))["items"]
        return items

    def published(self) -> dict[str, tuple[int, int, bool]]:
        """Generation, devices and whether they are tainted, by server."""
        specs = [each["spec"] for each in self.all(RESOURCE_SLICES)]
        return {
            spec["pool"]["name"]: (
                spec["pool"]["generation"],
                len(spec["devices"]),
                all("taints" in device for device in spec["devices"]),
            )
            for spec in specs
        }

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        if host.partition(".")[0] in self.dead:
            raise OSError("refused")
        return trio.testing.memory_stream_pair()[0]

    @asynccontextmanager
    async def running(self, metrics: CollectorRegistry | None = None) -> AsyncIterator[PoolView]:
        cluster = connect(self._kubeconfig)
        namespaces = Namespaces(names.EXEMPT_NAMESPACES)
        tell = partial(Events(namespaces.serves).of_pod, cluster, reason=SERVER_GONE)
        view = PoolView(
            cluster, metrics or CollectorRegistry(), namespaces, lambda: self.pool, tell, connect=self.connect
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(namespaces.run, cluster)
            await nursery.start(view.run)
            yield view
            nursery.cancel_scope.cancel()


def _minor() -> int:
    return programs.kubectl_minor(str(programs.kubectl()))


@pytest.fixture
def scene(api: APIServer, tmp_path: Path) -> Scene:
    programs.since(SINCE, api.minor, WHAT)
    return Scene(api, tmp_path)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes follow each other quickly."""
    monkeypatch.setattr(probing, "ROUND_SECONDS", 0.3)
    monkeypatch.setattr(view_module, "ROUND_SECONDS", 0.3)


async def test_slices_come_back_as_they_are_sent_and_sent_again_change_nothing(scene: Scene, tmp_path: Path) -> None:
    cluster = connect(str(scene.api.write_kubeconfig(tmp_path / "admin")))
    for tainted in (None, "2026-11-28T10:00:00Z"):
        sent = slices.resource_slice(FULL, 1, tainted)
        apply = partial(cluster.apply, RESOURCE_SLICES, None, "bitfusion.io-gpu-a", field_manager=slices.FIELD_MANAGER)
        stored = await apply(sent)
        assert slices.missing(sent, stored) == []
        summary = slices.summarize(stored)
        assert (summary.content, summary.tainted) == (slices.content(sent), tainted)
        assert await apply(sent) == stored, "same resourceVersion"
    apply = partial(cluster.apply, DEVICE_CLASSES, None, names.DRIVER, field_manager=slices.FIELD_MANAGER)
    stored = await apply(slices.device_class())
    assert slices.missing(slices.device_class(), stored) == []
    assert await apply(slices.device_class()) == stored


async def test_two_replicas_publish_what_comes_and_goes_and_then_write_nothing(scene: Scene) -> None:
    async with scene.running() as one, scene.running() as other:
        await until(lambda: scene.published() == {"a": (1, 2, False), "b": (1, 2, False)})
        # Who has not heard of it yet, as on a busy machine, takes the next content for the first: generation 1.
        await until(lambda: all(view._publishing._slices["bitfusion.io-a"].stored for view in (one, other)))
        scene.pool = Pool((server("a", 3), server("c", 64)))
        one.take_up()
        other.take_up()
        await until(lambda: scene.published() == {"a": (2, 3, False), "c": (1, 64, False)})
        scene.dead.add("a")
        await until(lambda: scene.published()["a"] == (3, 3, True))
        scene.dead.clear()
        await until(lambda: scene.published()["a"] == (4, 3, False))
        scene.api.delete(RESOURCE_SLICES.path(None, "bitfusion.io-c"))
        scene.api.delete(DEVICE_CLASSES.path(None, names.DRIVER))
        await until(lambda: "c" in scene.published() and len(scene.all(DEVICE_CLASSES)) == 1)
        await trio.sleep(1)
        before = [each["metadata"]["resourceVersion"] for each in scene.all(RESOURCE_SLICES)]
        await trio.sleep(5)
        assert [each["metadata"]["resourceVersion"] for each in scene.all(RESOURCE_SLICES)] == before
        assert (one.problem(), other.problem()) == (None, None)


async def test_templates_are_made_once_and_one_that_somebody_made_is_not_used(scene: Scene) -> None:
    forged = {
        "metadata": {"name": "bitfusion-2", "labels": dict(slices.LABELS)},
        "spec": {"spec": template(1).spec},
    }
    scene.api.create(CLAIM_TEMPLATES.path(scene.team), forged)
    more: Json = {"devices": {**template(70).spec["devices"], "constraints": []}}
    more["devices"]["config"] = [{"opaque": {"driver": names.DRIVER, "parameters": {"x": 1}}}]
    scene.api.create(CLAIM_TEMPLATES.path(scene.team), {"metadata": {"name": "bitfusion-3"}, "spec": {"spec": more}})
    async with scene.running() as view:
        await until(lambda: view.templates.ready_reason() is None)
        ensure = partial(view.templates.ensure, scene.team, dry_run=False)
        assert await ensure([template()]) == []
        assert view.templates.known(scene.team, "bitfusion-1")
        first = scene.api.find(CLAIM_TEMPLATES.path(scene.team, "bitfusion-1"))
        assert slices.missing(template().spec, first["spec"]["spec"]) == []
        await trio.sleep(1.5)  # the time of use would be another one
        assert await ensure([template()]) == []
        found = scene.api.find(CLAIM_TEMPLATES.path(scene.team, "bitfusion-1"))
        assert found["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        for each in (template(60, "bitfusion-2"), template(70, "bitfusion-3")):
            (problem,) = await ensure([each])
            assert f"is not as bitfusiond writes it: `kubectl delete resourceclaimtemplate {each.name}" in problem
        scene.api.delete(CLAIM_TEMPLATES.path(scene.team, "bitfusion-2"))
        await until(lambda: not view.templates.known(scene.team, "bitfusion-2"))
        assert await ensure([template(60, "bitfusion-2")]) == []
        assert await view.templates.missing(scene.team, ["bitfusion-1", "bitfusion-9"]) == ["bitfusion-9"]


async def test_allocated_claims_are_counted_and_pods_on_a_dead_server_are_told(scene: Scene) -> None:
    requests = {"devices": template().spec["devices"]}
    path = CLAIMS.path(scene.team)
    claim = scene.api.create(path, {"metadata": {"name": "c"}, "spec": requests})
    result = {"request": "gpu", "driver": names.DRIVER, "pool": "a", "device": "gpu-0"}
    shared = {"shareID": "7e8e3e4c-0000-4000-8000-000000000001", "consumedCapacity": {"shares": "50"}}
    claim["status"] = {
        "allocation": {"devices": {"results": [{**result, **shared}]}},
        "reservedFor": [{"resource": "pods", "name": "train", "uid": "u-1"}],
    }
    scene.api.request("PUT", f"{path}/c/status", claim)
    metrics = CollectorRegistry()

    def figure(name: str, of: str = "a") -> Any:
        return metrics.get_sample_value(f"bitfusiond_pool_{name}", {"server": of})

    async with scene.running(metrics), scene.running():
        await until(lambda: figure("shares_free") == 150)
        assert (figure("shares_offered"), figure("shares_allocated"), figure("server_up")) == (200, 50, 1)
        scene.dead.add("a")
        await until(lambda: scene.all(EVENTS, scene.team))
        await until(lambda: figure("shares_free") == 0)
        await trio.sleep(1)
        (event,) = scene.all(EVENTS, scene.team)
        assert (event["reason"], event["involvedObject"]["name"]) == ("BitfusionServerGone", "train")
        scene.api.delete(f"{path}/c")
        await until(lambda: figure("shares_allocated") == 0)


async def test_an_api_server_without_the_feature_gates_is_told_so(tmp_path: Path) -> None:
    programs.since(SINCE, _minor(), WHAT)
    gates = "--feature-gates=DRAConsumableCapacity=false"
    with started(tmp_path, gates) as api:
        scene = Scene(api, tmp_path)
        async with scene.running() as view:
            await until(lambda: len(scene.published()) == 2)
            await until(lambda: view.problem() is not None)
            problem = str(view.problem())
            assert "the API server drops" in problem
            assert "spec.devices[].allowMultipleAllocations" in problem
            (refusal,) = await view.templates.ensure(scene.team, [template()], dry_run=False)
            assert "the API server drops spec.devices.requests[].exactly.capacity" in refusal
            before = [each["metadata"]["resourceVersion"] for each in scene.all(RESOURCE_SLICES)]
            await trio.sleep(3)
            assert [each["metadata"]["resourceVersion"] for each in scene.all(RESOURCE_SLICES)] == before


async def test_a_cluster_without_the_api_is_told_so(tmp_path: Path) -> None:
    options = ["--runtime-config=resource.k8s.io/v1=false"] if _minor() >= SERVED_SINCE else []
    with started(tmp_path, *options) as api:
        pool = Pool((server("a"),))
        cluster = connect(str(api.write_kubeconfig(tmp_path / "kubeconfig")))
        namespaces = Namespaces(names.EXEMPT_NAMESPACES)
        tell = partial(Events(namespaces.serves).of_pod, cluster, reason=SERVER_GONE)
        view = PoolView(cluster, CollectorRegistry(), namespaces, lambda: pool, tell)
        async with trio.open_nursery() as nursery:
            await nursery.start(namespaces.run, cluster)
            await nursery.start(view.run)
            await until(lambda: view.problem() is not None)
            assert "it takes Kubernetes 1.36 or later" in str(view.problem())
            (problem,) = await view.templates.ensure("default", [template()], dry_run=False)
            assert "ResourceClaimTemplates not listed yet" in problem
            nursery.cancel_scope.cancel()


async def test_every_permission_is_used_and_none_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.since(SINCE, _minor(), WHAT)
    monkeypatch.setattr(templates_module, "CLEAN_SECONDS", 0.5)
    policy, audit_log = tmp_path / "audit-policy", tmp_path / "audit.log"
    policy.write_text(json.dumps(grants.POLICY))
    with started(tmp_path, f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}") as api:
        scene = Scene(api, tmp_path)
        old = {names.USED_AT: "2026-01-01T00:00:00Z"}
        body = {"metadata": {"name": "old", "labels": dict(slices.LABELS), "annotations": old}}
        api.create(CLAIM_TEMPLATES.path(scene.team), {**body, "spec": {"spec": template().spec}})
        async with scene.running() as view:
            await until(lambda: len(scene.published()) == 2 and view.templates.ready_reason() is None)
            scene.pool = Pool((server("a"),))
            view.take_up()
            assert await view.templates.ensure(scene.team, [template()], dry_run=False) == []
            assert await view.templates.missing(scene.team, ["none"]) == ["none"]
            await until(lambda: len(scene.published()) == 1 and len(scene.all(CLAIM_TEMPLATES, scene.team)) == 1)
        user = f"system:serviceaccount:{scene.team}:{scene.team}"
        asked = list(grants.requests(audit_log, user))
        assert asked
        assert [each for each in asked if each.forbidden and each.code] == []
        documents = list(yaml.safe_load_all(PERMISSIONS.read_text()))
        # An apply of what is not there is a patch in the log, but asks RBAC for create too: see the next test.
        given = [each for each in grants.granted(documents, "bitfusion-webhook-deployment") if each.verb != "create"]
        assert len(given) > 10
        assert grants.unused(given, asked) == []


async def test_to_apply_what_is_not_there_takes_the_permission_to_create(scene: Scene) -> None:
    for rule in RULES:
        without = {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]}
        (resource,) = rule["resources"]
        if rule["verbs"] == without["verbs"] or rule["apiGroups"] != ["resource.k8s.io"]:
            continue
        name = f"{scene.team}-{resource}"
        rules = [each for each in [*(each for each in RULES if each is not rule), without] if each["verbs"]]
        kubeconfig = scene.api.write_kubeconfig(scene.directory / "less", scene.api.account(scene.team, name, rules))
        cluster = connect(str(kubeconfig))
        kind = {each.plural: each for each in (RESOURCE_SLICES, DEVICE_CLASSES, CLAIM_TEMPLATES)}[resource]
        documents = {
            RESOURCE_SLICES: ("bitfusion.io-gpu-a", slices.resource_slice(FULL, 1)),
            DEVICE_CLASSES: (names.DRIVER, slices.device_class()),
            CLAIM_TEMPLATES: ("bitfusion-1", {"spec": {"spec": template().spec}}),
        }
        where, (of, document) = scene.team if kind == CLAIM_TEMPLATES else None, documents[kind]
        with pytest.raises(ForbiddenError, match="cannot create"):
            await cluster.apply(kind, where, of, document, field_manager=slices.FIELD_MANAGER)


def _write_pool(path: Path, *servers: tuple[str, int], address: str) -> None:
    gpus = [{"id": str(number), "name": "T4", "memory": "15000M"} for number in range(4)]
    entries = [
        {"name": name, "address": f"{address}:{port}", "gpus": gpus[: index + 1]}
        for index, (name, port) in enumerate(servers)
    ]
    path.write_text(json.dumps({"servers": entries}))  # JSON is YAML


def test_the_webhook_publishes_its_file_and_follows_it(tmp_path: Path) -> None:
    """The program itself. Where Kubernetes is too old it says so, and is ready all the same."""
    pool = tmp_path / "pool.yaml"
    with socket.create_server(("127.0.0.1", 0)) as answering, started(tmp_path) as api:
        port = answering.getsockname()[1]
        _write_pool(pool, ("a", port), ("dead", 1), address="127.0.0.1")
        installation = Installation(api, tmp_path)
        put_sources(api, installation.tokens)
        with installation.ready_replica("--pool", str(pool)) as replica:
            if api.minor < SINCE:
                wait_until(lambda: bool(replica.said("the pool is not as it should be")), "words about the version")
                assert replica.ready()
                return

            def published() -> dict[str, int]:
                items = api.request("GET", RESOURCE_SLICES.path())["items"]
                return {each["spec"]["pool"]["name"]: len(each["spec"]["devices"]) for each in items}

            wait_until(lambda: published() == {"a": 1, "dead": 2}, "slices")
            _write_pool(pool, ("a", port), ("new", port + 1), ("dead", 1), address="127.0.0.1")
            wait_until(lambda: published() == {"a": 1, "new": 2, "dead": 3}, "the new file")
            pool.write_text("servers: []")
            wait_until(lambda: "keeping the last good one" in str(replica.said()), "the broken file")
            wait_until(lambda: bool(replica.said("GPU server does not answer")), "three probes", 40)
            page = replica.get("/metrics")[1]
            for line in (
                'bitfusiond_pool_shares_offered{server="new"} 200.0',
                'bitfusiond_pool_shares_allocated{server="a"} 0.0',
                'bitfusiond_pool_shares_free{server="a"} 100.0',
                'bitfusiond_pool_server_up{server="a"} 1.0',
                'bitfusiond_pool_server_up{server="dead"} 0.0',
                "bitfusiond_pool_problem 0.0",
                'bitfusiond_watch_connected{watch="resourceslices"} 1.0',
            ):
                assert line in page
            replica.process.terminate()
            assert replica.process.wait(10) == 0
            assert published() == {"a": 1, "new": 2, "dead": 3}, "what is published outlives who published it"
