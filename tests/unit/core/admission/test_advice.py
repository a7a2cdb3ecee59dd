"""Every advice in a message is followed: then the pod is admitted, and the warning is gone."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal, Untouched
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.objects import Pod
from tests.pods import BINARY, NAMESPACE, admitted, container, pod, rules, verdict
from tests.unit import test_troubleshooting as messages

HALF = {names.GPU_AMOUNT: "1", names.GPU_PERCENT: "50"}
SCRIPT = ["bash", "-c", "a; b"]


def _limits(**values: Any) -> Pod:
    """A pod whose container has these limits: gpu_amount is bitfusion.io/gpu-amount."""
    return pod(container({f"bitfusion.io/{key.replace('_', '-')}": value for key, value in values.items()}))


def _both(limits: Pod, requests: Pod | None) -> Pod:
    resources = {"limits": limits} | ({"requests": requests} if requests else {})
    return pod(container(resources=resources))


def _mounts(path: str, **mount: Any) -> Pod:
    given = {"name": "v", "mountPath": path, **mount}
    return pod(container(volumeMounts=[given]), volumes=[{"name": "v", "emptyDir": {}}])


def _claim(path: str) -> Pod:
    claim = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
    return pod(container(volumeMounts=[{"name": "v", "mountPath": path}]), volumes=[claim])


def _stops(words: list[str]) -> Pod:
    return {"preStop": {"exec": {"command": words}}}


def _annotated(**annotations: Any) -> Pod:
    keys = {"mode": names.MANAGEMENT, "os": names.CLIENT_OS, "filters": names.CLIENT_FILTER}
    return pod(annotations={keys[key]: value for key, value in annotations.items()})


def _other(annotations: Pod) -> Pod:
    """A pod of another client than Bitfusion's."""
    return pod(annotations={names.CLIENT_NAME: "pocl", names.CLIENT_SERVERS: "h:1", **annotations})


def _without_os() -> Pod:
    given = pod()
    del given["metadata"]["annotations"][names.CLIENT_OS]
    return given


def _filtered(script: str, characters: int) -> Pod:
    """64 GPU containers and a long filter."""
    given = pod(*(container(HALF, name=f"c{each}", command=["bash", "-c", script]) for each in range(64)))
    given["metadata"]["annotations"][names.CLIENT_FILTER] = "device.id=" + "1" * characters
    return given


def _user(**context: Any) -> Pod:
    return pod(container(securityContext=context))


LONG = "bitfusion run -p .5 x; " * 10_000

