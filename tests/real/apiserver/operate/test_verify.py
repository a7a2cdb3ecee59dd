"""``verify`` against a real API server and a real webhook: faults that are planted one by one."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import names
from tests.real.apiserver.operate.conftest import NODES, PODS, make_node
from tests.real.harness.apiserver import APIServer, secret_path
from tests.real.harness.operator import Operator, Result
from tests.real.harness.tokens import put_tokens, token_files
from tests.real.harness.webhook import MUTATING, Installation

CONFIGMAP = "/api/v1/namespaces/bwki/configmaps/bwki-bitfusion-client-configmap"

pytestmark = pytest.mark.usefixtures("cluster")


def remove_node(api: APIServer, name: str) -> None:
    api.request("DELETE", f"{PODS}/plugin-{name}?gracePeriodSeconds=0")
    api.request("DELETE", f"{NODES}/{name}")


def row(result: Result, what: str) -> str:
    """The row of ``what`` and the line below it."""
    lines = result.lines
    index = next(index for index, line in enumerate(lines) if line.startswith(what))
    return " ".join(" ".join(lines[index : index + 2]).split())


def test_an_installation_without_a_fault_is_all_right(operator: Operator) -> None:
    result = operator.run("verify")
    assert "WRONG" not in result.out
    assert result.lines[-1] == "all is right"
    assert result.status == 0
    for what in (
        "Namespace bwki",
        "Deployment bwki/bitfusion-webhook-deployment",
        "DaemonSet kube-system/bitfusion-device-plugin",
        "ConfigMap bwki/bwki-webhook-configmap",
        "ServiceAccount bwki/bitfusion-webhook-deployment",
        "Service bwki/bwki-webhook-svc",
        "MutatingWebhookConfiguration bwki-webhook-cfg",
        "ValidatingWebhookConfiguration validation.bitfusion.io-cfg",
        "Secret bwki/bwki-webhook-certs",
        "Secret kube-system/bitfusion-client-secret-servers.conf",
        "a pod in default (dry run)",
    ):
        assert " ok " in row(result, what)


def test_tokens_that_are_missing_or_do_not_parse_or_are_stale_are_found(api: APIServer, operator: Operator) -> None:
    missing = names.TOKEN_SECRETS[names.CLIENT_YAML]
    api.request("DELETE", secret_path("kube-system", missing))
    put_tokens(api, files={names.SERVERS_CONF: b"servers:\n- addresses: nothing\n"})
    put_tokens(api, "team-stale", token_files())
    try:
        result = operator.run("verify")
        assert result.status == 1
        assert "WRONG" in row(result, f"Secret kube-system/{missing}")
        assert "-> just tokens DIR" in row(result, f"Secret kube-system/{missing}")
        refusal = f"asked, refused by bitfusiond: Secret kube-system/{missing} with the key client.yaml is missing"
        assert refusal in row(result, "a pod in default (dry run)")
        servers = row(result, "Secret kube-system/bitfusion-client-secret-servers.conf")
        assert "servers[0].addresses must be a list" in servers
        stale = row(result, "Secret team-stale/bitfusion-client-secret-ca.crt")
        assert "not managed by bitfusiond, and not the source's content" in stale
        assert "kubectl delete secret bitfusion-client-secret-ca.crt -n team-stale" in stale
    finally:
        put_tokens(api)
        api.request("DELETE", secret_path("team-stale"))


def test_nodes_quotas_pods_and_files_that_are_wrong_are_found_by_their_names(
    api: APIServer, operator: Operator
) -> None:
    make_node(api, "bare", None)
    quotas = f"/api/v1/namespaces/{api.namespace('team-quota')}/resourcequotas"
    full: dict[str, Any] = {"hard": {f"requests.{names.GPU}": "100"}}
    api.create(quotas, {"metadata": {"name": "full"}, "spec": full})
    status = {"status": {**full, "used": {f"requests.{names.GPU}": "100"}}}
    api.merge(f"{quotas}/full/status", status)
    # This API server refuses limits.* of extended resources; a quota of gpu-amount passes and counts nothing.
    api.create(quotas, {"metadata": {"name": "useless"}, "spec": {"hard": {f"requests.{names.GPU_AMOUNT}": "1"}}})
    limits = {names.GPU_AMOUNT: "1"}
    container = {"name": "c", "image": "i", "resources": {"limits": limits, "requests": limits}}
    pods = f"/api/v1/namespaces/{api.namespace('team-slipped')}/pods"
    api.create(pods, {"metadata": {"name": "lost"}, "spec": {"containers": [container]}})
    api.merge(CONFIGMAP, {"data": {"bitfusion-client-config.yaml": "BitfusionClients: 1"}})
    try:
        result = operator.run("verify")
        assert result.status == 1
        assert "the plugin (plugin-bare) is not registered" in row(result, "node bare")
        assert "100 of 100 shares used" in row(result, "ResourceQuota team-quota/full")
        assert "counts nothing" in row(result, "ResourceQuota team-quota/useless")
        assert "Pending for ever" in row(result, "Pod team-slipped/lost")
        assert "bitfusion-client-config.yaml:" in row(result, "ConfigMap bwki/bwki-bitfusion-client-configmap")
    finally:
        remove_node(api, "bare")
        for name in ("full", "useless"):
            api.request("DELETE", f"{quotas}/{name}")
        api.request("DELETE", f"{pods}/lost?gracePeriodSeconds=0")


def test_a_webhook_that_is_not_asked_is_found_and_deploy_mends_it(api: APIServer, operator: Operator) -> None:
    api.request("DELETE", f"{MUTATING}/bwki-webhook-cfg")
    result = operator.run("verify")
    assert result.status == 1
    assert "it is not there: the API server does not ask" in row(result, "MutatingWebhookConfiguration")
    assert "WRONG" in row(result, "a pod in default (dry run)")
    assert operator.run("deploy").status == 0
    assert operator.run("verify", "--namespace", "default").status == 0


def test_uninstall_leaves_nothing_but_the_operators_own_secrets(
    api: APIServer, operator: Operator, cluster: Installation
) -> None:
    """Last in this file: afterwards there is nothing to verify."""
    path = f"/api/v1/namespaces/{api.namespace('team-copy')}/secrets"
    metadata = {
        "name": names.TOKEN_SECRETS[names.CA_CRT],
        "labels": {names.MANAGED_BY: names.MANAGED_BY_US},
        "annotations": {names.COPIED_FROM: f"kube-system/{names.TOKEN_SECRETS[names.CA_CRT]}"},
    }
    api.create(path, {"metadata": metadata})
    cluster.end_replicas()
    result = operator.run("uninstall")
    assert result.status == 0, result.err
    assert "nothing of bitfusiond is left" in result.out
    order = [line.partition(" ")[0] for line in result.lines if line.endswith(": deleted")]
    assert order[:2] == ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"]
    assert api.find(f"{path}/{names.TOKEN_SECRETS[names.CA_CRT]}") is None
    for name in names.TOKEN_SECRETS.values():
        assert api.find(secret_path("kube-system", name)) is not None
    assert api.find(f"{MUTATING}/bwki-webhook-cfg") is None
    assert operator.run("uninstall").status == 0, "a second time ends too"
