"""Ways in which another webhook, or a person, can spoil a pod that was injected, each by one of its GPU containers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.objects import Pod

Container = dict[str, Any]
Way = Callable[[Pod, Container], object]
WAYS: list[Way] = []


def _way(way: Way) -> Way:
    WAYS.append(way)
    return way


def gpu_containers(pod: Pod) -> list[Container]:
    """The containers that have shares, init containers first."""
    found: list[Container] = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    return [each for each in found if names.GPU in each.get("resources", {}).get("limits", {})]


def _limits(container: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = container.setdefault("resources", {}).setdefault("limits", {})
    return limits


def _shares(container: Container, amount: str) -> None:
    for section in container.get("resources", {}).values():
        if names.GPU in section:
            section[names.GPU] = amount


def _words(container: Container, change: Callable[[list[str]], list[str]]) -> None:
    container["command"] = change(container.get("command", []))


@_way
def nothing(pod: Pod, container: Container) -> None:
    pass


@_way
def no_status(pod: Pod, container: Container) -> None:
    pod["metadata"]["annotations"].pop(names.STATUS, None)


@_way
def another_status(pod: Pod, container: Container) -> None:
    pod["metadata"]["annotations"][names.STATUS] = "nearly"


@_way
def an_unknown_mode(pod: Pod, container: Container) -> None:
    pod["metadata"]["annotations"][names.MANAGEMENT] = "sometimes"


@_way
def an_unknown_client(pod: Pod, container: Container) -> None:
    pod["metadata"]["annotations"][names.CLIENT_NAME] = "lupine"


@_way
def no_populate(pod: Pod, container: Container) -> None:
    found = pod["spec"].get("initContainers", [])
    pod["spec"]["initContainers"] = [each for each in found if each["name"] != "populate"]


@_way
def no_init_containers(pod: Pod, container: Container) -> None:
    pod["spec"].pop("initContainers", None)


@_way
def no_mounts(pod: Pod, container: Container) -> None:
    container.pop("volumeMounts", None)


@_way
def one_mount_less(pod: Pod, container: Container) -> None:
    mounts = container.get("volumeMounts")
    if mounts:
        mounts.pop()


@_way
def a_mount_elsewhere(pod: Pod, container: Container) -> None:
    mounts = container.get("volumeMounts")
    if mounts:
        mounts[-1]["mountPath"] += "x"


@_way
def no_variables(pod: Pod, container: Container) -> None:
    container.pop("env", None)


@_way
def another_variable(pod: Pod, container: Container) -> None:
    container["env"] = [{"name": "LD_LIBRARY_PATHS", "value": "/x"}]


@_way
def no_shares(pod: Pod, container: Container) -> None:
    for section in container.get("resources", {}).values():
        section.pop(names.GPU, None)


@_way
def fewer_shares(pod: Pod, container: Container) -> None:
    _shares(container, "1")


@_way
def shares_of_none(pod: Pod, container: Container) -> None:
    _shares(container, "0")


@_way
def more_shares(pod: Pod, container: Container) -> None:
    _shares(container, "2k")


@_way
def a_gpu_amount_again(pod: Pod, container: Container) -> None:
    _limits(container)[names.GPU_AMOUNT] = "1"


@_way
def a_gpu_amount_beside(pod: Pod, container: Container) -> None:
    pod["spec"]["containers"].append(
        {"name": "beside", "image": "i", "resources": {"limits": {names.GPU_PERCENT: "5"}}}
    )


@_way
def shares_without_a_client(pod: Pod, container: Container) -> None:
    pod["spec"]["containers"].append({"name": "beside", "image": "i", "resources": {"limits": {names.GPU: "5"}}})


@_way
def another_resource_of_ours(pod: Pod, container: Container) -> None:
    _limits(container)[f"{names.DOMAIN}tiny"] = "5"


@_way
def a_program_without_the_client(pod: Pod, container: Container) -> None:
    _words(container, lambda words: ["python", "x.py"])
    container.pop("args", None)


@_way
def no_command(pod: Pod, container: Container) -> None:
    container.pop("command", None)


@_way
def a_command_that_is_only_args(pod: Pod, container: Container) -> None:
    container["args"] = [*container.pop("command", []), *container.get("args", [])]


@_way
def a_program_in_front(pod: Pod, container: Container) -> None:
    container["args"] = [*container.get("command", []), *container.get("args", [])]
    container["command"] = ["/agent/env", "--"]


@_way
def a_line_in_front(pod: Pod, container: Container) -> None:
    line = " ".join([*container.get("command", []), *container.get("args", [])])
    container["command"], container["args"] = ["sh", "-c"], [line]


@_way
def more_gpus_in_the_command(pod: Pod, container: Container) -> None:
    _words(container, lambda words: ["8" if word == "1" else word.replace(" -n 1 ", " -n 8 ") for word in words])


@_way
def more_memory_in_the_command(pod: Pod, container: Container) -> None:
    _words(container, lambda words: [word.replace("8000", "16000").replace("0.5", "1.0") for word in words])


@_way
def a_second_call(pod: Pod, container: Container) -> None:
    _words(container, lambda words: [*words, "&&", "bitfusion", "run", "-n", "9", "--", "python"])


@_way
def a_second_call_in_the_script(pod: Pod, container: Container) -> None:
    _words(container, lambda words: [*words[:-1], f"{words[-1]} && bitfusion run -n 9 -- python"] if words else words)


@_way
def a_call_in_a_hook(pod: Pod, container: Container) -> None:
    run = ["sh", "-c", "bitfusion run -n 9 -- python"]
    container["lifecycle"] = {"postStart": {"exec": {"command": run}}}


@_way
def a_call_in_a_probe(pod: Pod, container: Container) -> None:
    container["livenessProbe"] = {"exec": {"command": ["bitfusion", "run", "-n", "9", "--", "python"]}}


@_way
def a_client_of_another_path(pod: Pod, container: Container) -> None:
    _words(container, lambda words: [word.replace("/usr/bin/bitfusion", "/usr/bin/bit") for word in words])


@_way
def an_option_more(pod: Pod, container: Container) -> None:
    def change(words: list[str]) -> list[str]:
        at = words.index("run") + 1 if "run" in words else 0
        inserted = [*words[:at], "-n", "9", *words[at:]] if at else words
        return [word.replace(" run -n 1 ", " run -n 1 -n 9 ") for word in inserted]

    _words(container, change)


@_way
def shares_and_words_of_none(pod: Pod, container: Container) -> None:
    _shares(container, "0")
    _words(container, lambda words: [word.replace("0.500000", "0.000000").replace("0.25", "0.00") for word in words])


@_way
def another_kind_of_shell(pod: Pod, container: Container) -> None:
    _words(
        container,
        lambda words: ["fish" if index == 0 and word.endswith("bash") else word for index, word in enumerate(words)],
    )


@_way
def a_script_that_lost_its_quotes(pod: Pod, container: Container) -> None:
    words = container.get("command", [])
    if "run" in words:
        line = " ".join([*words[: words.index("--") + 1], "", "bash -c cd /x && python y.py"])
        container["command"], container["args"] = ["bash", "-c", line], []


@_way
def a_plain_script_that_lost_its_quotes(pod: Pod, container: Container) -> None:
    words = container.get("command", [])
    if "run" in words:
        line = " ".join([*words[: words.index("--") + 1], "bash -c python y.py"])
        container["command"], container["args"] = ["bash", "-c", line], []


@_way
def two_blanks_in_a_line(pod: Pod, container: Container) -> None:
    _words(container, lambda words: [word.replace(" -- ", " --  bash -c ") for word in words])


@_way
def all_in_one_word(pod: Pod, container: Container) -> None:
    container["command"], container["args"] = (
        ["\n".join([*container.get("command", []), *container.get("args", [])])],
        [],
    )


@_way
def a_filter_with_lines(pod: Pod, container: Container) -> None:
    def change(words: list[str]) -> list[str]:
        at = words.index("--") if "--" in words else len(words)
        return [*words[:at], "--filter", "a\n--\n x", "-n", "8", *words[at:]]

    _words(container, change)


@_way
def a_quoted_second_call(pod: Pod, container: Container) -> None:
    _words(container, lambda words: [*words[:-1], f"{words[-1]} && bit''fusion run -n 9 -- python"] if words else words)


@_way
def an_escaped_second_call(pod: Pod, container: Container) -> None:
    _words(container, lambda words: [*words[:-1], f"{words[-1]} && b\\itfusion run -n 9 -- python"] if words else words)


@_way
def a_call_behind_another_one(pod: Pod, container: Container) -> None:
    def change(words: list[str]) -> list[str]:
        at = words.index("--") + 1 if "--" in words else len(words)
        return [*words[:at], words[0] if words else "x", "run", "-n", "9", "--", *words[at:]]

    _words(container, change)


@_way
def a_call_in_a_startup_probe(pod: Pod, container: Container) -> None:
    container["startupProbe"] = {"exec": {"command": ["bitfusion", "run", "-n", "9", "--", "python"]}}


@_way
def a_call_in_a_readiness_probe(pod: Pod, container: Container) -> None:
    container["readinessProbe"] = {"exec": {"command": ["bitfusion", "run", "-n", "9", "--", "python"]}}


@_way
def another_command_of_the_client(pod: Pod, container: Container) -> None:
    _words(
        container,
        lambda words: [word.replace(" run ", " list_gpus ") if word != "run" else "list_gpus" for word in words],
    )
