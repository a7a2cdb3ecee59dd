"""Options and variables of a daemon in its Deployment or DaemonSet."""

from __future__ import annotations

from collections.abc import Iterator

from bitfusiond.core.objects import Container, EnvVar, Workload

TLS_CERT = "BITFUSIOND_TLS_CERT"


def containers(workload: Workload) -> Iterator[Container]:
    yield from workload["spec"]["template"]["spec"]["containers"]


def option(workload: Workload | None, name: str) -> str | None:
    """The value of an option of the daemon in a workload, by its argument or by its variable, or None."""
    flag = "--" + name.removeprefix("BITFUSIOND_").replace("_", "-").lower()
    for container in containers(workload) if workload else ():
        words: list[str] = [*(container.get("command") or []), *(container.get("args") or [])]
        for word, following in zip(words, [*words, ""][1:], strict=True):
            if word == flag:
                return following
            if word.startswith(f"{flag}="):
                return word.removeprefix(f"{flag}=")
    return variable(workload, name)


def self_managed(webhook: Workload | None) -> bool:
    """Whether the webhook makes its own certificates, by the options of its Deployment."""
    return option(webhook, TLS_CERT) is None


def variable(workload: Workload | None, name: str) -> str | None:
    """The value of an environment variable in a workload's containers, or None."""
    for container in containers(workload) if workload else ():
        for each in container.get("env") or []:
            if each["name"] == name:
                value: str | None = each.get("value")
                return value
    return None


def with_variable(variables: list[EnvVar], name: str, value: str) -> list[EnvVar]:
    """A container's ``env`` with this variable, in its place or at the end."""
    ours = {"name": name, "value": value}
    if all(each["name"] != name for each in variables):
        return [*variables, ours]
    return [ours if each["name"] == name else each for each in variables]
