"""Pods of other clients than Bitfusion's: what is added to them, what is left out, what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jsonpatch
import pytest
import yaml

from bitfusiond.core import names
from bitfusiond.core.admission import template
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal, Rules, Untouched
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.clients import catalogue
from bitfusiond.core.objects import Pod
from bitfusiond.files import read
from tests.pods import NAMESPACE, container, rules
from tests.pods import pod as documented

HALF = {names.GPU_AMOUNT: "1", names.GPU_PERCENT: "50"}
WRAPPING = {
    "Name": "wrapping",
    "Binary": "/bitfusion/wrapping/run",
    "Tree": "/bitfusion/wrapping",
    "Wrap": ["{binary}", "-n", "{gpus}", ["-m", "{megabytes}"], ["-f", "{filters}"], "--"],
}


def pod(name: str, *containers: Pod, servers: str | None = "", **spec: Any) -> Pod:
    """A pod that asks for the client ``name``, with ``containers`` (by default one that asks for half a GPU).

    ``servers``: by default two where the packaged clients are told them.
    """
    given = documented(*(containers or [container(HALF)]), **spec)
    annotations = given["metadata"]["annotations"]
    del annotations[names.CLIENT_OS], annotations[names.CLIENT_VERSION]
    annotations[names.CLIENT_NAME] = name
    if servers == "":
        servers = "gpu-a:1 gpu-b:2" if name in {"lupine", "pocl"} else None
    if servers is not None:
        annotations[names.CLIENT_SERVERS] = servers
    return given


def knowing(*entries: dict[str, Any], servers: Sequence[str] = ()) -> Rules:
    """The packaged files, with further ``entries`` in the catalogue, where the pool has ``servers``."""
    known = rules()
    others = catalogue.parse({"Clients": list(entries)}).others if entries else ()
    whole = dataclasses.replace(known.catalogue, others=(*known.catalogue.others, *others))
    return dataclasses.replace(known, catalogue=whole, servers=lambda: servers)


def patched(given: Pod, decision: Patch) -> Pod:
    result: Pod = jsonpatch.apply_patch(given, decision.operations)
    return result


def admitted(given: Pod, by: Rules | None = None) -> Pod:
    decision = mutate(given, NAMESPACE, by or knowing())
    assert isinstance(decision, Patch), decision
    return patched(given, decision)


def problems(given: Pod, by: Rules | None = None) -> list[str]:
    decision = mutate(given, NAMESPACE, by or knowing())
    assert isinstance(decision, Refusal), decision
    return decision.problems


def warnings(given: Pod, by: Rules | None = None) -> list[str]:
    decision = mutate(given, NAMESPACE, by or knowing())
    assert isinstance(decision, Patch), decision
    return decision.warnings


def env(given: Pod, index: int = 0) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in given["spec"]["containers"][index]["env"]}


def test_a_client_that_wraps_nothing_leaves_the_command_as_it_is() -> None:
    stored = admitted(pod("lupine", container(HALF, command=["python"], args=["x.py"])))
    main = stored["spec"]["containers"][0]
    assert (main["command"], main["args"]) == (["python"], ["x.py"])
    assert env(stored) == {names.LD_LIBRARY_PATH: "/bitfusion/lupine/lib", "LUPINE_SERVER": "gpu-a:1,gpu-b:2"}
    assert main["resources"]["limits"] == {names.GPU: "50"} == main["resources"]["requests"]


def test_a_container_without_a_command_needs_none_then() -> None:
    assert admitted(pod("lupine", container(HALF, command=None)))["spec"]["containers"][0]["command"] is None


def test_each_server_gets_a_variable_of_its_own_where_the_client_wants_that() -> None:
    told = env(admitted(pod("pocl")))
    assert told["POCL_DEVICES"] == "remote remote"
    assert (told["POCL_REMOTE0_PARAMETERS"], told["POCL_REMOTE1_PARAMETERS"]) == ("gpu-a:1/0", "gpu-b:2/0")
    assert told["OCL_ICD_VENDORS"] == "/bitfusion/pocl/libpocl.so.2"


def test_a_client_without_tokens_brings_no_secret_and_no_place_for_one() -> None:
    stored = admitted(pod("pocl"))
    assert [each["name"] for each in stored["spec"]["volumes"]] == ["bitfusion-distro"]
    [populate] = stored["spec"]["initContainers"]
    assert [each["mountPath"] for each in populate["volumeMounts"]] == ["/bitfusion-distro"]
    assert populate["args"][-2:] == ["--client-name", "pocl"]
    assert [each["mountPath"] for each in stored["spec"]["containers"][0]["volumeMounts"]] == ["/bitfusion"]


def test_a_client_of_the_image_needs_no_init_container() -> None:
    by = knowing({"Name": "there", "Env": {"THERE": "{servers}"}})
    stored = admitted(pod("there", servers="gpu-a:1,gpu-b:2"), by)
    assert not stored["spec"].get("initContainers")
    assert not stored["spec"].get("volumes")
    assert env(stored) == {"THERE": "gpu-a:1,gpu-b:2"}
    assert isinstance(validate(stored, NAMESPACE, by, {names.GPU: 100}), Allowed)


def test_tokens_come_where_the_entry_says_so() -> None:
    by = knowing({"Name": "mine", "Env": {"A": "b"}, "Tokens": "bitfusion"})
    decision = mutate(pod("mine"), NAMESPACE, by)
    assert isinstance(decision, Patch)
    assert decision.takes_tokens
    stored = patched(pod("mine"), decision)
    assert "bitfusion-ca-from-secret" in {each["name"] for each in stored["spec"]["volumes"]}
    assert "bitfusion-distro" not in {each["name"] for each in stored["spec"]["volumes"]}
    without = mutate(pod("pocl"), NAMESPACE, by)
    assert isinstance(without, Patch)
    assert not without.takes_tokens


@pytest.mark.parametrize(
    ("command", "then"),
    [
        (["python", "x.py"], ["python", "x.py"]),
        (["python x.py; y"], ["/bin/bash", "-c", "python x.py; y"]),
        (["bash", "-c", "bitfusion run x"], ["bash", "-c", "bitfusion run x"]),
        (["bitfusion", "run", "x"], ["bitfusion", "run", "x"]),
    ],
)
def test_the_words_of_the_entry_go_before_the_program(command: list[str], then: list[str]) -> None:
    by = knowing(WRAPPING)
    stored = admitted(pod("wrapping", container(HALF, command=command)), by)
    client = ["/bitfusion/wrapping/run", "-n", "1", "-m", "8000", "--"]
    assert stored["spec"]["containers"][0]["command"] == [*client, *then]
    assert isinstance(validate(stored, NAMESPACE, by, {names.GPU: 100}), Allowed)


def test_a_group_is_said_once_a_filter_and_left_out_without_its_value() -> None:
    given = pod("wrapping")
    given["metadata"]["annotations"][names.CLIENT_FILTER] = 'device.name="Tesla V100" device.id=0'
    no_total = dataclasses.replace(knowing(WRAPPING), total_gpu_memory=0)
    words = admitted(given, no_total)["spec"]["containers"][0]["command"]
    assert words[:3] == ["/bitfusion/wrapping/run", "-n", "1"]
    assert words[3:8] == ["-f", "device.name=Tesla V100", "-f", "device.id=0", "--"]


def test_a_share_is_told_in_the_words_that_the_client_knows() -> None:
    fractions = {"Name": "f", "Wrap": ["run", "{fraction}"]}
    asked = container({names.GPU_AMOUNT: "1", names.GPU_MEMORY: "4000M"})
    stored = admitted(pod("f", asked), knowing(fractions))
    assert stored["spec"]["containers"][0]["command"][:2] == ["run", "0.250000"]


def test_what_the_container_sets_itself_wins_with_a_warning() -> None:
    given = pod("lupine", container(HALF, env=[{"name": "LUPINE_SERVER", "value": "mine:1"}]))
    assert env(admitted(given))["LUPINE_SERVER"] == "mine:1"
    assert any(
        each == "spec.containers[0].env: LUPINE_SERVER is set already: the client lupine gets that, not gpu-a:1,gpu-b:2"
        for each in warnings(given)
    )


def test_a_variable_is_put_in_front_where_the_entry_says_so() -> None:
    by = knowing(
        {"Name": "path", "Env": {"PYTHONPATH": {"Value": "/x", "Prepend": ":"}, "B": {"Value": "b", "Prepend": " "}}}
    )
    own = [
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
        {"name": "PYTHONPATH", "value": "/bin"},
    ]
    stored = admitted(pod("path", container(HALF, env=own)), by)
    assert env(stored)["PYTHONPATH"] == "/x:/bin"
    assert [each["name"] for each in stored["spec"]["containers"][0]["env"]] == ["BITFUSIOND_B", "B", "PYTHONPATH"]
    assert env(stored)["B"] == "b $(BITFUSIOND_B)"
    assert env(admitted(pod("path"), by)) == {"PYTHONPATH": "/x", "B": "b"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"Env": {"A": "b"}}, ["gpu-amount and the share of memory"]),
        ({"Env": {"A": "{gpus}"}}, ["the share of memory"]),
        ({"Wrap": ["x", "{gpus}", "{fraction}"]}, []),
    ],
)
def test_what_the_client_cannot_hold_anybody_to_is_said(entry: Pod, words: list[str]) -> None:
    said = [each for each in warnings(pod("some"), knowing({"Name": "some", **entry})) if "not enforced" in each]
    assert [each.partition("is not told ")[2].partition(":")[0] for each in said] == words


@pytest.mark.parametrize(
    ("annotation", "of_entry", "of_pool", "told"),
    [
        ("p:1", ["e:1"], ["q:1"], "p:1"),
        (None, ["e:1"], ["q:1"], "e:1"),
        (None, None, ["q:1", "r:1"], "q:1,r:1"),
    ],
)
def test_servers_come_from_the_pod_else_from_the_entry_else_from_the_pool(
    annotation: str | None, of_entry: list[str] | None, of_pool: list[str], told: str
) -> None:
    entry: Pod = {"Name": "some", "Env": {"A": "{servers}"}, **({"Servers": of_entry} if of_entry else {})}
    assert env(admitted(pod("some", servers=annotation), knowing(entry, servers=of_pool)))["A"] == told


@pytest.mark.parametrize(
    "entry",
    [
        {"Wrap": ["run", ["-f", "{filters}", "-m", "{megabytes}"]]},
        {"Env": {"A": "b", "X": {"PerServer": "{server}/{megabytes}"}, "Y": "{fraction}"}},
        {"Env": {"A": "b", "X_{index}": "{server}/{megabytes}", "Y": "{fraction}"}},
    ],
)
def test_what_lacks_a_value_is_left_out_whatever_else_it_says(entry: Pod) -> None:
    no_total = dataclasses.replace(knowing({"Name": "some", **entry}), total_gpu_memory=0)
    servers = "gpu-a:1" if "Env" in entry else None
    given = pod("some", servers=servers)
    if "Wrap" in entry:
        given["metadata"]["annotations"][names.CLIENT_FILTER] = "device.id=0"
    main = admitted(given, no_total)["spec"]["containers"][0]
    assert "-f" not in main["command"]
    assert "X" not in {each["name"].partition("_")[0] for each in main.get("env", [])}


def test_a_numbered_variable_is_there_once_a_server_whatever_its_value() -> None:
    by = knowing({"Name": "some", "Env": {"X_{index}": "remote"}})
    assert env(admitted(pod("some", servers="gpu-a:1,gpu-b:2"), by)) == {"X_0": "remote", "X_1": "remote"}
    assert "must know its servers" in problems(pod("some", servers=None), by)[0]


def test_a_whole_line_as_the_only_word_gets_its_shell_whoever_the_client_is() -> None:
    stored = admitted(pod("lupine", container(HALF, command=["python x.py; y"])))
    assert stored["spec"]["containers"][0]["command"] == ["/bin/bash", "-c", "python x.py; y"]


def test_what_the_client_does_not_bring_and_what_it_takes_the_place_of_is_said() -> None:
    given = pod("lupine", container(HALF, command=["bitfusion", "run", "x"], envFrom=[{"secretRef": {"name": "s"}}]))
    said = warnings(given)
    assert "spec.containers[0].command: runs bitfusion, which the client lupine does not bring" in said
    assert any("envFrom: what it sets of LD_LIBRARY_PATH, LUPINE_SERVER gives way" in each for each in said)


def test_servers_that_nobody_is_told_are_refused() -> None:
    given = documented(annotations={names.CLIENT_SERVERS: "gpu-a:1"})
    assert problems(given) == [
        "metadata.annotations[bitfusion-client/servers]: the client bitfusion is told no servers: remove it"
    ]


def _odd_template(**changes: Any) -> Rules:
    document = yaml.safe_load(read.packaged(read.TEMPLATE))
    document["initContainers"][0] |= changes.pop("first", {})
    document["initContainers"] += changes.pop("more", [])
    return dataclasses.replace(knowing({"Name": "there", "Env": {"A": "b"}}), template=template.parse(document))


def test_a_template_of_the_operator_fits_other_clients_too() -> None:
    bare = _odd_template(first={"volumeMounts": None, "args": None})
    assert admitted(pod("pocl"), bare)["spec"]["initContainers"][0]["name"] == "populate"
    second = {"name": "more", "image": "i", "volumeMounts": [{"name": "bitfusion-distro", "mountPath": "/x"}]}
    spec = admitted(pod("there", servers=None), _odd_template(more=[second]))["spec"]
    assert [each["name"] for each in spec["initContainers"]] == ["more"]
    assert [each["name"] for each in spec["volumes"]] == ["bitfusion-distro"]


def test_without_any_server_the_pod_is_refused() -> None:
    [problem] = problems(pod("lupine", servers=None))
    assert problem.startswith("metadata.annotations[bitfusion-client/servers]: the client lupine must know its servers")


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (
            {names.CLIENT_NAME: "x"},
            "[bitfusion-client/name]: there is no client x; choose one of bitfusion, lupine, pocl",
        ),
        ({names.CLIENT_SERVERS: "gpu-a"}, "[bitfusion-client/servers][0]: 'gpu-a' is not HOST:PORT with a port from 1"),
        ({names.CLIENT_SERVERS: 7}, "[bitfusion-client/servers]: 7 is not a string: put it in quotation marks"),
        ({names.CLIENT_SERVERS: "h:1 " * 2000}, "[bitfusion-client/servers]: has 8000 characters: at most 4096 are"),
        ({names.CLIENT_FILTER: "device.id=0"}, "[bitfusion-client/filter]: the client pocl takes no filter: remove it"),
    ],
)
def test_a_wrong_wish_is_refused_in_these_words(annotations: dict[str, Any], message: str) -> None:
    given = pod("pocl")
    given["metadata"]["annotations"].update(annotations)
    assert any(message in each for each in problems(given)), problems(given)


def test_the_pod_of_another_system_is_refused() -> None:
    assert any(
        "there are clients for linux on amd64 only" in each for each in problems(pod("pocl", os={"name": "windows"}))
    )


def test_what_follows_the_advice_is_admitted() -> None:
    given = pod("pocl")
    given["metadata"]["annotations"][names.CLIENT_FILTER] = "device.id=0"
    assert "remove it" in problems(given)[0]
    del given["metadata"]["annotations"][names.CLIENT_FILTER]
    assert admitted(given)


def test_a_second_call_changes_nothing() -> None:
    for name in ("lupine", "pocl"):
        assert mutate(admitted(pod(name)), NAMESPACE, knowing()) == Untouched("already injected")


def test_the_name_of_the_documented_client_may_be_said_too() -> None:
    given = documented(annotations={names.CLIENT_NAME: "bitfusion"})
    without = documented()
    one, other = admitted(given), admitted(without)
    assert one["spec"] == other["spec"]


@pytest.mark.parametrize("lost", ["populate", "mount", "library", "variable", "servers", "status"])
def test_a_pod_that_lost_a_part_is_refused_at_the_second_look(lost: str) -> None:
    stored = admitted(pod("pocl"))
    assert isinstance(validate(stored, NAMESPACE, knowing(), {names.GPU: 100}), Allowed)
    main = stored["spec"]["containers"][0]
    if lost == "populate":
        stored["spec"]["initContainers"] = []
    elif lost == "mount":
        main["volumeMounts"] = []
    elif lost == "status":
        del stored["metadata"]["annotations"][names.STATUS]
    else:
        gone = {
            "library": names.LD_LIBRARY_PATH,
            "variable": "OCL_ICD_VENDORS",
            "servers": "POCL_REMOTE0_PARAMETERS",
        }[lost]
        main["env"] = [each for each in main["env"] if each["name"] != gone]
    assert isinstance(validate(stored, NAMESPACE, knowing(), {names.GPU: 100}), Refusal)


def test_a_command_that_lost_its_client_is_refused_at_the_second_look() -> None:
    stored = admitted(pod("wrapping"), knowing(WRAPPING))
    stored["spec"]["containers"][0]["command"] = ["python", "x.py"]
    decision = validate(stored, NAMESPACE, knowing(WRAPPING), {names.GPU: 100})
    assert isinstance(decision, Refusal)
    assert "/bitfusion/wrapping/run in its command" in decision.problems[0]


def test_a_client_that_another_replica_knows_is_believed() -> None:
    stored = admitted(pod("wrapping"), knowing(WRAPPING))
    assert isinstance(validate(stored, NAMESPACE, knowing(), {names.GPU: 100}), Allowed)
