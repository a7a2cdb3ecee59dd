"""Lifecycle hooks and probes: those that call the client reach it, and no other is touched."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.objects import Pod
from tests.pods import BINARY, NAMESPACE, admitted, container, pod, problems, rules, verdict

ON_PATH = f'export PATH={BINARY.rpartition("/")[0]}:"$PATH"; '
KINDS = ["lifecycle.postStart", "lifecycle.preStop", "livenessProbe", "readinessProbe", "startupProbe"]


def hooked(kind: str, words: list[str]) -> Pod:
    """A container with that hook or probe."""
    handler: Pod = {"exec": {"command": words}}
    key, _, inner = kind.partition(".")
    return container(**{key: {inner: handler} if inner else {**handler, "periodSeconds": 5}})


def words_of(given: Pod, kind: str) -> list[str]:
    for key in kind.split("."):
        given = given[key]
    words: list[str] = given["exec"]["command"]
    return words


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", ["containers", "initContainers"])
def test_each_kind_that_calls_the_client_reaches_it(kind: str, group: str) -> None:
    """Of a sidecar too."""
    given = pod()
    given["spec"][group] = [hooked(kind, ["bitfusion", "list_gpus"])]
    patched = admitted(given)
    assert words_of(patched["spec"][group][-1], kind) == [BINARY, "list_gpus"]
    expected = container()["command"]
    assert patched["spec"][group][-1]["command"][-len(expected) :] == expected
    assert validate(patched, NAMESPACE, rules(), None) == Allowed()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sh", "-c", "bitfusion release_gpus"], ["sh", "-c", f"{BINARY} release_gpus"]),
        (
            ["sh", "-c", "date && bitfusion list_gpus | grep x"],
            ["sh", "-c", f"{ON_PATH}date && {BINARY} list_gpus | grep x"],
        ),
        (["timeout", "5", "bitfusion", "run", "-p", ".1", "x"], ["timeout", "5", BINARY, "run", "-p", ".1", "x"]),
        (["sh", "-c", 'x="$(bitfusion health)"'], ["sh", "-c", f'{ON_PATH}x="$(bitfusion health)"']),
    ],
)
def test_only_the_client_is_written_into_it(words: list[str], expected: list[str]) -> None:
    assert words_of(admitted(pod(hooked("livenessProbe", words)))["spec"]["containers"][0], "livenessProbe") == expected


@pytest.mark.parametrize(
    "words",
    [
        ["nvidia-smi"],
        ["sh", "-c", "cd /x && test -e ok"],
        ["cat", "/tmp/bitfusion"],
        ["python x.py --log=bitfusion"],
        ["sh", "-c"],
        ["bash", "-c", "test -e /tmp/bitfusion.ok"],
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_calls_no_client_is_left_as_it_is(kind: str, words: list[str]) -> None:
    """Under the client a probe would take a GPU every few seconds."""
    decision = verdict(pod(hooked(kind, words)))
    assert isinstance(decision, Patch)
    assert decision.warnings == []
    assert words_of(admitted(pod(hooked(kind, words)))["spec"]["containers"][0], kind) == words


@pytest.mark.parametrize("odd", [None, 5, "x", [], {}, {"exec": 5}, {"exec": {"command": "bitfusion"}}])
def test_one_of_another_shape_is_left_to_the_api_server(odd: Any) -> None:
    given = pod(container(livenessProbe=odd, lifecycle=odd))
    assert admitted(given)["spec"]["containers"][0]["livenessProbe"] == odd


def test_a_container_without_gpus_and_mode_injection_are_left_alone() -> None:
    words = ["bitfusion", "list_gpus"]
    other = {**hooked("livenessProbe", words), "name": "other", "resources": {}}
    assert admitted(pod(container(), other))["spec"]["containers"][1] == other
    patched = admitted(pod(hooked("livenessProbe", words), mode="injection"))
    assert words_of(patched["spec"]["containers"][0], "livenessProbe") == words


@pytest.mark.parametrize("mode", ["all", "injection"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_that_asks_for_more_than_its_container_is_refused(kind: str, mode: str) -> None:
    refusal = (
        f"spec.containers[0].{kind}.exec.command: bitfusion run -n 8 asks for 800 shares of bitfusion.io/gpu, the"
        " container for 50: ask for less there, or for more in resources.limits; 100 shares are one GPU"
    )
    given = pod(hooked(kind, ["sh", "-c", "date; /x/bitfusion run -n 8 x"]), mode=mode)
    assert problems(given) == [refusal]
    given["metadata"]["annotations"] = {names.STATUS: names.STATUS_INJECTED}
    given["spec"]["containers"][0]["resources"] = {"limits": {names.GPU: "50"}}
    assert validate(given, NAMESPACE, rules(), None) == Refusal([refusal])


def test_what_may_be_a_call_and_cannot_be_read_is_warned_about() -> None:
    decision = verdict(pod(hooked("lifecycle.postStart", ["wrapper", "bitfusion", "run", "x"])))
    assert isinstance(decision, Patch)
    (warning,) = decision.warnings
    assert warning == (
        "spec.containers[0].lifecycle.postStart.exec.command: seems to call bitfusion, which is not on PATH: write the"
        " client's path"
    )


def test_long_ones_count_among_what_is_read() -> None:
    (problem,) = problems(pod(hooked("livenessProbe", ["sh", "-c", "bitfusion list_gpus; " * 10_000])))
    assert problem.startswith("spec.containers: the commands that call bitfusion have 210000 characters")
