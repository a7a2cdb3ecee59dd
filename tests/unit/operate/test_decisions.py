"""What the commands decide, from objects as values: no cluster."""

from __future__ import annotations

from typing import Any

import pytest
import trustme

from bitfusiond import pki
from bitfusiond.core import names
from bitfusiond.core.admission.review import OPTED_IN
from bitfusiond.core.fields import Json
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate import (
    checks,
    endpoints,
    manifests,
    overlays,
    proof,
    report,
    rollout,
    settings,
    uninstall,
    workloads,
)
from bitfusiond.operate.kubectl import Ref, objects_in
from bitfusiond.operate.proof import Outcome, Proof
from bitfusiond.operate.report import NOTE, OK, WRONG
from bitfusiond.operate.upgrade04 import leftovers, takeover
from bitfusiond.operate.verify import command as verify
from bitfusiond.operate.verify import installation, nodes, pods, webhooks

READY = {"conditions": [{"type": "Ready", "status": "True"}]}


# --- what an operator can say ---------------------------------------------------------------------------------------


def test_every_variable_that_is_wrong_is_named_with_what_is_allowed() -> None:
    with pytest.raises(ConfigurationError) as error:
        settings.resolve({"IMAGE_TAG": "a b", "TOTAL_GPU_MEMORY": "16G", "K8S_PLATFORM": "gke", "IMAGE_REPO": "X:1"})
    for part in ("IMAGE_TAG: 'a b'", "TOTAL_GPU_MEMORY: '16G'", "one of community, legacy, tkgi", "IMAGE_REPO: 'X:1'"):
        assert part in str(error.value)
    assert str(error.value).count("\n  - ") == 4, "each on its own line"


def test_an_empty_variable_is_one_that_is_not_given() -> None:
    assert settings.resolve(dict.fromkeys(("TOTAL_GPU_MEMORY", "K8S_PLATFORM"), "")) == settings.resolve({})
    assert settings.resolve({}).total_gpu_memory is None
    assert settings.resolve({"TOTAL_GPU_MEMORY": "0"}).total_gpu_memory == 0


@pytest.mark.parametrize(("version", "platform"), [((1, 20), "legacy"), ((1, 27), "legacy"), ((1, 28), "community")])
def test_an_api_server_without_match_conditions_gets_the_legacy_overlay(
    version: tuple[int, int], platform: str
) -> None:
    assert checks.platform("community", version)[0] == platform
    assert checks.platform("tkgi", version)[0] == ("tkgi" if version < (1, 25) else platform)


def test_a_version_with_a_plus_is_read() -> None:
    assert checks.version_of({"major": "1", "minor": "28+"}) == (1, 28)


# --- what is printed when something is wrong --------------------------------------------------------------------------


def test_several_problems_stand_on_a_line_each() -> None:
    assert report.listed("nothing was changed", ["one"]) == "nothing was changed: one"
    assert report.listed("nothing was changed", ["one", "a\n  long one"]).splitlines() == [
        "nothing was changed:",
        "  - one",
        "  - a long one",
    ]


# --- what kubectl prints --------------------------------------------------------------------------------------------


def test_one_object_several_and_a_list_are_read_alike() -> None:
    assert objects_in("") == []
    assert objects_in('{"kind": "A"}\n{"kind": "B"}') == [{"kind": "A"}, {"kind": "B"}]
    assert objects_in('{"kind": "List", "items": [{"kind": "A"}]}') == [{"kind": "A"}]


# --- manifests ------------------------------------------------------------------------------------------------------


def test_what_makes_the_api_server_ask_comes_last_and_the_workloads_after_what_they_need() -> None:
    kinds = ("MutatingWebhookConfiguration", "Deployment", "Service", "PriorityClass")
    stages = manifests.stages([{"kind": kind} for kind in kinds])
    assert [each["kind"] for each in stages.all] == ["PriorityClass", "Deployment", "Service", kinds[0]]


def test_images_of_others_stay_as_they_are() -> None:
    values = manifests.Values("r/x", "1", 0, 1000)
    document = {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"image": "busybox:1", "text": f"a {OURS} b"}}
    spec = manifests.substituted(document, values)["spec"]
    assert spec == {"image": "busybox:1", "text": "a r/x/bitfusion-client:1 b"}


OURS = "docker.io/bitfusiondeviceplugin/bitfusion-client:0.5.0"


# --- over a 0.4 -----------------------------------------------------------------------------------------------------


