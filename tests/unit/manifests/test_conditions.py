"""matchConditions of the overlay community: we are asked about the pods on which the core has a word to say, no others.

cel-python evaluates them, an implementation that is not the API server's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import jsonpatch
import pytest
import yaml
from celpy import celtypes
from celpy.adapter import json_to_cel
from celpy.evaluation import CELEvalError
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core import names
from bitfusiond.core.admission import mutate, template, validate
from bitfusiond.core.admission.decision import Patch, Refusal, Untouched
from bitfusiond.core.objects import Pod
from bitfusiond.files.read import TEMPLATE, load_yaml, packaged
from bitfusiond.operate import manifests
from tests import DATA, pods, spoilt, strategies
from tests.pods import NAMESPACE
from tests.unit.manifests import overlays

MUTATING = ("MutatingWebhookConfiguration", "bwki-webhook-cfg")
OPTED_IN, COMPLETE = "opted-in-or-injected", "not-known-to-be-complete"
VALIDATING = ("ValidatingWebhookConfiguration", "validation.bitfusion.io-cfg")
NONES = ("none", "None", "n", "NO", "false", "oFF", "")


celpy.Environment()  # the first one sets Python's recursion limit, which a test of hypothesis must not see changing

# Of Kubernetes' CEL libraries ("extended strings"); cel-python has the language's own functions only.


def lower_ascii(text: celtypes.StringType) -> celtypes.StringType:
    return celtypes.StringType("".join(each.lower() if each.isascii() else each for each in text))


def join(words: celtypes.ListType, by: celtypes.StringType) -> celtypes.StringType:
    return celtypes.StringType(by.join(map(str, words)))


def split(text: celtypes.StringType, by: celtypes.StringType) -> celtypes.ListType:
    return celtypes.ListType(map(celtypes.StringType, text.split(by)))


def replaced(text: celtypes.StringType, old: celtypes.StringType, new: celtypes.StringType) -> celtypes.StringType:
    return celtypes.StringType(text.replace(old, new))


_FUNCTIONS: dict[str, Any] = {"lowerAscii": lower_ascii, "join": join, "split": split, "replace": replaced}


@cache
def _conditions(kind: str, name: str) -> dict[str, celpy.Runner]:
    made = manifests.build(overlays.overlay("community"), manifests.Values("r", "t", 16000, 1000)).all
    (webhook,) = overlays.one(made, kind, name)["webhooks"]
    return {each["name"]: _program(each["expression"]) for each in webhook["matchConditions"]}


def _program(expression: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(expression), functions=_FUNCTIONS)


def asked(configuration: tuple[str, str], pod: Pod, condition: str = "") -> bool:
    """Whether the API server asks, by all conditions or by that one. Raises CELEvalError where it would refuse the pod
    for a failed condition.
    """
    programs = _conditions(*configuration)
    chosen = [programs[condition]] if condition else programs.values()
    answers = [each.evaluate({"object": json_to_cel(pod)}) for each in chosen]
    assert all(isinstance(answer, celtypes.BoolType) for answer in answers)
    return all(map(bool, answers))


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
    assert asked(VALIDATING, pods.admitted(pod), OPTED_IN)


@pytest.mark.parametrize("name", ["pod", "pod-memory", "pod-filter", "pod-injection", "deployment", "job"])
def test_and_about_every_example(name: str) -> None:
    assert asked(MUTATING, pods.example(name))
    assert asked(VALIDATING, pods.admitted(pods.example(name)), OPTED_IN)


@pytest.mark.slow
@given(strategies.pods())
def test_and_about_any_pod_that_opted_in(pod: Pod) -> None:
    assert asked(MUTATING, pod)
    assert asked(VALIDATING, pods.admitted(pod), OPTED_IN)


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


# --- pods that are known to be complete -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pod", "pod-memory", "pod-filter", "pod-injection", "deployment", "job"])
def test_nobody_is_asked_a_second_time_about_a_documented_pod(name: str) -> None:
    assert not asked(VALIDATING, pods.admitted(pods.example(name)))


@pytest.mark.parametrize("name", ["pod-lupine", "pod-pocl"])
def test_pods_of_other_clients_cost_two_calls(name: str) -> None:
    assert asked(VALIDATING, pods.admitted(pods.example(name)))


def test_nor_about_a_pod_with_a_script_with_args_with_init_containers_and_sidecars() -> None:
    script = pods.container(command=["bash", "-c", "cd /x && exec python y.py > log"], args=["first", "second"])
    others = [pods.container({}, name="side", restartPolicy="Always"), pods.container(name="first")]
    assert not asked(VALIDATING, pods.admitted(pods.pod(script, initContainers=others)))


def test_the_words_for_memory_are_compared_with_what_a_gpu_has_as_deploy_knows_it() -> None:
    (webhook,) = overlays.one(overlays.overlay("community"), *VALIDATING)["webhooks"]
    unknown = {each["name"]: each["expression"] for each in webhook["matchConditions"]}[COMPLETE]
    assert unknown.count("[0].exists(total_gpu_memory") == 1
    half = pods.admitted(pods.pod(pods.container({names.GPU_AMOUNT: 1, names.GPU_MEMORY: "8000M"})))
    assert not asked(VALIDATING, half)
    half["spec"]["containers"][0]["resources"]["limits"][names.GPU] = "49"
    assert asked(VALIDATING, half)


def test_a_cluster_with_a_pool_is_asked_about_every_pod() -> None:
    made = manifests.build(overlays.overlay("community"), manifests.Values("r", "t", 16000, 1000, pool="pool: there"))
    (webhook,) = overlays.one(made.all, *VALIDATING)["webhooks"]
    assert [each["name"] for each in webhook["matchConditions"]] == [OPTED_IN]


def _complete() -> dict[str, Pod]:
    """Pods that are known to be complete, of every shape that is."""
    names_of = ("pod", "pod-memory", "pod-filter", "pod-injection")
    made = {name: pods.example(name) for name in names_of}
    script = ["bash", "-c", "cd /x && exec python y.py > log"]
    made["a script"] = pods.pod(pods.container(command=script))
    made["a script with words"] = pods.pod(pods.container(command=script, args=["first"]))
    made["init"] = pods.pod(pods.container(name="b"), initContainers=[pods.container(name="a", restartPolicy="Always")])
    return {name: pods.admitted(pod) for name, pod in made.items()}


def _spoilt() -> Iterator[tuple[str, Pod]]:
    """Each of them, spoilt in each way by each of its GPU containers, and what it is called."""
    for name, pod in _complete().items():
        for index, _ in enumerate(spoilt.gpu_containers(pod)):
            for way in spoilt.WAYS:
                given = copy.deepcopy(pod)
                way(given, spoilt.gpu_containers(given)[index])
                yield f"{name}, container {index}, {way.__name__}", given


@cache
def _refused() -> dict[str, Pod]:
    """Those that /validate refuses."""
    return {what: pod for what, pod in _spoilt() if isinstance(_second_look(pod), Refusal)}


def _second_look(pod: Pod) -> validate.Verdict:
    return validate.validate(pod, NAMESPACE, pods.rules(), None)


def test_nobody_is_asked_about_a_complete_pod() -> None:
    assert [name for name, pod in _complete().items() if asked(VALIDATING, pod)] == []


def test_whatever_validate_would_refuse_is_asked_about() -> None:
    assert len(_refused()) > 200
    assert [what for what, pod in _refused().items() if not asked(VALIDATING, pod, COMPLETE)] == []


@pytest.mark.slow
@given(strategies.pods(), st.lists(st.sampled_from(spoilt.WAYS), max_size=3), st.integers(min_value=0))
def test_whatever_validate_would_refuse_of_any_pod_is_asked_about(pod: Pod, ways: list[spoilt.Way], which: int) -> None:
    made = pods.admitted(pod)
    for spoil in ways:
        of = spoilt.gpu_containers(made)
        spoil(made, of[which % len(of)] if of else made["spec"]["containers"][0])
    verdict = _second_look(made)
    assert asked(VALIDATING, made) >= isinstance(verdict, Refusal), verdict


# Each stands in the condition: what it is without it, and a pod that would then get past, which /validate refuses.
_CLAUSES = {
    "mode": ("in ['all', 'y', 'yes', 'true', 'on', 'injection']", "!= 'none'", "pod, container 0, an_unknown_mode"),
    "status": (
        "&& object.metadata.annotations['auto-management/status'] == 'injected'",
        "",
        "pod, container 0, another_status",
    ),
    "client": (
        "&& !('bitfusion-client/name' in object.metadata.annotations)",
        "",
        "pod, container 0, an_unknown_client",
    ),
    "populate": (
        "&& object.spec.initContainers.exists(container, container.name == 'populate')",
        "",
        "pod, container 0, no_populate",
    ),
    "limits of init containers": (
        "+ object.spec.initContainers).map(",
        "+ []).map(",
        "init, container 0, a_gpu_amount_again",
    ),
    "a GPU container": ("limits.exists(each, 'bitfusion.io/gpu' in each)", "true", "pod, container 0, no_shares"),
    "other resources": ("|| !name.startsWith('bitfusion.io/')", "|| true", "pod, container 0, a_gpu_amount_again"),
    "init containers": ("+ object.spec.initContainers).all(", "+ []).all(", "init, container 0, no_mounts"),
    "mounts": (
        "container.volumeMounts.exists(mount, mount.mountPath == path)",
        "true",
        "pod, container 0, one_mount_less",
    ),
    "variable": (
        "&& container.env.exists(variable, variable.name == 'LD_LIBRARY_PATH')",
        "",
        "pod, container 0, another_variable",
    ),
    "lifecycle": ("&& !has(container.lifecycle)", "", "pod, container 0, a_call_in_a_hook"),
    "startup probe": ("|| !has(container.startupProbe.exec)", "|| true", "pod, container 0, a_call_in_a_startup_probe"),
    "readiness probe": (
        "|| !has(container.readinessProbe.exec)",
        "|| true",
        "pod, container 0, a_call_in_a_readiness_probe",
    ),
    "liveness probe": ("|| !has(container.livenessProbe.exec)", "|| true", "pod, container 0, a_call_in_a_probe"),
    "no shares": ("'^[1-9][0-9]{0,8}k?$'", "'^[0-9]{1,9}k?$'", "pod, container 0, shares_and_words_of_none"),
    "shell": ("([^ \\\\n]*/)?(ba|da|a|k|z)?sh$", "[^ ]*sh$", "pod, container 0, another_kind_of_shell"),
    "plain line": ("( [A-Za-z0-9._/=:,@%+-]+)*$", "( [^\\\\n]*)*$", "pod, container 0, two_blanks_in_a_line"),
    "torn line": (
        "&& !container.command[2].matches(' -- [^ ]*sh( |$)')",
        "",
        "a script, container 0, a_plain_script_that_lost_its_quotes",
    ),
    "the client": (
        "words[0].matches('^/[^ \\\\t\\\\n]*/usr/bin/bitfusion$')",
        "true",
        "pod, container 0, a_client_of_another_path",
    ),
    "the end of the words": ("&& words[end] == '--'", "", "a script, container 0, a_filter_with_lines"),
    "filters alone": (
        "&& [6, 8, 10].all(at, at >= end || words[at] == '--filter')",
        "",
        "a script, container 0, a_filter_with_lines",
    ),
    "one call": (
        ".contains('bitfusion'))) == 1",
        ".contains('bitfusion'))) > 0",
        "a script, container 0, a_second_call_in_the_script",
    ),
    "quotes": (".replace('\\'', '')", "", "a script, container 0, a_quoted_second_call"),
    "backslashes": (".replace('\\\\', '')", "", "a script, container 0, an_escaped_second_call"),
    "percent": (
        "&& double(words[3]) * double(words[5]) * 100.0 <= shares + 0.00001",
        "",
        "pod, container 0, fewer_shares",
    ),
    "memory": (
        "&& double(words[3]) * double(words[5]) * 100.0 <= shares * double(total_gpu_memory) + 0.00001",
        "",
        "pod-memory, container 0, fewer_shares",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("clause", _CLAUSES)
def test_each_clause_is_needed(clause: str) -> None:
    """Without it something gets past that /validate refuses."""
    text, without, kept_by_it = _CLAUSES[clause]
    made = manifests.build(overlays.overlay("community"), manifests.Values("r", "t", 16000, 1000)).all
    (webhook,) = overlays.one(made, *VALIDATING)["webhooks"]
    expression = webhook["matchConditions"][1]["expression"]
    assert text in expression
    program = _program(expression.replace(text, without))
    # Where it can no longer be told, the clause kept that from it.
    with suppress(CELEvalError):
        assert not program.evaluate({"object": json_to_cel(_refused()[kept_by_it])})


def test_an_operators_own_template_that_adds_more_is_said_of_the_pod() -> None:
    document: Any = load_yaml(packaged(TEMPLATE))
    document["containers"][0]["volumeMounts"].append({"name": "bitfusion-distro", "mountPath": "/more"})
    own = replace(pods.rules(), template=template.parse(document))
    verdict = mutate.mutate(pods.pod(), NAMESPACE, own)
    assert isinstance(verdict, Patch)
    made = jsonpatch.apply_patch(pods.pod(), verdict.operations)
    assert made["metadata"]["annotations"][names.VALIDATE] == names.VALIDATE_ALWAYS
    assert asked(VALIDATING, made)
    assert names.VALIDATE not in pods.admitted(pods.pod())["metadata"]["annotations"]


def test_the_condition_names_what_the_packaged_template_adds() -> None:
    """So that a template that adds something else cannot be taken for it."""
    (webhook,) = overlays.one(overlays.overlay("community"), *VALIDATING)["webhooks"]
    expression = webhook["matchConditions"][1]["expression"]
    packaged_template = pods.rules().template
    assert not packaged_template.adds_more
    assert all(f"'{path}'" in expression for path in packaged_template.mount_paths)
    assert all(f"== '{each['name']}'" in expression for each in packaged_template.init_containers)
