"""Images looked up for pods of a real API server: whose pull secrets are taken, and by which permission."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import MANIFESTS
from tests.fakes import images
from tests.fakes.pki import Pki
from tests.fakes.processes import wait_until
from tests.fakes.registry import Registry, serving
from tests.pods import BINARY, container, pod
from tests.real.harness.apiserver import APIServer, Refused, secret_path
from tests.real.harness.webhook import Installation, Replica, installed, routed

CONFIG = images.config(["/entry"], ["cmd"])
IMAGE = images.manifest(CONFIG)
RUNS = [BINARY, "run", "-n", "1", "-p", "0.500000", "--", "/entry", "cmd"]


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    with serving() as made:
        made.users = {"ann": "p"}
        yield made


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    """With the admission plugin of service accounts, as clusters have it."""
    with routed(tmp_path_factory.mktemp("routed"), disabled="") as server:
        yield server


@pytest.fixture(scope="module")
def running(
    api: APIServer, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Installation, Replica]]:
    options = ("--image-lookup", "--insecure-registries", registry.url, "--image-registries", registry.address)
    with installed(api, tmp_path_factory.mktemp("webhook"), *options) as both:
        team(api, "probe")
        wait_until(lambda: both[0].admits("/api/v1/namespaces/probe/pods", pod()), "a pod that is admitted")
        yield both


def team(api: APIServer, name: str, *pull_secrets: str) -> str:
    """A namespace whose default account has these pull secrets; the path of its pods."""
    api.namespace(name)
    account: dict[str, Any] = {"metadata": {"name": "default"}, "automountServiceAccountToken": False}
    account["imagePullSecrets"] = [{"name": each} for each in pull_secrets]
    api.create(f"/api/v1/namespaces/{name}/serviceaccounts", account)
    return f"/api/v1/namespaces/{name}/pods"


def pull_secret(api: APIServer, namespace: str, name: str, registry: Registry, password: str = "p") -> None:
    document = {"auths": {registry.address: {"username": "ann", "password": password}}}
    data = {".dockerconfigjson": json.dumps(document)}
    secret = {"metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson", "stringData": data}
    api.create(secret_path(namespace), secret)


def leaves_command(name: str, **spec: Any) -> dict[str, Any]:
    bare = container(image=name)
    del bare["command"]
    return pod(bare, **spec)


def test_the_pull_secrets_of_a_pods_service_account_are_taken_and_its_own_before_them(
    api: APIServer, running: tuple[Installation, Replica], registry: Registry
) -> None:
    name = registry.push("team/app", CONFIG, IMAGE, tag="1")
    pods = team(api, "of-account", "pull")
    pull_secret(api, "of-account", "pull", registry)
    stored = api.create(f"{pods}?dryRun=All", leaves_command(name))
    assert stored["spec"]["imagePullSecrets"] == [{"name": "pull"}]
    assert stored["spec"]["containers"][0]["command"] == RUNS
    pull_secret(api, "of-account", "own", registry, "wrong")
    own = leaves_command(name, imagePullSecrets=[{"name": "own"}])
    with pytest.raises(Refused, match="and no pull secret of the pod is right for it"):
        api.create(f"{pods}?dryRun=All", own)


def test_a_namespace_without_the_pull_secret_learns_nothing(
    api: APIServer, running: tuple[Installation, Replica], registry: Registry
) -> None:
    name = registry.push("team/other", CONFIG, IMAGE, tag="1")
    pods = team(api, "first", "pull")
    pull_secret(api, "first", "pull", registry)
    api.create(f"{pods}?dryRun=All", leaves_command(name))
    other = team(api, "second", "pull")
    with pytest.raises(Refused, match="to nobody without permission: Secret second/pull is not there") as refused:
        api.create(f"{other}?dryRun=All", leaves_command(name))
    assert refused.value.code == 422
    assert "/entry" not in str(refused.value)


def test_pull_secrets_are_read_by_the_permission_of_the_manifests_alone(
    api: APIServer, running: tuple[Installation, Replica], registry: Registry, tmp_path: Path
) -> None:
    """By an account that may get no Secret; then with the ClusterRole of manifests/image-lookup."""
    installation = running[0]
    name = registry.push("team/third", CONFIG, IMAGE, tag="1")
    team(api, "third")
    pull_secret(api, "third", "pull", registry)
    everything = {"apiGroups": [""], "resources": ["nodes", "namespaces"], "verbs": ["list", "watch"]}
    tokens = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch", "create", "update"]}
    token = api.account(installation.home, "lookup", [everything, tokens])
    kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig", token)
    files = ("--tls-cert", str(tmp_path / "tls.crt"), "--tls-key", str(tmp_path / "tls.key"))
    of_registry = ("--image-lookup", "--insecure-registries", registry.url)
    given = leaves_command(name, imagePullSecrets=[{"name": "pull"}])
    Pki(tmp_path)
    with installation.replica(*of_registry, *files, kubeconfig=kubeconfig) as replica:
        wait_until(replica.ready, "a replica that is ready")
        words = replica.review(given, "third")["status"]["message"]
        assert "Secret third/pull cannot be read: secrets " in words
        assert "is forbidden" in words
        role, binding = permissions()
        binding["subjects"] = [{"kind": "ServiceAccount", "name": "lookup", "namespace": installation.home}]
        api.put(role)
        api.put(binding)
        wait_until(lambda: bool(replica.review(given, "third")["allowed"]), "the permission")


def permissions() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / "image-lookup" / "permissions.yaml").read_text()))
