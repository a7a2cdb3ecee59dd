"""matchConditions of the overlay community: we are asked about the pods on which the core has a word to say, no others.

cel-python evaluates them, an implementation that is not the API server's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from celpy import celtypes
from celpy.adapter import json_to_cel
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core import names
from bitfusiond.core.admission import mutate, validate
from bitfusiond.core.admission.decision import Untouched
from tests import DATA, pods, strategies
from tests.pods import NAMESPACE, Pod
from tests.unit.manifests import overlays

MUTATING = ("MutatingWebhookConfiguration", "bwki-webhook-cfg")
VALIDATING = ("ValidatingWebhookConfiguration", "validation.bitfusion.io-cfg")
NONES = ("none", "None", "n", "NO", "false", "oFF", "")


def lower_ascii(text: celtypes.StringType) -> celtypes.StringType:
    """Of Kubernetes' CEL libraries ("extended strings"); cel-python has the language's own functions only."""
    return celtypes.StringType("".join(each.lower() if each.isascii() else each for each in text))


@cache
def _condition(kind: str, name: str) -> celpy.Runner:
    (webhook,) = overlays.one(overlays.overlay("community"), kind, name)["webhooks"]
    (condition,) = webhook["matchConditions"]
    environment = celpy.Environment()
    program = environment.compile(condition["expression"])
    return environment.program(program, functions={"lowerAscii": lower_ascii})


def asked(configuration: tuple[str, str], pod: Pod) -> bool:
    """Whether the API server asks. Raises CELEvalError where it would refuse the pod for a failed condition."""
    answer = _condition(*configuration).evaluate({"object": json_to_cel(pod)})
    assert isinstance(answer, celtypes.BoolType)
    return bool(answer)


def concerns_mutate(pod: Pod) -> bool:
    return not isinstance(mutate.mutate(pod, NAMESPACE, pods.rules()), Untouched)


def concerns_validate(pod: Pod) -> bool:
    return not isinstance(validate.validate(pod, NAMESPACE, pods.rules(), None), Untouched)


def annotated(value: str | None, *containers: Pod, status: str | None = None, **spec: Any) -> Pod:
    annotations = {names.MANAGEMENT: value, names.STATUS: status}
    found = pods.pod(*(containers or (asks_for_cpu(),)), **spec)
    found["metadata"]["annotations"] = {key: given for key, given in annotations.items() if given is not None}
    return found


def asks_for_cpu() -> Pod:
    return pods.container({"cpu": "1", "vendor.io/gpu-amount": "1", names.GPU: "50"})


@pytest.mark.parametrize("file", sorted((DATA / "pods").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_api_server_asks_about_every_pod_that_we_mutate(file: Path) -> None:
    pod = yaml.safe_load(file.read_text())
    assert concerns_mutate(pod)
    assert asked(MUTATING, pod)
    assert asked(VALIDATING, pods.admitted(pod))


@pytest.mark.parametrize("name", ["pod", "pod-memory", "pod-filter", "pod-injection", "deployment", "job"])
def test_and_about_every_example(name: str) -> None:
    assert asked(MUTATING, pods.example(name))
    assert asked(VALIDATING, pods.admitted(pods.example(name)))


@pytest.mark.slow
@given(strategies.pods())
def test_and_about_any_pod_that_opted_in(pod: Pod) -> None:
    assert asked(MUTATING, pod)
    assert asked(VALIDATING, pods.admitted(pod))


@pytest.mark.slow
@given(strategies.pods(opted_in=False))
def test_a_pod_that_did_not_opt_in_is_asked_about_for_its_gpu_resources_alone(pod: Pod) -> None:
    assert not concerns_mutate(pod)
    assert asked(MUTATING, pod)  # the strategy gives every pod a container with gpu-amount
    for group in ("containers", "initContainers"):
        for container in pod["spec"].get(group, ()):
            for section in container["resources"].values():
                for key in names.REQUEST_RESOURCES & section.keys():
                    del section[key]
    assert not asked(MUTATING, pod)
    assert not asked(VALIDATING, pod)


@given(st.sampled_from([*NONES, "all", "Y", "injection", "On"]) | st.text(max_size=6))
def test_nobody_is_let_through_unasked_whatever_the_annotation_says(value: str) -> None:
    pod = annotated(value, pods.container())
    for container in pod["spec"]["containers"]:
        container["resources"] = {}
    assert asked(MUTATING, pod) == concerns_mutate(pod)
    assert asked(VALIDATING, pod) == concerns_validate(pod)


@pytest.mark.parametrize("value", [None, *NONES])
def test_without_the_annotation_and_without_our_resources_we_never_hear_of_a_pod(value: str | None) -> None:
    pod = annotated(value)
    assert not asked(MUTATING, pod)
    assert not asked(VALIDATING, pod)


@pytest.mark.parametrize("key", sorted(names.REQUEST_RESOURCES))
@pytest.mark.parametrize("section", ["limits", "requests"])
@pytest.mark.parametrize("group", ["containers", "initContainers"])
def test_each_of_our_resources_is_enough_to_be_asked(key: str, section: str, group: str) -> None:
    pod = annotated(None)
    pod["spec"][group] = [{"name": "first"}, {"name": "asks", "resources": {section: {"cpu": "1", key: "1"}}}]
    assert asked(MUTATING, pod)


def test_a_pod_that_says_it_was_injected_is_looked_at_whatever_else_it_says() -> None:
    for value in (None, "none", "all"):
        pod = annotated(value, status=names.STATUS_INJECTED)
        assert concerns_validate(pod)
        assert asked(VALIDATING, pod)
    assert not asked(VALIDATING, annotated("none", status="other"))


_FIELDS = {
    "no metadata": lambda pod: pod.pop("metadata"),
    "empty metadata": lambda pod: pod.update(metadata={}),
    "no annotations": lambda pod: pod["metadata"].pop("annotations"),
    "no spec": lambda pod: pod.pop("spec"),
    "empty spec": lambda pod: pod.update(spec={}),
    "no containers": lambda pod: pod["spec"].pop("containers"),
    "no initContainers": lambda pod: pod["spec"].pop("initContainers"),
    "no resources": lambda pod: [each.pop("resources") for each in pod["spec"]["containers"]],
    "empty resources": lambda pod: [each.update(resources={}) for each in pod["spec"]["containers"]],
    "empty limits": lambda pod: [each.update(resources={"limits": {}}) for each in pod["spec"]["containers"]],
    "nothing": lambda pod: pod.clear(),
}


@pytest.mark.parametrize("what", _FIELDS)
@pytest.mark.parametrize("value", [None, "all"])
def test_no_missing_field_makes_a_condition_fail(what: str, value: str | None) -> None:
    """The API server refuses a pod for which a condition cannot be told (failurePolicy Fail)."""
    pod = annotated(value, initContainers=[asks_for_cpu()])
    change: Callable[[Pod], object] = _FIELDS[what]
    change(pod)
    kept = value is not None and "annotations" in pod.get("metadata", {})
    assert asked(MUTATING, copy.deepcopy(pod)) == kept
    assert asked(VALIDATING, pod) == kept
