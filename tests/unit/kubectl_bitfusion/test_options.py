"""Which cluster is meant: kubectl's own flags before the command and behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitfusiond.errors import ConfigurationError
from bitfusiond.kubectl_bitfusion import options
from bitfusiond.operate.kubectl import KubectlError

BEFORE = ["--context", "c", "-n", "team", "why", "p", "-o", "json"]
BEHIND = ["why", "p", "-o", "json", "--context=c", "--namespace=team"]
BETWEEN = ["--context=c", "why", "-n", "team", "p", "-o", "json"]


@pytest.mark.parametrize("words", [BEFORE, BEHIND, BETWEEN])
def test_the_flags_stand_anywhere(words: list[str]) -> None:
    found = options.split(words)
    assert (found.command, found.chosen) == ("why", {"--context": "c", "--namespace": "team"})
    assert found.rest == ["p", "-o", "json"]


@pytest.mark.parametrize("word", ["-nteam", "-n=team", "--namespace=team"])
def test_a_value_may_stand_in_the_word_of_its_flag(word: str) -> None:
    found = options.split(["why", word, "p"])
    assert (found.chosen, found.rest) == ({"--namespace": "team"}, ["p"])


@pytest.mark.parametrize(
    "words", [["-n"], ["-n", ""], ["-n="], ["--namespace="], ["--context="], ["--kubeconfig", ""], ["--user"]]
)
def test_an_empty_value_is_refused(words: list[str]) -> None:
    flag = words[0].removesuffix("=")
    with pytest.raises(ConfigurationError, match=f"^{flag} needs a value$"):
        options.split(["status", *words])


def test_a_pod_may_be_called_like_a_command() -> None:
    assert options.split(["why", "status"]).rest == ["status"]


def test_kubectl_is_given_the_flags_and_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "kubectl"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))
    chosen = options.split(["--context", "c", "--kubeconfig=f", "--user=u", "--cluster=d", "-n", "x"]).chosen
    said = options.kubectl(chosen).run("get", "pods").split()
    assert said == ["--request-timeout=10s", "--context=c", "--kubeconfig=f", "--user=u", "--cluster=d", "get", "pods"]


def test_one_may_ask_as_somebody_of_several_groups() -> None:
    chosen = options.split(["status", "--as=u", "--as-group", "g", "--as-group=h", "-n", "x"]).chosen
    assert options.kubectl(chosen).options == ("--as=u", "--as-group=g", "--as-group=h")


@pytest.mark.parametrize(
    ("view", "namespace"),
    [
        ('{"contexts": [{"context": {"namespace": "mine"}}]}', "mine"),
        ('{"contexts": [{"context": {}}]}', "default"),
        ('{"contexts": null}', "default"),
    ],
)
def test_the_namespace_is_the_contexts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str, namespace: str
) -> None:
    program = tmp_path / "kubectl"
    program.write_text(f"#!/bin/sh\necho '{view}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))
    kubectl = options.kubectl({})
    assert options.namespace(kubectl, {}) == namespace
    assert options.namespace(kubectl, {"--namespace": "other"}) == "other"


def test_a_context_that_is_not_there_is_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/sh\necho 'error: context \"x\" does not exist' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))
    with pytest.raises(ConfigurationError, match='context "x" does not exist'):
        options.namespace(options.kubectl({"--context": "x"}), {"--context": "x"})
    assert options.namespace(options.kubectl({}), {}) == "default", "without a context, as within a cluster"


def test_a_program_with_a_banner_is_not_taken_for_a_context_without_a_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/sh\necho Welcome\n")
    program.chmod(0o755)
    monkeypatch.setenv("KUBECTL", str(program))
    with pytest.raises(KubectlError, match="kubectl printed Welcome where JSON is expected"):
        options.namespace(options.kubectl({}), {})