def test_what_a_controller_made_goes_with_it_and_a_binding_of_somebody_else_stays() -> None:
    owned = {"kind": "Pod", "metadata": {"name": "p", "namespace": "bwki", "ownerReferences": [{"controller": True}]}}
    orphan = {"kind": "ReplicaSet", "metadata": {"name": "rs", "namespace": "bwki"}}
    left = leftovers.among([owned, orphan], {leftovers.BINDING: {"roleRef": {"name": "view"}}, leftovers.PLUGIN: {}})
    assert [each.what for each in left.removals] == [Ref("ReplicaSet", "rs", "bwki"), leftovers.PLUGIN]
    admin = leftovers.among([], {leftovers.BINDING: {"roleRef": {"name": "cluster-admin"}}})
    assert [each.what for each in admin.removals] == [leftovers.BINDING]


def test_a_pod_that_an_earlier_plugin_left_goes_and_others_with_its_label_stay() -> None:
    def pod(container: str) -> Json:
        metadata = {"name": container, "namespace": "kube-system"}
        return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": container}]}}

    left = leftovers.among([pod("bitfusion-device-plugin"), pod("kube-flannel")], {})
    assert [each.what.name for each in left.removals] == ["bitfusion-device-plugin"]


def test_a_cluster_without_04_has_nothing_of_it() -> None:
    assert leftovers.among([], {}) == leftovers.Leftovers([], [], is_none=True)


def test_a_common_name_is_told_and_not_removed() -> None:
    left = leftovers.among([], {leftovers.POLICY: {}})
    assert left.removals == []
    assert "kubectl delete podsecuritypolicy privileged" in left.notes[0]


def test_a_service_changes_its_selector_in_one_step() -> None:
    wanted = {"kind": "Service", "spec": {"selector": {"a": "new"}, "ports": [{"port": 443}]}}
    current = {"spec": {"selector": {"app": "bwki"}, "ports": [{"port": 443, "targetPort": 8443}]}}
    assert takeover.operations(current, wanted) == [{"op": "add", "path": "/spec/selector", "value": {"a": "new"}}]
    assert takeover.operations(wanted, wanted) == []


def test_webhooks_of_another_overlay_are_taken_out_by_name() -> None:
    wanted = {"kind": "MutatingWebhookConfiguration", "webhooks": [{"name": "a"}]}
    current = {"webhooks": [{"name": "b"}, {"name": "a"}, {"name": "c"}]}
    removed = [each["path"] for each in takeover.operations(current, wanted) if each["op"] == "remove"]
    assert removed == ["/webhooks/2", "/webhooks/0"]


def test_the_secret_of_our_ca_starts_with_the_ca_that_is_trusted_today_and_only_then() -> None:
    foreign = trustme.CA().cert_pem.bytes()
    secret = takeover.certificate_secret({"data": {"cert.pem": "eA=="}}, foreign, 0)
    assert secret is not None
    vault = pki.decode(secret["data"])
    assert [pki.is_ours(each) for each in vault.trusted] == [True, False]
    assert takeover.certificate_secret(secret, foreign, 0) is None, "ours already"
    assert takeover.certificate_secret(None, b"", 0) is None, "nobody is trusted"


# --- rollout --------------------------------------------------------------------------------------------------------


