"""Token replication on a real API server, with no more permissions than it needs."""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.tokens.copies import BY_SECRET, TOKENS
from bitfusiond.kube.apiserver import connect
from bitfusiond.webhook.flights import ENSURE_SECONDS
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.tokens.replication import Replication
from tests.fakes.processes import until
from tests.real.harness.apiserver import CORE, RBAC, APIServer
from tests.real.harness.webhook import put_sources

RULES: list[Json] = [
    {
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": [*BY_SECRET],
        "verbs": ["get", "list", "watch", "update"],
    },
    # A create has no name yet where RBAC looks, so resourceNames would deny it.
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
]
HOME_RULES: list[Json] = [
    {
        "apiGroups": [""],
        "resources": ["secrets"],
        "resourceNames": [names.EARLIER_TOKEN_SECRET, names.MARK_SECRET],
        "verbs": ["list", "watch"],
    },
]
CA = TOKENS[0]
_numbers = itertools.count(1)


class Scene:
    """A token namespace and a namespace of users, new for each test, and a kubeconfig of the daemon's account."""

    def __init__(self, api: APIServer, directory: Path, rules: list[Json]) -> None:
        self.api = api
        number = next(_numbers)
        self.home, self.team = f"tokens-home-{number}", f"tokens-team-{number}"
        self._directory = directory
        for namespace in (self.home, self.team):
            api.namespace(namespace)
        self._token = api.account(self.home, self.home, rules)  # named as the cluster's role for it
        at_home = f"{RBAC}/namespaces/{self.home}"
        api.create(f"{at_home}/roles", {"metadata": {"name": "home"}, "rules": HOME_RULES})
        api.bind(f"{at_home}/rolebindings", "home", ("Role", "home"), (self.home, self.home))

    def kubeconfig(self) -> str:
        return str(self.api.write_kubeconfig(self._directory / "kubeconfig", self._token))

    def put(self, namespace: str, name: str, **data: str) -> None:
        self.api.put_secret(namespace, name, {key.replace("_", "."): value.encode() for key, value in data.items()})

    def put_sources(self, value: str) -> None:
        put_sources(self.api, self.home, value)

    def value(self, namespace: str, name: str = CA.secret) -> str | None:
        """The one thing in the copy, None where there is no copy."""
        contents = [each.decode() for each in self.api.secret(namespace, name).values()]
        return contents[0] if contents else None

    def values(self, namespace: str) -> list[str | None]:
        return [self.value(namespace, token.secret) for token in TOKENS]

    def everywhere(self, name: str) -> dict[str, str]:
        """The content of all copies, by namespace."""
        found = self.api.request("GET", f"{CORE}/secrets?fieldSelector=metadata.name={name}")
        return {
            item["metadata"]["namespace"]: base64.b64decode(next(iter(item["data"].values()))).decode()
            for item in found["items"]
        }

    def requests(self) -> float:
        """Requests about Secrets that the API server has counted."""
        metrics = str(self.api.request("GET", "/metrics"))
        counted = re.findall(r'^apiserver_request_total\{[^}]*resource="secrets"[^}]*\} (\S+)$', metrics, re.MULTILINE)
        return sum(map(float, counted))

    @asynccontextmanager
    async def running(self, metrics: CollectorRegistry | None = None) -> AsyncIterator[Replication]:
        async with self.started(metrics) as (tokens, namespaces):
            await until(lambda: (tokens.ready_reason() or namespaces.ready_reason()) is None)
            yield tokens

    @asynccontextmanager
    async def started(self, metrics: CollectorRegistry | None = None) -> AsyncIterator[tuple[Replication, Namespaces]]:
        """With whatever it may list."""
        cluster, namespaces = connect(self.kubeconfig()), Namespaces(names.EXEMPT_NAMESPACES)
        metrics = metrics or CollectorRegistry()
        tokens = Replication(cluster, metrics, namespaces, namespace=self.home, token_namespace=self.home)
        async with trio.open_nursery() as nursery:
            await nursery.start(namespaces.run, cluster)
            await nursery.start(tokens.run)
            yield tokens, namespaces
            nursery.cancel_scope.cancel()


@pytest.fixture
def scene(api: APIServer, tmp_path: Path) -> Scene:
    made = Scene(api, tmp_path, RULES)
    made.put_sources("a: 1")
    return made


