"""What the scheduler will count of a pod, before and after its patch, and whether anything can give as much."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given

from bitfusiond.core import names
from bitfusiond.core.admission import capacity
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.objects import Pod
from tests import strategies
from tests.pods import NAMESPACE, admitted, container, pod, rules, verdict

TINY = f"{names.DOMAIN}tiny"


def wanted(document: Pod) -> capacity.Amounts:
    found = verdict(document)
    assert isinstance(found, Patch), found
    return found.wanted


@given(strategies.pods())
def test_mutate_and_validate_say_the_same_of_what_nodes_can_give(document: Pod) -> None:
    """So that nobody has to be asked twice about it."""
    stored = admitted(document)
    for nodes in ({}, {names.GPU: 1}, {names.GPU: 60}, {names.GPU: 1000}):
        second = validate(stored, NAMESPACE, rules(), nodes)
        said = list(capacity.problems(wanted(document), nodes, None))
        assert said == (second.problems if isinstance(second, Refusal) else [])


def test_other_resources_of_ours_count_and_what_is_only_asked_with_does_not() -> None:
    limits = {names.GPU_AMOUNT: 2, names.GPU_PERCENT: 50, TINY: "3", "cpu": 1}
    assert wanted(pod(container(limits))) == {names.GPU: Fraction(100), TINY: Fraction(3)}


@pytest.mark.parametrize(("more", "expected"), [({"restartPolicy": "Always"}, 150), ({}, 100)])
def test_a_sidecar_counts_beside_the_containers_and_an_init_container_alone(more: Pod, expected: int) -> None:
    first = container(None, name="first", **more)
    assert wanted(pod(container(), container(name="two"), initContainers=[first])) == {names.GPU: Fraction(expected)}


def test_before_the_last_look_nothing_is_said_of_lost_parts() -> None:
    spoilt = admitted(pod())
    spoilt["spec"]["containers"][0]["volumeMounts"] = []
    assert isinstance(validate(spoilt, NAMESPACE, rules(), None), Refusal)
    assert isinstance(validate(spoilt, NAMESPACE, rules(), None, is_final=False), Allowed)
    assert isinstance(validate(spoilt, NAMESPACE, rules(), {names.GPU: 1}, is_final=False), Refusal)
