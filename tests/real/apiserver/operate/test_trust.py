"""Who may ask the webhook and where tokens may go, as an operator says it, against a real API server and webhook."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from bitfusiond.core import names
from bitfusiond.core.tokens import marks
from tests.fakes.processes import wait_until
from tests.real.apiserver.operate.test_verify import row
from tests.real.harness.apiserver import APIServer, secret_path
from tests.real.harness.operator import WEBHOOK, Operator, controllers
from tests.real.harness.tokens import put_tokens, token_files
from tests.real.harness.webhook import Installation, copies

CORE = "/api/v1"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
CLIENT_CA = f"{CORE}/namespaces/bwki/configmaps/bwki-webhook-client-ca"
POLICY = "/apis/networking.k8s.io/v1/namespaces/bwki/networkpolicies/bitfusion-webhook"
CA = names.TOKEN_SECRETS[names.CA_CRT]

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def cluster(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One replica of the webhook, as it is without any of the choices, in the place of those of the Deployment."""
    with ExitStack() as stack:
        installation = Installation(api, tmp_path_factory.mktemp("webhook"))
        put_tokens(api)
        stack.enter_context(controllers(api))
        stack.enter_context(installation.ready_replica())
        stack.enter_context(installation.endpoints_follow())
        yield installation


def deployed(operator: Operator, **variables: str) -> list[str]:
    result = operator.run("deploy", **variables)
    assert result.status == 0, result.out + result.err
    return result.lines


def variables(api: APIServer) -> dict[str, str]:
    (container,) = api.request("GET", WEBHOOK)["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def role(of: str, kind: str = "roles") -> str:
    return f"{RBAC}/namespaces/{of}/{kind}/bitfusiond-webhook-tokens"


def test_namespaces_and_the_token_namespace_are_said_once_and_the_permissions_follow(
    api: APIServer, operator: Operator
) -> None:
    put_tokens(api, "vault")
    lines = deployed(operator, ALLOW_NAMESPACES="team-*,default", TOKEN_NAMESPACE="vault")
    assert {"ALLOW_NAMESPACES: team-*,default (given)", "TOKEN_NAMESPACE: vault (given)"} <= {*lines}
    assert "Role kube-system/bitfusiond-webhook-tokens: removed, as nothing needs it any more" not in lines
    lines = deployed(operator)
    assert {"ALLOW_NAMESPACES: team-*,default (as it runs)", "TOKEN_NAMESPACE: vault (as it runs)"} <= {*lines}
    assert not [line for line in lines if line.endswith((": made", ": changed"))]
    said = variables(api)
    assert said["BITFUSIOND_ALLOW_NAMESPACES"] == "team-*,default"
    assert said["BITFUSIOND_TOKEN_NAMESPACE"] == "vault"
    for kind in ("roles", "rolebindings"):
        assert api.find(role("vault", kind)) is not None
        assert api.find(role("kube-system", kind)) is None
    result = operator.run("verify")
    assert "from vault, into namespaces team-*,default" in row(result, "tokens are copied")
    assert " ok " in row(result, "Role vault/bitfusiond-webhook-tokens")

    lines = deployed(operator, ALLOW_NAMESPACES="*", TOKEN_NAMESPACE="kube-system")
    assert "Role vault/bitfusiond-webhook-tokens: removed, as nothing needs it any more" in lines
    assert api.find(role("vault")) is None
    assert api.find(role("kube-system")) is not None
    assert "BITFUSIOND_TOKEN_NAMESPACE" not in variables(api)


def bindings(api: APIServer) -> set[str]:
    """Where the webhook may copy tokens; "everywhere" by a ClusterRoleBinding."""
    found = api.request("GET", f"{RBAC}/rolebindings")["items"]
    everywhere = api.find(f"{RBAC}/clusterrolebindings/bitfusiond-webhook-copies")
    named = {each["metadata"]["namespace"] for each in found if each["metadata"]["name"] == "bitfusiond-webhook-copies"}
    return named | ({"everywhere"} if everywhere else set())


def test_namespaces_that_are_named_are_permitted_one_by_one_and_no_longer_than_they_are_named(
    api: APIServer, operator: Operator
) -> None:
    for name in ("a", "b", "c"):
        api.namespace(name)
    deployed(operator)
    assert bindings(api) == {"everywhere"}
    lines = deployed(operator, ALLOW_NAMESPACES="a,b,absent")
    assert bindings(api) == {"a", "b"}
    assert "ClusterRoleBinding bitfusiond-webhook-copies: removed, as nothing needs it any more" in lines
    assert any(line.startswith("Namespace absent: ALLOW_NAMESPACES names it, and it is not there") for line in lines)
    result = operator.run("verify")
    assert " ok " in row(result, "RoleBinding a/bitfusiond-webhook-copies")
    assert " note " in row(result, "Namespace absent")

    api.namespace("absent")
    api.request("DELETE", f"{RBAC}/namespaces/b/rolebindings/bitfusiond-webhook-copies")
    result = operator.run("verify")
    for name in ("absent", "b"):
        assert "WRONG it is not there" in row(result, f"RoleBinding {name}/bitfusiond-webhook-copies")
    theirs = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "bitfusiond-webhook-copies", "namespace": "default"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
    }
    api.put(theirs)
    lines = deployed(operator, ALLOW_NAMESPACES="b,c")
    assert bindings(api) == {"b", "c", "default"}, "what is not ours stays"
    assert "RoleBinding a/bitfusiond-webhook-copies: removed, as nothing needs it any more" in lines
    api.request("DELETE", f"{RBAC}/namespaces/default/rolebindings/bitfusiond-webhook-copies")
    printed = operator.run("manifests", ALLOW_NAMESPACES="b,c", K8S_PLATFORM="legacy")
    assert printed.out.count("name: bitfusiond-webhook-copies") == 2 + 1 + 2, "bindings, the role, what they refer to"
    assert "a RoleBinding in each of b, c: make these namespaces first" in printed.err

    deployed(operator, ALLOW_NAMESPACES="*")
    assert bindings(api) == {"everywhere"}


