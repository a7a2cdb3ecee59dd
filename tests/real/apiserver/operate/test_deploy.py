"""``deploy`` against a real API server and a real webhook; the tests play kubelets and controllers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitfusiond.core import names
from bitfusiond.files import read
from tests.real.harness.apiserver import APIServer
from tests.real.harness.operator import PLUGIN, WEBHOOK, Operator, controllers
from tests.real.harness.tokens import put_tokens, remove_tokens
from tests.real.harness.webhook import MUTATING, VALIDATING, Installation

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def cluster(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Controllers, and one replica of the webhook in the place of all those that a Deployment would run."""
    with ExitStack() as stack:
        installation = Installation(api, tmp_path_factory.mktemp("webhook"))
        put_tokens(api)
        stack.enter_context(controllers(api))
        stack.enter_context(installation.ready_replica())
        # deploy makes the Service; the API server refuses Endpoints for none.
        stack.enter_context(installation.endpoints_follow())
        yield installation


def test_deploy_installs_everything_proves_the_path_and_says_what_to_do_next(
    api: APIServer, operator: Operator
) -> None:
    result = operator.run("deploy", TOTAL_GPU_MEMORY="16000")
    assert result.status == 0, result.err
    assert "TOTAL_GPU_MEMORY: 16000 (given)" in result.lines
    assert ("using legacy" if api.minor < 28 else "platform: community") in result.out
    assert f"patched: 1 % of one GPU became {names.GPU}: 1" in result.out
    assert "Next: `just verify`" in result.lines[-1]
    assert _variable(api, WEBHOOK, "TOTAL_GPU_MEMORY") == "16000"


def test_a_second_deploy_changes_nothing_and_keeps_what_is_not_given(
    api: APIServer, operator: Operator, tmp_path: Path
) -> None:
    assert operator.run("deploy", TOTAL_GPU_MEMORY="16000", RESOURCE_NUMS="500").status == 0
    before = _versions(api)
    calls, counting = tmp_path / "calls", tmp_path / "kubectl"
    counting.write_text(f'#!/bin/sh\necho "$@" >>{calls}\nexec {operator.kubectl} "$@"\n')
    counting.chmod(0o755)
    result = operator.run("deploy", KUBECTL=str(counting))
    assert result.status == 0, result.err
    assert len(calls.read_text().splitlines()) < 45, "each call is a process, and a tenth of a second"
    assert "TOTAL_GPU_MEMORY: 16000 (as it runs)" in result.lines
    assert "RESOURCE_NUMS: 500 (as it runs)" in result.lines
    assert not [line for line in result.lines if line.endswith((": made", ": changed"))], result.out
    assert _versions(api) == before
    webhook = api.request("GET", f"{MUTATING}/bwki-webhook-cfg")["webhooks"][0]
    assert webhook["clientConfig"]["caBundle"], "what the webhook wrote there survives"


