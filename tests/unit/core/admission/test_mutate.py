"""Properties of every patch, and what single pods become."""

from __future__ import annotations

import copy
import dataclasses
import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Patch, Refusal, Untouched
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.clients.catalogue import Catalogue
from bitfusiond.core.objects import Pod
from tests import strategies
from tests.pods import BINARY, LIBRARIES, NAMESPACE, admitted, container, example, pod, rules, verdict


def _containers(of: Pod) -> list[Pod]:
    return [*(of["spec"].get("initContainers") or []), *of["spec"]["containers"]]


def _by_name(of: Pod) -> dict[str, Pod]:
    return {each["name"]: each for each in _containers(of)}


def _asks(each: Pod) -> dict[str, Any]:
    resources: dict[str, dict[str, Any]] = each.get("resources", {})
    return resources.get("limits", {}) | resources.get("requests", {})


@given(strategies.pods())
def test_a_patch_applies_strictly_and_a_second_call_changes_nothing(given_pod: Pod) -> None:
    """Every operation is valid RFC 6902, for a library that is not ours."""
    patched = admitted(given_pod)
    assert verdict(patched) == Untouched("already injected")


@given(strategies.pods(opted_in=False))
def test_without_opting_in_there_is_no_patch(given_pod: Pod) -> None:
    assert verdict(given_pod) == Untouched("not opted in")


@given(strategies.pods())
def test_shares_are_the_documented_formula(given_pod: Pod) -> None:
    patched = _by_name(admitted(given_pod))
    for each in _containers(given_pod):
        asked = _asks(each)
        if names.GPU_AMOUNT not in asked:
            continue
        amount = int(asked[names.GPU_AMOUNT])
        share = Fraction(int(asked.get(names.GPU_PERCENT, 100)), 100)
        if names.GPU_MEMORY in asked:
            share = Fraction(int(asked[names.GPU_MEMORY].removesuffix("M")), 16000)
        resources = patched[each["name"]]["resources"]
        assert resources["limits"][names.GPU] == resources["requests"][names.GPU]
        assert int(resources["limits"][names.GPU]) == math.ceil(share * amount * 100)
        assert not set(names.REQUEST_RESOURCES) & set(_asks(patched[each["name"]]))


@given(strategies.pods())
def test_taking_away_what_was_added_gives_the_pod_back(given_pod: Pod) -> None:
    """Everything that was there survives: annotations, volumes, mounts, variables, unknown fields."""
    patched = admitted(given_pod)
    assert _without_ours(patched, given_pod) == _without_requests(given_pod)


def _without_ours(patched: Pod, before: Pod) -> Pod:
    left = copy.deepcopy(patched)
    del left["metadata"]["annotations"][names.STATUS]
    spec, old = left["spec"], before["spec"]
    del spec["initContainers"][0]
    _cut(spec, "initContainers", old)
    spec["volumes"] = spec["volumes"][: len(old.get("volumes") or [])]
    _cut(spec, "volumes", old)
    annotations = before["metadata"]["annotations"]
    client = rules().catalogue.find(annotations[names.CLIENT_OS], annotations[names.CLIENT_VERSION])
    originals = _by_name(before)
    for each in _containers(left):
        original = originals[each["name"]]
        if names.GPU_AMOUNT in _asks(original):
            _take_back(each, original, str(client.library_path))
        _drop_requests(each)
    return left


def _take_back(each: Pod, original: Pod, libraries: str) -> None:
    each["command"] = original["command"]
    if "args" in original:
        each["args"] = original["args"]
    for section in ("limits", "requests"):
        del each["resources"][section][names.GPU]
        if section not in original["resources"]:
            assert each["resources"].pop(section) == {}
    each["volumeMounts"] = each["volumeMounts"][: len(original.get("volumeMounts") or [])]
    _cut(each, "volumeMounts", original)
    _take_back_variables(each, original, libraries)