def test_a_token_namespace_without_tokens_changes_nothing(api: APIServer, operator: Operator) -> None:
    before = api.request("GET", WEBHOOK)["metadata"]["resourceVersion"] if api.find(WEBHOOK) else None
    result = operator.run("deploy", TOKEN_NAMESPACE="empty")
    assert result.status == 1
    assert f"Secret empty/{CA} with the key ca.crt is missing" in result.err
    assert before is None or api.request("GET", WEBHOOK)["metadata"]["resourceVersion"] == before


def test_the_image_lookup_comes_with_its_permission_and_goes_with_it(
    api: APIServer, operator: Operator, tmp_path: Path
) -> None:
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/bitfusiond-webhook-images"
    binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/bitfusiond-webhook-images"
    registry_ca = f"{CORE}/namespaces/bwki/configmaps/bwki-webhook-registry-ca"
    file = tmp_path / "ca.crt"
    trustme.CA().cert_pem.write_to_path(str(file))
    insecure = "http://registry.example:5000"
    deployed(operator, IMAGE_LOOKUP="on", INSECURE_REGISTRIES=insecure, REGISTRY_CA=str(file))
    assert "IMAGE_LOOKUP: on (as it runs)" in deployed(operator)
    assert api.request("GET", role)["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    assert api.request("GET", binding)["roleRef"]["name"] == "bitfusiond-webhook-images"
    assert api.request("GET", registry_ca)["data"] == {"registry-ca.crt": file.read_text()}
    chosen = variables(api)
    assert chosen["BITFUSIOND_IMAGE_LOOKUP"] == "true"
    assert chosen["BITFUSIOND_REGISTRY_CA"] == "/etc/bitfusiond/registry-ca.crt"
    result = operator.run("verify")
    assert f"on, for registries *, insecure: {insecure}" in row(result, "image lookup")
    assert " ok " in row(result, "ClusterRole bitfusiond-webhook-images")
    lines = deployed(operator, IMAGE_LOOKUP="off", INSECURE_REGISTRIES="none", REGISTRY_CA="none")
    for what in ("ClusterRole ", "ClusterRoleBinding "):
        assert f"{what}bitfusiond-webhook-images: removed, as nothing needs it any more" in lines
    assert [api.find(path) for path in (role, binding, registry_ca)] == [None] * 3
    assert not {name for name in variables(api) if "REGISTR" in name or "IMAGE" in name}


def test_a_client_ca_is_mounted_kept_shown_and_taken_off_again(
    api: APIServer, operator: Operator, tmp_path: Path
) -> None:
    file = tmp_path / "ca.crt"
    trustme.CA().cert_pem.write_to_path(str(file))
    deployed(operator, CLIENT_CA=str(file))
    for again in (False, True):
        if again:
            assert any(line.endswith("(as it runs)") for line in deployed(operator) if line.startswith("CLIENT_CA"))
        spec = api.request("GET", WEBHOOK)["spec"]["template"]["spec"]
        (mount,) = spec["containers"][0]["volumeMounts"]
        (volume,) = spec["volumes"]
        assert {"configMap": {"name": "bwki-webhook-client-ca"}} in volume["projected"]["sources"]
        path = f"{mount['mountPath']}/client-ca.crt"
        assert variables(api)["BITFUSIOND_CLIENT_CA"] == path
        assert api.request("GET", CLIENT_CA)["data"] == {"client-ca.crt": file.read_text()}
    result = operator.run("verify")
    assert " ok " in row(result, "client CA")
    assert " ok " in row(result, "ConfigMap bwki/bwki-webhook-client-ca")
    lines = deployed(operator, CLIENT_CA="none")
    assert "ConfigMap bwki/bwki-webhook-client-ca: removed, as nothing needs it any more" in lines
    assert api.find(CLIENT_CA) is None
    assert "BITFUSIOND_CLIENT_CA" not in variables(api)
    (volume,) = api.request("GET", WEBHOOK)["spec"]["template"]["spec"]["volumes"]
    assert "client-ca" not in str(volume)


def test_the_webhook_is_reached_from_the_api_servers_alone_where_that_is_said(
    api: APIServer, operator: Operator
) -> None:
    # Those of the tests are told to write no address of their own.
    result = operator.run("deploy", API_SERVER_ONLY="yes")
    assert result.status == 1
    assert "nothing was changed: API_SERVER_ONLY: `kubectl get endpointslices -n default" in result.err
    group = api.request("GET", "/apis/discovery.k8s.io")["preferredVersion"]["groupVersion"]
    slices = f"/apis/{group}/namespaces/default/endpointslices"
    made: dict[str, Any] = {"apiVersion": group, "kind": "EndpointSlice", "addressType": "IPv4"}
    made["metadata"] = {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}}
    api.create(slices, {**made, "endpoints": [{"addresses": ["192.0.2.1"]}, {"addresses": ["192.0.2.2"]}]})
    try:
        deployed(operator, API_SERVER_ONLY="yes")
        assert "API_SERVER_ONLY: yes (as it runs)" in deployed(operator)
        https, observe = api.request("GET", POLICY)["spec"]["ingress"]
        assert [each["ipBlock"]["cidr"] for each in https["from"]] == ["192.0.2.1/32", "192.0.2.2/32"]
        assert "from" not in observe
        assert "192.0.2.1, 192.0.2.2" in row(operator.run("verify"), "reached from")
        path = f"{slices}/kubernetes"
        api.request("PATCH", path, {"endpoints": [{"addresses": ["192.0.2.3"]}]}, "application/merge-patch+json")
        wrong = row(operator.run("verify"), "reached from")
        assert "WRONG the webhook is reached from 192.0.2.1, 192.0.2.2, the API servers are 192.0.2.3 -> just" in wrong
        deployed(operator)
        assert "192.0.2.3" in row(operator.run("verify"), "reached from")
        deployed(operator, API_SERVER_ONLY="no")
        (rule,) = api.request("GET", POLICY)["spec"]["ingress"]
        assert "from" not in rule
    finally:
        api.request("DELETE", f"{slices}/kubernetes")