# The words of the message, a pod that gets it, and the pod as the words want it.
ADVICE: list[tuple[str, Pod, Pod]] = [
    ("put it in quotation marks", _annotated(mode=True), _annotated(mode="true")),
    ("is not one of all, injection, none", _annotated(mode="maybe"), _annotated(mode="injection")),
    ("must be set; choose one of ubuntu18/450", _without_os(), pod()),
    ("choose one of ubuntu18/450", _annotated(os="windows"), _annotated(os="ubuntu18")),
    ("is not of the form key=value", _annotated(filters="server.addr"), _annotated(filters="server.addr=a")),
    ("has no value behind the =", _annotated(filters="server.addr="), _annotated(filters="server.addr=a")),
    ("is not a filter key: allowed are", _annotated(filters="a=b"), _annotated(filters="device.id=b")),
    ("that is not closed", _annotated(filters="device.id='b"), _annotated(filters="device.id='b'")),
    ("is not an integer from 1 to 100", _limits(gpu_amount=1, gpu_percent=101), _limits(gpu_amount=1, gpu_percent=100)),
    ("is not an integer of at least 1", _limits(gpu_amount=0), _limits(gpu_amount=1)),
    ("give one of them", _limits(gpu_amount=1, gpu_num=1), _limits(gpu_num=1)),
    (
        "exclude each other: give one of them",
        _limits(gpu_amount=1, gpu_percent=1, gpu_memory="1G"),
        _limits(gpu_amount=1, gpu_memory="1G"),
    ),
    (
        "add bitfusion.io/gpu-amount, the number of GPUs",
        _limits(gpu_percent=50),
        _limits(gpu_percent=50, gpu_amount=1),
    ),
    ("write for example 8000M or 8Gi", _limits(gpu_amount=1, gpu_memory="8"), _limits(gpu_amount=1, gpu_memory="8Gi")),
    (
        "bytes such as 8000M, 8Gi or 8000000000",
        _limits(gpu_amount=1, gpu_memory="x"),
        _limits(gpu_amount=1, gpu_memory="8000000000"),
    ),
    (
        "is more than the 16000M that one GPU has",
        _limits(gpu_amount=1, gpu_memory="17G"),
        _limits(gpu_amount=1, gpu_memory="16G"),
    ),
    ("is ours to write: remove it, it is worked out", _limits(gpu_amount=1, gpu=50), _limits(gpu_amount=1)),
    (
        "is ours to write: remove it, ask for bitfusion.io/gpu-amount",
        pod(container(), container({names.GPU: 50}, name="other")),
        pod(container(), container({names.GPU_AMOUNT: 1}, name="other")),
    ),
    ("give the same value", _both(HALF, {**HALF, names.GPU_PERCENT: "40"}), _both(HALF, dict(HALF))),
    ("or limits alone", _both(HALF, {**HALF, names.GPU_PERCENT: "40"}), _both(HALF, None)),
    ("as auto-management/bitfusion wants: add it", pod(container({"cpu": "1"})), pod(container(HALF))),
    (
        "or set the annotation to none",
        pod(container({"cpu": "1"})),
        pod(container({"cpu": "1"}), mode="none"),
    ),
    ("write the program and its arguments", pod(container(command=None)), pod(container(command=["python", "x.py"]))),
    (
        "put the script behind it",
        pod(container(command=["bash", "-c"])),
        pod(container(command=["bash", "-c", "a; b"])),
    ),
    ("or into args", pod(container(command=["bash", "-c"])), pod(container(command=["bash", "-c"], args=["a; b"]))),
    (
        "put them into the command",
        pod(container(command=["a; b"], args=["c"])),
        pod(container(command=["a; b c"])),
    ),
    (
        'or write ["/bin/bash", "-c", SCRIPT, "bash"] and let the script use "$@"',
        pod(container(command=["a; b"], args=["c"])),
        pod(container(command=["/bin/bash", "-c", 'a; b "$@"', "bash"], args=["c"])),
    ),
    ("mount yours elsewhere", _mounts("/bitfusion"), _mounts("/data")),
    ("lies above /opt/bitfusion", _mounts("/opt", readOnly=True), _mounts("/data", readOnly=True)),
    ("choose another", pod(container(name="populate")), pod(container(name="other"))),
    ("takes no filter: remove it", _other({names.CLIENT_FILTER: "device.id=0"}), _other({})),
    ("name them here (HOST:PORT)", _other({names.CLIENT_SERVERS: ""}), _other({})),
    ("is told no servers: remove it", pod(annotations={names.CLIENT_SERVERS: "h:1"}), pod()),
    ("choose one of bitfusion, lupine", _other({names.CLIENT_NAME: "x"}), _other({})),
    ("linux on amd64 only", pod(os={"name": "windows"}), pod(os={"name": "linux"})),
    (
        "ask for less there",
        pod(container(HALF, command=["bitfusion", "run", "-n", "1", "x"])),
        pod(container(HALF, command=["bitfusion", "run", "-n", "1", "-p", "0.5", "x"])),
    ),
    (
        "or for more in resources.limits",
        pod(container(HALF, command=["bitfusion", "run", "-n", "1", "x"])),
        pod(container({names.GPU_AMOUNT: "1"}, command=["bitfusion", "run", "-n", "1", "x"])),
    ),
    (
        "is no plain number, which could be compared: write it in digits",
        pod(container(HALF, command=["bitfusion", "run", "-n", "0x1", "-p", "0.5", "x"])),
        pod(container(HALF, command=["bitfusion", "run", "-n", "1", "-p", "0.5", "x"])),
    ),
    (
        "put the script into a file",
        pod(container(HALF, command=["bash", "-c", LONG])),
        pod(container(HALF, command=["bash", "/scripts/run"])),
    ),
    ("give fewer filters", _filtered("x y", 4000), _filtered("x y", 100)),
    ("or put a script into a file", _filtered("x y", 4000), _filtered("./x y", 4000)),
    # warnings
    (
        "neither gpu-percent nor gpu-memory is given",
        _limits(gpu_amount=1),
        _limits(gpu_amount=1, gpu_percent=100),
    ),
    (
        "to call it yourself use mode injection",
        pod(container(command=["wrapper", "bitfusion", "run", "-p", ".1", "x"])),
        pod(container(command=["wrapper", "bitfusion", "run", "-p", ".1", "x"]), mode="injection"),
    ),
    (
        "bitfusion run gets words of the shell",
        pod(container(HALF, command=["bash", "-c", "bitfusion run -n $N x"])),
        pod(container(HALF, command=["bash", "-c", "bitfusion run -n 1 -p 0.5 x"])),
    ),
    (
        "which is not on PATH: write the client's path",
        pod(container(lifecycle=_stops(["wrapper", "bitfusion", "run", "-p", ".1", "x"]))),
        pod(container(lifecycle=_stops(["wrapper", BINARY, "run", "-p", ".1", "x"]))),
    ),
    ("or mount it elsewhere", _claim("/opt"), _claim("/data")),
    ("mount an emptyDir there", _user(runAsUser=5), {}),
    ("set runAsUser, so that the workload can read", _user(runAsNonRoot=True), {}),
    (
        "GPU containers run as different users",
        pod(container(securityContext={"runAsUser": 5}), container(name="b", securityContext={"runAsUser": 6})),
        pod(container(), container(name="b")),
    ),
]
_HOME: Pod = {"volumeMounts": [{"name": "home", "mountPath": "/root"}]}
_MENDED = {
    "mount an emptyDir there": pod(
        container(securityContext={"runAsUser": 5}, **_HOME), volumes=[{"name": "home", "emptyDir": {}}]
    ),
    "set runAsUser, so that the workload can read": pod(
        container(securityContext={"runAsNonRoot": True, "runAsUser": 5}, **_HOME),
        volumes=[{"name": "home", "emptyDir": {}}],
    ),
}