def deployment(**status: int) -> Json:
    return {"kind": "Deployment", "metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}


@pytest.mark.parametrize(
    ("workload", "done"),
    [
        (deployment(observedGeneration=2, replicas=2, updatedReplicas=2, availableReplicas=2), True),
        (deployment(observedGeneration=1, replicas=2, updatedReplicas=2, availableReplicas=2), False),
        (deployment(observedGeneration=2, replicas=3, updatedReplicas=2, availableReplicas=2), False),
        (deployment(observedGeneration=2, replicas=2, updatedReplicas=1, availableReplicas=2), False),
        ({"kind": "DaemonSet", "metadata": {"generation": 1}, "spec": {}, "status": {}}, False),
    ],
)
def test_a_status_older_than_the_spec_or_a_pod_of_the_old_one_is_not_done(workload: Json, done: bool) -> None:
    assert rollout.progress(workload)[2] is done


def test_a_pod_that_is_not_ready_says_why() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "r/x:1"'}}
    pod = {"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"containerStatuses": [{"state": waiting}]}}
    assert explained([pod], []) == ['pod p on n: ImagePullBackOff: Back-off pulling image "r/x:1"']


def test_a_pod_whose_container_is_silent_is_told_by_its_last_event() -> None:
    pod = {"metadata": {"name": "p"}, "spec": {}, "status": {}}
    events = [
        {"involvedObject": {"name": "p"}, "reason": "Unhealthy", "message": "503", "lastTimestamp": "2026-01-02"},
        {"involvedObject": {"name": "p"}, "reason": "FailedMount", "message": "no", "lastTimestamp": "2026-01-01"},
    ]
    assert explained([pod], events[::-1]) == ["pod p: Unhealthy: 503"]
    forbidden = {"involvedObject": {"name": "d"}, "reason": "Forbidden", "message": "by a policy"}
    assert explained([], [forbidden]) == ["Forbidden: by a policy"]


def explained(pods: list[Json], events: list[Json], *, updated: int = 2, maker: str = "rs") -> list[str]:
    return rollout.explain(deployment(updatedReplicas=updated), rollout.Snapshot(pods, events, maker))


def test_a_quota_that_keeps_new_pods_away_is_told_though_old_ones_serve() -> None:
    def failed(maker: str, message: str) -> Json:
        return {"involvedObject": {"name": maker}, "reason": "FailedCreate", "message": message}

    old: Json = {"metadata": {"name": "p", "ownerReferences": [{"name": "rs-old"}]}, "spec": {}, "status": READY}
    events = [failed("rs", "exceeded quota: a"), failed("rs", "exceeded quota: q"), failed("rs-old", "long ago")]
    assert explained([old, old], events, updated=0) == ["FailedCreate: exceeded quota: q", "2 old pods still serve"]
    assert explained([], events, updated=0) == ["FailedCreate: exceeded quota: q"]
    new: Json = {"metadata": {"name": "p", "ownerReferences": [{"name": "rs"}]}, "spec": {}, "status": READY}
    assert explained([new, new], events) == [], "they were made after all"


def test_the_replica_set_of_today_is_the_one_of_the_deployments_revision() -> None:
    def of(name: str, revision: str) -> Json:
        return {"metadata": {"name": name, "annotations": {"deployment.kubernetes.io/revision": revision}}}

    assert rollout.newest(of("d", "2"), [of("rs-1", "1"), of("rs-2", "2")]) == "rs-2"
    assert rollout.newest({"metadata": {}}, [of("rs-1", "1")]) == ""


def test_a_node_that_is_not_ready_is_not_waited_for() -> None:
    here: list[Json] = [{"metadata": {"name": "a"}, "status": READY}, {"metadata": {"name": "b"}, "status": {}}]
    plugins: list[Json] = [{"spec": {"nodeName": name}, "status": {}} for name in ("a", "b")]
    assert rollout.absent_nodes(plugins, here) == ["b"]


# --- the proof ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        ('admission webhook "bwkimua.bitfusion.io" denied the request: x', Outcome.REFUSED),
        ('Internal error occurred: failed calling webhook "bwkimua-labelled.bitfusion.io": x509', Outcome.UNREACHABLE),
        (f'The Pod "p" is invalid: {OPTED_IN}: Secret kube-system/s is missing', Outcome.REFUSED),
        ('The Pod "p" is invalid: spec.initContainers[0].image: Required value', Outcome.OTHER),
        ('admission webhook "policy.example" denied the request: x', Outcome.OTHER),
        ('pods "p" is forbidden: exceeded quota: q', Outcome.OTHER),
    ],
)
def test_who_refused_the_pod_is_told_from_the_api_servers_words(message: str, outcome: Outcome) -> None:
    assert proof.judge_error(message).outcome is outcome


def test_all_causes_that_kubectl_lists_are_told() -> None:
    message = f'The Pod "p" is invalid: \n* {OPTED_IN}: Secret a/b is missing\n* {OPTED_IN}: Secret a/c is missing'
    told = "asked, refused by bitfusiond: Secret a/b is missing; Secret a/c is missing"
    assert proof.judge_error(message).detail == told
    assert proof.judge_error(message.replace("\n", "; ")).detail == told


@pytest.mark.parametrize(
    "who", ['admission webhook "bwkimua.bitfusion.io" denied the request', f'The Pod "p" is invalid: {OPTED_IN}']
)
def test_a_namespace_that_may_not_have_tokens_is_no_fault(who: str) -> None:
    assert proof.judge_error(f"{who}: pods of x may not receive Bitfusion tokens").good