async def test_copies_are_there_before_the_admission_and_the_next_ones_ask_the_api_server_for_nothing(
    scene: Scene,
) -> None:
    async with scene.running() as tokens:
        assert await tokens.ensure(scene.team, dry_run=True) == []
        assert scene.values(scene.team) == [None] * 3
        assert await tokens.ensure(scene.team, dry_run=False) == []
        assert scene.values(scene.team) == ["a: 1"] * 3
        await trio.sleep(1)
        before = scene.requests()
        assert before > 3
        for _ in range(500):
            assert await tokens.ensure(scene.team, dry_run=False) == []
        assert scene.requests() == before


async def test_a_rotation_reaches_200_namespaces_within_10_seconds(scene: Scene, api: APIServer) -> None:
    spaces = [f"{scene.team}-{index}" for index in range(200)]
    for space in spaces:
        api.create(f"{CORE}/namespaces", {"metadata": {"name": space}})
    metrics = CollectorRegistry()
    async with scene.running(metrics) as tokens:
        for space in spaces:
            assert await tokens.ensure(space, dry_run=False) == []

        def arrived(token: Any) -> bool:
            there = scene.everywhere(token.secret)
            return all(there[space] == "b: 2" for space in spaces)

        began = trio.current_time()
        scene.put_sources("b: 2")
        for token in TOKENS:
            while not arrived(token):
                await trio.sleep(0.1)
        seconds = trio.current_time() - began
        assert seconds < 10, f"600 copies in 200 namespaces took {seconds:.2f} s"
        await until(lambda: metrics.get_sample_value("bitfusiond_token_replication_lag_seconds") == 0)
        assert metrics.get_sample_value("bitfusiond_token_copy_failures_total", {"reason": "conflict"}) is None


async def test_two_replicas_rotate_and_create_without_a_leader(scene: Scene) -> None:
    async with scene.running() as one, scene.running() as other:
        results: list[list[str]] = []

        async def admit(tokens: Replication) -> None:
            results.append(await tokens.ensure(scene.team, dry_run=False))

        async with trio.open_nursery() as nursery:
            for tokens in (one, other) * 5:
                nursery.start_soon(admit, tokens)
        assert results == [[]] * 10
        scene.put_sources("b: 2")
        await until(lambda: scene.values(scene.team) == ["b: 2"] * 3)


async def test_a_deleted_copy_comes_back_and_a_pod_admitted_at_that_moment_is_not_left_without(scene: Scene) -> None:
    async with scene.running() as tokens:
        assert await tokens.ensure(scene.team, dry_run=False) == []
        scene.api.request("DELETE", f"{CORE}/namespaces/{scene.team}/secrets/{CA.secret}")
        assert await tokens.ensure(scene.team, dry_run=False) == []
        await until(lambda: scene.value(scene.team) == "a: 1")


async def test_an_unlabelled_secret_is_left_alone_and_used(scene: Scene) -> None:
    scene.put(scene.team, CA.secret, ca_crt="theirs")
    async with scene.running() as tokens:
        assert await tokens.ensure(scene.team, dry_run=False) == []
        scene.put_sources("b: 2")
        await until(lambda: scene.values(scene.team) == ["theirs", "b: 2", "b: 2"])


@pytest.mark.parametrize("public", [False, True])
async def test_a_secret_that_somebody_labels_as_a_copy_gets_no_tokens_by_a_rotation(scene: Scene, public: bool) -> None:
    """By nobody's pod: whoever may write Secrets in one namespace could else have the tokens of tomorrow there."""
    namespace = "kube-public" if public else scene.team
    other = f"{scene.team}-other"
    scene.api.create(f"{CORE}/namespaces", {"metadata": {"name": other}})
    async with scene.running() as tokens:
        assert await tokens.ensure(other, dry_run=False) == []
        path = f"{CORE}/namespaces/{namespace}/secrets"
        theirs = scene.api.request("GET", f"{CORE}/namespaces/{other}/secrets/{CA.secret}")["metadata"]
        metadata = {"name": CA.secret, "labels": theirs["labels"], "annotations": theirs["annotations"]}
        assert names.MARK in metadata["annotations"], "of another namespace: it is good for that one alone"
        scene.api.create(path, {"metadata": metadata, "data": {}})
        try:
            scene.put_sources("b: 2")
            await until(lambda: scene.values(other) == ["b: 2"] * 3)
            await trio.sleep(2)
            assert "data" not in scene.api.request("GET", f"{path}/{CA.secret}")
            assert bool(await tokens.ensure(namespace, dry_run=False)) is public
            assert scene.value(namespace) == (None if public else "b: 2"), "a pod there may have them"
        finally:
            scene.api.request("DELETE", f"{path}/{CA.secret}")


