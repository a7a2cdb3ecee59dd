"""How the programs of a pod do, by their state and their last words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from bitfusiond.core import names
from bitfusiond.core.diagnosis import filling
from bitfusiond.core.diagnosis.facts import PodFacts, said
from bitfusiond.core.diagnosis.finding import Finding, Unread, bad, good, unknown
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Pod
from bitfusiond.core.text import one_line
from bitfusiond.core.usage import holdings

_LONGEST_WORDS = 200  # characters of a program's log that are repeated


class _Words(NamedTuple):
    """What a client or the loader says: all of ``words`` in a line, what that means, and what to do."""

    words: tuple[str, ...]
    meaning: str
    next: str


_ANOTHER_OS = "take another bitfusion-client/os"
_KNOWN = (
    _Words(
        ("none of the servers responded",),
        "no Bitfusion server took the token",
        "an operator downloads a new one and runs: just tokens DIR",
    ),
    _Words(
        ("context deadline exceeded",),
        "the Bitfusion server did not answer",
        "an operator downloads a new token and runs: just tokens DIR; or the network is in the way",
    ),
    _Words(
        ("dial tcp", "i/o timeout"),
        "the network does not reach the server",
        "look for a firewall, or a NetworkPolicy for outgoing traffic",
    ),
    _Words(
        ("dial tcp", "connection refused"), "nothing listens at the server's port", "ask the operator whether it runs"
    ),
    _Words(
        ("Failed to parse", names.SERVERS_CONF), "the client cannot read its list of servers", "create the pod again"
    ),
    _Words(("error while loading shared libraries",), "the client is for another system than the image", _ANOTHER_OS),
    _Words(("GLIBC_", "not found"), "the client is for another system than the image", _ANOTHER_OS),
    _Words(
        ("/bin/bash", "no such file"),
        "a command of one string runs under bash, which the image lacks",
        "write the command as a list",
    ),
)


def programs(facts: PodFacts) -> Iterator[Finding]:
    """Each container that stays."""
    for each in facts.containers:
        yield from _container(facts, str(each.get("name")))


def _container(facts: PodFacts, name: str) -> Iterator[Finding]:
    status, logs = facts.status, f"kubectl logs {facts.words} -c {name}"
    log = facts.logs.get(name)
    waiting, ended = (filling.state_of(status, name, kind) for kind in ("waiting", "terminated"))
    last = filling.last_end(status, name)
    has_failed = False
    if filling.state_of(status, name, "running") is not None:
        yield good(f"{name} runs")
        yield from filling.restarted(facts, name)
    elif ended is not None and (ended.get("exitCode") == 0 or status.get("phase") == "Succeeded"):
        # The kubelet ends sidecars itself, with whatever status: the pod's phase counts.
        yield good(f"{name} has ended well")
    elif ended is not None or (waiting is not None and last):
        has_failed = True
        yield bad(f"{name} ended: {filling.ending(last)}", logs if waiting is None else f"{logs} --previous")
    elif waiting is not None:
        yield from filling.stuck(facts, name, waiting)
    if isinstance(log, Unread):
        yield log.finding
    elif log:
        # What runs on, or ended well, may have said so for a reason of its own.
        yield from _told(log, f"{name} says", logs, bad if has_failed else unknown)


def _told(log: str, who: str, logs: str, finding: Callable[[str, str], Finding]) -> Iterator[Finding]:
    """What the last lines of a program say about the client."""
    for line in reversed(log.splitlines()):
        for known in _KNOWN:
            if all(words in line for words in known.words):
                yield finding(f"{who}: {one_line(line, _LONGEST_WORDS)} ({known.meaning})", f"{known.next}; {logs}")
                return


def servers(facts: PodFacts) -> Iterator[Finding]:
    """Whether the servers whose GPUs the pod has still answer: as they are published now, else by the last Event."""
    given = {
        each.pool for claim in facts.claims.values() if isinstance(claim, dict) for each in holdings.results(claim)
    }
    told = said(facts.events, names.EVENT_SERVER_GONE)[:1]
    following = f"kubectl delete pod {facts.words}"
    if isinstance(facts.slices, Unread) or not given:
        yield from (bad(message, following) for message in told)
        return
    for each in holdings.servers(facts.slices, ()):
        if each.name in given and each.unreachable is not None:
            message = f"GPU server {each.name} ({each.address}), which has GPUs of this pod, does not answer"
            yield bad(f"{message} since {each.unreachable}", following)


def is_running(facts: PodFacts) -> bool:
    """Whether the pod has done its work, or all its containers do it."""
    phase = facts.status.get("phase")
    states = [mapping(each, "state") for each in objects(facts.status.get("containerStatuses"))]
    started = bool(states) and all("running" in each or "terminated" in each for each in states)
    return phase == "Succeeded" or (phase == "Running" and started)


def has_ended(pod: Pod) -> bool:
    return mapping(pod, "status").get("phase") in ("Succeeded", "Failed")
