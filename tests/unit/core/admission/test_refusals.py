"""Every refusal, by its words: the field, the value, what is allowed, the fix."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.objects import Pod
from tests.pods import admitted, container, pod, problems, rules, verdict

A, N, P, M = names.GPU_AMOUNT, names.GPU_NUM, names.GPU_PERCENT, names.GPU_MEMORY
RESOURCES = "spec.containers[0].resources"
LIMITS = f"{RESOURCES}.limits"
PAIRS = (
    "choose one of ubuntu18/450, ubuntu20/450, centos7/450, centos8/450, ubuntu18/401, ubuntu20/401, centos7/401,"
    " centos8/401 (os/version)"
)
_ALLOWED_KEYS = (
    "allowed are device.id, device.name, device.phy-memory, server.addr, server.cuda-version, server.driver-version,"
    " server.has-rdma, server.hostname"
)


def _limits(**values: Any) -> Pod:
    keys = {"amount": A, "num": N, "percent": P, "memory": M, "gpu": names.GPU}
    return pod(container({keys[key]: value for key, value in values.items()}))


def _annotated(key: str, value: Any) -> Pod:
    return pod(annotations={key: value})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (_limits(amount=1, percent=101), f"{LIMITS}[{P}]: 101 is not an integer from 1 to 100"),
        (_limits(amount=1, percent="0"), f"{LIMITS}[{P}]: 0 is not an integer from 1 to 100"),
        (_limits(amount=1, percent="-5"), f"{LIMITS}[{P}]: -5 is not an integer from 1 to 100"),
        (_limits(amount=1, percent="33.3"), f"{LIMITS}[{P}]: 33.3 is not an integer from 1 to 100"),
        (_limits(amount=1, percent="half"), f"{LIMITS}[{P}]: half is not an integer from 1 to 100"),
        (_limits(amount=1, percent=None), f"{LIMITS}[{P}]: null is not an integer from 1 to 100"),
        (_limits(amount=0, percent=1), f"{LIMITS}[{A}]: 0 is not an integer of at least 1"),
        (_limits(amount="1500m", percent=1), f"{LIMITS}[{A}]: 1500m is not an integer of at least 1"),
        (_limits(amount="1e400", percent=1), f"{LIMITS}[{A}]: 1e400 is not an integer of at least 1"),
        (_limits(num="x", percent=1), f"{LIMITS}[{N}]: x is not an integer of at least 1"),
        (_limits(amount=2**62, percent=100), f"{RESOURCES}: {2**62} GPUs are more than bitfusion.io/gpu can count"),
        (_limits(amount=1, num=1), f"{RESOURCES}: {N} is the earlier name of {A}: give one of them"),
        (_limits(amount=1, percent=1, memory="1G"), f"{RESOURCES}: {P} and {M} exclude each other: give one of them"),
        (_limits(percent=50), f"{RESOURCES}: {P} without {A}: add {A}, the number of GPUs"),
        (_limits(memory="1G"), f"{RESOURCES}: {M} without {A}: add {A}, the number of GPUs"),
        (_limits(amount=1, memory="8"), f"{LIMITS}[{M}]: 8 is below 1M; the unit is bytes, so write for example 8000M or 8Gi"),
        (_limits(amount=1, memory="16001M"), f"{LIMITS}[{M}]: 16001M is more than the 16000M that one GPU has"),
        (_limits(amount=1, memory="x"), f"{LIMITS}[{M}]: x is not a whole number of bytes such as 8000M, 8Gi or 8000000000"),
        (_limits(amount=1, memory="1500000500m"), f"{LIMITS}[{M}]: 1500000500m is not a whole number of bytes such as 8000M, 8Gi or 8000000000"),
        (_limits(amount=1, gpu=50), f"{LIMITS}[bitfusion.io/gpu]: is ours to write: remove it, it is worked out from {A}"),
        (
            pod(container(resources={"limits": {A: 1, P: 50}, "requests": {A: 1, P: 40}})),
            f"{RESOURCES}.requests[{P}]: 40 differs from limits (50): give the same value, or limits alone",
        ),
        (
            _annotated(names.MANAGEMENT, "maybe"),
            "metadata.annotations[auto-management/bitfusion]: maybe is not one of all, injection, none",
        ),
        (
            _annotated(names.MANAGEMENT, " all"),
            'metadata.annotations[auto-management/bitfusion]: " all" is not one of all, injection, none',
        ),
        (
            pod(container(), {"name": "other", "resources": {"limits": {names.GPU: 5}}}),
            f"spec.containers[1].resources.limits[bitfusion.io/gpu]: is ours to write: remove it, ask for {A}",
        ),
        (
            _annotated(names.CLIENT_FILTER, "server.addr="),
            "metadata.annotations[bitfusion-client/filter]: server.addr= has no value behind the =",
        ),
        (
            _annotated(names.MANAGEMENT, True),
            "metadata.annotations[auto-management/bitfusion]: true is not a string: put it in quotation marks",
        ),
        (
            _annotated(names.CLIENT_VERSION, 450),
            "metadata.annotations[bitfusion-client/version]: 450 is not a string: put it in quotation marks",
        ),
        (_annotated(names.CLIENT_OS, None), f"metadata.annotations[bitfusion-client/os]: must be set; {PAIRS}"),
        (_annotated(names.CLIENT_VERSION, ""), f"metadata.annotations[bitfusion-client/version]: must be set; {PAIRS}"),
        (
            _annotated(names.CLIENT_OS, "windows"),
            "metadata.annotations[bitfusion-client/os, bitfusion-client/version]: there is no client for os 'windows'"
            f" version '450'; {PAIRS}",
        ),
        (
            _annotated(names.CLIENT_FILTER, "server.colour=red"),
            f"metadata.annotations[bitfusion-client/filter]: server.colour is not a filter key: {_ALLOWED_KEYS}",
        ),
        (
            _annotated(names.CLIENT_FILTER, "server.addr=" + "1" * 4096),
            "metadata.annotations[bitfusion-client/filter]: has 4108 characters: at most 4096 are allowed",
        ),
        (
            _annotated(names.CLIENT_FILTER, "bf-server"),
            "metadata.annotations[bitfusion-client/filter]: bf-server is not of the form key=value",
        ),
        (
            _annotated(names.CLIENT_FILTER, "device.name='Tesla"),
            "metadata.annotations[bitfusion-client/filter]: device.name='Tesla has a quotation mark or backslash that is"
            " not closed",
        ),
        (
            pod({"name": "main", "command": ["x"]}),
            f"spec.containers: no container asks for {A} in resources.limits, as {names.MANAGEMENT} wants: add it, or set"
            " the annotation to none",
        ),
        (
            pod(container(command=None)),
            "spec.containers[0].command: must be set, as the ENTRYPOINT of the image cannot be seen: write the program"
            " and its arguments",
        ),
        (
            pod(container(command=["a; b"], args=["c"])),
            "spec.containers[0].args: cannot follow a command that is a shell script of its own: put them into the"
            ' command, or write ["/bin/bash", "-c", SCRIPT, "bash"] and let the script use "$@"',
        ),
        (
            pod(container(command=["sh", "-c"])),
            "spec.containers[0].command: has -c without a script: put the script behind it, or into args",
        ),
        (
            pod(container(volumeMounts=[{"name": "c", "mountPath": "/c"}, {"name": "b", "mountPath": "/opt/bitfusion/"}])),
            "spec.containers[0].volumeMounts[1].mountPath: /opt/bitfusion/ is where the client goes: mount yours"
            " elsewhere",
        ),
        (
            pod(initContainers=[{"name": "populate", "image": "i"}]),
            "spec.initContainers[0].name: populate is the name of a container that bitfusiond adds: choose another",
        ),
        (
            pod(container(name="populate")),
            "spec.containers[0].name: populate is the name of a container that bitfusiond adds: choose another",
        ),
        (
            pod(nodeSelector={"kubernetes.io/arch": "arm64"}),
            "spec.nodeSelector[kubernetes.io/arch]: arm64 has no client: there are clients for linux on amd64"
            " only",
        ),
        (
            pod(nodeSelector={"kubernetes.io/os": "windows"}),
            "spec.nodeSelector[kubernetes.io/os]: windows has no client: there are clients for linux on amd64"
            " only",
        ),
        (
            pod(os={"name": "windows"}),
            "spec.os.name: windows has no client: there are clients for linux on amd64 only",
        ),
        (pod(volumes={"name": "x"}), 'spec.volumes: must be a list of objects, not {"name": "x"}'),
        (pod(container(env="x")), "spec.containers[0].env: must be a list of objects, not x"),
        (pod(container(command="python x.py")), "spec.containers[0].command: must be a list of strings, not python x.py"),
        (pod(container(args=[1])), "spec.containers[0].args: must be a list of strings, not [1]"),
    ],
)  # fmt: skip
def test_a_wrong_pod_is_refused_in_these_words(given: Pod, expected: str) -> None:
    """No silence, no panic, no `gpuNum.Value() Error`."""
    assert problems(given) == [expected]


def test_memory_equal_to_the_total_is_allowed() -> None:
    patched = admitted(_limits(amount=1, memory="16000M"))
    assert patched["spec"]["containers"][0]["resources"]["limits"] == {names.GPU: "100"}


def test_memory_without_a_known_total_is_refused_with_the_way_out() -> None:
    """Neither a panic nor a riddle."""
    assert problems(_limits(amount=1, memory="1G"), total_gpu_memory=0) == [
        f"{LIMITS}[{M}]: cannot be served, as the webhook does not know the GPUs' memory: set TOTAL_GPU_MEMORY, or ask"
        f" for {P}"
    ]


def test_all_problems_are_said_at_once() -> None:
    """One that is wrong hides none that is wrong beside it: mode, client, amount, command, mounts, names."""
    mounts = [{"name": "v", "mountPath": "/bitfusion"}]
    wrong = pod(
        container({A: "0", P: "200"}, command=[], volumeMounts=mounts),
        annotations={names.MANAGEMENT: "al", names.CLIENT_OS: "x", names.CLIENT_FILTER: "a b=c"},
        nodeSelector={"kubernetes.io/arch": "s390x"},
        initContainers=[{"name": "populate"}],
    )
    found = "\n".join(problems(wrong))
    fields = (
        *("auto-management/bitfusion]: al", f"{LIMITS}[{A}]", f"{LIMITS}[{P}]", "filter]: a is", "filter]: b is"),
        *("client/os", "nodeSelector", "command: must be set", "volumeMounts[0].mountPath", "initContainers[0].name"),
    )
    for field in fields:
        assert field in found


_ODD: list[Any] = [None, [], {}, "x", 7, True, ["a"], {"a": {}}]


@pytest.mark.parametrize("value", _ODD, ids=str)
@pytest.mark.parametrize(
    "place",
    [
        "spec.volumes.0.name",
        "spec.containers.0.env.0.name",
        "spec.containers.0.name",
        "spec.containers.0.volumeMounts.0.mountPath",
        "spec.containers.0.volumeMounts.0.name",
        "spec.containers.0.resources.limits.cpu",
        "spec.containers.0.resources.requests.cpu",
        "spec.containers.0.resources.requests",
        "spec.containers.0.securityContext.runAsUser",
        "spec.containers.0.securityContext",
        "spec.securityContext",
        "spec.initContainers.0.name",
        "spec.nodeSelector",
        "spec.os.name",
    ],
)
def test_a_value_of_another_type_never_raises(place: str, value: Any) -> None:
    full = pod(
        container(
            {A: 1, "cpu": "1"},
            env=[{"name": "A"}],
            volumeMounts=[{"name": "v", "mountPath": "/v"}],
            securityContext={"runAsUser": 1},
        ),
        volumes=[{"name": "v"}],
        initContainers=[{"name": "i"}],
        securityContext={"runAsUser": 1},
        nodeSelector={},
        os={"name": "linux"},
    )
    full["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "1", A: 1}
    *parents, last = place.split(".")
    inside: Any = full
    for key in parents:
        inside = inside[int(key) if key.isdecimal() else key]
    inside[last] = value
    verdict(full)
    full["metadata"]["annotations"][names.STATUS] = names.STATUS_INJECTED
    validate(full, "n", rules(), {names.GPU: 1})


@pytest.mark.parametrize(
    "odd", [{}, {"metadata": None}, {"metadata": []}, {"metadata": {"annotations": []}}, {"spec": 3}]
)
def test_a_pod_of_another_shape_never_raises(odd: Pod) -> None:
    verdict(odd)
    verdict({"metadata": {"annotations": {names.MANAGEMENT: "all"}}, **odd})


@pytest.mark.parametrize(
    "given", [pod(initContainers=5), _annotated(names.CLIENT_FILTER, "a a"), pod(container(env=[1]), volumes=3)]
)
def test_no_problem_is_said_twice(given: Pod) -> None:
    found = problems(given)
    assert len(set(found)) == len(found)


def test_where_nobody_asks_only_a_wrong_spec_keeps_that_quiet() -> None:
    """What is wrong in the spec may be what would have asked; what is wrong in an annotation cannot be."""
    asks_for_none = {"name": "main", "command": ["x"]}
    known = pod(asks_for_none, annotations={names.MANAGEMENT: "al"})
    assert [each.partition(": ")[0] for each in problems(known)] == [
        f"metadata.annotations[{names.MANAGEMENT}]",
        "spec.containers",
    ]
    assert [each.partition(": ")[0] for each in problems(pod({**asks_for_none, "resources": []}))] == [
        "spec.containers[0].resources"
    ]
