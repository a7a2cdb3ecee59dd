"""Accounts that may do a part of it, and deploys that stop halfway: nothing is left half done.

Against a real API server without controllers: no Deployment ever gets a pod.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bitfusiond.core.fields import Json
from tests.real.harness.apiserver import APPLY, RBAC, APIServer
from tests.real.harness.operator import PLUGIN, WEBHOOK, Operator
from tests.real.harness.tokens import put_tokens
from tests.real.harness.webhook import MUTATING

SYSTEM = "/api/v1/namespaces/kube-system"
CONFIGURATION = f"{MUTATING}/bwki-webhook-cfg"
IGNORED = "bitfusion.io/admission"

READER = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
ALMOST = [
    {"apiGroups": [group], "resources": ["*"], "verbs": ["*"]}
    for group in ("", "apps", "admissionregistration.k8s.io", "rbac.authorization.k8s.io")
]
CERTIFICATES = [{"apiGroups": ["certificates.k8s.io"], "resources": ["*"], "verbs": ["get"]}]


def account(api: APIServer, directory: Path, name: str, rules: list[Json], home: str = "") -> Operator:
    """An operator who may do what ``rules`` say everywhere, and everything in the namespace ``home``."""
    token = api.account(api.namespace("operators"), name, rules)
    if home:
        bindings = f"{RBAC}/namespaces/{api.namespace(home)}/rolebindings"
        api.bind(bindings, f"{name}-home", ("ClusterRole", "cluster-admin"), ("operators", name))
    return Operator.of_environment(api.write_kubeconfig(directory / name, token))


def test_a_deploy_that_lacks_two_kinds_changes_nothing_and_names_them(api: APIServer, tmp_path: Path) -> None:
    put_tokens(api)
    operator = account(api, tmp_path, "almost", [*ALMOST, *CERTIFICATES])
    result = operator.run("deploy")
    assert result.status == 1
    assert "deploy: nothing was changed: your account may not: " in result.err
    assert "get, create, patch networkpolicies.networking.k8s.io in bwki" in result.err
    assert "get, create, patch priorityclasses.scheduling.k8s.io;" in result.err.replace(". deploy", "; deploy")
    assert "deployments" not in result.err
    assert api.find("/api/v1/namespaces/bwki") is None


def test_verify_without_rights_says_so_and_prints_no_table(api: APIServer, tmp_path: Path) -> None:
    result = account(api, tmp_path, "nobody", []).run("verify")
    assert result.status == 1
    assert result.out == ""
    assert "verify: nothing was looked at: your account may not: " in result.err
    assert "verify as an administrator" in result.err
    assert "\n" not in result.err.strip()


def test_what_is_not_installed_is_told_in_one_row(api: APIServer, operator: Operator) -> None:
    put_tokens(api)
    result = operator.run("verify")
    assert result.status == 1
    assert result.out.count("WRONG") == 1
    assert "it is not installed" in result.out
    assert "-> just deploy" in result.out


def test_the_plugin_that_runs_is_not_touched_before_the_webhook_runs_from_the_new_image(
    api: APIServer, operator: Operator
) -> None:
    result = operator.run("deploy", IMAGE_REPO="registry.example/gpu", IMAGE_TAG="of-nobody", TIMEOUT="1")
    assert result.status == 1
    assert "0 of 2 pods ready after 1 s" in result.err
    assert api.find(WEBHOOK) is not None
    assert api.find(PLUGIN) is None
    assert api.find(CONFIGURATION) is None


def test_kube_system_is_left_alone_by_a_label_which_verify_misses(api: APIServer, operator: Operator) -> None:
    """By its name where namespaces are labelled with their names."""
    if api.minor >= 21:
        assert IGNORED not in api.request("GET", SYSTEM)["metadata"]["labels"], "by the deploy above"
        assert f"no label {IGNORED}" not in operator.run("verify").out
        return
    assert api.request("GET", SYSTEM)["metadata"]["labels"][IGNORED] == "ignore", "by the deploy above"
    api.merge(SYSTEM, {"metadata": {"labels": {IGNORED: None}}})
    result = operator.run("verify")
    assert f"it has no label {IGNORED}=ignore" in result.out
    operator.run("deploy", TIMEOUT="1")
    assert api.request("GET", SYSTEM)["metadata"]["labels"][IGNORED] == "ignore"


def test_a_webhook_that_was_scaled_to_zero_is_told(api: APIServer, operator: Operator) -> None:
    api.merge(WEBHOOK, {"spec": {"replicas": 0}})
    result = operator.run("verify")
    assert "scaled to zero" in result.out
    assert "0/0" not in result.out


def test_an_uninstall_that_may_not_delete_the_configurations_deletes_nothing(api: APIServer, tmp_path: Path) -> None:
    _configuration(api, [])
    operator = account(api, tmp_path, "reader", READER, home="bwki")
    result = operator.run("uninstall")
    assert result.status == 1
    assert "uninstall: nothing was changed: your account may not: " in result.err
    assert "delete mutatingwebhookconfigurations.admissionregistration.k8s.io" in result.err
    assert "delete deployments" not in result.err, "that it may"
    assert "is left" not in result.err
    assert api.find(WEBHOOK) is not None
    assert api.find(CONFIGURATION) is not None


def test_while_a_configuration_stays_the_webhook_stays(api: APIServer, operator: Operator) -> None:
    _configuration(api, ["example.com/kept"])
    try:
        result = operator.run("uninstall")
        assert result.status == 1
        assert "nothing else was deleted, as the API server would still ask the webhook" in result.err
        assert result.err.count("bwki-webhook-cfg is left: look at its finalizers") == 1
        assert api.find(WEBHOOK) is not None
    finally:
        api.merge(CONFIGURATION, {"metadata": {"finalizers": None}})


@pytest.mark.parametrize("others", [False, True])
def test_the_label_of_kube_system_goes_unless_somebody_else_gave_it(
    api: APIServer, operator: Operator, others: bool
) -> None:
    operator.run("deploy", TIMEOUT="1")
    if others:
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"labels": {IGNORED: "ignore"}}}
        api.request("PATCH", f"{SYSTEM}?fieldManager=somebody", body, APPLY)
    result = operator.run("uninstall")
    assert result.lines[0].startswith("cluster: context c, API server 1.")
    assert result.status == 0, result.err
    assert (IGNORED in api.request("GET", SYSTEM)["metadata"].get("labels", {})) is others
    taken = not others and api.minor < 21  # from 1.21 on the deploy above gave none
    assert (f"Namespace kube-system: label {IGNORED} taken away" in result.lines) is taken


def _configuration(api: APIServer, finalizers: list[str]) -> None:
    """A webhook configuration of our name, which asks about nothing."""
    document = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "bwki-webhook-cfg", "finalizers": finalizers},
    }
    if api.find(CONFIGURATION) is None:
        api.create(MUTATING, document)
    else:
        api.merge(CONFIGURATION, {"metadata": {"finalizers": finalizers}})
