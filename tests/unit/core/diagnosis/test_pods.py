"""Each cause that keeps a pod from its GPUs: the line that says so, and the next command."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.admission.template import IMAGE_VOLUME
from bitfusiond.core.diagnosis import pods
from bitfusiond.core.diagnosis.facts import PodFacts
from bitfusiond.core.diagnosis.finding import Finding, State, Unread, is_bad
from tests.fakes.pool import claim, resource_slice, result
from tests.unit.core.diagnosis import scenes
from tests.unit.core.diagnosis.scenes import (
    bad,
    cluster,
    event,
    facts,
    injected,
    lines,
    node,
    quota,
    restarted,
    state,
    unschedulable,
    with_claim,
)

GPU_ASKED = "it asks for a GPU: auto-management/bitfusion is all"
INJECTED = "it was injected, and has 50 shares (auto-management/status is injected)"
CHECK = "an operator runs: kubectl bitfusion check"
DESCRIBE = "kubectl describe pod p -n team"
AGAIN = "kubectl delete pod p -n team, and create it again (what made it does so by itself)"


# --- a pod that runs --------------------------------------------------------------------------------------------------


def test_a_pod_that_runs_has_good_findings_alone_in_the_order_of_its_way() -> None:
    found = pods.diagnose(facts(injected(**scenes.RUNNING), cluster=cluster(quotas=[quota(100, 50)])))
    assert [(each.state, each.line) for each in found] == [
        (State.GOOD, GPU_ASKED),
        (State.GOOD, INJECTED),
        (State.GOOD, "quota gpus: 50 of 100 shares used, 50 left"),
        (State.GOOD, "the scheduler chose node n1"),
        (State.GOOD, "its client and its token are in place (populate has ended well)"),
        (State.GOOD, "its token is that of the source"),
        (State.GOOD, "main runs"),
        (State.GOOD, "the plugin of node n1 is well: it offers 1000 shares"),
    ]
    assert not any(each.next for each in found)


def test_a_pod_that_has_done_its_work_is_well() -> None:
    ended = [state("main", "terminated", exitCode=0, reason="Completed")]
    done = injected(phase="Succeeded", initContainerStatuses=[scenes.POPULATED], containerStatuses=ended)
    assert bad(facts(done)) == []
    assert "main has ended well" in lines(facts(done))


def test_what_has_become_of_node_claim_and_token_since_is_nothing_to_a_pod_that_has_ended() -> None:
    ended = [state("main", "terminated", exitCode=0, reason="Completed")]
    done = injected(phase="Succeeded", initContainerStatuses=[scenes.POPULATED], containerStatuses=ended)
    gone = event("BitfusionServerGone", "GPU server gpu-a does not answer")
    since: dict[str, Any] = {
        "node": node("n1", "0"),
        "copies": dict.fromkeys(scenes.SECRETS),
        "claims": {"c": None},
        "events": [gone],
    }
    assert bad(facts(with_claim(done), **since)) == []
    done["status"] |= {"phase": "Failed", "containerStatuses": [state("main", "terminated", exitCode=3)]}
    ends = [("main ended: exit status 3, no reason given", "kubectl logs p -n team -c main")]
    assert bad(facts(with_claim(done), **since)) == ends


def test_a_sidecar_that_the_kubelet_ended_takes_nothing_from_a_pod_that_has_succeeded() -> None:
    ended = [state("main", "terminated", exitCode=0), state("side", "terminated", exitCode=143, reason="Error")]
    done = injected(phase="Succeeded", initContainerStatuses=[scenes.POPULATED], containerStatuses=ended)
    done["spec"]["containers"].append({"name": "side", "image": "i"})
    assert bad(facts(done)) == []


def test_a_quota_that_is_used_up_is_nothing_against_a_pod_that_is_counted_in_it() -> None:
    of = facts(injected(**scenes.RUNNING), cluster=cluster(quotas=[quota(50, 50)]))
    assert Finding(
        State.UNKNOWN, "quota gpus: 50 of 50 shares used, 0 left", "kubectl describe quota gpus -n team"
    ) in pods.diagnose(of)
    assert bad(of) == []


def test_a_claim_says_which_gpus_the_pod_was_given() -> None:
    of = facts(with_claim(injected(**scenes.RUNNING)), claims={"c": claim("c", result("gpu-a", "gpu-1", 50))})
    assert "it was given 50 shares of GPU 1 of gpu-a (claim c)" in lines(of, State.GOOD)
    assert bad(of) == []


def test_a_client_that_is_mounted_needs_no_populate() -> None:
    mounted = injected(**{**scenes.RUNNING, "initContainerStatuses": []})
    mounted["spec"] |= {"initContainers": [], "volumes": [{"name": IMAGE_VOLUME, "image": {"reference": scenes.IMAGE}}]}
    of = facts(mounted, copies={}, sources={})
    assert f"its client is mounted from the image {scenes.IMAGE}" in lines(of)
    assert bad(of) == []


def test_shares_and_a_status_that_somebody_wrote_are_no_injection() -> None:
    document = scenes.stored({"metadata": {"name": "p", "annotations": {names.STATUS: names.STATUS_INJECTED}}})
    document["spec"] = {"containers": [{"name": "main", "resources": {"limits": {names.GPU: "50"}}}]}
    assert not pods.is_injected(document)
    (told,) = [each for each, _ in bad(facts(document)) if names.STATUS in each]
    assert told == f"it has the annotation {names.STATUS} without what the webhook adds"


# --- not placed -------------------------------------------------------------------------------------------------------


def test_no_node_has_the_shares() -> None:
    message = "0/1 nodes are available: 1 Insufficient bitfusion.io/gpu."
    other = injected()
    other["metadata"]["name"] = "other"
    of = facts(injected(None, **unschedulable(message)), nodes=[node("n1", "80")], node_pods=[other])
    assert bad(of) == [(f"no node has the 50 shares that it asks for: {message}", "kubectl bitfusion status")]
    assert "the most that is free on one node is 30 of 80 shares, on n1" in lines(of)


def test_no_node_offers_any() -> None:
    message = "0/1 nodes are available: 1 Insufficient bitfusion.io/gpu."
    of = facts(injected(None, **unschedulable(message)), nodes=[node("n1", "0")])
    assert bad(of)[1] == (
        "no node offers bitfusion.io/gpu: its plugin does not run, or no Bitfusion server answers",
        CHECK,
    )


def test_the_pool_is_full_and_one_of_its_servers_is_gone() -> None:
    message = "0/1 nodes are available: 1 cannot allocate all claims."
    full = claim("c", result("gpu-a", "gpu-0", 80))
    gone = resource_slice("gpu-b", "0")
    taint = {"key": names.UNREACHABLE, "value": "true", "effect": "NoSchedule", "timeAdded": scenes.MADE}
    gone["spec"]["devices"][0]["taints"] = [taint]
    of = facts(
        with_claim(injected(None, **unschedulable(message))),
        all_claims=[full],
        slices=[resource_slice("gpu-a", "0"), gone],
    )
    assert bad(of) == [(f"the pool has not what it asks for (50 shares in all): {message}", "kubectl bitfusion status")]
    assert "the most that is free on one GPU of the pool is 20 shares, on gpu-a/0" in lines(of)
    down = f"GPU server gpu-b ([2001:db8::2]:56001) does not answer since {scenes.MADE}: no new pod goes there"
    assert down in lines(of)


def test_no_server_is_published() -> None:
    message = "0/1 nodes are available: 1 cannot allocate all claims."
    of = facts(with_claim(injected(None, **unschedulable(message))))
    assert bad(of)[1] == ("no server of the pool is published", CHECK)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.",
            "no node takes it, and not for want of GPUs: 0/1 nodes are available: 1 node(s) had untolerated taint"
            " {a: b}.",
        ),
        (
            "0/1 nodes are available: 1 Insufficient bitfusion.io/gpu-amount.",
            "no node will ever have bitfusion.io/gpu-amount: 0/1 nodes are available: 1 Insufficient"
            " bitfusion.io/gpu-amount.",
        ),
    ],
)
def test_the_scheduler_has_another_reason(message: str, told: str) -> None:
    assert bad(facts(injected(None, **unschedulable(message)))) == [(told, DESCRIBE)]


def test_a_pod_that_a_queue_holds_back() -> None:
    document = injected(None)
    document["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    told = "it waits behind scheduling gates: kueue.x-k8s.io/admission"
    assert bad(facts(document)) == [(told, f"whoever set them takes them away: {DESCRIBE}")]


def test_a_pod_that_the_scheduler_has_not_looked_at() -> None:
    told = "the scheduler has not placed it yet: it gives no reason"
    assert bad(facts(injected(None))) == [(told, DESCRIBE)]


def test_a_claim_that_cannot_be_made() -> None:
    message = 'PodResourceClaim bitfusion-0: resource claim template "bitfusion-1": not found'
    events = [event("FailedResourceClaimCreation", message)]
    of = facts(with_claim(injected(None)), events=events)
    assert (f"no claim on the pool could be made for it: {message}", "kubectl delete pod p -n team") in bad(of)


# --- not filled -------------------------------------------------------------------------------------------------------


def waiting(*statuses: dict[str, Any], log: str | Unread = "", events: list[Any] | None = None) -> PodFacts:
    document = injected(initContainerStatuses=list(statuses), containerStatuses=[state("main", "waiting")])
    return facts(document, logs={"populate": log}, events=events or [])


LOGS = "kubectl logs p -n team -c populate"


def test_populate_is_still_copying() -> None:
    found = bad(waiting(state("populate", "running", startedAt=scenes.MADE)))
    assert found == [(f"populate still copies the client, since {scenes.MADE}", f"wait; {LOGS}")]


def test_populate_failed_and_its_own_log_says_why() -> None:
    failed = {
        "name": "populate",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }
    log = "\n".join([scenes.line(event="copying"), scenes.line(event="failed", message="--tokens: ca.crt: empty"), ""])
    assert bad(waiting(failed, log=log)) == [("populate failed: --tokens: ca.crt: empty (exit status 1, Error)", LOGS)]
    assert bad(waiting(failed, log=Unread("logs of pods")))[0][0] == (
        "populate failed: exit status 1, Error; may not read logs of pods: ask the operator"
    )


def test_populate_that_tries_again_has_not_failed_yet() -> None:
    of = waiting(restarted("populate", "running", startedAt=scenes.MADE))
    assert bad(of) == [(f"populate still copies the client, since {scenes.MADE}", f"wait; {LOGS}")]
    assert "populate restarted 2 times, last: exit status 1, Error" in lines(of, State.UNKNOWN)


def test_populate_ran_out_of_memory() -> None:
    failed = state("populate", "terminated", exitCode=137, reason="OOMKilled")
    assert bad(waiting(failed)) == [("populate failed: exit status 137, OOMKilled", LOGS)]


def test_an_image_that_cannot_be_pulled() -> None:
    stuck = state("populate", "waiting", reason="ImagePullBackOff", message="Back-off pulling image")
    told = f"the image {scenes.IMAGE} of populate cannot be pulled (ImagePullBackOff): Back-off pulling image"
    assert bad(waiting(stuck)) == [(told, DESCRIBE)]
    own = state("main", "waiting", reason="ErrImagePull")
    document = injected(initContainerStatuses=[scenes.POPULATED], containerStatuses=[own])
    assert bad(facts(document)) == [("the image i of main cannot be pulled (ErrImagePull)", DESCRIBE)]


def test_an_image_volume_that_cannot_be_had() -> None:
    document = injected(containerStatuses=[state("main", "waiting", reason="ContainerCreating")])
    document["spec"] |= {
        "initContainers": [],
        "volumes": [{"name": IMAGE_VOLUME, "image": {"reference": scenes.IMAGE}}],
    }
    message = f'Failed to pull image "{scenes.IMAGE}": not found'
    of = facts(document, events=[event("Failed", message)], copies={}, sources={})
    assert bad(of)[0] == (f"the image {scenes.IMAGE}, which holds its client, cannot be had: {message}", DESCRIBE)


def test_a_secret_that_is_gone() -> None:
    message = f'MountVolume.SetUp failed for volume "v" : secret "{scenes.SECRETS[0]}" not found'
    of = waiting(state("populate", "waiting", reason="PodInitializing"), events=[event("FailedMount", message)])
    again = "create the pod again; if it lasts, an operator runs: kubectl bitfusion check"
    assert bad(of) == [(f"a volume cannot be mounted: {message}", again)]


def test_a_claim_that_the_node_cannot_prepare() -> None:
    message = "NodePrepareResources failed for ResourceClaim c: connection refused"
    of = waiting(events=[event("FailedPrepareDynamicResources", message)])
    assert bad(of)[0] == (f"its node could not prepare its claim: {message}", DESCRIBE)


def test_an_evicted_pod() -> None:
    document = injected(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage.")
    told = "its node evicted it: The node was low on resource: ephemeral-storage."
    assert bad(facts(document)) == [(told, DESCRIBE)]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            {"reason": "UnexpectedAdmissionError", "message": "Allocate failed due to no healthy devices present"},
            "it failed: UnexpectedAdmissionError: Allocate failed due to no healthy devices present",
        ),
        (
            {"reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the specified deadline"},
            "it failed: DeadlineExceeded: Pod was active on the node longer than the specified deadline",
        ),
        ({"message": "Pod was rejected"}, "it failed: Pod was rejected"),
        ({}, "it failed; the last word about it: nothing says why"),
        (
            {"phase": "Unknown", "reason": "NodeLost", "message": "Node n1 is unresponsive"},
            "its node has said nothing for a while: NodeLost: Node n1 is unresponsive",
        ),
    ],
)
def test_a_pod_that_failed_as_a_whole_says_what_its_status_says(status: dict[str, Any], told: str) -> None:
    assert bad(facts(injected(**{"phase": "Failed", **status}))) == [(told, DESCRIBE)]


def test_a_token_that_is_missing_empty_stale_or_without_a_source() -> None:
    name, running = scenes.SECRETS[1], injected(**scenes.RUNNING)
    usual = {each: scenes.secret(each, "team") for each in scenes.SECRETS}
    sources = {each: scenes.secret(each, "kube-system", origin=None) for each in scenes.SECRETS}
    back = "create the pod again, which brings it back; if it lasts: kubectl bitfusion check"
    assert bad(facts(running, copies={**usual, name: None})) == [
        (f"the token Secret {name} is not in namespace team", back)
    ]
    empty = {**usual[name], "data": {}}
    assert bad(facts(running, copies={**usual, name: empty}))[0][0] == (
        f"the token Secret {name} has nothing under client.yaml"
    )
    stale = scenes.secret(name, "team", "older")
    assert bad(facts(running, copies={**usual, name: stale}))[0][0] == (
        f"the token Secret {name} in team is not what its source kube-system/{name} holds"
    )
    found = bad(facts(running, sources={**sources, name: None}))
    assert found[0][0].startswith(f"the source of its token is gone: Secret kube-system/{name}")
    assert found[0][1] == "an operator runs: just tokens DIR"


def test_a_token_of_the_namespaces_own_is_compared_with_nothing() -> None:
    own = {each: scenes.secret(each, "team", "its own", origin=None) for each in scenes.SECRETS}
    of = facts(injected(**scenes.RUNNING), copies=own)
    assert bad(of) == []
    assert lines(of, State.UNKNOWN) == [
        f"the token Secret {each} is none of our copies, but the namespace's own: it is used as it is"
        for each in scenes.SECRETS
    ]
    assert "its token is that of the source" not in lines(of)


# --- what may not be read ---------------------------------------------------------------------------------------------


def test_what_may_not_be_read_is_said_and_the_rest_goes_on() -> None:
    of = facts(
        injected(**scenes.RUNNING),
        cluster=cluster(quotas=Unread("resourcequotas in team")),
        node=Unread("nodes"),
        copies={each: Unread("secrets in team") for each in scenes.SECRETS},
        logs={"main": Unread("logs of pods")},
        events=Unread("events in team"),
    )
    assert lines(of, State.UNKNOWN) == [
        "may not read resourcequotas in team: ask the operator",
        "may not read secrets in team: ask the operator",
        "may not read logs of pods: ask the operator",
        "may not read nodes: ask the operator",
    ]
    assert "main runs" in lines(of)
    assert not is_bad(pods.diagnose(of)), "what cannot be seen is not wrong"


def test_a_source_that_may_not_be_read() -> None:
    secrets = {each: Unread("secrets in kube-system") for each in scenes.SECRETS}
    of = facts(injected(**scenes.RUNNING), sources=secrets)
    assert lines(of, State.UNKNOWN) == ["may not read secrets in kube-system: ask the operator"]


def test_something_that_failed_to_be_read_has_its_reason() -> None:
    of = facts(injected(**scenes.RUNNING), node=Unread("nodes", "it was slow"))
    assert lines(of, State.UNKNOWN) == ["cannot read nodes: it was slow"]


# --- which of several -------------------------------------------------------------------------------------------------


def test_the_pod_to_look_at_is_the_newest_that_does_not_run() -> None:
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    found = [_named("a", "1", **ready), _named("b", "2"), _named("c", "3"), _named("d", "4", **ready)]
    assert pods.worst(found)["metadata"]["name"] == "c"
    assert pods.worst([found[0], found[3]])["metadata"]["name"] == "d"


def test_what_an_earlier_try_left_behind_is_not_looked_at() -> None:
    ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    ended = [_named("failed", "2", phase="Failed"), _named("done", "3", phase="Succeeded")]
    assert pods.worst([_named("a", "1", **ready), *ended])["metadata"]["name"] == "a"
    assert pods.worst(ended)["metadata"]["name"] == "done"


def _named(name: str, at: str, **status: Any) -> dict[str, Any]:
    document = injected(**status)
    document["metadata"] |= {"name": name, "creationTimestamp": at}
    return document
