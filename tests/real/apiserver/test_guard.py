"""The policy of manifests/guard about pods, by a real API server that nobody's webhook stands beside."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from bitfusiond.core import names, proof
from bitfusiond.core.objects import Pod
from bitfusiond.core.proof import Outcome
from tests import DATA, EXAMPLES, MANIFESTS
from tests.fakes.processes import wait_until
from tests.pods import admitted, container, example, pod
from tests.real.harness.apiserver import APIServer, Refused
from tests.real.harness.programs import since

TEAM = "guarded-team"
POLICIES = "/apis/admissionregistration.k8s.io/v1"
NOT_ASKED = "bitfusiond's webhook was not asked about it"
DOCUMENTED = sorted(path.stem for path in EXAMPLES.glob("*.yaml") if path.stem != "quota")
OTHERS = sorted(path.stem for path in (DATA / "pods").glob("*.yaml"))


def dry_run(api: APIServer, document: Pod, namespace: str = TEAM) -> str:
    """What the API server says against the pod; empty where it takes it."""
    try:
        api.create(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", document)
    except Refused as refused:
        return f"{refused.code}: {refused}"
    return ""


@pytest.fixture(scope="module")
def guarded(api: APIServer) -> Iterator[Callable[[Pod], str]]:
    """What the API server says against a pod in a namespace of users."""
    since(30, api.minor, "ValidatingAdmissionPolicy")
    api.namespace(TEAM)
    policy, binding = yaml.safe_load_all((MANIFESTS / "guard" / "pods.yaml").read_text())
    for document in (policy, binding):
        api.put(document)
    wait_until(lambda: NOT_ASKED in dry_run(api, pod()), "the policy")
    yield lambda document: dry_run(api, document)
    for plural in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        api.delete(f"{POLICIES}/{plural}/{policy['metadata']['name']}")
    wait_until(lambda: not dry_run(api, pod()), "no policy any more")


def _given(name: str) -> Pod:
    return example(name) if name in DOCUMENTED else yaml.safe_load((DATA / "pods" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("mode", ["all", "ALL", "injection", "yes", "perhaps"])
def test_a_pod_that_opted_in_and_was_not_injected_is_refused_with_what_to_do(
    guarded: Callable[[Pod], str], mode: str
) -> None:
    said = guarded(pod(mode=mode))
    assert said.startswith("422: ")
    assert NOT_ASKED in said
    assert "it would run without a GPU. Create it again in a moment" in said
    assert "just verify says what is wrong" in said


@pytest.mark.parametrize("name", [*DOCUMENTED, *OTHERS])
def test_a_pod_is_refused_before_its_injection_and_taken_after_it(guarded: Callable[[Pod], str], name: str) -> None:
    document = _given(name)
    document["metadata"].pop("namespace", None)
    volumes = document["spec"].setdefault("volumes", [])
    present = {volume["name"] for volume in volumes}
    volumes += [
        {"name": name, "emptyDir": {}} for name in ("code", "download") if name not in present
    ]  # some mount them
    said = guarded(document)
    # The API server has words of its own for requests of a resource that has no limit.
    assert NOT_ASKED in said or "Limit must be set for non overcommitable resources" in said
    assert guarded(admitted(document)) == ""


@pytest.mark.parametrize(
    "annotations",
    [{names.MANAGEMENT: "none"}, {names.MANAGEMENT: "No"}, {names.MANAGEMENT: ""}, {}, None],
    ids=["none", "no", "empty", "others alone", "no annotations"],
)
def test_a_pod_that_did_not_opt_in_is_nobodys_business(
    guarded: Callable[[Pod], str], annotations: dict[str, str] | None
) -> None:
    document = pod(container({}))
    document["metadata"]["annotations"] = annotations
    assert guarded(document) == ""


@pytest.mark.parametrize("variant", [lambda each: each, proof.broken], ids=["right", "wrong"])
def test_the_proof_tells_a_refusal_of_the_policy_from_one_of_the_webhook(
    guarded: Callable[[Pod], str], variant: Callable[[Pod], Pod]
) -> None:
    answer = proof.judge_error(guarded(variant(proof.pod(TEAM, proof.client_of(None)))))
    assert answer.outcome is Outcome.NOT_ASKED
    assert answer.detail.startswith("refused by the policy bitfusiond-pods: the pod opted in to GPUs")


def test_the_pod_that_the_proof_has_left_alone_is_taken(guarded: Callable[[Pod], str]) -> None:
    assert guarded(proof.plain(proof.pod(TEAM, proof.client_of(None)))) == ""


def test_a_status_written_by_hand_opens_nothing(guarded: Callable[[Pod], str]) -> None:
    said = guarded(pod(annotations={names.STATUS: "injected"}))
    assert "container main still asks for a bitfusion.io/gpu-* resource: create it from its own manifest" in said
    asks_for_none = pod(container({"cpu": "1"}), annotations={names.STATUS: "injected"})
    assert "no container has bitfusion.io/gpu: create it" in guarded(asks_for_none)
    assert NOT_ASKED in guarded(pod(annotations={names.STATUS: "almost"}))


def test_more_than_status_and_resources_is_not_its_business(guarded: Callable[[Pod], str]) -> None:
    """That parts are there is said by /validate, which knows what they are."""
    made = admitted(pod())
    made["spec"]["containers"][0]["volumeMounts"] = []
    assert guarded(made) == ""


def test_an_init_container_counts_as_any_other(guarded: Callable[[Pod], str]) -> None:
    document = pod(container({}), initContainers=[{**container(), "name": "train"}])
    injected = admitted(document)
    assert guarded(injected) == ""
    spoilt: dict[str, Any] = copy.deepcopy(injected)
    spoilt["spec"]["initContainers"][-1]["resources"]["limits"] = {names.GPU_AMOUNT: "1"}
    spoilt["spec"]["initContainers"][-1]["resources"].pop("requests")
    assert "container train still asks" in guarded(spoilt)


def test_pods_of_exempt_namespaces_and_mirrors_are_left_alone(api: APIServer, guarded: Callable[[Pod], str]) -> None:
    assert dry_run(api, pod(), names.KUBE_SYSTEM) == ""
    api.namespace("nothing-to-do-with-us")
    api.merge("/api/v1/namespaces/nothing-to-do-with-us", {"metadata": {"labels": {names.ADMISSION_LABEL: "ignore"}}})
    wait_until(lambda: dry_run(api, pod(), "nothing-to-do-with-us") == "", "the label")
    assert guarded(pod(annotations={names.MIRROR: "x"}, nodeName="n")) == ""