def _take_back_variables(each: Pod, original: Pod, libraries: str) -> None:
    kept: list[Pod] = []
    for variable in each["env"]:
        if variable["name"] == "BITFUSIOND_LD_LIBRARY_PATH":
            kept.append({**variable, "name": names.LD_LIBRARY_PATH})
        elif variable["name"] == names.LD_LIBRARY_PATH:
            before = [one for one in original.get("env") or [] if one["name"] == names.LD_LIBRARY_PATH]
            if before and "valueFrom" not in before[0]:
                assert variable["value"] == ":".join(filter(None, [libraries, before[0].get("value")]))
                kept += before
        else:
            kept.append(variable)
    each["env"] = kept
    _cut(each, "env", original)


def _cut(left: Pod, key: str, original: Pod) -> None:
    """A list that was not there, and is empty now, goes."""
    if key not in original:
        assert left.pop(key) == []


def _drop_requests(each: Pod) -> None:
    for values in each["resources"].values():
        for key in names.REQUEST_RESOURCES:
            values.pop(key, None)


def _without_requests(before: Pod) -> Pod:
    left = copy.deepcopy(before)
    for each in _containers(left):
        _drop_requests(each)
    return left


@given(strategies.pods())
def test_populate_is_first_and_holds_no_gpu(given_pod: Pod) -> None:
    """A GPU in an init container and in a container breaks pods on a kubelet restart (kubernetes#124345)."""
    populate = admitted(given_pod)["spec"]["initContainers"][0]
    assert populate["name"] == "populate"
    assert not any(key.startswith(names.DOMAIN) for key in _asks(populate))
    annotations = given_pod["metadata"]["annotations"]
    wanted = ["--client-os", annotations[names.CLIENT_OS], "--client-version", annotations[names.CLIENT_VERSION]]
    assert populate["command"] == ["bitfusiond", "--role", "init"]
    assert populate["args"][-4:] == wanted


@pytest.mark.parametrize(
    ("name", "words", "shares"),
    [
        ("pod", "-n 1 -p 0.500000 -- python", "50"),
        ("pod-memory", "-n 1 -m 8000 -- python", "50"),
        (
            "pod-filter",
            "-n 1 -p 0.500000 --filter server.hostname=bf-server --filter server.addr=192.168.1.1 -- python",
            "50",
        ),
        ("deployment", "-n 1 -p 0.250000 -- python", "25"),
        ("job", "-n 1 -p 0.250000 -- python", "25"),
    ],
)
def test_the_documented_pods_become_what_the_documentation_shows(name: str, words: str, shares: str) -> None:
    patched = admitted(example(name))["spec"]["containers"][0]
    assert patched["command"][:2] == ["/bin/bash", "-c"]
    assert patched["command"][2].startswith(f"{BINARY} run {words} /benchmark/scripts/")
    assert patched["resources"] == {"limits": {names.GPU: shares}, "requests": {names.GPU: shares}}
    assert patched["env"] == [{"name": names.LD_LIBRARY_PATH, "value": LIBRARIES}]


def test_injection_mode_leaves_the_command_alone() -> None:
    before = example("pod-injection")["spec"]["containers"][0]
    assert admitted(example("pod-injection"))["spec"]["containers"][0]["command"] == before["command"]


def test_injection_mode_wants_no_command() -> None:
    plain = container()
    del plain["command"]
    assert "command" not in admitted(pod(plain, mode="injection"))["spec"]["containers"][0]


@pytest.mark.parametrize("mode", ["all", "ALL", "y", "yes", "Yes", "true", "on"])
def test_every_documented_form_of_all_is_taken(mode: str) -> None:
    assert isinstance(verdict(pod(mode=mode)), Patch)


@pytest.mark.parametrize("mode", ["none", "None", "n", "no", "false", "OFF", ""])
def test_every_documented_form_of_none_is_taken(mode: str) -> None:
    assert verdict(pod(mode=mode)) == Untouched("not opted in")


