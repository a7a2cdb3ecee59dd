"""What one pod may have, and that the work for it and the answer grow no faster than the pod."""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable

import pytest

from bitfusiond.core import names
from bitfusiond.core.admission import review
from bitfusiond.core.admission.decision import Patch, Refusal
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.objects import Pod
from bitfusiond.webhook.admission import ANSWER_LIMIT
from tests.pods import NAMESPACE, admitted, container, pod, problems, rules

Grow = Callable[[Pod, int], None]
NODES = {names.GPU: 10**6} | {f"bitfusion.io/r{each}": 10 for each in range(2000)}


def first(given: Pod) -> Pod:
    found: Pod = given["spec"]["containers"][0]
    return found


def _containers(given: Pod, number: int) -> None:
    given["spec"]["containers"] += [{"name": f"c{each}", "image": "i"} for each in range(number)]


def _gpu_containers(given: Pod, number: int) -> None:
    given["spec"]["containers"] += [container(name=f"g{each}") for each in range(number)]


def _init_containers(given: Pod, number: int) -> None:
    given["spec"].setdefault("initContainers", []).extend({"name": f"i{each}"} for each in range(number))


def _resources(given: Pod, number: int) -> None:
    first(given)["resources"]["limits"] |= {f"bitfusion.io/r{each}": "1" for each in range(number)}


def _variables(given: Pod, number: int) -> None:
    first(given).setdefault("env", []).extend({"name": f"V{each}", "value": "x"} for each in range(number))


def _mounts(given: Pod, number: int) -> None:
    mounts = first(given).setdefault("volumeMounts", [])
    mounts.extend({"name": "v", "mountPath": f"/m{each}"} for each in range(number))


def _volumes(given: Pod, number: int) -> None:
    given["spec"].setdefault("volumes", []).extend({"name": f"bitfusion-distro-{each}"} for each in range(number))
    given["spec"]["volumes"].append({"name": "bitfusion-distro"})  # ours must give way


def _filters(given: Pod, number: int) -> None:
    given["metadata"]["annotations"][names.CLIENT_FILTER] = " ".join(f"device.id={each}" for each in range(number))


def _words(given: Pod, number: int) -> None:
    first(given)["args"] = [f"--word={each}" for each in range(number)]


def _script(given: Pod, number: int) -> None:
    first(given)["command"] = ["bash", "-c", "bitfusion run -p .1 x; " * number]
    first(given).pop("args", None)