def test_copies_where_none_may_be_are_shown_with_the_command_that_deletes_them(
    api: APIServer, operator: Operator, cluster: Installation
) -> None:
    deployed(operator, ALLOW_NAMESPACES="*", API_SERVER_ONLY="no")
    out = api.namespace("out")
    for name in names.TOKEN_SECRETS.values():
        annotations = {names.COPIED_FROM: f"kube-system/{name}"}
        metadata = {"name": name, "labels": {names.MANAGED_BY: names.MANAGED_BY_US}, "annotations": annotations}
        data = api.request("GET", secret_path("kube-system", name))["data"]
        api.create(secret_path(out), {"metadata": metadata, "data": data})
    result = operator.run("verify")
    assert "up to date" in row(result, "token copies")
    assert "note none: whoever reaches port 8443" in row(result, "client CA")
    deployed(operator, ALLOW_NAMESPACES="team-*,default")
    result = operator.run("verify")
    assert result.status == 1
    words = row(result, "Namespace out")
    assert "WRONG there are token copies, which may be in team-*,default alone (ALLOW_NAMESPACES)" in words
    command = words.partition("-> ")[2]
    assert command.startswith("kubectl delete secret -n out ")
    for name in command.split()[5:]:
        api.request("DELETE", secret_path(out, name))
    assert copies(api, out) == [], "the command names all of them"
    assert "Namespace out" not in operator.run("verify").out


