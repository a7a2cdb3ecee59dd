"""Ways in which another webhook, or a person, can spoil a pod that was injected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bitfusiond.core import names
from tests.pods import Pod

Way = Callable[[Pod], object]
WAYS: list[Way] = []


def _way(way: Way) -> Way:
    WAYS.append(way)
    return way


def _main(pod: Pod) -> dict[str, Any]:
    """A container with shares, or the first."""
    found = [each for each in pod["spec"]["containers"] if names.GPU in _limits(each)]
    container: dict[str, Any] = (found or pod["spec"]["containers"])[0]
    return container


def _limits(container: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = container.setdefault("resources", {}).setdefault("limits", {})
    return limits


def _shares(pod: Pod, amount: str) -> None:
    for section in _main(pod)["resources"].values():
        if names.GPU in section:
            section[names.GPU] = amount


def _words(pod: Pod, change: Callable[[list[str]], list[str]]) -> None:
    container = _main(pod)
    container["command"] = change(container.get("command", []))


@_way
def nothing(pod: Pod) -> None:
    pass


@_way
def no_status(pod: Pod) -> None:
    pod["metadata"]["annotations"].pop(names.STATUS, None)


@_way
def another_status(pod: Pod) -> None:
    pod["metadata"]["annotations"][names.STATUS] = "nearly"


@_way
def an_unknown_mode(pod: Pod) -> None:
    pod["metadata"]["annotations"][names.MANAGEMENT] = "sometimes"


@_way
def an_unknown_client(pod: Pod) -> None:
    pod["metadata"]["annotations"][names.CLIENT_NAME] = "lupine"


@_way
def no_populate(pod: Pod) -> None:
    pod["spec"]["initContainers"] = [each for each in pod["spec"]["initContainers"] if each["name"] != "populate"]


@_way
def no_init_containers(pod: Pod) -> None:
    pod["spec"].pop("initContainers", None)


@_way
def no_mounts(pod: Pod) -> None:
    _main(pod).pop("volumeMounts", None)


@_way
def one_mount_less(pod: Pod) -> None:
    mounts = _main(pod).get("volumeMounts")
    if mounts:
        mounts.pop()


@_way
def a_mount_elsewhere(pod: Pod) -> None:
    mounts = _main(pod).get("volumeMounts")
    if mounts:
        mounts[-1]["mountPath"] += "x"


@_way
def no_variables(pod: Pod) -> None:
    _main(pod).pop("env", None)


@_way
def another_variable(pod: Pod) -> None:
    _main(pod)["env"] = [{"name": "LD_LIBRARY_PATHS", "value": "/x"}]


@_way
def no_shares(pod: Pod) -> None:
    for section in _main(pod)["resources"].values():
        section.pop(names.GPU, None)


@_way
def fewer_shares(pod: Pod) -> None:
    _shares(pod, "1")


@_way
def shares_of_none(pod: Pod) -> None:
    _shares(pod, "0")


@_way
def more_shares(pod: Pod) -> None:
    _shares(pod, "2k")


@_way
def a_gpu_amount_again(pod: Pod) -> None:
    _limits(_main(pod))[names.GPU_AMOUNT] = "1"


@_way
def a_gpu_amount_beside(pod: Pod) -> None:
    pod["spec"]["containers"].append(
        {"name": "beside", "image": "i", "resources": {"limits": {names.GPU_PERCENT: "5"}}}
    )


@_way
def shares_without_a_client(pod: Pod) -> None:
    pod["spec"]["containers"].append({"name": "beside", "image": "i", "resources": {"limits": {names.GPU: "5"}}})


@_way
def another_resource_of_ours(pod: Pod) -> None:
    _limits(_main(pod))[f"{names.DOMAIN}tiny"] = "5"


@_way
def a_program_without_the_client(pod: Pod) -> None:
    _words(pod, lambda words: ["python", "x.py"])
    _main(pod).pop("args", None)


@_way
def no_command(pod: Pod) -> None:
    _main(pod).pop("command", None)


@_way
def a_command_that_is_only_args(pod: Pod) -> None:
    container = _main(pod)
    container["args"] = [*container.pop("command", []), *container.get("args", [])]


@_way
def a_program_in_front(pod: Pod) -> None:
    container = _main(pod)
    container["args"] = [*container.get("command", []), *container.get("args", [])]
    container["command"] = ["/agent/env", "--"]


@_way
def a_line_in_front(pod: Pod) -> None:
    container = _main(pod)
    line = " ".join([*container.get("command", []), *container.get("args", [])])
    container["command"], container["args"] = ["sh", "-c"], [line]


@_way
def more_gpus_in_the_command(pod: Pod) -> None:
    _words(pod, lambda words: ["8" if word == "1" else word.replace(" -n 1 ", " -n 8 ") for word in words])


@_way
def more_memory_in_the_command(pod: Pod) -> None:
    _words(pod, lambda words: [word.replace("8000", "16000").replace("0.5", "1.0") for word in words])


@_way
def a_second_call(pod: Pod) -> None:
    _words(pod, lambda words: [*words, "&&", "bitfusion", "run", "-n", "9", "--", "python"])


@_way
def a_second_call_in_the_script(pod: Pod) -> None:
    _words(pod, lambda words: [*words[:-1], f"{words[-1]} && bitfusion run -n 9 -- python"] if words else words)


@_way
def a_call_in_a_hook(pod: Pod) -> None:
    run = ["sh", "-c", "bitfusion run -n 9 -- python"]
    _main(pod)["lifecycle"] = {"postStart": {"exec": {"command": run}}}


@_way
def a_call_in_a_probe(pod: Pod) -> None:
    _main(pod)["livenessProbe"] = {"exec": {"command": ["bitfusion", "run", "-n", "9", "--", "python"]}}


@_way
def a_client_of_another_path(pod: Pod) -> None:
    _words(pod, lambda words: [word.replace("/usr/bin/bitfusion", "/usr/bin/bit") for word in words])


@_way
def an_option_more(pod: Pod) -> None:
    def change(words: list[str]) -> list[str]:
        at = words.index("run") + 1 if "run" in words else 0
        inserted = [*words[:at], "-n", "9", *words[at:]] if at else words
        return [word.replace(" run -n 1 ", " run -n 1 -n 9 ") for word in inserted]

    _words(pod, change)
