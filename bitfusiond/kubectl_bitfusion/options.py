"""The words behind ``kubectl bitfusion``: which cluster is meant stands before the command or behind it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.fields import mapping, objects
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate.kubectl import Kubectl, KubectlError, objects_in

COMMANDS = {
    "status": "who has how many GPU shares, and what is free",
    "why": "why a pod does not run on its GPUs, or that it does: POD, or TYPE/NAME for what makes pods",
    "check": "look at every part of an installation, as its operator",
    "render": "print a YAML file as the webhook would admit it; needs no cluster",
}
# kubectl's own: passed on as they are.
CLUSTER = {
    "--context": "the context of the kubeconfig to use",
    "--kubeconfig": "the kubeconfig file to use",
    "--cluster": "the cluster of the kubeconfig to use",
    "--user": "the user of the kubeconfig to use",
    "--as": "the user to ask as",
    "--as-group": "a group to ask as; give it several times for several",
}
_SEVERAL = "--as-group"
_BETWEEN = "\n"  # of several values; no group has such a name
NAMESPACE = ("-n", "--namespace")
OUTPUT = ("-o", "--output")
OUTPUTS = ("table", "json", "yaml")
VALUES = (*CLUSTER, *NAMESPACE)
FILES = ("--kubeconfig",)
SECONDS = 10  # for one request: a person waits

_FLAGS = {
    "status": ["-A", "--all-namespaces", "-w", "--watch", *OUTPUT],
    "why": [*OUTPUT],
    "render": ["-f", "--file", "--diff", "--clients", "--injection", "--pool", "--delivery", "--total-gpu-memory"],
}


@dataclass(frozen=True, slots=True)
class Split:
    """``command`` is empty where none was given; ``chosen`` are the flags about the cluster; ``rest`` all else."""

    command: str
    chosen: Mapping[str, str]
    rest: Sequence[str]


def split(words: Sequence[str]) -> Split:
    """Raises ConfigurationError for a flag that lacks its value."""
    command, chosen, rest = "", dict[str, str](), list[str]()
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        flag, value = _parts(word)
        if flag in VALUES:
            if value is None and remaining:
                value = remaining.pop(0)
            if not value:
                raise ConfigurationError(f"{flag} needs a value")
            key = NAMESPACE[1] if flag in NAMESPACE else flag
            chosen[key] = f"{chosen[key]}{_BETWEEN}{value}" if key == _SEVERAL and key in chosen else value
        elif not command and word in COMMANDS:
            command = word
        else:
            rest.append(word)
    return Split(command, chosen, rest)


def _parts(word: str) -> tuple[str, str | None]:
    """A flag, and the value that stands in the same word: ``--namespace=team``, ``-n=team``, ``-nteam``."""
    short = NAMESPACE[0]
    if word.startswith(short) and len(word) > len(short):
        return short, word.removeprefix(short).removeprefix("=")
    flag, equals, value = word.partition("=")
    return flag, value if equals else None


def flags(command: str) -> list[str]:
    return [*VALUES, "--help", *_FLAGS.get(command, [])]


def kubectl(chosen: Mapping[str, str], seconds: int = SECONDS) -> Kubectl:
    """As the flags and KUBECTL say."""
    given = [f"{flag}={value}" for flag in chosen if flag in CLUSTER for value in chosen[flag].split(_BETWEEN)]
    return Kubectl(os.environ.get("KUBECTL") or "kubectl", given, seconds)


def namespace(kubectl: Kubectl, chosen: Mapping[str, str]) -> str:
    """The namespace that is meant: the flag's, the context's, ``default``. Raises ConfigurationError."""
    if given := chosen.get("--namespace"):
        if not names.is_namespace(given):
            raise ConfigurationError(f"--namespace: {given!r} is not the name of a namespace")
        return given
    try:
        view = next(iter(objects_in(kubectl.run("config", "view", "--minify", "-o", "json"))), {})
    except KubectlError as error:
        if error.reason == "NotJson":
            raise
        if "--context" not in chosen:  # none is needed within a cluster; what else is wrong shows when it is asked
            return "default"
        raise ConfigurationError(f"{error}: `kubectl config get-contexts` lists the contexts") from None
    context = next(iter(objects(view.get("contexts"))), {})
    return str(mapping(context, "context").get("namespace") or "default")
