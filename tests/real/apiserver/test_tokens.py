"""Token replication on a real API server, with no more permissions than it needs."""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry

from bitfusiond.core import names
from bitfusiond.core.tokens.copies import BY_SECRET, TOKENS
from bitfusiond.kube.apiserver import connect
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.tokens.replication import ENSURE_SECONDS, Replication
from tests.real.harness.apiserver import APIServer

Rule = dict[str, list[str]]
CORE = "/api/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
RULES: list[Rule] = [
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
HOME_RULES: list[Rule] = [
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

    def __init__(self, api: APIServer, directory: Path, rules: list[Rule]) -> None:
        self.api = api
        number = next(_numbers)
        self.home, self.team = f"tokens-home-{number}", f"tokens-team-{number}"
        self._directory = directory
        for namespace in (self.home, self.team):
            api.create(f"{CORE}/namespaces", {"metadata": {"name": namespace}})
        account = {"kind": "ServiceAccount", "name": "webhook", "namespace": self.home}
        api.create(f"{CORE}/namespaces/{self.home}/serviceaccounts", {"metadata": {"name": "webhook"}})
        self._grant(f"{RBAC}/cluster", "ClusterRole", self.home, rules, account)
        self._grant(f"{RBAC}/namespaces/{self.home}/", "Role", self.home, HOME_RULES, account)
        answer = api.create(f"{CORE}/namespaces/{self.home}/serviceaccounts/webhook/token", {"spec": {}})
        self._token = answer["status"]["token"]

    def _grant(self, path: str, kind: str, name: str, rules: list[Rule], account: dict[str, str]) -> None:
        self.api.create(f"{path}roles", {"metadata": {"name": name}, "rules": rules})
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
        self.api.create(
            f"{path}rolebindings", {"metadata": {"name": name}, "roleRef": reference, "subjects": [account]}
        )

    def kubeconfig(self) -> str:
        document = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "webhook"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.api.url, "certificate-authority": str(self.api.ca)}}],
            "users": [{"name": "webhook", "user": {"token": self._token}}],
        }
        path = self._directory / "kubeconfig"
        path.write_text(json.dumps(document))
        return str(path)

    def put(self, namespace: str, name: str, **data: str) -> None:
        encoded = {key.replace("_", "."): base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.api.request(
            "PATCH",
            f"{CORE}/namespaces/{namespace}/secrets/{name}?fieldManager=admin&force=true",
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded},
            "application/apply-patch+yaml",
        )

    def put_sources(self, value: str) -> None:
        for token in TOKENS:
            self.put(self.home, token.secret, **{token.file: value})

    def value(self, namespace: str, name: str = CA.secret) -> str | None:
        """The one thing in the copy, None where there is no copy."""
        found = self.api.request("GET", f"{CORE}/namespaces/{namespace}/secrets?fieldSelector=metadata.name={name}")
        contents = [
            base64.b64decode(each).decode() for item in found["items"] for each in item.get("data", {}).values()
        ]
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


async def until(true: Callable[[], object], seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not true():
            await trio.sleep(0.05)


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
        assert scene.values(scene.team) == [None] * 3  # B21
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
    """B19: the 0.4 integration admitted such pods without their Secrets."""
    scene.api.request("DELETE", f"{CORE}/namespaces/{scene.team}")
    await trio.sleep(1)
    async with scene.running() as tokens:
        (problem,) = await tokens.ensure(scene.team, dry_run=False)
        assert problem == f"namespace {scene.team} is being deleted: nothing can be created in it"
        (problem,) = await tokens.ensure("tokens-nowhere", dry_run=False)
        assert problem == "bitfusiond sees no namespace tokens-nowhere in the cluster: try again"


async def test_a_quota_on_secrets_is_told(scene: Scene) -> None:
    """B19: the 0.4 integration admitted such pods without their Secrets."""
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
async def test_a_missing_permission_is_told(api: APIServer, tmp_path: Path, rules: list[Rule], words: str) -> None:
    """B19: the 0.4 integration admitted such pods without their Secrets."""
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
    """B19: the 0.4 integration gave no answer within 12 s."""
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
