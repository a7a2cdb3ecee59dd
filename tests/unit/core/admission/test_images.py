"""What a pod leaves to its images: what is to be looked up, and what becomes of the pod then."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core import names
from bitfusiond.core.admission import images
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal
from bitfusiond.core.admission.images import MOST_PULL_SECRETS, Needed
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.clients.client import Client
from bitfusiond.core.images.image import Image, Images, Unreadable
from bitfusiond.core.objects import Pod
from tests.pods import BINARY, LIBRARIES, NAMESPACE, argv, container, pod, rules

PYTHON = Image(("python", "-u"), ("serve.py",), {"LD_LIBRARY_PATH": "/opt/libs"})
CLIENT = [BINARY, "run", "-n", "1", "-p", "0.500000", "--"]
GPU = {"limits": {names.GPU_AMOUNT: "1", names.GPU_PERCENT: "50"}}


def bare(**fields: Any) -> Pod:
    """A GPU container without a command."""
    return {"name": "main", "image": "i", "resources": copy.deepcopy(GPU), **fields}


def admitted(document: Pod, looked_up: Images) -> tuple[Pod, list[str]]:
    """The first container of the admitted pod, and the warnings."""
    before = copy.deepcopy(document)
    verdict = mutate(document, NAMESPACE, rules(), looked_up)
    assert document == before
    assert isinstance(verdict, Patch), verdict
    after = jsonpatch.apply_patch(document, verdict.operations)
    assert isinstance(validate(after, NAMESPACE, rules(), None), Allowed)
    first: Pod = after["spec"]["containers"][0]
    return first, verdict.warnings


def refused(document: Pod, looked_up: Images) -> list[str]:
    verdict = mutate(document, NAMESPACE, rules(), looked_up)
    assert isinstance(verdict, Refusal), verdict
    return verdict.problems


def variable(of: Pod, name: str = names.LD_LIBRARY_PATH) -> str:
    (value,) = (each["value"] for each in of["env"] if each["name"] == name)
    return str(value)


# --- what is needed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "found"),
    [
        (pod(bare()), {"i": True}),
        (pod(bare(image="i:1")), {"i:1": False}),
        (pod(bare(image="i:1", imagePullPolicy="Always")), {"i:1": True}),
        (pod(bare(imagePullPolicy="IfNotPresent")), {"i": False}),
        (pod(bare(image="i:latest")), {"i:latest": True}),
        (pod(bare(image="NO NAME")), {"NO NAME": True}),
        (pod(container()), {"i": True}),
        (pod(container(env=[{"name": "LD_LIBRARY_PATH", "value": "/x"}])), {}),
        (pod(container(env=[{"name": "LD_LIBRARY_PATH", "valueFrom": {}}])), {}),
        (pod(bare(env=[{"name": "LD_LIBRARY_PATH", "value": "/x"}])), {"i": True}),
        (pod(bare(env=[{"name": "LD_LIBRARY_PATH", "value": "/x"}]), mode="injection"), {}),
        (pod(bare(), mode="injection"), {"i": True}),
        (pod(bare(), mode="none"), {}),
        (pod(bare(), mode="maybe"), {}),
        (pod(bare(), annotations={names.STATUS: names.STATUS_INJECTED}), {}),
        (pod(bare(), annotations={names.MIRROR: "x"}), {}),
        (pod(bare(), {"name": "other", "image": "other"}), {"i": True}),
        (pod(container(env=[{"name": "LD_LIBRARY_PATH"}]), initContainers=[bare(image="first:1")]), {"first:1": False}),
        (pod(bare(image="i:1"), bare(name="b", image="i:1", imagePullPolicy="Always")), {"i:1": True}),
        (pod(bare(image=None)), {}),
        (pod(bare(image="")), {}),
        ({}, {}),
        ({"spec": 1, "metadata": []}, {}),
    ],
)
def test_only_what_a_gpu_container_leaves_to_its_image_is_looked_up(document: Pod, found: dict[str, bool]) -> None:
    needed = images.needed(document, NAMESPACE, rules())
    assert (needed.images if needed else {}) == found
    assert images.needed(document, "kube-system", rules()) is None


def test_pull_secrets_are_those_of_the_pod_and_few() -> None:
    secrets = [{"name": "b"}, {"name": "a"}, {}, {"name": 1}, {"name": "a"}]
    assert images.needed(pod(bare(), imagePullSecrets=secrets), NAMESPACE, rules()) == Needed({"i": True}, ("b", "a"))
    many = [{"name": f"s{number}"} for number in range(100)]
    needed = images.needed(pod(bare(), imagePullSecrets=many), NAMESPACE, rules())
    assert needed is not None
    assert len(needed.pull_secrets) == MOST_PULL_SECRETS


# --- what becomes of it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "image", "runs"),
    [
        ({}, PYTHON, [*CLIENT, "python", "-u", "serve.py"]),
        ({"command": []}, PYTHON, [*CLIENT, "python", "-u", "serve.py"]),
        ({"command": None}, PYTHON, [*CLIENT, "python", "-u", "serve.py"]),
        ({"args": ["other.py", "$(EPOCHS)"]}, PYTHON, [*CLIENT, "python", "-u", "other.py", "$(EPOCHS)"]),
        ({"args": []}, PYTHON, [*CLIENT, "python", "-u", "serve.py"]),
        ({"command": ["own"]}, PYTHON, [*CLIENT, "own"]),
        ({"command": ["own"], "args": ["a"]}, PYTHON, [*CLIENT, "own", "a"]),
        ({}, Image(cmd=("python", "x.py")), [*CLIENT, "python", "x.py"]),
        ({"args": ["a", "b"]}, Image(cmd=("python",)), [*CLIENT, "a", "b"]),
        ({"args": ["a"]}, Image(), [*CLIENT, "a"]),
        ({}, Image(("/with a blank",)), [*CLIENT, "/with a blank"]),
        ({}, Image(("/bin/sh", "-c", "python x.py")), ["/bin/sh", "-c", f"{' '.join(CLIENT)} python x.py"]),
        ({}, Image(("/bin/sh", "-c", "cd /x; python")), [*CLIENT, "/bin/sh", "-c", "cd /x; python"]),
        (
            {},
            Image(("tini", "--", "run"), ("$(X)", "$$", "$HOME")),
            [*CLIENT, "tini", "--", "run", "$(X)", "$$", "$HOME"],
        ),
        (
            {},
            Image(("bitfusion", "run", "-n", "1", "-p", "0.5", "--", "x")),
            [BINARY, "run", "-n", "1", "-p", "0.5", "--", "x"],
        ),
    ],
)
def test_a_container_without_a_command_runs_what_its_image_says(
    fields: dict[str, Any], image: Image, runs: list[str]
) -> None:
    """As the kubelet hands it to the runtime, for which X is no variable."""
    first, _ = admitted(pod(bare(**fields)), {"i": image})
    assert argv(first, {"X": "expanded"}) == runs


@given(st.lists(st.text(alphabet="$()Xa{", max_size=8), min_size=1, max_size=3))
def test_the_kubelet_expands_nothing_of_an_image(words: list[str]) -> None:
    first, _ = admitted(pod(bare()), {"i": Image(("/entry", *words))})
    assert argv(first, {"X": "expanded", "": "expanded"}) == [*CLIENT, "/entry", *words]


def test_an_image_that_asks_for_more_than_the_container_is_refused() -> None:
    (problem,) = refused(pod(bare()), {"i": Image(("bitfusion", "run", "-n", "4", "--", "x"))})
    assert "asks for 400 shares" in problem


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, f"{LIBRARIES}:/opt/libs"),
        ({"command": ["own"]}, f"{LIBRARIES}:/opt/libs"),
        ({"env": [{"name": "OTHER", "value": "x"}]}, f"{LIBRARIES}:/opt/libs"),
        ({"env": [{"name": "LD_LIBRARY_PATH", "value": "/own"}]}, f"{LIBRARIES}:/own"),
        ({"env": [{"name": "LD_LIBRARY_PATH", "value": ""}]}, LIBRARIES),
    ],
)
def test_a_container_without_a_library_path_of_its_own_keeps_that_of_its_image(
    fields: dict[str, Any], path: str
) -> None:
    first, _ = admitted(pod(bare(**fields)), {"i": PYTHON})
    assert variable(first) == path


def test_in_mode_injection_only_the_library_path_is_taken() -> None:
    first, _ = admitted(pod(bare(), mode="injection"), {"i": PYTHON})
    assert "command" not in first
    assert variable(first) == f"{LIBRARIES}:/opt/libs"


def test_a_library_path_that_looks_like_a_reference_is_kept_from_expansion() -> None:
    first, _ = admitted(pod(bare()), {"i": Image(("x",), env={"LD_LIBRARY_PATH": "/a:$(HOME):$$"})})
    assert variable(first) == f"{LIBRARIES}:/a:$$(HOME):$$$$"


def test_an_image_without_a_library_path_leaves_nothing_behind_ours() -> None:
    for env in ({}, {"LD_LIBRARY_PATH": ""}):
        assert variable(admitted(pod(bare()), {"i": Image(("x",), env=env)})[0]) == LIBRARIES


UNREADABLE = Unreadable("r.example did not answer in time: try again")


def test_what_cannot_be_read_is_refused_as_without_a_lookup_with_the_reason() -> None:
    (problem,) = refused(pod(bare()), {"i": UNREADABLE})
    assert problem == (
        "spec.containers[0].command: must be set, as the ENTRYPOINT of the image cannot be seen: write the program and"
        " its arguments; image lookup: r.example did not answer in time: try again"
    )
    assert refused(pod(bare()), {}) == refused(pod(bare()), {"other": PYTHON})


def test_an_image_that_runs_nothing_is_told() -> None:
    (problem,) = refused(pod(bare()), {"i": Image()})
    assert problem == "spec.containers[0].command: must be set, as the image has neither ENTRYPOINT nor CMD"


def test_with_a_command_a_library_path_that_is_not_known_is_a_warning() -> None:
    first, warnings = admitted(pod(container()), {"i": UNREADABLE})
    assert variable(first) == LIBRARIES
    assert warnings == [f"spec.containers[0]: LD_LIBRARY_PATH of its image is not known: {UNREADABLE.reason}"]
    own = container(env=[{"name": "LD_LIBRARY_PATH", "value": "/x"}])
    assert admitted(pod(own), {"i": UNREADABLE})[1] == []


# --- other clients ----------------------------------------------------------------------------------------------------


def of_client(document: Pod, name: str) -> Pod:
    annotations = {names.MANAGEMENT: "all", names.CLIENT_NAME: name, names.CLIENT_SERVERS: "gpu-a:14833"}
    document["metadata"]["annotations"] = annotations
    return document


def test_a_client_that_goes_before_no_program_leaves_the_command_to_the_image() -> None:
    given = of_client(pod(bare()), "lupine")
    needed = images.needed(given, NAMESPACE, rules())
    assert needed is not None
    assert needed.images == {"i": True}, "for its LD_LIBRARY_PATH"
    first, warnings = admitted(given, {"i": PYTHON})
    assert "command" not in first
    assert variable(first).endswith(":/opt/libs")
    first, warnings = admitted(given, {"i": UNREADABLE})
    assert "command" not in first
    assert any("LD_LIBRARY_PATH of its image is not known" in each for each in warnings)


def test_a_client_without_libraries_needs_nothing_of_an_image() -> None:
    catalogue = replace(rules().catalogue, others=(Client("none"),))
    chosen = replace(rules(), catalogue=catalogue)
    assert images.needed(of_client(pod(bare()), "none"), NAMESPACE, chosen) is None


def test_scripts_of_images_that_are_too_long_are_not_read() -> None:
    """Of a pod's images together, as of its commands: what reads them takes time that grows with their length."""
    many = [bare(name=f"c{number}") for number in range(64)]
    script = "bitfusion run -n 1 x; " * 1000
    (problem,) = refused(pod(*many), {"i": Image(("/bin/sh", "-c", script))})
    assert problem.startswith(f"spec.containers: the commands that call bitfusion have {64 * len(script)} characters")