async def test_the_earlier_single_secret_serves_and_a_missing_source_is_named(api: APIServer, tmp_path: Path) -> None:
    scene = Scene(api, tmp_path, RULES)
    async with scene.running() as tokens:
        problems = await tokens.ensure(scene.team, dry_run=False)
        assert len(problems) == 3
        assert f"Secret {scene.home}/{CA.secret} with the key ca.crt is missing" in problems[0]
        scene.put(scene.home, names.EARLIER_TOKEN_SECRET, ca_crt="old", client_yaml="old", servers_conf="old")
        with trio.fail_after(10):
            while await tokens.ensure(scene.team, dry_run=False):
                await trio.sleep(0.05)
        assert scene.values(scene.team) == ["old"] * 3


async def test_a_namespace_that_is_being_deleted_or_not_there_is_told(scene: Scene) -> None:
    """The 0.4 integration admitted such pods without their Secrets."""
    scene.api.request("DELETE", f"{CORE}/namespaces/{scene.team}")
    await trio.sleep(1)
    async with scene.running() as tokens:
        (problem,) = await tokens.ensure(scene.team, dry_run=False)
        assert problem == f"namespace {scene.team} is being deleted: nothing can be created in it"
        (problem,) = await tokens.ensure("tokens-nowhere", dry_run=False)
        assert problem == "bitfusiond sees no namespace tokens-nowhere in the cluster: try again"


async def test_a_quota_on_secrets_is_told(scene: Scene) -> None:
    """The 0.4 integration admitted such pods without their Secrets."""
    path = f"{CORE}/namespaces/{scene.team}/resourcequotas"
    hard = {"count/secrets": "0"}
    quota = scene.api.create(path, {"metadata": {"name": "few"}, "spec": {"hard": hard}})
    quota["status"] = {"hard": hard, "used": hard}  # the controller manager, which is not here, would write it
    scene.api.request("PUT", f"{path}/few/status", quota)
    await trio.sleep(1)
    async with scene.running() as tokens:
        problems = await tokens.ensure(scene.team, dry_run=False)
        assert len(problems) == 3
        assert all("ResourceQuota" in problem and "exceeded quota: few" in problem for problem in problems)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ([RULES[0], RULES[2]], "does not permit it"),
        ([], "not ready yet"),
        (RULES[1:], "not ready yet"),
        (RULES[:2], "not ready yet, namespaces: not listed yet (namespaces is forbidden"),
    ],
)
async def test_a_missing_permission_is_told(api: APIServer, tmp_path: Path, rules: list[Json], words: str) -> None:
    """The 0.4 integration admitted such pods without their Secrets."""
    scene = Scene(api, tmp_path, rules)
    scene.put_sources("a: 1")
    scene.put(scene.home, names.MARK_SECRET, key="of an earlier replica, 32 bytes.")
    async with scene.started() as (tokens, _):
        await trio.sleep(2)
        problems = await tokens.ensure(scene.team, dry_run=False)
        assert problems
        assert all(words in problem for problem in problems)


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_an_api_server_that_is_away_refuses_pods_with_try_again_and_all_is_well_when_it_is_back(
    scene: Scene, how: str
) -> None:
    """The 0.4 integration gave no answer within 12 s."""
    other = f"{scene.team}-other"
    scene.api.create(f"{CORE}/namespaces", {"metadata": {"name": other}})
    async with scene.running() as tokens:
        assert await tokens.ensure(scene.team, dry_run=False) == []
        with getattr(scene.api, how)():
            began = trio.current_time()
            problems = await tokens.ensure(other, dry_run=False)
            assert trio.current_time() - began < ENSURE_SECONDS + 1
            assert problems
            assert all("try again" in problem for problem in problems)
            assert await tokens.ensure(scene.team, dry_run=False) == []  # what is known to be there needs no request
        with trio.fail_after(30):
            while await tokens.ensure(other, dry_run=False):
                await trio.sleep(0.1)
        scene.put_sources("b: 2")
        await until(lambda: scene.values(other) == ["b: 2"] * 3, 60)
