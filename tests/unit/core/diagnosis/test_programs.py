"""How the programs of a pod do, their servers and their node: the line that says so, and the next command."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.diagnosis import pods
from bitfusiond.core.diagnosis.finding import Finding, State, Unread
from tests.fakes.pool import claim, resource_slice, result
from tests.unit.core.diagnosis import scenes
from tests.unit.core.diagnosis.scenes import (
    bad,
    event,
    facts,
    injected,
    lines,
    node,
    restarted,
    state,
    with_claim,
)

CHECK = "an operator runs: kubectl bitfusion check"
DESCRIBE = "kubectl describe pod p -n team"


@pytest.mark.parametrize(
    ("log", "meaning", "following"),
    [
        (
            "none of the servers responded correctly to client id claim requests",
            "no Bitfusion server took the token",
            "an operator downloads a new one and runs: just tokens DIR",
        ),
        ("error: context deadline exceeded", "the Bitfusion server did not answer", "an operator downloads a new"),
        ("dial tcp 10.1.2.3:56001: i/o timeout", "the network does not reach the server", "look for a firewall"),
        ("dial tcp 10.1.2.3:56001: connection refused", "nothing listens at the server's port", "ask the operator"),
        (
            "Failed to parse /root/.bitfusion/servers.conf",
            "the client cannot read its list of servers",
            "create the pod",
        ),
        ("x: error while loading shared libraries: y", "the client is for another system", "take another"),
        ("/lib/libc.so.6: version `GLIBC_2.33' not found", "the client is for another system", "take another"),
        ("exec: /bin/bash: no such file or directory", "a command of one string runs under bash", "write the command"),
    ],
)
def test_a_program_whose_last_words_are_the_clients(log: str, meaning: str, following: str) -> None:
    ended = state("main", "terminated", exitCode=3, reason="Error")
    document = injected(phase="Failed", initContainerStatuses=[scenes.POPULATED], containerStatuses=[ended])
    found = bad(facts(document, logs={"main": f"first\n{log}\nlast\n"}))
    assert found[0] == ("main ended: exit status 3, Error", "kubectl logs p -n team -c main")
    assert found[1][0].startswith(f"main says: {log} ({meaning}")
    assert found[1][1].startswith(following)
    # Of a program that goes on it is no proof.
    still = facts(injected(**scenes.RUNNING), logs={"main": log})
    assert bad(still) == []
    assert any(each.startswith(f"main says: {log}") for each in lines(still, State.UNKNOWN))


def test_a_program_that_ends_again_and_again() -> None:
    again = {
        "name": "main",
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    }
    document = injected(phase="Running", initContainerStatuses=[scenes.POPULATED], containerStatuses=[again])
    assert bad(facts(document)) == [("main ended: exit status 1, Error", "kubectl logs p -n team -c main --previous")]


def test_a_program_that_was_restarted_and_runs() -> None:
    document = injected(**{**scenes.RUNNING, "containerStatuses": [restarted("main", "running")]})
    of = facts(document, logs={"main": "error: context deadline exceeded"})
    assert bad(of) == []
    assert "main runs" in lines(of, State.GOOD)
    assert Finding(
        State.UNKNOWN,
        "main restarted 2 times, last: exit status 1, Error",
        "kubectl logs p -n team -c main --previous",
    ) in pods.diagnose(of)


def test_a_container_that_cannot_be_made() -> None:
    stuck = state("main", "waiting", reason="CreateContainerConfigError", message='configmap "x" not found')
    document = injected(initContainerStatuses=[scenes.POPULATED], containerStatuses=[stuck])
    told = 'main does not start (CreateContainerConfigError): configmap "x" not found'
    assert bad(facts(document)) == [(told, DESCRIBE)]


def test_the_server_of_a_pod_is_gone() -> None:
    message = "GPU server gpu-a (10.1.2.3:56001), which has GPUs of this pod, does not answer: a program waits"
    of = facts(injected(**scenes.RUNNING), events=[event("BitfusionServerGone", message)])
    assert bad(of) == [(message, "kubectl delete pod p -n team")]


def test_what_is_published_now_outweighs_an_event_of_before() -> None:
    document = with_claim(injected(**scenes.RUNNING))
    known: dict[str, Any] = {
        "claims": {"c": claim("c", result("gpu-a", "gpu-0", 50))},
        "events": [event("BitfusionServerGone", "GPU server gpu-a does not answer")],
    }
    published = resource_slice("gpu-a", "0")
    assert bad(facts(document, slices=[published], **known)) == []
    again = "kubectl delete pod p -n team"
    unread = Unread("resourceslices")
    assert bad(facts(document, slices=unread, **known)) == [("GPU server gpu-a does not answer", again)]
    taint = {"key": names.UNREACHABLE, "value": "true", "effect": "NoSchedule", "timeAdded": scenes.MADE}
    published["spec"]["devices"][0]["taints"] = [taint]
    message = f"GPU server gpu-a (10.1.2.3:56001), which has GPUs of this pod, does not answer since {scenes.MADE}"
    assert bad(facts(document, slices=[published], claims=known["claims"])) == [(message, again)]


def test_the_node_offers_nothing_any_more() -> None:
    told = "node n1 offers 0 bitfusion.io/gpu: its plugin reaches no Bitfusion server, or does not run"
    assert bad(facts(injected(**scenes.RUNNING), node=node("n1", "0"))) == [(told, CHECK)]


def test_the_node_does_not_answer() -> None:
    told = [("node n1 does not answer", "an operator runs: kubectl describe node n1")]
    down = node("n1")
    down["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert bad(facts(injected(**scenes.RUNNING), node=down)) == told
    tainted = node("n1", taints=[{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}])
    assert bad(facts(injected(**scenes.RUNNING), node=tainted)) == told


def test_a_pod_that_is_being_deleted() -> None:
    document = injected(**scenes.RUNNING)
    document["metadata"]["deletionTimestamp"] = scenes.MADE
    assert bad(facts(document)) == [("it is being deleted", DESCRIBE)]


def test_a_pod_of_which_nothing_says_why_does_not_run_all_the_same() -> None:
    document = injected(initContainerStatuses=[scenes.POPULATED], containerStatuses=[state("main", "waiting")])
    assert bad(facts(document)) == [("it does not run yet; the last word about it: nothing says why", DESCRIBE)]
    of = facts(
        document,
        events=[event("Pulling", "older", "2026-11-28T10:00:01Z"), event("Pulled", "newer", "2026-11-28T10:00:02Z")],
    )
    assert bad(of) == [("it does not run yet; the last word about it: newer", DESCRIBE)]