@pytest.mark.parametrize("namespace", ["kube-system", "kube-public", "kube-node-lease", "bwki"])
def test_namespaces_of_the_cluster_are_left_alone(namespace: str) -> None:
    """The namespace is the request's, not the object's."""
    assert verdict(pod(), namespace) == Untouched("exempt namespace")


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([], None),
        ([{"requests": {"cpu": "1"}}], {"requests": {"cpu": "1"}}),
        ([{"limits": {"cpu": "1"}}], {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}),
        (
            [
                {"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}},
                {"requests": {"cpu": "0.7"}, "limits": {"cpu": "2"}},
            ],
            {"limits": {"cpu": "2"}, "requests": {"cpu": "0.7"}},
        ),
        (
            [{"limits": {"memory": "1000M"}}, {"requests": {"memory": "1Gi"}}],
            {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}},
        ),
        # What the GPU container does not limit, a sidecar's limit does not limit either.
        ([{"requests": {"memory": "1Gi"}}, {"limits": {"memory": "1000M"}}], {"requests": {"memory": "1Gi"}}),
        ([{}, {"limits": {"cpu": "10m", "memory": "20Mi"}}], {"requests": {"cpu": "10m", "memory": "20Mi"}}),
        (
            [{"limits": {"memory": "1Gi"}}, {"limits": {"cpu": "10m"}}],
            {"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi", "cpu": "10m"}},
        ),
        ([{"requests": {"cpu": "nonsense", "memory": "1"}}], {"requests": {"memory": "1"}}),
        # 0 is no limit, and the API server takes it beside a request of 0 alone.
        ([{"limits": {"cpu": "0"}}], {"limits": {"cpu": "0"}, "requests": {"cpu": "0"}}),
        ([{"limits": {"cpu": "0"}}, {"limits": {"cpu": "10m"}}], {"requests": {"cpu": "10m"}}),
        (
            [{"limits": {"cpu": "0"}}, {"requests": {"cpu": "0"}, "limits": {"cpu": "10m"}}],
            {"limits": {"cpu": "0"}, "requests": {"cpu": "0"}},
        ),
    ],
)
def test_populate_is_as_large_as_the_largest_container(resources: list[Pod], expected: Pod | None) -> None:
    """``resources`` of the GPU container, then of others."""
    main = container()
    for each in resources[:1]:
        main["resources"] = {**each, "limits": main["resources"]["limits"] | each.get("limits", {})}
    others = [{"name": f"o{i}", "image": "i", "resources": each} for i, each in enumerate(resources[1:])]
    assert admitted(pod(main, *others))["spec"]["initContainers"][0].get("resources") == expected


def test_populate_is_limited_only_where_every_gpu_container_is() -> None:
    limited = container({names.GPU_AMOUNT: "1", "memory": "1Gi", "cpu": "1"})
    other = container({names.GPU_AMOUNT: "1", "memory": "2Gi"}, name="other")
    resources = admitted(pod(limited, other))["spec"]["initContainers"][0]["resources"]
    assert resources == {"limits": {"memory": "2Gi"}, "requests": {"memory": "2Gi", "cpu": "1"}}


def _mounted(path: str, volume: Pod, **mount: Any) -> list[str]:
    given = pod(container(volumeMounts=[{"name": "v", "mountPath": path, **mount}]), volumes=[{"name": "v", **volume}])
    decision = verdict(given)
    return decision.problems if isinstance(decision, Refusal) else []


