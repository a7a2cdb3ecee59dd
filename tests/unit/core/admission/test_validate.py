"""The second look: a pod that opted in carries what it needs, and fits a node."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Allowed, Refusal, Untouched
from bitfusiond.core.admission.validate import Largest, Verdict, validate
from tests import strategies
from tests.pods import NAMESPACE, admitted, container, pod, rules

Pod = dict[str, Any]
LARGEST = {names.GPU: 1000}


def _validate(given_pod: Pod, largest: Largest | None = None, namespace: str = NAMESPACE) -> Verdict:
    return validate(given_pod, namespace, rules(), largest)


@given(strategies.pods())
def test_what_mutate_admits_is_valid(given_pod: Pod) -> None:
    assert isinstance(_validate(admitted(given_pod)), Allowed)


@given(strategies.pods(opted_in=False))
def test_a_pod_that_never_opted_in_is_left_alone(given_pod: Pod) -> None:
    assert isinstance(_validate(given_pod, LARGEST), Untouched)


def _without(change: str) -> Pod:
    broken = copy.deepcopy(admitted(pod(container(), container(name="second"))))
    main = broken["spec"]["containers"][1]
    match change:
        case "status":
            del broken["metadata"]["annotations"][names.STATUS]
        case "populate":
            broken["spec"]["initContainers"] = []
        case "mounts":
            main["volumeMounts"].pop()
        case "variable":
            main["env"] = []
        case "command":
            main["command"] = ["python", "x.py"]
        case "shares":
            for each in broken["spec"]["containers"]:
                del each["resources"]["limits"][names.GPU]
        case "requests":
            main["resources"]["limits"][names.GPU_AMOUNT] = "1"
    return broken


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("status", "metadata.annotations[auto-management/status] is not injected"),
        ("populate", "spec.initContainers has no populate"),
        ("mounts", "spec.containers[1] has no mount at /etc/bitfusion/tls/ca.crt"),
        ("variable", "spec.containers[1] has no LD_LIBRARY_PATH"),
        ("command", "spec.containers[1] has no /usr/bin/bitfusion in its command"),
        ("shares", "no container has bitfusion.io/gpu"),
        ("requests", "spec.containers[1].resources still asks for bitfusion.io/gpu-amount"),
    ],
)
def test_a_pod_that_lost_a_part_is_refused_with_the_part(change: str, words: str) -> None:
    verdict = _validate(_without(change))
    assert isinstance(verdict, Refusal)
    assert len(verdict.problems) == 1
    assert verdict.problems[0].startswith("the pod opted in but was not injected, or another webhook took parts away: ")
    assert words in verdict.problems[0]


def test_a_pod_that_was_never_mutated_is_refused() -> None:
    assert isinstance(_validate(pod()), Refusal)


def _asking(shares: int, amount: int = 1) -> Pod:
    return admitted(pod(container({names.GPU_AMOUNT: amount, names.GPU_PERCENT: shares})))


@pytest.mark.parametrize("largest", [None, LARGEST])
def test_a_pod_that_fits_one_node_or_meets_no_known_node_is_allowed(largest: Largest | None) -> None:
    assert isinstance(_validate(_asking(100, 10), largest), Allowed)


def test_more_than_any_one_node_has_is_refused() -> None:
    """The amount counts, not only the name of the resource."""
    verdict = _validate(_asking(91, 11), LARGEST)
    assert isinstance(verdict, Refusal)
    assert verdict.problems == [
        "Resource validation failed: the pod asks for 1001 of bitfusion.io/gpu, the largest node has 1000: ask for less"
    ]


def test_a_pod_waits_where_nodes_have_none_for_the_moment() -> None:
    """A kubelet that starts writes 0 until the plugin has registered again."""
    assert isinstance(_validate(_asking(50), {names.GPU: 0}), Allowed)


def test_a_resource_that_no_node_has_is_refused() -> None:
    verdict = _validate(_asking(50), {})
    assert isinstance(verdict, Refusal)
    assert verdict.problems == [
        "Resource validation failed: no node has bitfusion.io/gpu: its device plugin must run on one"
    ]


def test_containers_count_together_and_init_containers_alone() -> None:
    """Init containers count as the scheduler counts them; sidecars count with the containers."""
    half = {names.GPU_AMOUNT: "5", names.GPU_PERCENT: "100"}
    together = admitted(pod(container(half), container(half, name="two"), initContainers=[container(half, name="i")]))
    assert isinstance(_validate(together, LARGEST), Allowed)
    sidecar = container(half, name="i", restartPolicy="Always")
    assert isinstance(
        _validate(admitted(pod(container(half), container(half, name="two"), initContainers=[sidecar])), LARGEST),
        Refusal,
    )


@pytest.mark.parametrize("namespace", ["kube-system", "bwki"])
def test_namespaces_of_the_cluster_are_left_alone(namespace: str) -> None:
    assert _validate(pod(), namespace=namespace) == Untouched("exempt namespace")


def test_a_status_without_an_annotation_is_still_held_against_the_nodes() -> None:
    alone = _asking(100, 11)
    del alone["metadata"]["annotations"][names.MANAGEMENT]
    assert isinstance(_validate(alone, LARGEST), Refusal)
    assert isinstance(_validate(alone), Allowed)
