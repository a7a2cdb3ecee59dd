"""How clients come into pods, as deploy chooses it: what a probe of a node says, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.errors import Failure
from bitfusiond.operate import checks, choices, current, delivery, deploy, manifests, settings, workloads
from bitfusiond.operate.kubectl import Kubectl


def _pod(phase: str, **state: Any) -> dict[str, Any]:
    return {
        "spec": {"nodeName": "n"},
        "status": {"phase": phase, "containerStatuses": [{"state": state}] if state else []},
    }


@pytest.mark.parametrize(
    ("pod", "problem"),
    [
        (_pod("Succeeded", terminated={"exitCode": 0}), None),
        (
            _pod("Failed", terminated={"exitCode": 1}),
            "its runtime mounts an empty directory, or nothing that may be run",
        ),
        (_pod("Failed", terminated={"exitCode": 137, "reason": "OOMKilled"}), "its pod ended with 137: OOMKilled"),
        (_pod("Pending", waiting={"reason": "ImagePullBackOff", "message": "no"}), "ImagePullBackOff: no"),
        (_pod("Pending"), "its pod is Pending"),
        ({"spec": {}, "status": {}}, "its pod is not seen by the kubelet"),
        ({"spec": {}, "status": {"phase": "Failed", "message": "evicted"}}, "its pod is Failed: evicted"),
    ],
)
def test_a_probe_says_what_is_the_matter_with_its_node(pod: dict[str, Any], problem: str | None) -> None:
    told = delivery.problem(pod)
    assert (told or "").startswith(problem or "")
    assert (told is None) == (problem is None)


def test_a_probe_looks_at_a_sub_path_and_whether_it_may_be_run() -> None:
    probe = delivery.probe("n", "localhost/bitfusiond:1", "localhost/bitfusion-client:1")
    (container,), (volume,) = probe["spec"]["containers"], probe["spec"]["volumes"]
    assert volume["image"]["reference"] == "localhost/bitfusion-client:1"
    assert container["volumeMounts"][0]["subPath"] == "opt/bitfusiond/bin"
    assert "/probe/bitfusiond" in container["command"][2]
    assert "X_OK" in container["command"][2]


def test_many_nodes_are_cut() -> None:
    assert delivery.described({"a": "x"}) == "a: x"
    assert delivery.described({f"n{number}": "x" for number in range(6)}).endswith("n4: x; ...")


@pytest.mark.parametrize(
    ("given", "running", "chosen", "note"),
    [
        ({}, None, "init", "DELIVERY: init (the default)"),
        ({}, "image", "image", "DELIVERY: image (as it runs)"),
        ({"DELIVERY": "auto"}, "image", "auto", "DELIVERY: auto (given)"),
        ({"DELIVERY": "init"}, "image", "init", "DELIVERY: init (given)"),
    ],
)
def test_the_choice_stays_as_it_runs(given: dict[str, str], running: str | None, chosen: str, note: str) -> None:
    values, notes = choices.choose(settings.resolve(given), current.Running(delivery=running))
    assert values.delivery == chosen
    assert note in notes


def test_the_webhook_is_told_where_it_is_not_the_default() -> None:
    spec = {"containers": [{"name": "w", "image": "i", "env": []}], "volumes": [{"projected": {"sources": []}}]}
    deployment = {"kind": "Deployment", "metadata": {"name": "w"}, "spec": {"template": {"spec": spec}}}
    made = (manifests.Values("r", "t", 0, 1, delivery=each) for each in ("image", "init"))
    told = [workloads.variable(manifests.substituted(deployment, each), manifests.DELIVERY) for each in made]
    assert told == ["image", None]


class _Nodes(Kubectl):
    """A cluster whose nodes let probes end like this."""

    def __init__(self, **phases: dict[str, Any]) -> None:
        super().__init__()
        self._ends = phases
        self.made: list[dict[str, Any]] = []

    def all(self, kind: str, *arguments: str, namespace: str = "") -> list[dict[str, Any]]:
        if kind == "Node":
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            return [{"metadata": {"name": name}, "spec": {}, "status": ready} for name in self._ends]
        assert (kind, namespace) == ("Pod", names.NAMESPACE)
        return [{**each, **self._ends[each["spec"]["nodeName"]]} for each in self.made]

    def create(self, documents: Sequence[dict[str, Any]], *arguments: str) -> list[dict[str, Any]]:
        self.made += documents
        return self.made

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        assert arguments[:2] == ("delete", "pod")
        self.made.clear()
        return ""


_GOOD = {"status": _pod("Succeeded", terminated={"exitCode": 0})["status"]}
_EMPTY = {"status": _pod("Failed", terminated={"exitCode": 1})["status"]}


def test_a_runtime_that_mounts_an_empty_directory_is_found_and_auto_copies() -> None:
    said: list[str] = []
    wanted = manifests.Values("r", "t", 0, 1, delivery="auto")
    kubectl = _Nodes(good=_GOOD, old=_EMPTY)
    assert deploy.delivered(kubectl, wanted, 5, said.append).delivery == "init"
    why = (
        "the client cannot be mounted from its image everywhere: old: its runtime mounts an empty directory, or nothing"
    )
    assert said == [f"DELIVERY: init, as {why} that may be run"]
    assert kubectl.made == []
    with pytest.raises(Failure, match="DELIVERY=auto takes what every node can do"):
        deploy.delivered(kubectl, replace(wanted, delivery="image"), 5, said.append)


def test_where_every_node_can_do_it_auto_mounts() -> None:
    said: list[str] = []
    wanted = manifests.Values("r", "t", 0, 1, delivery="auto")
    assert deploy.delivered(_Nodes(good=_GOOD), wanted, 5, said.append).delivery == "image"
    assert said == ["DELIVERY: image (tried on each node)"]


def test_only_a_kubernetes_that_mounts_images_is_asked_to() -> None:
    (problem,) = checks.delivery("image", (1, 20))
    assert problem.startswith("DELIVERY: the API server is 1.20; images are mounted from 1.36 on")
    assert (
        checks.delivery("image", (1, 36)) == checks.delivery("auto", (1, 20)) == checks.delivery("init", (1, 20)) == []
    )
