"""The overlays hold every name of the contract, are valid for every version of Kubernetes, and fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from bitfusiond import pki, settings
from bitfusiond.core import names
from bitfusiond.core.admission import template
from bitfusiond.core.fields import Json
from bitfusiond.files import read
from bitfusiond.http.conversation import REQUEST_SECONDS
from bitfusiond.operate.delivery import has_clients
from bitfusiond.settings import Plugin, Webhook, values
from bitfusiond.webhook.certificates import cabundles, selfmanaged
from tests import MANIFESTS
from tests.real.harness import programs
from tests.unit.manifests import overlays
from tests.unit.manifests.overlays import OVERLAYS

DEPLOYMENT, CONTAINER = "bitfusion-webhook-deployment", "bitfusion-webhook"
DAEMON_SET, PLUGIN = "bitfusion-device-plugin", "bitfusion-device-plugin"
CONTRACT = {
    ("Namespace", None, "bwki"),
    ("Deployment", "bwki", DEPLOYMENT),
    ("ServiceAccount", "bwki", DEPLOYMENT),
    ("ConfigMap", "bwki", "bwki-webhook-configmap"),
    ("ConfigMap", "bwki", "bwki-bitfusion-client-configmap"),
    ("Service", "bwki", "bwki-webhook-svc"),
    ("MutatingWebhookConfiguration", None, "bwki-webhook-cfg"),
    ("ValidatingWebhookConfiguration", None, "validation.bitfusion.io-cfg"),
    ("DaemonSet", "kube-system", DAEMON_SET),
}

each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)


def container(document: Json, name: str) -> Json:
    (found,) = document["spec"]["containers"]
    assert found["name"] == name
    return dict(found)


@each_overlay
def test_every_name_of_the_contract_is_there(overlay: str) -> None:
    found = {
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"])
        for each in overlays.overlay(overlay)
    }
    assert found >= CONTRACT


@each_overlay
def test_no_object_is_there_twice(overlay: str) -> None:
    found = [(each["kind"], each["metadata"]["name"]) for each in overlays.overlay(overlay)]
    assert len(found) == len(set(found))


@each_overlay
def test_every_object_says_what_it_belongs_to(overlay: str) -> None:
    for each in overlays.overlay(overlay):
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "bitfusiond", each["metadata"]["name"]
        assert labels["app.kubernetes.io/name"]
        # That is what marks copies of token Secrets.
        assert names.MANAGED_BY not in labels


@pytest.mark.parametrize(
    "place", [*map(overlays.directory, OVERLAYS), MANIFESTS / "monitoring"], ids=lambda it: it.name
)
@pytest.mark.parametrize("which", [0, 1], ids=["kubectl-of-the-api-server", "kubectl-of-this-machine"])
def test_kubectl_prints_the_same(place: Path, which: int) -> None:
    found = programs.kubectls()
    if len(found) <= which:
        pytest.skip("install kubectl, or name a directory with one in KUBEBUILDER_ASSETS, to run this")
    if place.name == "community" and programs.kubectl_minor(found[which]) < 21:
        pytest.skip("kubectl before 1.21 knows no directory under resources; nor has it a cluster for this overlay")
    printed = list(yaml.safe_load_all(overlays.kustomize(found[which], place)))
    assert sorted(map(canonical, printed)) == sorted(map(canonical, overlays.documents(place)))


def canonical(document: Json) -> str:
    return json.dumps(document, sort_keys=True)


@pytest.mark.parametrize(("overlay", "first"), [("community", "1.28.0"), ("legacy", "1.25.0")])
def test_what_is_applied_is_valid_strictly(overlay: str, first: str) -> None:
    """By the first and the last version; `just check` goes through all of them. Of tkgi: an API server of 1.20."""
    for version in (first, "1.37.0"):
        for document in overlays.overlay(overlay):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_operators_files_are_the_packaged_ones() -> None:
    packaged = Path(read.__file__).parents[1] / "data"
    copies = MANIFESTS / "base" / "config"
    assert sorted(each.name for each in copies.iterdir()) == sorted(each.name for each in packaged.glob("*.yaml"))
    for copy in copies.iterdir():
        assert copy.read_text() == (packaged / copy.name).read_text(), f"cp {packaged / copy.name} {copy}"


def test_deploy_finds_the_images_and_variables_that_it_replaces() -> None:
    documents = overlays.overlay("community")
    webhook = container(overlays.pod(documents, "Deployment", DEPLOYMENT), CONTAINER)
    plugin = container(overlays.pod(documents, "DaemonSet", DAEMON_SET), PLUGIN)
    assert webhook["image"] == plugin["image"] == "docker.io/bitfusiondeviceplugin/bitfusiond:0.5.0"
    assert {"name": "TOTAL_GPU_MEMORY", "value": "0"} in webhook["env"]
    assert {"name": "RESOURCE_NUMS", "value": "1000"} in plugin["env"]
    injection = overlays.one(documents, "ConfigMap", "bwki-webhook-configmap")["data"]["sidecarconfig.yaml"]
    (populate,) = template.parse(yaml.safe_load(injection)).init_containers
    assert populate["image"] == "docker.io/bitfusiondeviceplugin/bitfusion-client:0.5.0"


def test_the_webhook_is_started_with_options_that_it_has_and_files_that_it_gets() -> None:
    documents = overlays.overlay("community")
    template = overlays.pod(documents, "Deployment", DEPLOYMENT)
    webhook = container(template, CONTAINER)
    given = dict(zip(webhook["args"][::2], webhook["args"][1::2], strict=True))
    assert given.pop("--role") == "webhook"
    by_flag = {option.flag: name for name, option in settings.options(Webhook).items()}
    resolved = settings.resolve(Webhook, {by_flag[flag]: value for flag, value in given.items()}, {})
    assert isinstance(resolved, Webhook)
    (mount,), (volume,) = webhook["volumeMounts"], template["spec"]["volumes"]
    sources = [each["configMap"]["name"] for each in volume["projected"]["sources"]]
    files = {
        str(Path(mount["mountPath"]) / key)
        for name in sources
        for key in overlays.one(documents, "ConfigMap", name)["data"]
    }
    assert {str(resolved.clients), str(resolved.injection)} == files
    assert "subPath" not in mount


@pytest.mark.parametrize(
    ("kind", "name", "role"), [("Deployment", DEPLOYMENT, Webhook), ("DaemonSet", DAEMON_SET, Plugin)]
)
def test_probes_ask_the_port_of_observe_and_variables_are_known(
    kind: str, name: str, role: type[settings.Common]
) -> None:
    (each,) = overlays.pod(overlays.overlay("community"), kind, name)["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in each["ports"]}
    options = settings.options(role)
    assert ports["observe"] == values.address(options["observe"].default or "").port
    for probe in ("livenessProbe", "readinessProbe"):
        assert each[probe]["httpGet"]["port"] == "observe"
    known = {variable for option in options.values() for variable in option.variables}
    assert {variable["name"] for variable in each["env"]} <= known


def test_the_service_leads_to_the_webhook_by_the_name_of_its_certificate() -> None:
    documents = overlays.overlay("community")
    service = overlays.one(documents, "Service", "bwki-webhook-svc")
    webhook = container(overlays.pod(documents, "Deployment", DEPLOYMENT), CONTAINER)
    (port,) = service["spec"]["ports"]
    ports = {each["name"]: each["containerPort"] for each in webhook["ports"]}
    listen = values.address(settings.options(Webhook)["listen"].default or "")
    assert (port["port"], ports[port["targetPort"]]) == (443, listen.port)
    dns = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert dns in pki.service_names(selfmanaged.SERVICE, names.NAMESPACE)


@each_overlay
def test_whatever_selects_the_webhooks_pods_finds_them(overlay: str) -> None:
    documents = overlays.overlay(overlay)
    deployment = overlays.one(documents, "Deployment", DEPLOYMENT)["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    policies = [each for each in documents if each["kind"] == "NetworkPolicy"]
    budgets = [each for each in documents if each["kind"] == "PodDisruptionBudget"]
    assert len(budgets) == (0 if overlay == "legacy" else 1)
    selectors = [
        deployment["selector"]["matchLabels"],
        overlays.one(documents, "Service", "bwki-webhook-svc")["spec"]["selector"],
        *(each["spec"]["podSelector"].get("matchLabels", {}) for each in policies),
        *(each["spec"]["selector"]["matchLabels"] for each in budgets),
        *(each["labelSelector"]["matchLabels"] for each in deployment["template"]["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_network_policies_open_the_webhooks_ports_and_close_all_others() -> None:
    documents = overlays.overlay("community")
    policies = {each["metadata"]["name"]: each["spec"] for each in documents if each["kind"] == "NetworkPolicy"}
    assert policies["bitfusiond-deny-ingress"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    (rule,) = policies["bitfusion-webhook"]["ingress"]
    webhook = container(overlays.pod(documents, "Deployment", DEPLOYMENT), CONTAINER)
    assert [port["port"] for port in rule["ports"]] == [port["name"] for port in webhook["ports"]]


def test_a_replica_has_the_time_to_drain_and_goes_only_when_another_is_ready() -> None:
    deployment = overlays.one(overlays.overlay("community"), "Deployment", DEPLOYMENT)["spec"]
    drain = float(settings.options(Webhook)["drain_seconds"].default or "")
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] >= drain + REQUEST_SECONDS + 10
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_the_webhooks_pods_meet_the_level_restricted_that_their_namespace_enforces() -> None:
    """Source: Kubernetes' documentation, "Pod Security Standards", restricted."""
    documents = overlays.overlay("community")
    labels = overlays.one(documents, "Namespace", "bwki")["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}
    spec = overlays.pod(documents, "Deployment", DEPLOYMENT)["spec"]
    own = container({"spec": spec}, CONTAINER)["securityContext"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(volume.keys() - {"name"} <= allowed for volume in spec["volumes"])
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_the_plugin_tolerates_every_taint_and_is_replaced_one_node_at_a_time() -> None:
    daemon_set = overlays.one(overlays.overlay("community"), "DaemonSet", DAEMON_SET)["spec"]
    spec = daemon_set["template"]["spec"]
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["priorityClassName"] == "system-node-critical"
    assert daemon_set["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1}


@each_overlay
def test_the_plugin_and_so_every_pod_with_gpus_is_where_clients_run_and_the_webhook_anywhere(overlay: str) -> None:
    documents = overlays.overlay(overlay)
    linux = {"kubernetes.io/os": "linux"}
    selected = overlays.one(documents, "DaemonSet", DAEMON_SET)["spec"]["template"]["spec"]["nodeSelector"]
    assert selected == linux | {"kubernetes.io/arch": "amd64"}
    assert has_clients({"metadata": {"labels": selected}})
    assert not has_clients({"metadata": {"labels": linux | {"kubernetes.io/arch": "arm64"}}})
    webhook = overlays.one(documents, "Deployment", "bitfusion-webhook-deployment")
    assert webhook["spec"]["template"]["spec"]["nodeSelector"] == linux


def webhooks(overlay: str) -> list[tuple[cabundles.Target, Json]]:
    """Each configuration and each of its webhooks."""
    documents = overlays.overlay(overlay)
    return [
        (target, webhook)
        for target in cabundles.TARGETS
        for webhook in overlays.one(documents, target.resource.kind, target.name)["webhooks"]
    ]


@each_overlay
def test_every_webhook_gets_its_ca_bundle_from_us_alone(overlay: str) -> None:
    for target, webhook in webhooks(overlay):
        assert webhook["name"] in target.webhooks
        assert "caBundle" not in webhook["clientConfig"]


@each_overlay
def test_the_webhooks_are_asked_about_the_creation_of_pods_at_their_own_endpoints(overlay: str) -> None:
    paths = {"MutatingWebhookConfiguration": "/mutate", "ValidatingWebhookConfiguration": "/validate"}
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    for target, webhook in webhooks(overlay):
        service = {"namespace": "bwki", "name": "bwki-webhook-svc", "path": paths[target.resource.kind], "port": 443}
        assert webhook["clientConfig"] == {"service": service}
        assert webhook["rules"] == [rule | {"scope": "Namespaced"}]
        assert webhook["admissionReviewVersions"] == ["v1", "v1beta1"]
        assert webhook["timeoutSeconds"] == REQUEST_SECONDS
        # Both make sure of tokens, and neither does for a dry run.
        assert webhook["sideEffects"] == "NoneOnDryRun"


@each_overlay
def test_nobody_can_be_locked_out_of_the_clusters_own_namespaces_or_ours(overlay: str) -> None:
    exempt = names.EXEMPT_NAMESPACES | {names.NAMESPACE}
    label, value = "bitfusion.io/admission", "ignore"
    namespace = overlays.one(overlays.overlay(overlay), "Namespace", names.NAMESPACE)
    assert namespace["metadata"]["labels"][label] == value
    for _, webhook in webhooks(overlay):
        by_name, by_label = webhook["namespaceSelector"]["matchExpressions"]
        assert (by_name["key"], by_name["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
        assert set(by_name["values"]) == exempt
        assert by_label == {"key": label, "operator": "NotIn", "values": [value]}


def test_where_the_api_server_knows_our_pods_they_are_refused_while_we_are_away() -> None:
    found = webhooks("community")
    assert {webhook["name"] for _, webhook in found} == {"bwkimua.bitfusion.io", "bwkival.bitfusion.io"}
    assert {webhook["failurePolicy"] for _, webhook in found} == {"Fail"}
    assert all(webhook["matchConditions"] for _, webhook in found)


@pytest.mark.parametrize("overlay", ["legacy", "tkgi"])
@pytest.mark.parametrize("target", cabundles.TARGETS, ids=lambda target: target.name)
def test_where_it_does_not_only_pods_with_the_label_are(overlay: str, target: cabundles.Target) -> None:
    """Every pod is one webhook's, and no pod is two webhooks'."""

    def policy(webhook: Json) -> tuple[Any, ...]:
        (expression,) = webhook["objectSelector"]["matchExpressions"]
        return expression["key"], expression["operator"], webhook["failurePolicy"]

    found = {webhook["name"]: policy(webhook) for of, webhook in webhooks(overlay) if of == target}
    first, labelled = target.webhooks
    assert found == {
        first: (names.MANAGEMENT, "DoesNotExist", "Ignore"),
        labelled: (names.MANAGEMENT, "Exists", "Fail"),
    }


def test_security_md_has_a_row_for_every_account_and_every_secret_of_ours() -> None:
    rows = [line for line in (MANIFESTS.parent / "SECURITY.md").read_text().splitlines() if line.startswith("| `")]
    wanted = [f"bwki/{names.WEBHOOK_CERTIFICATES}", f"bwki/{names.MARK_SECRET}"]
    for overlay in OVERLAYS:
        accounts = [each["metadata"] for each in overlays.overlay(overlay) if each["kind"] == "ServiceAccount"]
        assert len(accounts) == 2
        wanted += [f"{each['namespace']}/{each['name']}" for each in accounts]
    assert [each for each in wanted if not any(row.startswith(f"| `{each}` |") for row in rows)] == []


def test_the_certificate_of_another_issuer_is_an_option_that_the_webhook_has() -> None:
    """manifests/tls-cert names the container and the variables; what it makes of them is tried on an API server."""
    patch = yaml.safe_load((MANIFESTS / "tls-cert" / "certificate.yaml").read_text())
    changed = container(patch["spec"]["template"], CONTAINER)
    known = {name for option in settings.options(Webhook).values() for name in option.variables}
    assert {each["name"] for each in changed["env"]} <= known
