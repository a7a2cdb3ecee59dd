"""Lookups for admissions: what is cached and for whom, what is shared, and what a registry that stalls may hold."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry

from bitfusiond.core.admission.images import MOST_IMAGES, Needed
from bitfusiond.core.images import registries
from bitfusiond.core.images.image import Image, Unreadable
from bitfusiond.core.images.pullsecrets import Credentials, Entry
from bitfusiond.core.images.reference import parse
from bitfusiond.core.images.registries import Registries
from bitfusiond.kube import SECRETS, ForbiddenError
from bitfusiond.registry import wire
from bitfusiond.webhook.images import cache, lookup, pullsecrets
from bitfusiond.webhook.images.cache import Cache
from bitfusiond.webhook.images.lookup import Lookup
from bitfusiond.webhook.images.pullsecrets import PullSecrets
from tests.fakes import images
from tests.fakes.cluster import FakeCluster
from tests.fakes.processes import until
from tests.fakes.registry import Answer, Registry, serving, stalled

CONFIG = images.config(["/entry"])
MANIFEST = images.manifest(CONFIG)
IMAGE = Image(("/entry",))
SECONDS = 3.0


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as one:
        yield one


class Looking:
    """A lookup that runs, and its figures."""

    def __init__(self, *addresses: str) -> None:
        self.metrics = CollectorRegistry()
        insecure = registries.insecure(",".join(f"http://{each}" for each in addresses))
        trust = wire.trust()
        self.lookup = Lookup(Registries(insecure=insecure), lambda: trust, self.metrics)

    async def find(
        self,
        *names: str,
        always: bool = False,
        namespace: str = "team",
        secrets: PullSecrets | None = None,
        seconds: float = SECONDS,
    ) -> dict[str, Image | Unreadable]:
        async def read() -> PullSecrets:
            return secrets or PullSecrets()

        needed = Needed(dict.fromkeys(names, always), ())
        with trio.fail_after(seconds + 5):
            return dict(await self.lookup.find(needed, namespace, read, trio.current_time() + seconds))

    async def one(self, name: str, **more: Any) -> Image | Unreadable:
        return (await self.find(name, **more))[name]

    async def reason(self, name: str, **more: Any) -> str:
        found = await self.one(name, **more)
        assert isinstance(found, Unreadable), found
        return found.reason

    def counted(self, result: str) -> float:
        return self.metrics.get_sample_value("bitfusiond_image_lookups_total", {"result": result}) or 0


def looking(*addresses: str) -> AbstractAsyncContextManager[Looking]:
    @asynccontextmanager
    async def run() -> AsyncIterator[Looking]:
        made = Looking(*addresses)
        async with trio.open_nursery() as nursery:
            await nursery.start(made.lookup.run)
            yield made
            nursery.cancel_scope.cancel()

    return run()


def of(user: str, *notes: str, registry: str = "*.*.*.*:*") -> PullSecrets:
    return PullSecrets((Entry(registry, Credentials(user, "p")),), notes)


# --- what is kept, and for whom ---------------------------------------------------------------------------------------


async def test_a_tag_is_asked_for_once_in_a_while_and_always_where_the_pod_says_so(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    async with looking(registry.address) as made:
        for _ in range(3):
            assert await made.one(name) == IMAGE
        assert len(registry.requests) == 2
        assert await made.one(name, always=True) == IMAGE
        assert registry.asked()[2:] == ["/v2/app/manifests/1"], "the configuration is known by its digest"
        assert (made.counted("found"), made.counted("cached")) == (2, 2)
        other = images.config(["/other"])
        registry.push("app", other, images.manifest(other), tag="1")
        assert await made.one(name) == IMAGE
        assert await made.one(name, always=True) == Image(("/other",))
        assert await made.one(name) == Image(("/other",))
        monkeypatch.setattr(cache, "TAG_SECONDS", 0.0)
        await made.one(name, always=True)
        asked = len(registry.requests)
        await made.one(name)
        assert len(registry.requests) > asked


async def test_what_one_may_read_is_told_to_nobody_else(registry: Registry) -> None:
    """Neither by tag nor by digest; the same credentials are the same reader, in whichever namespace."""
    registry.users = {"ann": "p"}
    tagged, by_digest = registry.push("app", CONFIG, MANIFEST, tag="1"), registry.push("app", CONFIG, MANIFEST)
    ann = of("ann", registry=registry.address)
    async with looking(registry.address) as made:
        for name in (tagged, by_digest):
            assert await made.one(name, secrets=ann) == IMAGE
            before = len(registry.requests)
            assert "and no pull secret of the pod is there for it" in await made.reason(name, namespace="other")
            bob = of("bob", registry=registry.address)
            assert "no pull secret of the pod is right for it" in await made.reason(name, secrets=bob)
            assert len(registry.requests) > before, "the registry itself said so"
            before = len(registry.requests)
            assert await made.one(name, secrets=ann, namespace="other") == IMAGE
            assert len(registry.requests) == before
        assert made.counted("denied") == 4


async def test_a_manifest_elsewhere_that_names_a_digest_shows_nothing_of_it(registry: Registry) -> None:
    """Who knows the digest of a private image could push a list that names it: the cache is of each repository."""
    registry.users = {"ann": "p"}
    private = registry.push("private", CONFIG, MANIFEST, tag="1")
    async with looking(registry.address) as made:
        assert await made.one(private, secrets=of("ann", registry=registry.address)) == IMAGE
        registry.users = {}
        stolen = registry.push("mine", images.index((MANIFEST, "linux/amd64")), tag="1")
        registry.stored.pop(f"/v2/mine/manifests/{MANIFEST.digest}", None)
        assert "has no 1" in await made.reason(stolen)


def test_the_cache_is_bounded_in_number_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, who = Cache(), b""
    monkeypatch.setattr(cache, "_MOST_IMAGES", 10)
    for number in range(20):
        kept.keep(who, parse(f"r.example/a:{number}"), f"d{number}", IMAGE, 0.0)
    assert [number for number in range(20) if kept.known(parse("r.example/a"), f"d{number}")] == [*range(10, 20)]
    assert kept.resolved(who, parse("r.example/a:3"), 1.0) is None
    kept.known(parse("r.example/a"), "d10")
    kept.keep(who, parse("r.example/a:20"), "d20", IMAGE, 0.0)
    assert kept.known(parse("r.example/a"), "d10"), "the one that was asked for last goes last"
    monkeypatch.setattr(cache, "_MOST_BYTES", 3 * IMAGE.size)
    kept.keep(who, parse("r.example/a:21"), "d21", IMAGE, 0.0)
    kept.keep(who, parse("r.example/a:21"), "d21", IMAGE, 0.0)
    assert len([number for number in range(22) if kept.known(parse("r.example/a"), f"d{number}")]) == 3
    monkeypatch.setattr(cache, "_MOST_RESOLVED", 2)
    kept = Cache()
    for number in range(30):
        kept.keep(who, parse(f"r.example/b:{number}"), "d", IMAGE, 0.0)
    assert [number for number in range(30) if kept.resolved(who, parse(f"r.example/b:{number}"), 1.0)] == [28, 29]


def test_credentials_are_told_apart_without_being_kept() -> None:
    kept = Cache()
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), ("a", "b")]
    found = [kept.who([Credentials(*pair)]) for pair in pairs] + [kept.who([]), kept.who([Credentials("a", "bc")] * 2)]
    assert len(set(found)) == len(found)
    assert kept.who([Credentials("a", "bc")]) == found[0] != Cache().who([Credentials("a", "bc")])


# --- what is shared and what is bounded -------------------------------------------------------------------------------


async def test_equal_lookups_are_one(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    async with looking(registry.address) as made, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(made.one, name)
        await trio.testing.wait_all_tasks_blocked(0.3)
    assert len(registry.requests) == 2


async def test_who_goes_away_takes_the_lookup_from_nobody(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    async with looking(registry.address) as made:
        with trio.move_on_after(0.001):
            await made.one(name)
        assert await made.one(name) == IMAGE
    assert len(registry.requests) == 2


@pytest.mark.slow
async def test_a_registry_that_stalls_holds_no_pod_with_another(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    with stalled() as (address, taken):
        async with looking(registry.address, address) as made, trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(made.one, f"{address}/app:{number}")
            await trio.sleep(0.3)
            began = trio.current_time()
            assert await made.one(name) == IMAGE
            assert trio.current_time() - began < 1
            assert len(taken) == lookup._AT_ONCE_FOR_A_REGISTRY
            await trio.sleep(SECONDS)
            assert made.counted("timeout") == 30
            assert "did not answer in time: try again" in await made.reason(f"{address}/app:0", seconds=0.1)


@pytest.mark.slow
async def test_a_namespace_whose_registries_stall_leaves_turns_to_others(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    ports = [f"127.0.0.{number}" for number in range(2, 40)]
    with stalled("0.0.0.0") as (address, taken):
        port = address.rpartition(":")[2]
        many = [f"{host}:{port}" for host in ports]
        async with looking(registry.address, *many) as made, trio.open_nursery() as nursery:
            for each in many:
                nursery.start_soon(made.one, f"{each}/app:1")
            await until(lambda: len(taken) == lookup._AT_ONCE_FOR_A_NAMESPACE)
            assert await made.one(name, namespace="other") == IMAGE
            assert len(taken) == lookup._AT_ONCE_FOR_A_NAMESPACE
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_lookup_that_nobody_waits_for_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "FLIGHT_SECONDS", 0.5)
    with stalled() as (address, taken):
        async with looking(address) as made:
            assert "did not answer in time" in await made.reason(f"{address}/app:1", seconds=0.1)
            assert "did not answer within 0.5 s" in await made.reason(f"{address}/app:2", seconds=2)
            taken[0].settimeout(5)
            while taken[0].recv(4096):
                pass
            assert not made.lookup._flights


async def test_too_many_lookups_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "MOST_FLIGHTS", 2)
    with stalled() as (address, _):
        async with looking(address) as made:
            found = await made.find(*(f"{address}/app:{number}" for number in range(3)), seconds=0.3)
            reasons = sorted(each.reason for each in found.values() if isinstance(each, Unreadable))
            assert reasons[2] == "too many lookups wait already: try again"
            assert made.counted("busy") == 1


async def test_a_pod_with_very_many_images_has_the_first_looked_up(registry: Registry) -> None:
    names = [registry.push("app", CONFIG, MANIFEST, tag=str(number)) for number in range(MOST_IMAGES + 1)]
    async with looking(registry.address) as made:
        found = await made.find(*names)
    assert [found[name] == IMAGE for name in names] == [True] * MOST_IMAGES + [False]


# --- what is told -----------------------------------------------------------------------------------------------------


async def test_each_reason_names_the_image_and_is_counted(registry: Registry) -> None:
    app = f"{registry.address}/app"
    registry.push("app", CONFIG, MANIFEST, tag="1")
    registry.answers["/v2/app/manifests/wrong"] = Answer(200, b"{}")
    registry.answers["/v2/app/manifests/broken"] = Answer(500)
    async with looking(registry.address) as made:
        for name, result, words in (
            (f"{app}:none", "not_found", f"{app} has no none"),
            (f"{app}:wrong", "wrong", f"{app}: the manifest names no configuration by a digest"),
            (f"{app}:broken", "wrong", f"{app}: HTTP status 500"),
            ("127.0.0.1:1/app:1", "not_allowed", "127.0.0.1:1 is at 127.0.0.1, where no registry is asked"),
            ("NO NAME", "invalid", "NO NAME is not the name of an image"),
        ):
            before = made.counted(result)
            assert (await made.reason(name)).startswith(words)
            assert made.counted(result) == before + 1


async def test_what_is_wrong_with_a_secret_is_told_to_its_own_namespace_alone(registry: Registry) -> None:
    registry.users = {"ann": "p"}
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    told: dict[str, str] = {}
    async with looking(registry.address) as made, trio.open_nursery() as nursery:

        async def ask(namespace: str, *notes: str) -> None:
            told[namespace] = await made.reason(name, namespace=namespace, secrets=PullSecrets(notes=notes))

        nursery.start_soon(ask, "team", "Secret team/pull is not there")
        nursery.start_soon(ask, "other")
    assert told["team"].endswith("to nobody without permission: Secret team/pull is not there")
    assert told["other"].endswith("and no pull secret of the pod is there for it")


async def test_a_namespace_that_is_not_served_is_told_so_and_nothing_is_asked(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    async with looking(registry.address) as made:
        assert await made.reason(name, secrets=PullSecrets(problem="no such namespace")) == "no such namespace"
    assert registry.requests == []


async def test_a_defect_of_ours_in_one_lookup_ends_that_one_alone(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    async with looking(registry.address) as made:
        with monkeypatch.context() as patched:
            patched.setattr(lookup, "read_image", None)
            assert await made.reason(name) == "internal error: see the log of bitfusiond"
        assert await made.one(name) == IMAGE


# --- pull secrets -----------------------------------------------------------------------------------------------------


def secret(document: Any, kind: str = "kubernetes.io/dockerconfigjson") -> dict[str, Any]:
    data = base64.b64encode(json.dumps(document).encode()).decode()
    return {"metadata": {"name": "pull"}, "type": kind, "data": {f".{kind.rpartition('/')[2]}": data}}


async def test_pull_secrets_are_read_from_the_namespace_and_those_that_cannot_be_are_told() -> None:
    cluster = FakeCluster("team")
    entry = {"r.example": {"username": "ann", "password": "p"}}
    good = secret({"auths": entry})
    cluster.put(SECRETS, {**good, "metadata": {"name": "good"}}, "team")
    older = secret(entry, "kubernetes.io/dockercfg")
    cluster.put(SECRETS, {**older, "metadata": {"name": "older"}}, "team")
    cluster.put(SECRETS, {"metadata": {"name": "opaque"}, "type": "Opaque", "data": {}}, "team")
    found = await pullsecrets.read(cluster, "team", ["good", "none", "older", "opaque", "x" * 300])
    assert found.entries == (Entry("r.example", Credentials("ann", "p")),) * 2
    assert found.notes[0] == "Secret team/none is not there"
    assert found.notes[1].startswith("Secret team/opaque is not of type kubernetes.io/dockerconfigjson")
    with cluster.failing(ForbiddenError("secrets is forbidden"), verb="get", resource=SECRETS):
        found = await pullsecrets.read(cluster, "team", ["good"])
    assert found == PullSecrets((), ("Secret team/good cannot be read: secrets is forbidden",))