def _said(given: Pod) -> list[str]:
    decision = verdict(given)
    return (
        decision.problems if isinstance(decision, Refusal) else decision.warnings if isinstance(decision, Patch) else []
    )


@pytest.mark.parametrize(("words", "before", "after"), ADVICE, ids=[row[0] for row in ADVICE])
def test_who_follows_the_advice_is_admitted(words: str, before: Pod, after: Pod) -> None:
    assert any(words in each for each in _said(before)), _said(before)
    after = _MENDED.get(words, after)
    decision = verdict(after)
    assert isinstance(decision, Patch) or decision == Untouched("not opted in"), decision
    assert not any(words in each for each in _said(after))
    if isinstance(decision, Patch):
        assert isinstance(validate(admitted(after), NAMESPACE, rules(), {names.GPU: 10_000}), Allowed)


def _changed() -> Pod:
    """A copy of a running pod with another command, as ``kubectl debug --copy-to`` makes it."""
    stored = admitted(pod())
    stored["spec"]["containers"][0]["command"] = ["sh"]
    return stored


def test_a_copy_of_a_running_pod_is_admitted_as_its_refusal_says() -> None:
    copied = _changed()
    decision = validate(copied, NAMESPACE, rules(), None)
    assert isinstance(decision, Refusal)
    assert "keeps client and shares without annotations auto-management/bitfusion and" in decision.problems[0]
    mended = copy.deepcopy(copied)
    for key in (names.MANAGEMENT, names.STATUS):
        del mended["metadata"]["annotations"][key]
    assert verdict(mended) == Untouched("not opted in")
    assert validate(mended, NAMESPACE, rules(), None) == Untouched("not opted in")
    assert "Create it from its own manifest" in decision.problems[0]
    assert isinstance(verdict(pod()), Patch)


def test_a_smaller_pod_fits_the_largest_node_as_the_refusal_says() -> None:
    decision = validate(admitted(_limits(gpu_amount=2)), NAMESPACE, rules(), {names.GPU: 100})
    assert isinstance(decision, Refusal)
    assert decision.problems[0].endswith("ask for less")
    assert isinstance(validate(admitted(_limits(gpu_amount=1)), NAMESPACE, rules(), {names.GPU: 100}), Allowed)


# What the operator does, and what cannot be tried without a cluster.
FOR_OPERATORS = (
    "set TOTAL_GPU_MEMORY, or ask for",
    "its device plugin must run on one",
    "give that one a name",
    ": ask for less",
)
_ADVISES = re.compile(
    r"(?:[:;,.] |or |and |to )(?:add|ask for|call|choose|create|give|mount|put|remove|set|write)\b", re.IGNORECASE
)


def test_every_message_that_advises_is_among_them() -> None:
    tried = [row[0] for row in ADVICE] + ["keeps client and shares without annotations"]
    missing = [
        text
        for known, tree in messages.modules()
        if re.fullmatch(
            r"bitfusiond\.core\.admission\.(?:calls|command|demand|injection|mutate|optin|pod|populate_container|validate)",
            str(known["__name__"]),
        )
        for each in messages.said(tree)
        if messages.is_message(text := messages.worded(each, known)) and _ADVISES.search(text)
        if not any(words in text or messages.describes(text.replace(messages.VARIES, "..."), words) for words in tried)
        if not any(words in text for words in FOR_OPERATORS)
    ]
    assert missing == []