def test_a_copy_that_the_webhook_did_not_write_is_shown_and_adopted_only_when_that_is_said(
    api: APIServer, operator: Operator, cluster: Installation
) -> None:
    deployed(operator, ALLOW_NAMESPACES="*")
    put_tokens(api, "strange", token_files("another"))
    labels = {"metadata": {"labels": {names.MANAGED_BY: names.MANAGED_BY_US}}}
    annotations = {"annotations": {names.COPIED_FROM: f"kube-system/{CA}"}}
    forged = {"metadata": {**labels["metadata"], **annotations}}
    api.request("PATCH", secret_path("strange", CA), forged, "application/merge-patch+json")
    result = operator.run("verify")
    words = row(result, f"Secret strange/{CA}")
    assert "WRONG labelled as a copy, but not written by bitfusiond: it follows nothing" in words
    assert f"-> kubectl delete secret {CA} -n strange" in words
    deployed(operator)
    before = api.request("GET", secret_path("strange", CA))["data"]
    assert before != api.request("GET", secret_path("kube-system", CA))["data"]
    deployed(operator, ADOPT="yes")
    key = base64.b64decode(api.request("GET", secret_path("bwki", names.MARK_SECRET))["data"][marks.KEY])

    def follows() -> bool:
        copy, source = (api.request("GET", secret_path(of, CA)) for of in ("strange", "kube-system"))
        return bool(copy["data"] == source["data"])

    wait_until(follows, "a copy that follows")
    copy = api.request("GET", secret_path("strange", CA))
    assert copy["metadata"]["annotations"][names.MARK] == marks.mark(key, "strange", CA)


def test_uninstall_takes_the_key_of_the_marks_along(api: APIServer, operator: Operator, cluster: Installation) -> None:
    """Last in this file."""
    result = operator.run("uninstall")
    assert "Secret bwki/bwki-token-mark: deleted" in result.lines
    assert copies(api, "strange") == []
