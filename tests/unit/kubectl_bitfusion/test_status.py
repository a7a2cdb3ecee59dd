"""``kubectl bitfusion status``: what it asks, what it prints, and what it says of what it may not see."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from bitfusiond.core.fields import Json
from bitfusiond.core.pool import slices
from bitfusiond.kubectl_bitfusion import command, status
from bitfusiond.kubectl_bitfusion.reader import Reader
from bitfusiond.operate.kubectl import PAGE, KubectlError
from tests.fakes.kubectl import Recorded, forbidden
from tests.fakes.pool import result
from tests.unit.core.diagnosis.scenes import injected, node, quota, with_claim
from tests.unit.core.usage.test_usage import held, pool_slice
from tests.unit.kubectl_bitfusion.conftest import Clusters

NODES, PODS, MINE = "/api/v1/nodes", "/api/v1/pods", "/api/v1/namespaces/team/pods"
HERE, OTHER = "/api/v1/namespaces/team", "/api/v1/namespaces/other"
NAMESPACES: Json = {HERE: {"metadata": {}}, OTHER: {"metadata": {}}}
NONE = "no shares are offered, as far as can be seen: an operator runs: kubectl bitfusion check"
QUOTAS, ALL_QUOTAS = "/api/v1/namespaces/team/resourcequotas", "/api/v1/resourcequotas"
SLICES, CLAIMS = "/apis/resource.k8s.io/v1/resourceslices", "/apis/resource.k8s.io/v1/resourceclaims"
MY_CLAIMS = "/apis/resource.k8s.io/v1/namespaces/team/resourceclaims"


def named(name: str, namespace: str = "team", on: str | None = "n1", **changed: Any) -> Json:
    document = injected(on, phase="Running" if on else "Pending")
    document["metadata"] |= {"name": name, "namespace": namespace, **changed}
    return document


def on_nodes() -> Json:
    pods = [named("a"), named("b", "other"), named("c", on=None), {"metadata": {"name": "no GPU"}, "spec": {}}]
    return NAMESPACES | {
        NODES: [node("n1", "200"), node("n2", None)],
        PODS: pods,
        QUOTAS: [quota(100, 50)],
        SLICES: [],
        CLAIMS: [],
    }


def in_pool() -> Json:
    published = [pool_slice("gpu-a", "0"), pool_slice("gpu-b", "0", down=True)]
    for each in published:
        each["metadata"]["labels"] = dict(slices.LABELS)
    claims = [held("c", "a", result("gpu-a", "gpu-0", 60)), held("d", "b", result("gpu-b", "gpu-0", 10))]
    claims[1]["metadata"]["namespace"] = "other"
    return NAMESPACES | {SLICES: published, CLAIMS: claims, MINE: [with_claim(named("a"))], QUOTAS: []}


def test_nodes_as_a_table(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster(on_nodes())
    assert command.main(["status"]) == 0
    assert capsys.readouterr().out == (
        "NODE  SHARES  USED  FREE  HELD BY                STATE\n"
        "n1       200   100   100  other/b 50, team/a 50\n"
        "\n"
        "NAMESPACE  POD  PHASE    NODE  SHARES  GPUS\n"
        "team       a    Running  n1        50\n"
        "team       c    Pending            50\n"
        "\n"
        "NAMESPACE  QUOTA  HARD  USED  LEFT\n"
        "team       gpus    100    50    50\n"
        "\n"
        "100 of 200 shares free (100 = one GPU), counted by each node for itself\n"
        "in team: 50 shares held, 50 waited for\n"
    )


def test_a_node_that_is_not_ready_is_told(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    down = node("n1", "200")
    down["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    cluster({**on_nodes(), NODES: [down, node("n2", "100", unschedulable=True)]})
    assert command.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("  not ready")
    assert lines[2].endswith("  cordoned")
    assert "0 of 300 shares free (100 = one GPU), counted by each node for itself" in lines


def test_a_pool_as_a_table(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster(in_pool())
    assert command.main(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "SERVER"
    assert lines[1].split() == ["gpu-a", "10.1.2.3:56001", "0", "Tesla", "V100", "100", "60", "40", "team/a", "60"]
    assert lines[2].endswith("other/b 10  does not answer since 2026-11-28T10:00:00Z")
    assert "team       a    Running  n1        50  gpu-a/0 60" in lines
    assert lines[-2] == "40 of 200 shares free (100 = one GPU), counted by one pool"


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_as_a_document(cluster: Clusters, capsys: pytest.CaptureFixture[str], form: str) -> None:
    cluster(in_pool())
    assert command.main(["status", "-o", form]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    assert (found["counted"], found["shares"], found["used"], found["free"]) == ("pool", 200, 70, 40)
    assert found["servers"][0]["gpus"][0]["holders"] == [{"namespace": "team", "pod": "a", "shares": 60}]


def test_a_namespace_by_its_flag_and_all_of_them(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster({**on_nodes(), ALL_QUOTAS: [quota(100, 50)]})
    assert command.main(["-n", "other", "status", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["namespace"], [each["name"] for each in found["pods"]]) == ("other", ["b"])
    assert command.main(["status", "-A", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["namespace"], [each["name"] for each in found["pods"]]) == (None, ["b", "a", "c"])


def test_who_may_see_his_own_namespace_alone_is_told_so(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {**on_nodes(), MINE: [named("a")], MY_CLAIMS: []}
    cluster(paths | {each: forbidden("x") for each in (NODES, PODS, SLICES, CLAIMS)})
    assert command.main(["status"]) == 0
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "no shares are offered, as far as can be seen",
        "in team: 50 shares held",
        "may not read nodes: ask the operator",
        "may not read pods and claims of all namespaces, so what is free is not known: ask the operator",
    ]


def test_who_may_not_see_the_pool_is_not_shown_it_once_for_each_node(
    cluster: Clusters, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"/apis/resource.k8s.io/v1": {"kind": "APIResourceList"}}
    cluster({**on_nodes(), MINE: [named("a")], **kinds, SLICES: forbidden("resourceslices")})
    assert command.main(["status", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["counted"], found["shares"], found["free"], found["nodes"]) == ("unknown", None, None, [])
    assert [each["name"] for each in found["pods"]] == ["a"]
    assert found["notes"] == ["may not read resourceslices: ask the operator"]


def test_a_cluster_without_such_a_kind_has_no_pool(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster({**on_nodes(), SLICES: forbidden("resourceslices")})
    assert command.main(["status", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["counted"], found["free"], found["notes"]) == ("nodes", 100, [])


def test_a_server_that_does_not_answer_ends_it_with_one_line(
    cluster: Clusters, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster({SLICES: KubectlError("kubectl get: Unable to connect to the server: dial tcp: i/o timeout")})
    assert command.main(["status"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("kubectl bitfusion: the cluster does not answer: kubectl get: Unable to connect")
    assert told.count("\n") == 1


def test_lists_come_in_pages_and_only_what_is_needed_is_asked_for() -> None:
    recorded = Recorded({**on_nodes(), PODS: [named(f"p{number}") for number in range(PAGE + 1)]})
    found = status.read(Reader(recorded), "team")
    assert len(found.pods) == PAGE + 1
    asked = [each for each in recorded.asked if each.startswith(f"{PODS}?")]
    assert len(asked) == 2
    assert all("fieldSelector=status.phase" in each and f"limit={PAGE}" in each for each in asked)
    assert any("fieldSelector=spec.driver%3Dbitfusion.io" in each for each in recorded.asked)


def test_a_pool_needs_no_list_of_nodes_nor_of_all_pods() -> None:
    recorded = Recorded(in_pool())
    status.read(Reader(recorded), "team")
    assert not [each for each in recorded.asked if each.startswith((f"{PODS}?", NODES))]


def test_no_sign_of_an_object_reaches_the_terminal(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    evil = pool_slice("gpu-a", "0")
    evil["metadata"]["labels"] = dict(slices.LABELS)
    evil["spec"]["devices"][0]["attributes"]["device_name"] = {"string": "\x1b[2J\x1b]0;owned\x07\u202eV100\n"}
    cluster({**in_pool(), SLICES: [evil]})
    for form in ("table", "json", "yaml"):
        assert command.main(["status", "-o", form]) == 0
        out = capsys.readouterr().out
        assert not set(out) & {"\x1b", "\x07", "\u202e"}
    assert "?[2J?]0;owned??V100?" in _table(cluster, evil, capsys)


def _table(cluster: Clusters, published: Json, capsys: pytest.CaptureFixture[str]) -> str:
    cluster({**in_pool(), SLICES: [published]})
    command.main(["status"])
    return capsys.readouterr().out


def test_watching_prints_again_what_has_changed(
    cluster: Clusters, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = cluster(on_nodes())
    rounds: list[float] = []

    def pause(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 2:
            recorded.paths[PODS] = []
        if len(rounds) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "sleep", pause)
    assert command.main(["status", "--watch"]) == 130
    assert rounds == [command.WATCH_SECONDS] * 3
    lines = capsys.readouterr().out.splitlines()
    assert len([each for each in lines if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", each)]) == 2, "each its time"
    told = [each for each in lines if "shares free" in each]
    assert told == [
        "100 of 200 shares free (100 = one GPU), counted by each node for itself",
        "200 of 200 shares free (100 = one GPU), counted by each node for itself",
    ]


def test_a_watch_goes_on_after_a_request_that_failed(
    cluster: Clusters, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = cluster(on_nodes())
    rounds: list[float] = []

    def pause(seconds: float) -> None:
        rounds.append(seconds)
        gone = KubectlError("kubectl get: Unable to connect to the server: EOF")
        recorded.paths[PODS] = gone if len(rounds) in {1, 2} else on_nodes()[PODS]
        if len(rounds) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "sleep", pause)
    assert command.main(["status", "-w", "-o", "yaml"]) == 130
    printed = capsys.readouterr()
    assert [each["free"] for each in yaml.safe_load_all(printed.out)] == [100, 100], "a document for each"
    assert printed.err.count("the cluster does not answer: kubectl get: Unable to connect") == 1


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (KubectlError('kubectl get: context "x" does not exist'), 2, "which cluster is meant is not clear: "),
        (KubectlError("kubectl get: stat /x: no such file or directory"), 2, "which cluster is meant is not clear: "),
        (
            KubectlError("kubectl get: The connection to the server localhost:8080 was refused - did you"),
            2,
            "which cluster is meant is not clear: ",
        ),
        (KubectlError("kubectl get: You must be logged in to the server"), 1, "the cluster does not know you: "),
        (KubectlError("kubectl get: Unauthorized", "Unauthorized"), 1, "the cluster does not know you: "),
        (KubectlError("kubectl get: Unable to connect: EOF"), 1, "the cluster does not answer: "),
    ],
)
def test_why_there_is_no_answer_at_all(
    cluster: Clusters, capsys: pytest.CaptureFixture[str], error: KubectlError, status: int, told: str
) -> None:
    cluster({SLICES: error})
    assert command.main(["status", "-A"]) == status
    assert capsys.readouterr().err.startswith(f"kubectl bitfusion: {told}{error}: ")


def test_a_namespace_that_is_not_there(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster(on_nodes())
    assert command.main(["status", "-n", "typo"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "there is no namespace typo: `kubectl get namespaces` lists those that are there"


def test_an_empty_cluster(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster({HERE: {"metadata": {}}, NODES: [], PODS: []})
    assert command.main(["status"]) == 0
    assert capsys.readouterr().out == f"{NONE}\nin team: 0 shares held\n"