def _shells(given: Pod, number: int) -> None:
    first(given)["command"] = ["sh", *["sh", "-x"] * (number // 2), "bitfusion"]


def _nested(given: Pod, number: int) -> None:
    first(given)["command"] = ["bash", "-c", "bitfusion list; " + "a $(a " * (number // 2) + "${" * (number // 2)]
    first(given).pop("args", None)


def _nested_calls(given: Pod, number: int) -> None:
    first(given)["command"] = [*["bitfusion", "run", "-p", ".1"] * number, "x"]
    first(given).pop("args", None)


# How a pod can grow, the number that is half of what is allowed (or of what a body holds), and the number over it.
DIMENSIONS: dict[str, tuple[Grow, int, int | None]] = {
    "containers": (_containers, 120, 256),
    "GPU containers": (_gpu_containers, 30, 64),
    "init containers": (_init_containers, 120, 257),
    "resources": (_resources, 30, 64),
    "variables": (_variables, 2000, 4097),
    "mounts": (_mounts, 500, 1025),
    "volumes": (_volumes, 500, 1024),
    "filters": (_filters, 140, 400),
    "words": (_words, 20_000, None),
    "a script": (_script, 5_000, 5_800),
    "shells": (_shells, 20_000, None),
    "nested calls": (_nested_calls, 10_000, None),
    "nested substitutions": (_nested, 20_000, None),
}


def grown(*parts: tuple[str, int]) -> Pod:
    given = pod()
    for name, number in parts:
        DIMENSIONS[name][0](given, number)
    return given


def cost(given: Pod, *, stored: bool) -> tuple[int, int, float]:
    """Of one decision: calls of functions, bytes of the answer, seconds of CPU."""
    body = json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {"uid": "u", "kind": {"group": "", "kind": "Pod"}, "operation": "CREATE", "object": given},
        }
    ).encode()
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    began = time.process_time()
    sys.setprofile(count)
    try:
        asked = review.parse(body)
        assert asked.object is not None
        verdict: object = (
            validate(asked.object, NAMESPACE, rules(), NODES) if stored else mutate(asked.object, NAMESPACE, rules())
        )
    finally:
        sys.setprofile(None)
    seconds = time.process_time() - began
    match verdict:
        case Refusal():
            answer = review.refuse(asked, verdict.problems)
        case Patch():
            answer = review.allow(asked, verdict.operations, verdict.warnings)
        case _:
            answer = review.allow(asked)
    return calls, len(answer), seconds


PAIRS = [(name,) for name in DIMENSIONS] + list(itertools.combinations(DIMENSIONS, 2))


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True], ids=["mutate", "validate"])
@pytest.mark.parametrize("dimensions", PAIRS, ids=", ".join)
def test_twice_the_pod_is_at_most_twice_the_work_and_the_answer(dimensions: tuple[str, ...], stored: bool) -> None:
    """What is not linear shows in the calls, and what hides in one call in the seconds."""
    half = grown(*((name, DIMENSIONS[name][1] // 2) for name in dimensions))
    whole = grown(*((name, DIMENSIONS[name][1]) for name in dimensions))
    if stored:
        half, whole = admitted(half) if _is_right(half) else half, admitted(whole) if _is_right(whole) else whole
    fewer, less, shorter = cost(half, stored=stored)
    calls, size, seconds = cost(whole, stored=stored)
    # Each GPU container's command gets all filters, as documented: the two multiply, up to their bounds.
    most = 4 if set(dimensions) == {"GPU containers", "filters"} else 2
    assert calls <= 1.2 * most * fewer + 200
    assert size <= 1.05 * most * less + 200
    assert size <= ANSWER_LIMIT
    assert seconds < 0.5 + 2 * most * shorter  # what is slow inside one call, of slices and regular expressions
    assert seconds < 2


def _is_right(given: Pod) -> bool:
    return isinstance(mutate(given, NAMESPACE, rules()), Patch)


BOUNDS = [
    ("containers", "spec.containers: has 257 entries: bitfusiond takes at most 256"),
    (
        "GPU containers",
        "spec.containers: 65 containers ask for bitfusion.io/gpu-amount: bitfusiond takes at most 64",
    ),
    ("init containers", "spec.initContainers: has 257 entries: bitfusiond takes at most 256"),
    ("resources", "spec.containers[0].resources.limits: has 66 entries: bitfusiond takes at most 64"),
    ("variables", "spec.containers[0].env: has 4097 entries: bitfusiond takes at most 4096"),
    ("mounts", "spec.containers[0].volumeMounts: has 1025 entries: bitfusiond takes at most 1024"),
    ("volumes", "spec.volumes: has 1025 entries: bitfusiond takes at most 1024"),
    (
        "a script",
        (
            "spec.containers: the commands that call bitfusion have 133400 characters: bitfusiond reads at most 131072;"
            " put the script into a file"
        ),
    ),
    ("filters", "metadata.annotations[bitfusion-client/filter]: has 5489 characters: at most 4096 are allowed"),
]


@pytest.mark.parametrize(("dimension", "message"), BOUNDS, ids=[name for name, _ in BOUNDS])
def test_what_is_over_a_bound_is_refused_with_field_count_and_limit(dimension: str, message: str) -> None:
    over = DIMENSIONS[dimension][2]
    assert over is not None
    assert problems(grown((dimension, over))) == [message]


def test_a_long_name_is_refused_before_it_goes_anywhere() -> None:
    given = pod()
    given["metadata"]["name"] = "x" * 254
    verdict = mutate(given, "n" * 64, rules())
    assert isinstance(verdict, Refusal)
    assert verdict.problems == [
        "metadata.name: has 254 characters: at most 253 are allowed",
        "metadata.namespace: has 64 characters: at most 63 are allowed",
    ]


def test_a_stored_pod_of_many_resources_and_containers_is_looked_at_once() -> None:
    """2,000 of each, in 0.1 MB, once took eleven seconds."""
    given = admitted(pod())
    first(given)["resources"]["limits"] |= {f"bitfusion.io/r{each}": "1" for each in range(2000)}
    given["spec"]["containers"] += [{"name": f"c{each}"} for each in range(2000)]
    calls, _, seconds = cost(given, stored=True)
    assert calls < 50_000
    assert seconds < 1


def test_a_client_name_that_is_too_long_is_not_said_to_be_missing() -> None:
    given = pod(annotations={names.CLIENT_OS: "x" * 64})
    first_problem, other = problems(given)
    assert first_problem == "metadata.annotations[bitfusion-client/os]: has 64 characters: at most 63 are allowed"
    assert "there is no client for os" in other