def test_without_the_service_the_next_command_is_a_deploy() -> None:
    why = 'Post "https://bwki-webhook-svc.bwki.svc:443/mutate": service "bwki-webhook-svc" not found'
    answer = proof.judge_error(f'failed calling webhook "bwkimua.bitfusion.io": {why}')
    assert verify.admission(answer, "default").fix == "just deploy"
    assert "endpointslices" in verify.admission(Proof(Outcome.UNREACHABLE, "i/o timeout"), "default").fix


@pytest.mark.parametrize(
    ("slices", "state", "detail"),
    [
        ([], WRONG, "no endpoint:"),
        ([{"endpoints": None}], WRONG, "no endpoint:"),
        ([[("a", False)]], WRONG, "no ready endpoint, 1 that are not ready:"),
        ([[("a", True), ("b", False)]], OK, "1 ready endpoint"),
        ([[("a", True)], [("b", None)]], OK, "2 ready endpoints"),  # unknown counts as ready
        ([[("a", True)], [("a", True)]], OK, "1 ready endpoint"),  # its IPv4 address and its IPv6 address
    ],
)
def test_a_service_leads_to_the_ready_pods_of_its_slices(slices: list[Any], state: str, detail: str) -> None:
    found = endpoints.of_slices(_slice(each) if isinstance(each, list) else each for each in slices)
    row = installation.service({"kind": "Service", "metadata": {"name": "s"}}, found)
    assert row.state == state
    assert row.detail.startswith(detail)


def _slice(pods: list[tuple[str, bool | None]]) -> Json:
    return {
        "endpoints": [
            {"addresses": ["10.0.0.1"], "targetRef": {"name": name}, "conditions": {"ready": ready}}
            for name, ready in pods
        ]
    }