@pytest.mark.parametrize(
    ("path", "below"),
    [
        ("/", "/bitfusion"),
        ("/opt", "/opt/bitfusion"),
        ("//opt/./", "/opt/bitfusion"),
        ("opt", "/opt/bitfusion"),
        ("/root", "/root/.bitfusion/client.yaml"),
        ("/root/.bitfusion", "/root/.bitfusion/client.yaml"),
        ("/etc", "/etc/bitfusion/servers.conf"),
        ("/etc/bitfusion", "/etc/bitfusion/servers.conf"),
        ("/etc/bitfusion/tls", "/etc/bitfusion/tls/ca.crt"),
    ],
)
@pytest.mark.parametrize(
    ("volume", "mount", "what"),
    [
        ({"emptyDir": {}}, {"readOnly": True}, "is read-only"),
        ({"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}, {}, "is read-only"),
        ({"nfs": {"server": "s", "path": "/", "readOnly": True}}, {}, "is read-only"),
        ({"secret": {"secretName": "s"}}, {}, "holds a Secret"),
        ({"configMap": {"name": "c"}}, {}, "holds a ConfigMap"),
        ({"projected": {"sources": []}}, {}, "holds a projected volume"),
        ({"downwardAPI": {"items": []}}, {}, "holds fields of the pod"),
        ({"image": {"reference": "r"}}, {}, "holds an image"),
        ({"hostPath": {"path": "/f", "type": "File"}}, {}, "is a file"),
        ({"hostPath": {"path": "/run/s", "type": "Socket"}}, {}, "is a file"),
    ],
    ids=["readOnly", "claim", "nfs", "secret", "configMap", "projected", "downwardAPI", "image", "file", "socket"],
)
def test_a_mount_below_which_none_can_be_made_is_refused(
    path: str, below: str, volume: Pod, mount: Pod, what: str
) -> None:
    (problem,) = _mounted(path, volume, **mount)
    assert problem == (
        f"spec.containers[0].volumeMounts[0].mountPath: {path} {what} and lies above {below}, where the"
        " client goes: the container could not start, so mount yours elsewhere"
    )


@pytest.mark.parametrize("path", ["/bitfusion", "//bitfusion", "/opt/./bitfusion", "/bitfusion/", "bitfusion"])
def test_a_mount_at_a_place_of_the_client_is_refused_however_it_is_written(path: str) -> None:
    (problem,) = _mounted(path, {"emptyDir": {}})
    assert problem.endswith(f"mountPath: {path} is where the client goes: mount yours elsewhere")


@pytest.mark.parametrize("path", ["/root/.bitfusion/client.yaml/x", "/etc/bitfusion/tls/ca.crt/a/b"])
def test_a_mount_below_a_file_of_the_client_is_refused(path: str) -> None:
    (problem,) = _mounted(path, {"emptyDir": {}})
    assert problem.endswith(f"mountPath: {path} is where the client goes: mount yours elsewhere")


@pytest.mark.parametrize("path", ["/bitfusion/data", "/opt/bitfusion/x", "/root/.bitfusion/client.yaml.d"])
def test_a_mount_below_or_beside_a_directory_of_the_client_is_taken(path: str) -> None:
    assert _mounted(path, {"emptyDir": {}}) == []


@pytest.mark.parametrize(
    ("volume", "warns"),
    [
        ({"persistentVolumeClaim": {"claimName": "c"}}, True),
        ({"csi": {"driver": "d"}}, True),
        ({"ephemeral": {"volumeClaimTemplate": {}}}, True),
        ({"nfs": {"server": "s", "path": "/"}}, True),
        ({"hostPath": {"path": "/opt", "type": "Directory"}}, True),
        ({"emptyDir": {}}, False),
    ],
    ids=["claim", "csi", "ephemeral", "nfs", "hostPath", "emptyDir"],
)
@pytest.mark.parametrize("path", ["/", "/opt", "/root", "root/", "/etc/bitfusion/tls"])
def test_a_mount_above_the_client_that_may_be_writable_is_warned_about(path: str, volume: Pod, warns: bool) -> None:
    mount = {"name": "v", "mountPath": path}
    decision = verdict(pod(container(volumeMounts=[mount]), volumes=[{"name": "v", **volume}]))
    assert isinstance(decision, Patch)
    words = (
        f"spec.containers[0].volumeMounts[0].mountPath: {path} must be writable, as the client goes below it; or mount"
        " it elsewhere"
    )
    assert decision.warnings == ([words] if warns else [])


@pytest.mark.parametrize("path", ["/data", "/bitfusion/x", "/optional"])
def test_a_mount_elsewhere_is_taken_without_a_word(path: str) -> None:
    mount = {"name": "v", "mountPath": path}
    given = pod(container(volumeMounts=[mount]), volumes=[{"name": "v", "csi": {"driver": "d"}}])
    decision = verdict(given)
    assert isinstance(decision, Patch)
    assert decision.warnings == []


@pytest.mark.parametrize(("path", "read_only"), [("/opt", False), ("/", False), ("/data", True), ("/optional", True)])
def test_a_mount_that_leaves_the_client_its_place_is_taken(path: str, read_only: bool) -> None:
    assert _mounted(path, {"emptyDir": {}}, readOnly=read_only) == []


def test_a_block_device_above_a_place_of_the_client_is_refused() -> None:
    given = pod(container(volumeDevices=[{"name": "v", "devicePath": "/opt"}]))
    decision = verdict(given)
    assert isinstance(decision, Refusal)
    assert "volumeDevices[0].devicePath: /opt is a device and lies above /opt/bitfusion" in decision.problems[0]


def test_a_mirror_pod_is_left_alone() -> None:
    """The kubelet shows what it runs from a file: nothing that is said of it changes that."""
    mirror = pod(annotations={names.MIRROR: "x", names.MANAGEMENT: "nonsense"})
    assert verdict(mirror) == Untouched("mirror pod")
    assert validate(mirror, NAMESPACE, rules(), {}) == Untouched("mirror pod")


@pytest.mark.parametrize(
    ("limits", "warns"),
    [
        ([{}], False),
        ([{"ephemeral-storage": "349M"}], True),
        ([{"ephemeral-storage": "350M"}], False),
        ([{"ephemeral-storage": "200M"}, {"ephemeral-storage": "0.2G"}], False),
        ([{}, {"ephemeral-storage": "100M"}], True),
    ],
)
def test_limits_of_the_disk_that_leave_the_client_no_room_are_warned_about(limits: list[Pod], warns: bool) -> None:
    known = rules()
    client = dataclasses.replace(known.catalogue.find("ubuntu18", "450"), size=350 * 10**6)
    sized = dataclasses.replace(known, catalogue=Catalogue({("ubuntu18", "450"): client}))
    gpu = {names.GPU_AMOUNT: "1", names.GPU_PERCENT: "50"}
    containers = [container({**(gpu if not i else {}), **each}, name=f"c{i}") for i, each in enumerate(limits)]
    decision = mutate(pod(*containers), NAMESPACE, sized)
    assert isinstance(decision, Patch)
    assert (
        any("the client takes 350M of ephemeral-storage, and the limits allow" in each for each in decision.warnings)
        == warns
    )


@pytest.mark.parametrize("source", ["configMapKeyRef", "secretKeyRef", "fileKeyRef"])
def test_a_library_path_whose_key_may_be_absent_leaves_nothing_behind(source: str) -> None:
    """The kubelet sets no variable for it, and expands ``$(...)`` by the one of that name before."""
    reference = {"valueFrom": {source: {"name": "site", "key": "libs", "optional": True}}}
    given = pod(container(env=[{"name": "A", "value": "a"}, {"name": names.LD_LIBRARY_PATH, **reference}]))
    (main,) = admitted(given)["spec"]["containers"]
    kept = "BITFUSIOND_LD_LIBRARY_PATH"
    assert main["env"] == [
        {"name": "A", "value": "a"},
        {"name": kept, "value": LIBRARIES},
        {"name": kept, **reference},
        {"name": names.LD_LIBRARY_PATH, "value": f"{LIBRARIES}:$({kept})"},
    ]


@pytest.mark.parametrize(
    ("of_pod", "of_container", "expected", "warns"),
    [
        ({}, {}, {"runAsUser": 0}, False),
        ({"runAsUser": 0}, {}, {"runAsUser": 0}, False),
        ({"runAsUser": 1000}, {}, {"runAsUser": 1000, "runAsNonRoot": True}, True),
        ({"runAsUser": 1000}, {"runAsUser": 2000}, {"runAsUser": 2000, "runAsNonRoot": True}, True),
        ({"runAsNonRoot": True}, {}, {"runAsNonRoot": True}, True),
        ({"runAsGroup": float("inf")}, {}, {"runAsUser": 0}, False),  # what 1e999 is read as; no JSON could say it
        ({"runAsUser": 7, "runAsGroup": 8}, {}, {"runAsUser": 7, "runAsNonRoot": True, "runAsGroup": 8}, True),
    ],
)  # fmt: skip
def test_populate_runs_as_the_workload_does(of_pod: Pod, of_container: Pod, expected: Pod, warns: bool) -> None:
    result = verdict(pod(container(securityContext=of_container), securityContext=of_pod))
    assert isinstance(result, Patch)
    context = result.operations[-1]["value"][0]["securityContext"]
    strict = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert context == expected | strict
    assert bool(result.warnings) == warns


def test_a_user_who_may_be_kept_out_of_the_tokens_directory_is_warned_about() -> None:
    closed = pod(container(), securityContext={"runAsUser": 1000})
    result = verdict(closed)
    assert isinstance(result, Patch)
    assert result.warnings == [
        "user 1000 must get into /root for the client's token: if the image closes it, mount an emptyDir there"
    ]
    opened = pod(
        container(volumeMounts=[{"name": "home", "mountPath": "/root"}]),
        securityContext={"runAsUser": 1000},
        volumes=[{"name": "home", "emptyDir": {}}],
    )
    result = verdict(opened)
    assert isinstance(result, Patch)
    assert result.warnings == []


def test_containers_of_two_users_are_warned_about() -> None:
    two = container(name="two", securityContext={"runAsUser": 5})
    result = verdict(pod(container(), two))
    assert isinstance(result, Patch)
    assert result.warnings == ["GPU containers run as different users: client.yaml is readable for user root only"]


def test_neither_percent_nor_memory_is_all_of_it_and_is_said() -> None:
    result = verdict(pod(container({names.GPU_AMOUNT: "2"})))
    assert isinstance(result, Patch)
    assert result.warnings == [
        "spec.containers[0]: neither gpu-percent nor gpu-memory is given: taking 100 percent of each GPU"
    ]


def test_the_same_pod_always_gets_the_same_patch() -> None:
    """Nothing is kept between two pods."""
    first = verdict(pod())
    verdict(pod(mode="injection"))
    assert verdict(pod()) == first


def test_the_templates_of_the_operator_are_never_changed() -> None:
    before = copy.deepcopy(rules().template)
    verdict(pod(container(resources={"limits": {"cpu": "1", names.GPU_AMOUNT: 1}})))
    assert rules().template == before


def test_a_status_of_another_value_is_replaced() -> None:
    """The pointer to it is escaped."""
    assert admitted(pod(annotations={names.STATUS: "x"}))["metadata"]["annotations"][names.STATUS] == "injected"


def test_the_namespace_of_tests_is_not_exempt() -> None:
    assert NAMESPACE not in rules().exempt_namespaces


_CREDENTIALS = {
    "name": "kube-api-access-x",
    "readOnly": True,
    "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
}


def test_populate_has_the_mount_that_the_api_server_would_add_and_ask_us_again() -> None:
    given = pod(container(volumeMounts=[_CREDENTIALS]), initContainers=[{"name": "i", "volumeMounts": [_CREDENTIALS]}])
    populate = admitted(given)["spec"]["initContainers"][0]
    assert populate["volumeMounts"][-1] == _CREDENTIALS
    assert [mount["name"] for mount in populate["volumeMounts"]].count(_CREDENTIALS["name"]) == 1


@pytest.mark.parametrize(
    "other", [[], [{**_CREDENTIALS, "name": "another"}], [{**_CREDENTIALS, "mountPath": "/x"}], None]
)
def test_a_mount_that_not_all_containers_have_is_nobodys_but_theirs(other: list[Any] | None) -> None:
    given = pod(container(volumeMounts=[_CREDENTIALS]), {"name": "other", "volumeMounts": other})
    assert _CREDENTIALS not in admitted(given)["spec"]["initContainers"][0]["volumeMounts"]


@pytest.mark.parametrize("more", [{"mountPropagation": "Bidirectional"}, {"subPathExpr": "$(X)"}, {"readOnly": False}])
def test_a_mount_there_that_the_api_server_would_not_make_is_not_copied(more: dict[str, Any]) -> None:
    mount = {**_CREDENTIALS, **more}
    assert mount not in admitted(pod(container(volumeMounts=[mount])))["spec"]["initContainers"][0]["volumeMounts"]


def test_a_pod_that_wants_no_token_gets_none_into_populate() -> None:
    given = pod(container(volumeMounts=[_CREDENTIALS]), automountServiceAccountToken=False)
    assert _CREDENTIALS not in admitted(given)["spec"]["initContainers"][0]["volumeMounts"]
