"""``kubectl_complete-bitfusion``: candidates one a line, and ``:NUMBER`` as the last line."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.kubectl_bitfusion import command, completion
from tests.fakes.kubectl import forbidden
from tests.unit.kubectl_bitfusion.conftest import Clusters

NO_FILES, FILES = ":4", ":0"
PATHS: dict[str, Any] = {
    "/api/v1/namespaces": [{"metadata": {"name": each}} for each in ("team", "test", "other")],
    "/api/v1/namespaces/team/pods": [{"metadata": {"name": each}} for each in ("app-1", "app-2", "jobless")],
    "/api/v1/namespaces/other/pods": [{"metadata": {"name": "there"}}],
    "/apis/apps/v1/namespaces/team/deployments": [{"metadata": {"name": "app"}}],
}


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ([""], ["check", "render", "status", "why", NO_FILES]),
        (["s"], ["status", NO_FILES]),
        ([], ["check", "render", "status", "why", NO_FILES]),
        (["why", "app"], ["app-1", "app-2", NO_FILES]),
        (["why", "app-1", ""], [NO_FILES]),
        (["why", "de"], ["deployment/", ":6"]),
        (["why", "jo"], ["job/", "jobless", NO_FILES]),
        (["why", "deployment/"], ["deployment/app", NO_FILES]),
        (
            ["-n", "other", "why", ""],
            [*["cronjob/", "daemonset/", "deployment/", "job/", "replicaset/", "statefulset/", "there"], NO_FILES],
        ),
        (["-nother", "why", "t"], ["there", NO_FILES]),
        (["--namespace=", "why", "t"], [NO_FILES]),
        (["status", "-n", "te"], ["team", "test", NO_FILES]),
        (["status", "--namespace", "o"], ["other", NO_FILES]),
        (["status", "-o", ""], ["json", "table", "yaml", NO_FILES]),
        (["--context", ""], ["c", "d", NO_FILES]),
        (["--kubeconfig", ""], [FILES]),
        (["render", "-f", ""], [FILES]),
        (["render", ""], [FILES]),
        (["status", "--al"], ["--all-namespaces", NO_FILES]),
        (["render", "--d"], ["--delivery", "--diff", NO_FILES]),
        (["check", ""], [NO_FILES]),
    ],
)
def test_what_kubectl_is_told(
    cluster: Clusters, capsys: pytest.CaptureFixture[str], words: list[str], lines: list[str]
) -> None:
    cluster(PATHS)
    assert completion.main(words) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_a_cluster_that_says_no_leaves_the_candidates_out(
    cluster: Clusters, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster({"/api/v1/namespaces": forbidden("namespaces")})
    assert completion.main(["status", "-n", ""]) == 0
    assert completion.main(["-n", "--context"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == NO_FILES
    assert printed.err == ""


def test_a_name_with_signs_of_a_terminal_is_made_plain(cluster: Clusters, capsys: pytest.CaptureFixture[str]) -> None:
    cluster({"/api/v1/namespaces": [{"metadata": {"name": "a\x1b[2J\nb"}}]})
    assert completion.main(["status", "-n", ""]) == 0
    assert capsys.readouterr().out.splitlines() == ["a?[2J?b", NO_FILES]


def test_the_file_of_just_build_completes_under_its_other_name(
    cluster: Clusters, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster({})
    monkeypatch.setattr("sys.argv", ["/usr/local/bin/kubectl_complete-bitfusion", "st"])
    assert command.main() == 0
    assert capsys.readouterr().out.splitlines() == ["status", NO_FILES]