def test_a_namespace_that_is_ending_is_the_only_row_and_no_deploy_is_asked_for_before_it_is_gone() -> None:
    namespace: Json = {"kind": "Namespace", "metadata": {"name": "bwki", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    (row,) = installation.ending(namespace)
    assert (row.state, row.detail) == (WRONG, "it is being deleted")
    assert row.fix.startswith("just deploy, when it is gone")
    assert installation.ending({"metadata": {"name": "bwki"}}) == []


def test_a_pod_that_came_back_as_it_went_was_not_asked_about() -> None:
    stored = proof.pod("default", proof.client_of(None))
    assert proof.judge(stored).outcome is Outcome.NOT_ASKED


# --- nodes, quotas, configurations ----------------------------------------------------------------------------------

METRICS = """# HELP x
bitfusiond_plugin_registered {registered}
bitfusiond_plugin_health{{health="Healthy",reason="1 of 2 servers accept connections"}} 1.0
bitfusiond_plugin_servers{{reachable="true"}} 1.0
bitfusiond_plugin_servers{{reachable="false"}} {unreachable}
"""


def look(shares: str | None, text: str | None) -> tuple[str, str]:
    status = READY | {"allocatable": {names.GPU: shares} if shares else {}}
    plugin = {"metadata": {"name": "plugin-n", "namespace": "kube-system"}, "spec": {"nodeName": "n"}, "status": READY}
    row = nodes.check([{"metadata": {"name": "n"}, "status": status}], [plugin], {"n": text} if text else {})[0]
    return row.state, row.detail


def test_a_server_that_cannot_be_reached_is_told_by_the_plugins_metrics() -> None:
    assert look("1000", METRICS.format(registered="1.0", unreachable="0.0"))[0] == OK
    state, detail = look("1000", METRICS.format(registered="1.0", unreachable="1.0"))
    assert state == WRONG
    assert "1 of 2 Bitfusion servers cannot be reached: 1 of 2 servers accept" in detail
    assert "not registered" in look("1000", METRICS.format(registered="0.0", unreachable="0.0"))[1]


def test_a_node_is_judged_without_metrics_too() -> None:
    assert look("1000", None)[0] == OK
    assert "0 allocatable" in look("0", None)[1]
    assert "not registered with its kubelet" in look(None, None)[1]


def test_nodes_of_another_processor_are_told_and_not_missed() -> None:
    def node(name: str, **labels: str) -> Json:
        named = {f"kubernetes.io/{key}": value for key, value in labels.items()}
        status = READY | {"allocatable": {names.GPU: "1"} if labels["arch"] == "amd64" else {}}
        return {"metadata": {"name": name, "labels": named}, "status": status}

    plugin = {"metadata": {"name": "p"}, "spec": {"nodeName": "a"}, "status": READY}
    arm = [node("b", os="linux", arch="arm64"), node("c", os="linux", arch="arm64")]
    both = nodes.check([node("a", os="linux", arch="amd64"), *arm], [plugin], {})
    assert [(row.state, row.detail.split()[0]) for row in both] == [(OK, "1"), (NOTE, "2,")]
    assert [row.state for row in nodes.check(arm, [], {})] == [WRONG, NOTE]


def test_metrics_that_a_network_policy_bars_are_a_note() -> None:
    plugin = {"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": READY}
    node = {"metadata": {"name": "n"}, "status": READY | {"allocatable": {names.GPU: "1"}}}
    assert [row.state for row in nodes.check([node], [plugin], {"n": None})] == [OK, NOTE]


def test_a_quota_with_the_useless_key_is_wrong_and_one_with_room_is_not() -> None:
    def quota(used: str, **hard: str) -> Json:
        metadata = {"name": "q", "namespace": "n"}
        status = {"used": {f"requests.{names.GPU}": used}}
        return {"kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": hard}, "status": status}

    assert [row.state for row in pods.quotas([quota("99", **{f"requests.{names.GPU}": "100"})])] == [OK]
    assert [row.state for row in pods.quotas([quota("1k", **{f"requests.{names.GPU}": "1000"})])] == [WRONG]
    assert [row.state for row in pods.quotas([quota("0", **{f"limits.{names.GPU}": "100"})])] == [WRONG]
    assert pods.quotas([quota("0", cpu="1")]) == []


def test_a_ca_bundle_without_the_ca_that_signs_is_wrong() -> None:
    service = {"namespace": "bwki", "name": "bwki-webhook-svc", "path": "/mutate", "port": 443}
    webhook = {"name": "a", "clientConfig": {"service": service}, "failurePolicy": "Fail"}
    wanted = {"kind": "MutatingWebhookConfiguration", "metadata": {"name": "m"}, "webhooks": [webhook]}
    row = webhooks.configuration(wanted, wanted, None, webhooks.LOGS)
    assert (row.state, "caBundle is empty" in row.detail, row.fix) == (WRONG, True, webhooks.LOGS)


def test_certificate_files_of_another_issuer_need_no_secret() -> None:
    by_option = {"args": ["--role", "webhook", "--tls-cert", "/c", "--tls-key", "/k"]}
    by_variable = {"args": ["--role", "webhook"], "env": [{"name": "BITFUSIOND_TLS_CERT", "value": "/c"}]}
    for container in (by_option, by_variable):
        webhook = {"spec": {"template": {"spec": {"containers": [container]}}}}
        assert not workloads.self_managed(webhook)
        assert webhooks.check([], {}, None, 0, webhook) == []
    assert workloads.self_managed({"spec": {"template": {"spec": {"containers": [{"args": ["--role", "webhook"]}]}}}})


def test_without_a_webhook_nobody_is_sent_to_its_log() -> None:
    webhook = {"name": "a", "clientConfig": {"service": {"name": "s"}}, "failurePolicy": "Fail"}
    wanted = {"kind": "MutatingWebhookConfiguration", "metadata": {"name": "m"}, "webhooks": [webhook]}
    (row,) = webhooks.check([wanted], {Ref("MutatingWebhookConfiguration", "m"): wanted}, None, 0, None)
    assert row.fix == "just deploy"


# --- uninstall ------------------------------------------------------------------------------------------------------


def test_the_manifests_know_their_own_names_and_uninstall_their_kinds() -> None:
    shipped = overlays.shipped()
    assert {Ref("ClusterRole", "bitfusiond-webhook"), manifests.CATALOGUE_MAP, manifests.NETWORK_POLICY} <= {*shipped}
    assert Ref("ConfigMap", "bitfusiond-dashboard", "bwki") in shipped, "one that is generated"
    assert {each.kind for each in shipped} <= {*uninstall.KINDS, *uninstall.OPTIONAL}
    assert not [each for each in shipped if each.kind in {"Namespace", "Pod", "ResourceQuota"}]


def test_a_replica_set_that_a_deploy_orphaned_is_ours_by_its_name() -> None:
    def labelled(name: str, of: str) -> Json:
        return {"kind": "ReplicaSet", "metadata": {"name": name, "namespace": of}}

    orphan, theirs = Ref("ReplicaSet", "bitfusion-webhook-deployment-1", "bwki"), Ref("ReplicaSet", "theirs-1", "bwki")
    far = Ref("ReplicaSet", "bitfusion-webhook-deployment-1", "team")
    objects = {each: labelled(each.name, each.namespace) for each in (orphan, theirs, far)}
    assert uninstall.among(objects, ()) == ([], [theirs, far])