def test_images_and_a_catalogue_that_are_given_are_used_everywhere(
    api: APIServer, operator: Operator, tmp_path: Path
) -> None:
    packaged = Path("bitfusiond/data/bitfusion-client-config.yaml").read_text()
    text = packaged + '\nDefault: {os: ubuntu18, version: "450"}\n'
    (tmp_path / "clients.yaml").write_text(text)
    given = {"IMAGE_REPO": "registry.example:5000/gpu", "IMAGE_TAG": "9.9", "CLIENTS": str(tmp_path / "clients.yaml")}
    result = operator.run("deploy", **given)
    assert result.status == 0, result.err
    for path in (WEBHOOK, PLUGIN):
        (container,) = api.request("GET", path)["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example:5000/gpu/bitfusiond:9.9"
    template = api.request("GET", "/api/v1/namespaces/bwki/configmaps/bwki-webhook-configmap")["data"]
    assert "image: registry.example:5000/gpu/bitfusion-client:9.9" in template["sidecarconfig.yaml"]
    result = operator.run("deploy")
    assert "client catalogue: as it runs" in result.out
    path = "/api/v1/namespaces/bwki/configmaps/bwki-bitfusion-client-configmap"
    assert api.request("GET", path)["data"]["bitfusion-client-config.yaml"] == text, "it stays until another is given"
    assert (
        "registry.example:5000/gpu/bitfusiond:9.9 and bitfusion-client of the same tag (IMAGE_REPO as it" in result.out
    )
    for workload in (WEBHOOK, PLUGIN):
        (container,) = api.request("GET", workload)["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example:5000/gpu/bitfusiond:9.9", "images are where they were"


def test_images_that_were_pushed_are_applied_by_their_digests_which_stay(
    api: APIServer, operator: Operator, tmp_path: Path
) -> None:
    name, digest, other = "registry.example:5000/gpu/{}:mine", f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    webhook, client = name.format("bitfusiond"), name.format("bitfusion-client")
    file = tmp_path / "images.txt"
    file.write_text(f"{webhook}@{digest}\n{client}@{other}\n")

    def images() -> set[str]:
        template = api.request("GET", "/api/v1/namespaces/bwki/configmaps/bwki-webhook-configmap")["data"]
        workloads = [
            api.request("GET", path)["spec"]["template"]["spec"]["containers"][0] for path in (WEBHOOK, PLUGIN)
        ]
        return {
            each["image"] for each in [*workloads, *yaml.safe_load(template["sidecarconfig.yaml"])["initContainers"]]
        }

    repo = {"IMAGE_REPO": "registry.example:5000/gpu"}
    result = operator.run("deploy", **repo, IMAGE_TAG="mine", IMAGE_DIGESTS=str(file))
    assert result.status == 0, result.err
    assert images() == {f"{webhook}@{digest}", f"{client}@{other}"}
    before = _versions(api)
    result = operator.run("deploy")
    assert f"digests: bitfusiond {digest} (as it runs); bitfusion-client {other} (as it runs)" in result.lines
    assert _versions(api) == before
    assert "this checkout would deploy" not in operator.run("verify").out
    result = operator.run("deploy", **repo, IMAGE_TAG="mine")
    assert result.status == 0, result.err
    assert images() == {webhook, client}, "a tag that is given is meant as it is now"


def test_a_catalogue_that_was_edited_in_the_cluster_stays_and_a_broken_one_does_not(
    api: APIServer, operator: Operator
) -> None:
    packaged = Path("bitfusiond/data/bitfusion-client-config.yaml").read_text()
    path = "/api/v1/namespaces/bwki/configmaps/bwki-bitfusion-client-configmap"

    def deployed_over(text: str) -> tuple[str, str]:
        patch = {"data": {"bitfusion-client-config.yaml": text}}
        api.merge(path, patch)
        result = operator.run("deploy")
        assert result.status == 0, result.err
        return result.out, api.request("GET", path)["data"]["bitfusion-client-config.yaml"]

    said, text = deployed_over("BitfusionClients: 1")
    assert "the packaged one, in the place of that in the cluster, which is broken" in said
    assert text == packaged
    edited = packaged + '\nDefault: {os: centos8, version: "450"}\n'
    said, text = deployed_over(edited)
    assert "client catalogue: as it runs (from an earlier CLIENTS, or edited in the cluster)" in said
    assert text == edited


def test_nothing_is_changed_where_tokens_are_missing_and_each_is_named(api: APIServer, operator: Operator) -> None:
    before = _versions(api)
    remove_tokens(api)
    try:
        result = operator.run("deploy", TOTAL_GPU_MEMORY="8000")
        assert result.status == 1
        assert "nothing was changed" in result.err
        for name in names.TOKEN_SECRETS.values():
            assert f"\n  - Secret kube-system/{name}" in result.err, "each on its own line"
        assert "just tokens DIR" in result.err
        assert _versions(api) == before
    finally:
        put_tokens(api)


def test_a_catalogue_of_clients_that_take_no_tokens_needs_none(
    api: APIServer, operator: Operator, tmp_path: Path
) -> None:
    packaged = yaml.safe_load(read.packaged(read.CATALOGUE))
    mine = tmp_path / "clients.yaml"
    mine.write_text(yaml.safe_dump({"Clients": packaged["Clients"]}))
    remove_tokens(api)
    try:
        result = operator.run("deploy", CLIENTS=str(mine))
        assert result.status == 0, result.err
        assert f"patched: 1 % of one GPU became {names.GPU}: 1" in result.out
        assert "bitfusion-client-secret" not in operator.run("verify").out
    finally:
        put_tokens(api)
        whole = tmp_path / "whole.yaml"
        whole.write_text(read.packaged(read.CATALOGUE))
        assert operator.run("deploy", CLIENTS=str(whole)).status == 0


def _versions(api: APIServer) -> dict[str, str]:
    paths = [
        *(WEBHOOK, PLUGIN, "/api/v1/namespaces/bwki", "/api/v1/namespaces/bwki/services/bwki-webhook-svc"),
        *(f"{MUTATING}/bwki-webhook-cfg", f"{VALIDATING}/validation.bitfusion.io-cfg"),
        "/api/v1/namespaces/bwki/configmaps/bwki-webhook-configmap",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/bitfusiond-webhook",
    ]
    # The status is the tests' own affair: the generation counts changes of the rest, where there is one.
    found_objects = {path: (api.find(path) or {"metadata": {}})["metadata"] for path in paths}
    return {path: str(each.get("generation") or each.get("resourceVersion")) for path, each in found_objects.items()}


def _variable(api: APIServer, path: str, name: str) -> Any:
    (container,) = api.request("GET", path)["spec"]["template"]["spec"]["containers"]
    return next(each["value"] for each in container["env"] if each["name"] == name)


def test_an_operator_who_may_not_is_told_what_is_missing(api: APIServer, operator: Operator, tmp_path: Path) -> None:
    text = operator.kubeconfig.read_text().replace(api.token, "nobody")
    other = tmp_path / "nobody"
    other.write_text(text)
    result = operator.run("deploy", KUBECONFIG=str(other))
    assert result.status == 1
    assert "the cluster does not answer (context c)" in result.err


def test_a_program_that_is_not_there_is_named(operator: Operator) -> None:
    result = operator.run("deploy", KUBECTL="kubectl-of-nobody")
    assert result.status == 2
    assert "KUBECTL: 'kubectl-of-nobody' is not there" in result.err
