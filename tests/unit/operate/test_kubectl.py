"""What is asked of kubectl, and what becomes of its answers: a program in its place, no cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.operate import checks, kubectl
from bitfusiond.operate.kubectl import Kubectl, KubectlError, Ref
from tests.fakes.kubectl import Recorded


def program(directory: Path, script: str, *options: str) -> Kubectl:
    file = directory / "kubectl"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return Kubectl(str(file), options)


def test_options_stand_before_the_command_and_each_request_has_its_deadline(tmp_path: Path) -> None:
    asked = program(tmp_path, 'echo "$@"', "--context=c").run("get", "pods")
    assert asked == "--request-timeout=30s --context=c get pods\n"


def test_the_context_that_was_asked_for_is_the_one_that_is_told(tmp_path: Path) -> None:
    assert checks.context(program(tmp_path, "echo current", "--context=c")) == "c"
    assert checks.context(program(tmp_path, "echo current")) == "current"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('Error from server (Forbidden): nodes is forbidden: User "u" cannot list', "Forbidden"),
        ("Error from server: etcdserver: request timed out", "Unknown"),
        ("Unable to connect to the server: dial tcp: i/o timeout", ""),
        ('error: the server doesn\'t have a resource type "x"', "NoKind"),
    ],
)
def test_who_said_no(tmp_path: Path, words: str, reason: str) -> None:
    (tmp_path / "words").write_text(words)
    with pytest.raises(KubectlError) as error:
        program(tmp_path, f"cat {tmp_path}/words >&2; exit 1").raw("/x")
    assert error.value.reason == reason


def test_an_answer_that_is_no_json_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KubectlError, match=r"^/x: the answer is not JSON: is it a Kubernetes API server\?$"):
        program(tmp_path, "echo '<html>'").document("/x")


def test_a_list_comes_in_pages_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubectl, "PAGE", 2)
    items: list[dict[str, Any]] = [{"n": number} for number in range(5)]
    recorded = Recorded({"/x": items})
    assert [len(page) for page in recorded.pages("/x", labelSelector="a=b")] == [2, 2, 1]
    assert recorded.asked[0] == "/x?labelSelector=a%3Db&limit=2"
    assert recorded.asked[1].endswith("&limit=2&continue=2")
    monkeypatch.setattr(kubectl, "MOST_PAGES", 2)
    with pytest.raises(KubectlError, match="/x has more than 4 objects: ask for one namespace"):
        list(recorded.pages("/x"))


def test_a_list_of_another_form_is_empty(tmp_path: Path) -> None:
    for text in ('{"items": "x"}', "[]", json.dumps({"items": [1]})):
        assert list(program(tmp_path, f"echo '{text}'").pages("/x")) == [[]]


def test_a_log_that_is_no_text_is_read_all_the_same(tmp_path: Path) -> None:
    assert program(tmp_path, r"printf 'a\377b\n'").raw("/x") == "a\ufffdb\n"


@pytest.mark.parametrize("text", ["Welcome, u!", "[1]", '{"a": 1} bye', "1"])
def test_a_program_that_prints_something_of_its_own_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(KubectlError, match=r"^kubectl printed .* where JSON is expected: does KUBECTL"):
        program(tmp_path, f"echo '{text}'").json("get", "pods")


def test_a_kind_that_is_not_there_is_asked_about_once(tmp_path: Path) -> None:
    (tmp_path / "words").write_text('error: the server doesn\'t have a resource type "thing"')
    asking = program(tmp_path, f'echo "$@" >>{tmp_path}/asked; cat {tmp_path}/words >&2; exit 1')
    assert asking.get(Ref("Thing", "a", "n")) is None
    assert asking.get(Ref("Thing", "b")) is None
    assert asking.all("Thing") == []
    assert (tmp_path / "asked").read_text() == "--request-timeout=30s get thing a -n n --ignore-not-found -o json\n"


def test_objects_are_asked_for_by_their_namespaces_and_those_of_the_cluster_beside_one(tmp_path: Path) -> None:
    asking = program(tmp_path, f'echo "$@" >>{tmp_path}/asked')
    refs = [Ref("ClusterRole", "c"), Ref("Secret", "a", "n"), Ref("Secret", "a", "n"), Ref("ConfigMap", "m", "o")]
    assert asking.existing(refs) == {}
    assert asking.existing(refs[:1]) == {}
    assert asking.existing([]) == {}
    lines = (tmp_path / "asked").read_text().splitlines()
    asked = [line.partition(" get ")[2].partition(" --ignore")[0] for line in lines]
    assert asked == ["secret/a clusterrole/c -n n", "configmap/m -n o", "clusterrole/c"]


def test_what_lies_in_one_namespace_is_deleted_by_one_call_and_what_stays_says_why(tmp_path: Path) -> None:
    script = f"""echo "$@" >>{tmp_path}/asked
    case "$*" in
    *" secret/kept "*) echo clusterrole.rbac.authorization.k8s.io/c; echo "Error from server: no" >&2; exit 1 ;;
    *" secret kept "*) echo "Error from server (Forbidden): not you" >&2; exit 1 ;;
    *" secret absent "*) ;;
    *) echo configmap/m.x ;;
    esac"""
    refs = [
        Ref("ClusterRole", "c"),
        Ref("Secret", "kept", "n"),
        Ref("Secret", "absent", "n"),
        Ref("ConfigMap", "m.x", "o"),
    ]
    outcome = list(program(tmp_path, script).delete_each(refs))
    assert [(what.name, str(error or "")) for what, error in outcome] == [
        ("c", ""),
        ("kept", "kubectl delete: not you"),
        ("m.x", ""),
    ]
    asked = [
        line.partition(" delete ")[2].partition(" --")[0] for line in (tmp_path / "asked").read_text().splitlines()
    ]
    assert asked == [
        "clusterrole/c secret/kept secret/absent -n n",
        "secret kept -n n",
        "secret absent -n n",
        "configmap/m.x -n o",
    ]


@pytest.mark.slow
def test_an_object_whose_deletion_hangs_is_named_and_those_behind_it_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubectl, "_REQUESTS", 1 / kubectl.REQUEST_SECONDS)
    asking = program(tmp_path, 'case "$*" in *stuck*) exec sleep 60 ;; *) echo gone ;; esac')
    refs = [Ref("Secret", name, "n") for name in ("first", "stuck", "last")]
    outcome = [(what.name, str(error or "").partition(":")[0]) for what, error in asking.delete_each(refs)]
    assert outcome == [("first", ""), ("stuck", "kubectl delete"), ("last", "")]


def test_one_call_deletes_no_more_objects_than_a_command_line_has_room_for(tmp_path: Path) -> None:
    asking = program(tmp_path, f'echo "$@" >>{tmp_path}/asked')
    refs = [Ref("ResourceClaimTemplate", f"bitfusion-{number}", "n") for number in range(120)]
    assert list(asking.delete_each(refs)) == []
    asked = (tmp_path / "asked").read_text().splitlines()
    assert [line.count("resourceclaimtemplate/") for line in asked] == [50, 50, 20]
