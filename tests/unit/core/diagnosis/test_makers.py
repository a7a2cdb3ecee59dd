"""A Deployment, a Job and the like without a pod: why there is none."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.diagnosis import makers
from bitfusiond.core.diagnosis.facts import MakerFacts
from bitfusiond.core.diagnosis.finding import State, Unread
from bitfusiond.core.proof import Outcome, Proof
from tests.pods import pod
from tests.unit.core.diagnosis import scenes
from tests.unit.core.diagnosis.scenes import cluster, event, quota

DESCRIBE = "kubectl describe deployment app -n team"
LOOK = "kubectl get endpointslices -n bwki -l kubernetes.io/service-name=bwki-webhook-svc"


def deployment(template: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "app"}, "spec": {"replicas": 1, "template": template or pod(), **spec}}


def facts(document: dict[str, Any] | None = None, **changed: Any) -> MakerFacts:
    usual: dict[str, Any] = {"kind": "deployment", "cluster": cluster(), "trial": scenes.PATCHED}
    return MakerFacts(document=document or deployment(), **(usual | changed))


def bad(of: MakerFacts) -> list[tuple[str, str]]:
    return [(each.line, each.next) for each in makers.diagnose(of) if each.state is State.BAD]


DENIED = (
    'Error creating: admission webhook "bwkimua.bitfusion.io" denied the request:'
    " spec.containers[0].resources.limits[bitfusion.io/gpu-percent]: 101 is not an integer from 1 to 100"
)
QUOTA = 'Error creating: pods "app-x" is forbidden: exceeded quota: gpus, requested: requests.bitfusion.io/gpu=50'
GONE = 'Error creating: Internal error occurred: failed calling webhook "bwkimua.bitfusion.io": no endpoints available'
GUARD = (
    "Error creating: pods \"app-x\" is forbidden: ValidatingAdmissionPolicy 'bitfusiond-pods' with binding"
    " 'bitfusiond-pods' denied request: the pod opted in to GPUs, and bitfusiond's webhook was not asked about it"
)
SECURITY = 'Error creating: pods "app-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot'


@pytest.mark.parametrize(
    ("message", "told", "following"),
    [
        (
            DENIED,
            "its pods: asked, refused by bwkimua.bitfusion.io:"
            " spec.containers[0].resources.limits[bitfusion.io/gpu-percent]: 101 is not an integer from 1 to 100",
            "mend what the message names, and create it again",
        ),
        (
            QUOTA,
            f"its pods are refused: {QUOTA}",
            "wait until pods end, ask for less, or have the quota raised",
        ),
        (
            GUARD,
            "its pods: refused by the policy bitfusiond-pods: the pod opted in to GPUs, and bitfusiond's webhook was not"
            " asked about it",
            "an operator runs: kubectl bitfusion check",
        ),
        (GONE, "its pods: the API server cannot reach bwkimua.bitfusion.io: no endpoints available", LOOK),
        (SECURITY, f"its pods are refused: {SECURITY}", "mend what the message names, and create it again"),
    ],
)
def test_the_last_event_says_why_there_is_no_pod(message: str, told: str, following: str) -> None:
    older = event("FailedCreate", "something else", "2026-11-28T09:00:00Z")
    assert bad(facts(events=[older, event("FailedCreate", message)])) == [(told, following)]


def test_our_own_event_does_too() -> None:
    message = 'admission webhook "bwkimua.bitfusion.io" denied the request: spec: no'
    assert bad(facts(events=[event("BitfusionRefused", message)]))[0][0].endswith("spec: no")


def test_without_an_event_a_dry_run_of_its_pod_says_it() -> None:
    refused = Proof(Outcome.REFUSED, "asked, refused by bitfusiond: spec: no")
    assert bad(facts(trial=refused)) == [
        (
            "its pods (dry run): asked, refused by bitfusiond: spec: no",
            "mend what the message names, and create it again",
        )
    ]


@pytest.mark.parametrize(
    "proof", [scenes.NOT_ASKED, Proof(Outcome.NOT_ASKED, "refused by the policy bitfusiond-pods: not asked")]
)
def test_a_webhook_that_is_not_asked_about_its_pods(proof: Proof) -> None:
    assert bad(facts(trial=proof)) == [
        (f"its pods (dry run): {proof.detail}", "an operator runs: kubectl bitfusion check")
    ]
    plain = deployment({"metadata": {}, "spec": {}})
    told = [each.line for each in makers.diagnose(facts(plain, trial=proof))]
    assert "a pod of it would be stored as it is (dry run)" in told


def test_the_quota_says_what_is_left() -> None:
    of = facts(cluster=cluster(quotas=[quota(50, 50)]), events=[event("FailedCreate", QUOTA)])
    assert "quota gpus: 50 of 50 shares used, 0 left" in [each.line for each in makers.diagnose(of)]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"replicas": 0}, "spec.replicas is 0"),
        ({"suspend": True}, "spec.suspend is true"),
        ({"parallelism": 0}, "spec.parallelism is 0"),
    ],
)
def test_one_that_wants_no_pods(changed: dict[str, Any], why: str) -> None:
    assert bad(facts(deployment(**changed))) == [(f"it wants no pods: {why}", "kubectl edit deployment app -n team")]


def test_an_annotation_that_stands_too_high() -> None:
    document = deployment({"metadata": {}, "spec": {}})
    document["metadata"]["annotations"] = {names.MANAGEMENT: "all"}
    assert bad(facts(document))[0][1] == "put it into spec.template.metadata.annotations"


def test_a_cron_job_has_its_template_deeper() -> None:
    job = {"metadata": {"name": "app"}, "spec": {"jobTemplate": {"spec": {"template": pod()}}}}
    assert makers.diagnose(facts(job))[0].line == "it asks for a GPU: auto-management/bitfusion is all"


def test_one_of_which_nothing_says_why() -> None:
    assert bad(facts()) == [("it has made no pod, and nothing says why", DESCRIBE)]
    unread = facts(events=Unread("events in team"), trial=Unread("what a dry run says"))
    told = [each.line for each in makers.diagnose(unread) if each.state is State.UNKNOWN]
    assert told == [
        "may not read events in team: ask the operator",
        "may not read what a dry run says: ask the operator",
    ]


def test_a_job_that_has_done_its_work_needs_no_pod() -> None:
    done = deployment() | {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}
    (finding,) = makers.diagnose(facts(done))
    assert (finding.state, finding.line) == (State.GOOD, "it has done its work, and its pods are gone")


def test_a_job_that_has_failed_says_why() -> None:
    condition = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "too often"}
    failed = deployment() | {"status": {"conditions": [condition]}}
    told = "it failed, and its pods are gone: BackoffLimitExceeded: too often"
    assert bad(facts(failed)) == [(told, DESCRIBE)]


def test_a_cron_job_between_two_runs() -> None:
    job = {"metadata": {"name": "app"}, "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": pod()}}}}
    assert bad(facts(job)) == [("it has no pod now: its schedule is 0 3 * * *", DESCRIBE)]
