"""``uninstall`` against a real API server: ours goes, whoever applied it, and what only says that it is ours stays."""

from __future__ import annotations

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.tokens import marks
from tests.real.harness.apiserver import APPLY, RBAC, APIServer, secret_path
from tests.real.harness.operator import APPS, Operator

LABELS = {"app.kubernetes.io/part-of": "bitfusiond"}
TEAM = "/api/v1/namespaces/team"
OURS = "bitfusiond-deploy"


def _maps(of: str) -> str:
    return f"/api/v1/namespaces/{of}/configmaps"


def _config_map(name: str, **labels: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": LABELS | labels}}


def _role(name: str) -> Json:
    kind = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole"}
    return {**kind, "metadata": {"name": name, "labels": LABELS}, "rules": []}


def _deployment(name: str) -> Json:
    labels = {"app": name}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": labels}, "template": pod}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "labels": LABELS}, "spec": spec}


def test_what_others_labelled_as_ours_stays_and_is_named(api: APIServer, operator: Operator) -> None:
    api.namespace("team")
    api.namespace("bwki")
    theirs = {
        "ConfigMap team/theirs": (_maps("team"), _config_map("theirs")),
        "Deployment team/theirs": (f"{APPS}/namespaces/team/deployments", _deployment("theirs")),
        "ClusterRole theirs": (f"{RBAC}/clusterroles", _role("theirs")),
        "ConfigMap bwki/beside": (_maps("bwki"), _config_map("beside")),
    }
    for path, document in theirs.values():
        api.create(path, document)
    # Ours wrote something into it, and not the label.
    api.create(_maps("team"), _config_map("shared"))
    half = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"labels": {"ours": "too"}}}
    api.request("PATCH", f"{_maps('team')}/shared?fieldManager={OURS}", half, APPLY)
    result = operator.run("uninstall")
    assert result.status == 0, result.out + result.err
    for name, (path, document) in theirs.items():
        assert api.find(f"{path}/{document['metadata']['name']}") is not None, name
        told = [line for line in result.lines if line.startswith(f"{name}: left, as bitfusiond-deploy did not give it")]
        assert len(told) == 1, result.out
    assert api.find(f"{_maps('team')}/shared") is not None
    assert "ConfigMap team/shared: left" in result.out


def test_what_an_earlier_version_of_ours_applied_goes_and_is_named_before(api: APIServer, operator: Operator) -> None:
    api.namespace("bwki")
    older = {
        "ConfigMap bwki/of-before": (_maps("bwki"), _config_map("of-before")),
        "Deployment bwki/of-before": (f"{APPS}/namespaces/bwki/deployments", _deployment("of-before")),
        "ClusterRole of-before": (f"{RBAC}/clusterroles", _role("of-before")),
    }
    for path, document in older.values():
        api.apply(f"{path}/of-before", document, OURS)
    result = operator.run("uninstall")
    assert result.status == 0, result.out + result.err
    for name, (path, _) in older.items():
        assert api.find(f"{path}/of-before") is None
        words = [line for line in result.lines if line.startswith(f"{name}: ")]
        assert words[0].startswith(f"{name}: not in the manifests of this version, but bitfusiond-deploy labelled it")
        assert words[1] == f"{name}: deleted"


def test_the_permissions_for_copies_go_from_every_namespace(api: APIServer, operator: Operator) -> None:
    name = "bitfusiond-webhook-copies"
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    for of, manager in (("team", OURS), ("default", "gitops")):
        api.namespace(of)
        binding = _role(name) | {"kind": "RoleBinding", "roleRef": role}
        del binding["rules"]
        api.apply(f"{RBAC}/namespaces/{of}/rolebindings/{name}", binding, manager)
    result = operator.run("uninstall")
    assert result.status == 0, result.out + result.err
    assert f"RoleBinding team/{name}: deleted" in result.lines
    assert f"RoleBinding team/{name}: not in the manifests" not in result.out
    assert f"RoleBinding default/{name}: left" in result.out


def test_copies_of_an_earlier_token_namespace_go_by_their_mark_and_others_are_told_with_the_command(
    api: APIServer, operator: Operator
) -> None:
    ca, key = names.TOKEN_SECRETS[names.CA_CRT], marks.new_key()
    for of in ("bwki", "vault", "marked", "unmarked"):
        api.namespace(of)
    api.put_secret("bwki", names.MARK_SECRET, {marks.KEY: key})
    label = {names.MANAGED_BY: names.MANAGED_BY_US}
    origin = {names.COPIED_FROM: f"vault/{ca}"}
    for of, written in (
        ("vault", {}),  # a source that somebody labelled like all that they apply
        ("marked", origin | {names.MARK: marks.mark(key, "marked", ca)}),
        ("unmarked", origin | {names.MARK: marks.mark(key, "marked", ca)}),
    ):
        api.create(secret_path(of), {"metadata": {"name": ca, "labels": label, "annotations": written}})
    result = operator.run("uninstall")
    assert result.status == 0, result.out + result.err
    assert f"Secret marked/{ca}: deleted" in result.lines
    assert f"Secret vault/{ca}: left, labelled as a copy, but it does not say of what" in result.lines
    (told,) = (line for line in result.lines if line.startswith(f"Secret unmarked/{ca}: left, copied from vault by"))
    assert told.endswith("delete with `TOKEN_NAMESPACE=vault just uninstall`")
    result = operator.run("uninstall", TOKEN_NAMESPACE="vault")
    assert result.status == 0, result.out + result.err
    assert f"Secret unmarked/{ca}: deleted" in result.lines
    assert f"Secrets {ca} in vault: yours, left as they are" in result.lines
    assert api.find(secret_path("vault", ca)) is not None


def test_what_the_manifests_name_goes_whoever_applied_it(api: APIServer, operator: Operator) -> None:
    """With ``kubectl apply -k``, with another tool, and without its label."""
    api.namespace("bwki")
    dashboard = _config_map("bitfusiond-dashboard")
    template = _config_map("bwki-webhook-configmap")
    del template["metadata"]["labels"]
    api.create(_maps("bwki"), dashboard)
    api.create(_maps("bwki"), template)
    api.apply(f"{RBAC}/clusterroles/bitfusiond-webhook", _role("bitfusiond-webhook"), "gitops")
    result = operator.run("uninstall")
    assert result.status == 0, result.out + result.err
    assert api.find(f"{_maps('bwki')}/bitfusiond-dashboard") is None
    assert api.find(f"{_maps('bwki')}/bwki-webhook-configmap") is None
    assert api.find(f"{RBAC}/clusterroles/bitfusiond-webhook") is None
    assert "bitfusiond-webhook: not in the manifests" not in result.out
