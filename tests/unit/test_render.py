"""``--role render``: what the cluster would hold, said as the cluster would say it, without one."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from bitfusiond import render, settings
from bitfusiond.core import names
from bitfusiond.core.objects import Pod
from bitfusiond.errors import ConfigurationError
from tests import EXAMPLES, pods


class Result(NamedTuple):
    """What came out, and the exit status."""

    out: str
    err: str
    status: int

    @property
    def documents(self) -> list[Any]:
        """As a YAML 1.1 reader that is not ours takes it."""
        return list(yaml.safe_load_all(self.out))


def rendered(given: str | bytes, **flags: str) -> Result:
    """Render ``given`` from standard input, for GPUs of 16 GB."""
    chosen = settings.resolve(settings.Render, {"total_gpu_memory": "16000", **flags}, {})
    assert isinstance(chosen, settings.Render)
    stdin = io.BytesIO(given if isinstance(given, bytes) else given.encode())
    out, err = io.BytesIO(), io.StringIO()
    status = render.run(chosen, stdin, out, err)
    return Result(out.getvalue().decode(), err.getvalue(), status)


def dumped(*documents: Any) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)


def failure(given: str | bytes, **options: Any) -> str:
    """The one line that a result of nothing comes with."""
    result = rendered(given, **options)
    assert (result.out, result.status) == ("", 1)
    (line,) = result.err.splitlines()
    return line


def template(pod: Pod) -> Pod:
    """``pod`` as a controller holds it."""
    return {"metadata": {"annotations": pod["metadata"]["annotations"]}, "spec": pod["spec"]}


def workload(kind: str, pod: Pod) -> Pod:
    inner: Pod = {"template": template(pod)}
    if kind == "CronJob":
        inner = {"schedule": "* * * * *", "jobTemplate": {"spec": inner}}
    return {"apiVersion": "x/v1", "kind": kind, "metadata": {"name": "w", "namespace": "team"}, "spec": inner}


KINDS = ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_pod_of_each_kind_of_workload_is_rendered(kind: str) -> None:
    after = template(pods.admitted(template(pods.pod())))
    expected = workload(kind, after)
    result = rendered(dumped(workload(kind, pods.pod())))
    assert result.documents == [expected]
    assert (result.err, result.status) == ("", 0)


def test_a_pod_template_is_rendered() -> None:
    given = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "t"}, "template": template(pods.pod())}
    (document,) = rendered(dumped(given)).documents
    assert document == {**given, "template": pods.admitted(template(pods.pod()))}


def test_the_items_of_a_list_are_rendered_in_it() -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    inner = {"apiVersion": "v1", "kind": "List", "items": [pods.pod()]}
    given = {"apiVersion": "v1", "kind": "List", "metadata": {}, "items": [service, workload("Job", pods.pod()), inner]}
    after = workload("Job", pods.admitted(template(pods.pod())))
    (document,) = rendered(dumped(given)).documents
    assert document == {**given, "items": [service, after, {**inner, "items": [pods.admitted(pods.pod())]}]}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_each_example_is_rendered_from_its_file(path: Path) -> None:
    """Among them the quota of the documentation, which could not be pasted."""
    result = rendered(b"", file=str(path))
    assert [line for line in result.err.splitlines() if not line.endswith("counted, and not enforced")] == []
    assert result.status == 0
    before = list(yaml.safe_load_all(path.read_text()))
    assert [document["kind"] for document in result.documents] == [document["kind"] for document in before]
    if path.stem == "pod-filter":
        assert "--filter server.addr=192.168.1.1" in result.out
    if path.stem == "quota":
        assert result.documents == before


def test_a_pod_of_the_pool_comes_with_the_template_of_its_claim(tmp_path: Path) -> None:
    pool = tmp_path / "pool.yaml"
    pool.write_text("servers: [{name: a, address: 'gpu-a:14833', gpus: [{id: '0', name: V100, memory: 16000M}]}]")
    given = pods.pod(annotations={names.CLIENT_NAME: "lupine"})
    given["metadata"]["namespace"] = "team"
    template, pod = rendered(dumped(given, given), pool=str(pool)).documents[:2]
    assert template["kind"] == "ResourceClaimTemplate"
    assert template["metadata"]["namespace"] == "team"
    asked = {"name": "bitfusion-0", "resourceClaimTemplateName": template["metadata"]["name"]}
    assert pod["spec"]["resourceClaims"] == [asked]
    in_list = {"apiVersion": "v1", "kind": "List", "items": [given]}
    assert [each["kind"] for each in rendered(dumped(in_list), pool=str(pool)).documents] == [template["kind"], "List"]
    refused = rendered(dumped(given))
    assert refused.status == 1
    assert "the client lupine must know its servers, and none are known" in refused.err


def test_many_documents_keep_their_order_and_what_is_no_pod_passes() -> None:
    others = [
        {"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "yes", "b": "450", "script": "x\n  y\n"}},
        {"kind": "Deployment"},
        {"kind": "Deployment", "spec": {"template": None}},
        {"kind": "Unheard", "spec": {"template": {"spec": {"containers": "none"}}}},
        {"no": "kind"},
        ["a", "list"],
        "text",
        5,
    ]
    result = rendered(dumped(*others[:3], pods.pod(), *others[3:]))
    assert result.documents == [*others[:3], pods.admitted(pods.pod()), *others[3:]]
    assert (result.err, result.status) == ("", 0)


def test_json_goes_in_too() -> None:
    result = rendered('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}}')
    assert result.out == "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers: []\n"


def test_keys_keep_their_order() -> None:
    text = "kind: Pod\nspec:\n  z: 1\n  containers: []\n  a: 2\nmetadata:\n  name: p\napiVersion: v1\n"
    assert rendered(text).out == text


def test_what_is_left_alone_in_the_cluster_is_left_alone_here() -> None:
    for namespace in ("kube-system", "bwki"):
        given = pods.pod()
        given["metadata"]["namespace"] = namespace
        assert rendered(dumped(given)).documents == [given]
    assert rendered(dumped(pods.admitted(pods.pod()))).documents == [pods.admitted(pods.pod())]


def test_a_refusal_says_what_the_webhook_says_and_the_rest_is_printed() -> None:
    bad = pods.pod(pods.container({names.GPU_AMOUNT: 0, names.GPU_PERCENT: 101}))
    result = rendered(dumped(workload("Job", bad), pods.pod()), file="-")
    problems = pods.problems(template(bad))
    assert len(problems) == 2
    assert result.err.splitlines() == [f"standard input: Job team/w: refused: {problem}" for problem in problems]
    assert result.documents == [pods.admitted(pods.pod())]
    assert result.status == 1


def test_a_refused_item_is_left_out_of_its_list() -> None:
    bad = pods.pod(pods.container({names.GPU_AMOUNT: 0}))
    bad["metadata"] = {**bad["metadata"], "name": None, "generateName": "g-"}
    result = rendered(dumped({"kind": "List", "items": [bad, pods.pod()]}))
    assert result.documents == [{"kind": "List", "items": [pods.admitted(pods.pod())]}]
    assert result.err.startswith("standard input: Pod default/g-: refused: ")
    assert result.status == 1


def test_a_warning_is_said_and_the_pod_admitted() -> None:
    result = rendered(dumped(pods.pod(pods.container({names.GPU_AMOUNT: 1}))))
    assert result.err == (
        "standard input: Pod default/p: warning: spec.containers[0]: neither gpu-percent nor gpu-memory is given:"
        " taking 100 percent of each GPU\n"
    )
    assert result.status == 0


@pytest.mark.parametrize(
    ("key", "written", "shown"),
    [(names.CLIENT_VERSION, "450", "450"), (names.MANAGEMENT, "yes", "true"), (names.CLIENT_OS, "1e3", "1000.0")],
)
def test_an_annotation_without_quotation_marks_is_refused_as_in_the_cluster(key: str, written: str, shown: str) -> None:
    text = dumped(pods.pod()).replace(f"{key}: {'all' if key == names.MANAGEMENT else 'ubuntu18'}", f"{key}: {written}")
    text = text.replace(f"{key}: '450'", f"{key}: {written}")
    result = rendered(text)
    assert (
        f"standard input: Pod default/p: refused: metadata.annotations[{key}]: {shown} is not a string: put it in"
        " quotation marks"
    ) in result.err.splitlines()
    assert (result.out, result.status) == ("", 1)


def test_strings_that_look_like_something_else_come_out_as_strings() -> None:
    values = dict(zip("abcdefg", ["450", "yes", "y", "1e3", "0o17", "2024-01-31", "~"], strict=True))
    given = pods.pod(annotations=values)
    assert rendered(json.dumps(given)).documents == [pods.admitted(given)]


def test_a_diff_shows_what_the_webhook_adds_and_nothing_else() -> None:
    given = {"kind": "ConfigMap", "data": {"a": "b"}}
    result = rendered(dumped(given, pods.pod(mode="injection")), diff="true")
    lines = result.out.splitlines()
    assert lines[:2] == ["--- standard input", "+++ standard input (admitted)"]
    assert "+    auto-management/status: injected" in lines
    assert [line for line in lines[2:] if line.startswith("-")] == [
        "-        bitfusion.io/gpu-amount: '1'",
        "-        bitfusion.io/gpu-percent: '50'",
    ]
    assert result.status == 0


def test_a_diff_of_what_is_refused_or_left_alone_is_empty() -> None:
    result = rendered(dumped(pods.pod(pods.container({names.GPU_AMOUNT: 0}))), diff="true")
    assert (result.out, result.status) == ("", 1)
    assert "refused" in result.err
    assert rendered(dumped(pods.pod(mode="none")), diff="true") == Result("", "", 0)


def test_without_the_memory_of_a_gpu_a_request_for_memory_is_refused() -> None:
    result = rendered(dumped(pods.example("pod-memory")), total_gpu_memory="0")
    assert "set TOTAL_GPU_MEMORY" in result.err
    assert result.status == 1


def test_an_operators_own_files_are_used(tmp_path: Path) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("BitfusionClients: []")
    with pytest.raises(ConfigurationError, match=f"--clients: {clients}: BitfusionClients must be a list"):
        rendered("", clients=str(clients))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param("a: [", "not YAML: while parsing a flow", id="malformed"),
        pytest.param("a:\n\tb: 1", "found character that cannot start any token", id="a tab"),
        pytest.param("kind: Pod\nkind: Pod\n", "the key 'kind' is there twice", id="a key twice"),
        pytest.param("spec:\n\u00a0 hard: 1\n", "line 2: indented with U+00A0 (no-break space)", id="no-break space"),
        pytest.param(b"a: caf\xe9", "it is not UTF-8 text", id="Latin-1"),
        pytest.param("a: b".encode("utf-16"), "it is not UTF-8 text", id="UTF-16"),
        pytest.param("[" * 100_000, "nested too deeply", id="nested deeply"),
        pytest.param(
            "a1: &a1 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(2, 500)),
            "nested too deeply",
            id="nested deeply by aliases",
        ),
    ],
)
def test_what_is_no_yaml_ends_it_in_one_line(tmp_path: Path, given: str | bytes, message: str) -> None:
    line = failure(given)
    assert line.startswith("standard input: ")
    assert message in line
    file = tmp_path / "x.yaml"
    file.write_bytes(given if isinstance(given, bytes) else given.encode())
    assert failure(b"", file=str(file)) == line.replace("standard input", str(file))


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert rendered(b"\xef\xbb\xbfa: 1\n").out == "a: 1\n"


@pytest.mark.parametrize("given", ["", "\n", "---\n", "# nothing\n---\n---\n"])
def test_nothing_in_is_nothing_out(given: str) -> None:
    assert rendered(given) == Result("", "", 0)


@pytest.mark.parametrize(("name", "reason"), [("none.yaml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path, name: str, reason: str) -> None:
    path = str(tmp_path / name)
    with pytest.raises(ConfigurationError) as caught:
        rendered("", file=path)
    assert (str(caught.value), caught.value.exit_status) == (f"--file: cannot read {path}: {reason}", 2)


def run(*arguments: str, given: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """The real executable."""
    command = [sys.executable, "-W", "error", "-m", "bitfusiond", "--role", "render", *arguments]
    return subprocess.run(command, input=given, capture_output=True, check=False, env=variables, timeout=30)


def test_the_executable_reads_standard_input_and_files_alike() -> None:
    path = EXAMPLES / "pod.yaml"
    by_file, by_input = run("-f", str(path)), run(given=path.read_bytes())
    assert by_file.stdout == by_input.stdout
    assert by_file.returncode == by_input.returncode == 0
    assert b"-p 0.500000" in by_file.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "start"),
    [
        (["-f", "/none.yaml"], 2, b"bitfusiond: --file: cannot read /none.yaml: No such file or directory\n"),
        (["--log-format", "json"], 1, b"standard input: not YAML: "),
        (["--total-gpu-memory", "x"], 2, b"bitfusiond: --total-gpu-memory: 'x' is not an integer of at least 0\n"),
    ],
)
def test_the_executable_ends_in_one_line(arguments: list[str], status: int, start: bytes) -> None:
    result = run(*arguments, given=b"a: [")
    assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (status, b"", 1)
    assert result.stderr.startswith(start)


def test_the_executable_speaks_utf_8_whatever_the_locale_says() -> None:
    result = run(given="a: größe\n".encode(), PYTHONIOENCODING="ascii", LC_ALL="C")
    assert (result.stdout.decode(), result.stderr) == ("a: größe\n", b"")


@pytest.mark.slow
def test_the_executable_ends_quietly_when_nobody_reads_on() -> None:
    program = f"{sys.executable} -m bitfusiond --role render | head -1"
    text = "---\n".join(["a: xxxxxxxxxxxxxxxx\n"] * 20_000)
    result = subprocess.run(["sh", "-c", program], input=text.encode(), capture_output=True, check=False, timeout=60)
    assert (result.stdout, result.stderr) == (b"a: xxxxxxxxxxxxxxxx\n", b"")


def test_the_templates_of_a_kind_that_nobody_told_us_of_are_found_and_named() -> None:
    workers = [{"groupName": "a", "template": template(pods.pod())}, {"template": {"spec": {"containers": []}}}]
    given = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "r", "namespace": "team"}}
    given["spec"] = {"headGroupSpec": {"template": template(pods.pod())}, "workerGroupSpecs": workers}
    result = rendered(dumped(given))
    (document,) = result.documents
    after = template(pods.admitted(template(pods.pod())))
    assert document["spec"]["headGroupSpec"]["template"] == after
    assert document["spec"]["workerGroupSpecs"] == [{"groupName": "a", "template": after}, workers[1]]
    assert result.err.splitlines() == [
        "standard input: RayCluster team/r: spec.headGroupSpec.template: taken for the template of a pod",
        "standard input: RayCluster team/r: spec.workerGroupSpecs[0].template: taken for the template of a pod",
    ]


def test_one_wrong_template_of_several_refuses_the_whole_object() -> None:
    wrong = template(pods.pod(pods.container({names.GPU_AMOUNT: "0"})))
    given = {"kind": "MPIJob", "metadata": {"name": "m"}, "spec": {"mpiReplicaSpecs": {}}}
    given["spec"] = {"mpiReplicaSpecs": {"Launcher": {"template": template(pods.pod())}, "Worker": {"template": wrong}}}
    result = rendered(dumped(given))
    assert (result.out, result.status) == ("", 1)
    assert "MPIJob default/m: spec.mpiReplicaSpecs.Worker.template: refused: spec.containers[0]" in result.err


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            {"template": {"spec": {"containers": []}}},
            "is not seen by the webhook: put it into spec.template.metadata.annotations",
        ),
        (
            {"predictor": {"model": {}}},
            "is there, but no pod was found in it: render what its pods are to be, as a Pod",
        ),
    ],
)
def test_an_annotation_on_another_object_than_the_pod_is_told(spec: Pod, words: str) -> None:
    annotations = {names.MANAGEMENT: "all"}
    given = {"kind": "Deployment", "metadata": {"name": "d", "annotations": annotations}, "spec": spec}
    result = rendered(dumped(given))
    assert (result.documents, result.status) == ([given], 0)
    assert result.err == f"standard input: Deployment default/d: metadata.annotations[{names.MANAGEMENT}] {words}\n"


@pytest.mark.parametrize(("word", "value"), [("y", "true"), ("Y", "true"), ("n", "false"), ("N", "false")])
def test_y_and_n_are_booleans_as_kubectl_sends_them(word: str, value: str) -> None:
    given = dumped(pods.pod()).replace("auto-management/bitfusion: all", f"auto-management/bitfusion: {word}")
    assert failure(given).endswith(
        f"metadata.annotations[auto-management/bitfusion]: {value} is not a string: put it in quotation marks"
    )


OURS = {names.MANAGEMENT: "all", names.CLIENT_OS: "ubuntu18"}
KEYS = f"{names.MANAGEMENT}, {names.CLIENT_OS}"
UNSEEN = "is not seen by the webhook: put it into"
NO_POD = "is there, but no pod was found in it: render what its pods are to be, as a Pod"
PLAIN = {"containers": [{"name": "c"}]}


@pytest.mark.parametrize(
    ("kind", "document", "line"),
    [
        (
            "Workflow",
            {"spec": {"podMetadata": {"annotations": OURS}, "templates": [{"container": {"image": "i"}}]}},
            f"spec.podMetadata.annotations[{KEYS}] {NO_POD}",
        ),
        (
            "Workflow",
            {"spec": {"templates": [{"metadata": {"annotations": OURS}, "container": {"image": "i"}}]}},
            f"spec.templates[0].metadata.annotations[{KEYS}] {NO_POD}",
        ),
        (
            "CronWorkflow",
            {"spec": {"workflow": {"podMetadata": {"labels": OURS}}}},
            f"spec.workflow.podMetadata.labels[{KEYS}] is a label: put it into spec.workflow.podMetadata.annotations",
        ),
        (
            "Pod",
            {"metadata": {"labels": OURS}, "spec": PLAIN},
            f"metadata.labels[{KEYS}] {UNSEEN} metadata.annotations",
        ),
        (
            "Pod",
            {"metadata": dict(OURS), "spec": PLAIN},
            f"metadata[{KEYS}] {UNSEEN} metadata.annotations",
        ),
        (
            "Deployment",
            {"spec": {"template": {"metadata": {"labels": OURS}, "spec": PLAIN}}},
            f"spec.template.metadata.labels[{KEYS}] {UNSEEN} spec.template.metadata.annotations",
        ),
        (
            "Deployment",
            {"spec": {"template": {"annotations": OURS, "spec": PLAIN}}},
            f"spec.template.annotations[{KEYS}] {UNSEEN} spec.template.metadata.annotations",
        ),
        (
            "Deployment",
            {"spec": {"selector": {"matchLabels": OURS}, "template": {"spec": PLAIN}}},
            f"spec.selector.matchLabels[{KEYS}] {UNSEEN} spec.template.metadata.annotations",
        ),
    ],
)  # fmt: skip
def test_an_annotation_that_the_webhook_will_not_see_is_told_with_its_place(
    kind: str, document: Pod, line: str
) -> None:
    given = {"kind": kind, **document}
    given["metadata"] = {"name": "x", **document.get("metadata", {})}
    result = rendered(dumped(given))
    assert (result.documents, result.status) == ([given], 0)
    assert result.err == f"standard input: {kind} default/x: {line}\n"


def test_one_of_two_templates_without_the_annotation_is_told() -> None:
    replicas = {"Launcher": {"template": template(pods.pod())}, "Worker": {"template": {"metadata": {"labels": OURS}}}}
    replicas["Worker"]["template"]["spec"] = PLAIN
    result = rendered(dumped({"kind": "MPIJob", "metadata": {"name": "m"}, "spec": {"mpiReplicaSpecs": replicas}}))
    _, line = result.err.splitlines()
    worker = "spec.mpiReplicaSpecs.Worker.template.metadata"
    assert line == (f"standard input: MPIJob default/m: {worker}.labels[{KEYS}] {UNSEEN} {worker}.annotations")


def test_what_is_on_the_pods_may_stand_elsewhere_too() -> None:
    """Labels to select by, say."""
    given = workload("Deployment", pods.pod())
    annotations = given["spec"]["template"]["metadata"]["annotations"]
    given["metadata"]["annotations"] = given["metadata"]["labels"] = dict(annotations)
    assert rendered(dumped(given)).err == ""


def test_a_filter_alone_in_the_wrong_place_is_told() -> None:
    given = workload("Job", pods.pod())
    given["metadata"]["annotations"] = {names.CLIENT_FILTER: "device.id=0"}
    assert rendered(dumped(given)).err == (
        f"standard input: Job team/w: metadata.annotations[{names.CLIENT_FILTER}] {UNSEEN}"
        " spec.template.metadata.annotations\n"
    )


@pytest.mark.parametrize("nested", [False, True])
def test_the_items_of_a_podlist_are_pods_though_they_do_not_say_so(nested: bool) -> None:
    """As kubectl takes them."""
    item, wrong = pods.pod(), pods.pod(pods.container({names.GPU_AMOUNT: "0"}))
    for each in (item, wrong):
        del each["kind"], each["apiVersion"]
    given: Pod = {"kind": "PodList", "items": [item, wrong]}
    result = rendered(dumped({"kind": "List", "items": [given]} if nested else given))
    (document,) = result.documents
    assert (document["items"][0] if nested else document)["items"] == [pods.admitted(item)]
    assert result.err.startswith("standard input: Pod default/p: refused: spec.containers[0]")
    assert result.status == 1


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("=", "= is not one of"),
        ("<<", "<< is not one of"),
        ("!!binary aGk=", "hi is not one of"),
        ("-_1", "-1 is not a"),
    ],
)
def test_an_odd_value_is_refused_with_its_field(word: str, shown: str) -> None:
    given = dumped(pods.pod()).replace("auto-management/bitfusion: all", f"auto-management/bitfusion: {word}")
    assert f"metadata.annotations[auto-management/bitfusion]: {shown}" in failure(given)


@pytest.mark.parametrize("odd", [["a"], {"a": "b"}, 5, "=", None, True], ids=str)
@pytest.mark.parametrize(
    "place",
    ["kind", "items", "metadata", "metadata.namespace", "metadata.name", "metadata.annotations", "spec.template"],
)
def test_a_value_of_another_type_anywhere_is_no_traceback(place: str, odd: Any) -> None:
    given = workload("Job", pods.pod())
    given["metadata"]["labels"] = OURS
    *parents, last = place.split(".")
    inside = given
    for key in parents:
        inside = inside[key]
    inside[last] = odd
    assert rendered(dumped(given)).status in {0, 1}
