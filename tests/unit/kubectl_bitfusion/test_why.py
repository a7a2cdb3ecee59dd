"""``kubectl bitfusion why``: what is read for an answer, how it is printed, and the exit status."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.pool import slices
from bitfusiond.kubectl_bitfusion import command
from bitfusiond.kubectl_bitfusion.reader import Reader
from bitfusiond.kubectl_bitfusion.target import Family, has_too_few
from bitfusiond.operate.kubectl import KubectlError
from tests.fakes.kubectl import Recorded, forbidden
from tests.fakes.pool import claim, result
from tests.pods import admitted, pod
from tests.unit.core.diagnosis import scenes
from tests.unit.core.diagnosis.scenes import event, injected, node, quota, stored, with_claim
from tests.unit.core.usage.test_usage import pool_slice
from tests.unit.kubectl_bitfusion.conftest import Clusters

HERE = "/api/v1/namespaces/team"
ADMISSION = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{names.MUTATING_CONFIGURATION}"
ENDPOINTS = "/apis/discovery.k8s.io/v1/namespaces/bwki/endpointslices"
REPLICA_SETS = "/apis/apps/v1/namespaces/team/replicasets"


def around(**more: Any) -> Json:
    """A cluster where all is well, but for pods."""
    tokens = {f"{HERE}/secrets/{each}": scenes.secret(each, "team") for each in scenes.SECRETS}
    origin = "/api/v1/namespaces/kube-system/secrets"
    tokens |= {f"{origin}/{each}": scenes.secret(each, "kube-system", origin=None) for each in scenes.SECRETS}
    usual = {
        HERE: {"metadata": {"name": "team"}},
        ADMISSION: scenes.CONFIGURATION,
        ENDPOINTS: scenes.ENDPOINTS,
        f"{HERE}/resourcequotas": [quota(100, 50)],
        f"{HERE}/events": [],
        "/api/v1/nodes/n1": node("n1"),
        f"{HERE}/pods/p/log": "hello\n",
    }
    return usual | tokens | more


def deployment(**spec: Any) -> Json:
    return {
        "metadata": {"name": "app", "uid": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "x"}}, "template": pod(), **spec},
    }


def owned(document: Json, by: str, **metadata: Any) -> Json:
    document["metadata"] |= {"ownerReferences": [{"uid": by}], **metadata}
    return document


REPLICA_SET = owned({"metadata": {"name": "app-1", "uid": "r"}}, "d")


def test_a_pod_that_runs(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster(around(**{f"{HERE}/pods/p": injected(**scenes.RUNNING)}))
    assert command.main(["why", "p"]) == 0
    assert capsys.readouterr().out == (
        "pod p in team\n"
        "ok     it asks for a GPU: auto-management/bitfusion is all\n"
        "ok     it was injected, and has 50 shares (auto-management/status is injected)\n"
        "ok     quota gpus: 50 of 100 shares used, 50 left\n"
        "ok     the scheduler chose node n1\n"
        "ok     its client and its token are in place (populate has ended well)\n"
        "ok     its token is that of the source\n"
        "ok     main runs\n"
        "ok     the plugin of node n1 is well: it offers 1000 shares\n"
        "it runs on its GPUs\n"
    )


def test_a_pod_that_was_not_injected(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    answer = admitted(pod(), "team")
    recorded = cluster(around(**{f"{HERE}/pods/p": stored(pod())}), created=answer)
    assert command.main(["why", "pod/p", "-n", "team"]) == 1
    assert capsys.readouterr().out.splitlines()[-3:] == [
        f"WRONG  the webhook was not asked when it was created ({scenes.MADE})",
        "       -> kubectl delete pod p -n team, and create it again (what made it does so by itself)",
        "1 wrong: begin with the first",
    ]
    (tried,) = recorded.sent
    assert tried["metadata"]["annotations"][names.CLIENT_OS] == "ubuntu18", "the client that the pod itself names"
    assert not [each for each in recorded.asked if "/secrets" in each or "/nodes" in each]


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_as_a_document(cluster: Clusters, capsys: pytest.CaptureFixture[str], form: str) -> None:
    cluster(around(**{f"{HERE}/pods/p": stored({"metadata": {"name": "p"}, "spec": {}})}))
    assert command.main(["why", "p", "-o", form]) == 1
    found = yaml.safe_load(capsys.readouterr().out)
    assert found == {
        "subject": "pod p",
        "namespace": "team",
        "runs": False,
        "findings": [
            {
                "state": "bad",
                "line": "it does not ask for a GPU: it has no annotation auto-management/bitfusion",
                "next": (
                    'put auto-management/bitfusion: "all" into metadata.annotations of the pod, or of the template'
                    " that it is made from"
                ),
            }
        ],
    }


def test_who_may_read_pods_alone_gets_an_answer(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    paths = around(**{f"{HERE}/pods/p": stored(pod())})
    denied = {each: forbidden("x") for each in paths if not each.endswith("/pods/p")}
    words = 'kubectl create: pods is forbidden: User "u" cannot create resource "pods" in API group ""'
    catalogue = {f"/api/v1/namespaces/bwki/configmaps/{names.CATALOGUE_CONFIGMAP}": forbidden("configmaps")}
    cluster({**paths, **denied, **catalogue}, created=KubectlError(words, "Forbidden"))
    assert command.main(["why", "p"]) == 1
    notes = [each for each in capsys.readouterr().out.splitlines() if each.startswith("note")]
    assert notes == [
        "note   may not read the namespace team: ask the operator",
        "note   may not read mutatingwebhookconfigurations: ask the operator",
        "note   may not read endpointslices in bwki: ask the operator",
        "note   may not read what a dry run says (it takes the permission to create pods): ask the operator",
    ]


def test_a_deployment_is_asked_for_its_pods(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    mine = owned(injected(**scenes.RUNNING), "r", name="p")
    cluster(
        around(
            **{
                "deployment/app/team": deployment(),
                REPLICA_SETS: [REPLICA_SET],
                f"{HERE}/pods": [mine, owned(injected(), "another", name="q")],
            }
        )
    )
    assert command.main(["why", "deployment/app"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:2] == ["deployment app in team", "ok     it has 1 pod; this is about p"]
    assert told[-1] == "it runs on its GPUs"


@pytest.mark.parametrize("old", [0, 1])
def test_a_deployment_whose_pods_are_refused(cluster: Clusters, capsys: pytest.CaptureFixture[str], old: int) -> None:
    """Also where pods of an earlier template run on."""
    message = 'Error creating: admission webhook "bwkimua.bitfusion.io" denied the request: spec: no'
    failed = {**event("FailedCreate", message), "involvedObject": {"uid": "r"}}
    document = deployment() | {"status": {"conditions": [{"type": "ReplicaFailure", "status": "True"}]}}
    cluster(
        around(
            **{
                "deployment/app/team": document,
                REPLICA_SETS: [REPLICA_SET],
                f"{HERE}/pods": [owned(injected(**scenes.RUNNING), "r")] * old,
                f"{HERE}/events": [failed, {**failed, "message": "x", "involvedObject": {"uid": "another"}}],
            }
        ),
        created=admitted(pod(), "team"),
    )
    assert command.main(["why", "deployment/app"]) == 1
    told = capsys.readouterr().out
    assert "WRONG  its pods: asked, refused by bwkimua.bitfusion.io: spec: no\n" in told


def test_a_dry_run_of_a_stateful_set_has_volumes_for_its_claims(cluster: Clusters) -> None:
    document = deployment(volumeClaimTemplates=[{"metadata": {"name": "data"}}])
    recorded = cluster(around(**{"statefulset/app/team": document, f"{HERE}/pods": []}))
    assert command.main(["why", "statefulset/app"]) == 1
    (tried,) = recorded.sent
    assert {"name": "data", "emptyDir": {}} in tried["spec"]["volumes"]


@pytest.mark.parametrize(
    ("spec", "status", "too_few"),
    [
        ({"replicas": 2}, {}, True),
        ({"replicas": 1}, {}, False),
        ({"parallelism": 2, "completions": 2}, {}, True),
        ({"parallelism": 2, "completions": 2}, {"succeeded": 1}, False),
        ({"parallelism": 2}, {}, True),
        ({"parallelism": 2}, {"succeeded": 1}, False),
        ({"parallelism": 2, "completions": 2}, {"conditions": [{"type": "Failed", "status": "True"}]}, False),
        ({"parallelism": 2, "completions": 2, "suspend": True}, {}, False),
        ({}, {"desiredNumberScheduled": 2}, True),
        ({}, {"desiredNumberScheduled": 1}, False),
        ({}, {}, False),
    ],
)
def test_whether_pods_are_missing(spec: Json, status: Json, too_few: bool) -> None:
    family = Family({"spec": spec, "status": status}, [], [injected(**scenes.RUNNING), injected(phase="Failed")])
    assert has_too_few(family) is too_few


def test_a_pod_that_waits_for_the_pool(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    message = "0/1 nodes are available: 1 cannot allocate all claims."
    published = pool_slice("gpu-a", "0")
    published["metadata"]["labels"] = dict(slices.LABELS)
    document = with_claim(injected(None, **scenes.unschedulable(message)))
    document["status"]["resourceClaimStatuses"] = [{"name": "bitfusion-0", "resourceClaimName": "c"}]
    resources = "/apis/resource.k8s.io/v1"
    cluster(
        around(
            **{
                f"{HERE}/pods/p": document,
                f"{resources}/resourceslices": [published],
                f"{resources}/resourceclaims": [claim("other", result("gpu-a", "gpu-0", 70))],
                f"{resources}/namespaces/team/resourceclaims/c": {"metadata": {"name": "c", "namespace": "team"}},
            }
        )
    )
    assert command.main(["why", "p"]) == 1
    told = capsys.readouterr().out
    assert f"WRONG  the pool has not what it asks for (50 shares in all): {message}\n" in told
    assert "note   the most that is free on one GPU of the pool is 30 shares, on gpu-a/0\n" in told


def test_the_log_of_a_populate_that_failed_is_read_from_before(
    cluster: Clusters, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {
        "name": "populate",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }
    log = scenes.line(event="failed", message="--tokens: ca.crt: empty")
    document = injected(initContainerStatuses=[failed])
    recorded = cluster(around(**{f"{HERE}/pods/p": document, f"{HERE}/pods/p/log": log}))
    assert command.main(["why", "p"]) == 1
    assert "WRONG  populate failed: --tokens: ca.crt: empty (exit status 1, Error)" in capsys.readouterr().out
    (asked,) = [each for each in recorded.asked if "/log?" in each]
    assert "container=populate" in asked
    assert "previous=true" in asked
    assert "limitBytes=" in asked


def test_of_a_long_log_the_last_words_are_read() -> None:
    class Long(Recorded):
        def run(self, *arguments: str, stdin: str | None = None) -> str:
            """As an API server: the last lines, and of those the first bytes."""
            asked = parse_qs(urlsplit(arguments[-1]).query)
            lines = [*["x" * 2000] * 60, "last words"][-int(asked["tailLines"][0]) :]
            return "\n".join(lines)[: int(asked["limitBytes"][0])]

    log = Reader(Long({})).log("team", "p", "main")
    assert isinstance(log, str)
    assert log.endswith("last words")


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["why", "p"], 1, "there is no pod p in namespace team: `kubectl get pods -n team` lists those"),
        (["why", "deployment/none"], 1, "deployment none: kubectl get: the server could not find"),
        (["why", "a b"], 2, "a b is neither POD nor TYPE/NAME: write for example my-pod or deployment/my-app"),
        (["why", "svc/x"], 2, "a service makes no pods: name a pod, or what makes pods, for example deployment/my-app"),
        (["why", "../secrets/x"], 2, "../secrets/x is neither POD nor TYPE/NAME"),
        (["why", "p?watch=true"], 2, "p?watch=true is neither POD nor TYPE/NAME"),
        (["why"], 2, "the following arguments are required: POD|TYPE/NAME; `kubectl bitfusion why --help` lists"),
        (["why", "p", "-n", "A/B"], 2, "--namespace: 'A/B' is not the name of a namespace"),
        (["why", "p", "-n"], 2, "-n needs a value"),
        (["why", "p", "-o", "xml"], 2, "argument -o/--output: invalid choice: 'xml'"),
        (["what"], 2, "argument COMMAND: invalid choice: 'what'"),
        ([], 2, "the following arguments are required: COMMAND; `kubectl bitfusion --help` lists what is allowed"),
    ],
)
def test_what_cannot_be_answered(
    cluster: Clusters, capsys: pytest.CaptureFixture[str], words: list[str], status: int, told: str
) -> None:
    cluster(around())
    assert command.main(words) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"kubectl bitfusion: {told}")
    assert printed.err.count("\n") == 1


def test_what_makes_pods_in_a_cluster_that_is_not_there(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster({"job/x/team": KubectlError('kubectl get: context "c" does not exist')})
    assert command.main(["why", "job/x"]) == 2
    assert capsys.readouterr().err.startswith("kubectl bitfusion: which cluster is meant is not clear: ")


def test_a_pod_that_may_not_be_read(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster(around(**{f"{HERE}/pods/p": forbidden("pods")}))
    assert command.main(["why", "p"]) == 1
    assert capsys.readouterr().err == "kubectl bitfusion: may not read pods in team: ask the operator\n"


def test_no_sign_of_an_object_reaches_the_terminal(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    document = injected(None, **scenes.unschedulable("\x1b[2Jno\x07 \u202enode"))
    cluster(around(**{f"{HERE}/pods/p": document}))
    for form in ("table", "json", "yaml"):
        assert command.main(["why", "p", "-o", form]) == 1
        out = capsys.readouterr().out
        assert not set(out) & {"\x1b", "\x07", "\u202e"}
    cluster(around(**{f"{HERE}/pods/p": KubectlError("\x1b[2Jno", "Strange")}))
    assert command.main(["why", "p"]) == 1
    assert capsys.readouterr().err == "kubectl bitfusion: cannot read pods in team: ?[2Jno\n"


def test_help_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["why", "--help"], ["status", "-h"], ["check", "--help"]):
        with pytest.raises(SystemExit) as ended:
            command.main(words)
        assert ended.value.code == 0
        assert "--context" in capsys.readouterr().out


def test_the_document_is_ascii(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster(around(**{f"{HERE}/pods/p": injected(None, **scenes.unschedulable("größer"))}))
    assert command.main(["why", "p", "-o", "json"]) == 1
    assert "größer" in json.loads(capsys.readouterr().out)["findings"][3]["line"]


def test_no_name_that_somebody_wrote_leads_elsewhere(cluster: Clusters) -> None:
    """The origin of a copy is an annotation, which people of the namespace can change."""
    name = scenes.SECRETS[0]
    strange = scenes.secret(name, "team", origin=f"..?x=/{name}")
    recorded = cluster(around(**{f"{HERE}/pods/p": injected(**scenes.RUNNING), f"{HERE}/secrets/{name}": strange}))
    assert command.main(["why", "p"]) == 1
    assert not [each for each in recorded.asked if ".." in each]


def test_a_pod_that_runs_costs_few_questions(cluster: Clusters) -> None:
    recorded = cluster(around(**{f"{HERE}/pods/p": injected(**scenes.RUNNING)}))
    assert command.main(["why", "p"]) == 0
    assert len(recorded.asked) == 10, recorded.asked
    assert not [each for each in recorded.asked if each.startswith(("/api/v1/pods", "/api/v1/nodes?"))]
