"""What must hold of every patched pod and every wrapped command, worked out by other means than the program's own."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.admission.command import Program
from bitfusiond.core.admission.decision import Rules
from bitfusiond.core.admission.template import Template
from bitfusiond.core.clients.client import BITFUSION
from bitfusiond.core.objects import Pod

SECTIONS = ("limits", "requests")
_WRITTEN = ("command", "args", "env", "volumeMounts", "resources")
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./,:@%+=- \t")
_NAME = re.compile(r"['\"\\\n]*".join("bitfusion"))  # as a shell may read it
_NOT_PROGRAMS = {"exec", "cd", "if", "export", "source", ".", "set", "time", "while"}
_SUFFIXES = {
    **{
        letter: Fraction(1000) ** power for power, letter in enumerate(("n", "u", "m", "", "k", *"MGTPE"), -3) if letter
    },
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", 1)},
}


def holds(condition: bool, otherwise: str) -> None:
    """An assertion about an exception, or one that pytest need not take apart."""
    if not condition:
        raise AssertionError(otherwise)


def said_in_one_line(message: str) -> None:
    """An error is one line: a log, ``kubectl`` and a terminal show it as it is."""
    assert message.splitlines() == [message], f"not one line: {message[:200]!r}"
    assert message.isprintable(), f"not printable: {message[:200]!r}"


def told(problems: list[str]) -> None:
    """A refusal gives its reasons, each once and in one line."""
    assert problems
    for problem in problems:
        said_in_one_line(problem)
    assert len(set(problems)) == len(problems), f"said twice: {problems}"


def strict_json(text: str | bytes) -> Any:
    """As a reader in Go takes it: without NaN and Infinity."""

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refused)


def same(one: object, other: object) -> bool:
    """Byte for byte: types and the order of keys too."""
    return json.dumps(one) == json.dumps(other)


def exact(written: object) -> Fraction | None:
    """The value of a quantity, taken apart by hand; None where it is none, or more than the API server stores."""
    if isinstance(written, bool) or not isinstance(written, (str, int, float)):
        return None
    text = str(written)
    if len(text) > 64 and isinstance(written, str):
        return None
    value = _unsigned(_without_sign(text))
    if value is None or value > 2**63 - 1:
        return None
    return -value if text[:1] == "-" else value


def _unsigned(text: str) -> Fraction | None:
    for size in (2, 1):
        if text[-size:] in _SUFFIXES and len(text) > size:
            number = _decimal(text[:-size])
            return None if number is None else number * _SUFFIXES[text[-size:]]
    number_text, e, exponent = text.replace("E", "e").partition("e")
    number = _decimal(number_text)
    digits = _without_sign(exponent)
    if number is None or (e and not (digits.isascii() and digits.isdecimal() and len(digits) <= 3)):
        return None
    return number * Fraction(10) ** int(exponent or 0)


def _without_sign(text: str) -> str:
    return text[1:] if text[:1] in {"+", "-"} else text


def _decimal(text: str) -> Fraction | None:
    whole, _, part = text.partition(".")
    digits = whole + part
    if not (digits.isascii() and digits.isdecimal()):
        return None
    return Fraction(int(digits), 10 ** len(part))


def patched(before: Pod, after: Pod, configuration: Rules) -> None:
    """``after`` is ``before`` with what is ours added, and nothing of anybody else's lost or changed."""
    assert same(_without(before, "metadata", "spec"), _without(after, "metadata", "spec"))
    metadata, was = after["metadata"], before["metadata"]
    assert same(_without(metadata, "annotations"), _without(was, "annotations"))
    assert metadata["annotations"][names.STATUS] == names.STATUS_INJECTED
    adds_more = _template(was["annotations"], configuration).adds_more
    written = (names.STATUS, names.VALIDATE) if adds_more else (names.STATUS,)
    assert same(_without(metadata["annotations"], *written), _without(was["annotations"], *written))
    spec, old = after["spec"], before["spec"]
    changed = ("containers", "initContainers", "volumes")
    assert same(_without(spec, *changed), _without(old, *changed))
    _volumes(spec["volumes"], old.get("volumes") or [])
    ours = [each["name"] for each in _template(was["annotations"], configuration).init_containers]
    assert [each["name"] for each in spec["initContainers"][: len(ours)]] == ours, "not first"
    assert not any(names.DOMAIN in key for key in _asked(spec["initContainers"][0]))
    rest = spec["initContainers"][len(ours) :]
    injection = was["annotations"][names.MANAGEMENT].lower() == "injection"
    for group, mine in (("initContainers", rest), ("containers", spec.get("containers") or [])):
        for now, then in zip(mine, old.get(group) or [], strict=True):
            if names.GPU_AMOUNT in _asked(then) or names.GPU_NUM in _asked(then):
                _gpu_container(now, then, configuration, injection=injection)
            else:
                assert same(now, then), "a container without GPUs was changed"


def _template(annotations: Pod, configuration: Rules) -> Template:
    """What of the template serves the client that the pod asked for."""
    name = annotations.get(names.CLIENT_NAME) or BITFUSION
    if name == BITFUSION:
        return configuration.template
    given = (annotations.get(key) or None for key in (names.CLIENT_OS, names.CLIENT_VERSION))
    return configuration.template.for_client(configuration.catalogue.named(name, *given), configuration.delivery)


def _without(of: Pod, *keys: str) -> Pod:
    return {key: value for key, value in of.items() if key not in keys}


def _asked(container: Pod) -> Pod:
    resources = container.get("resources") or {}
    return {**(resources.get("requests") or {}), **(resources.get("limits") or {})}


def _volumes(now: list[Pod], then: list[Pod]) -> None:
    assert same(now[: len(then)], then)
    taken = [each["name"] for each in then if isinstance(each.get("name"), str)]
    ours = [each["name"] for each in now[len(then) :]]
    assert len(set(ours)) == len(ours)
    assert set(ours).isdisjoint(taken)
    assert all(len(name) <= 63 for name in ours)


def _gpu_container(now: Pod, then: Pod, configuration: Rules, *, injection: bool) -> None:
    assert same(_without(now, *_WRITTEN), _without(then, *_WRITTEN))
    assert same(_without(now["resources"], *SECTIONS), _without(then["resources"], *SECTIONS))
    shares = str(_shares(_asked(then), configuration.total_gpu_memory))
    for section in SECTIONS:
        values, was = now["resources"][section], then["resources"].get(section) or {}
        assert values[names.GPU] == shares, f"{values[names.GPU]} shares instead of {shares}"
        assert names.REQUEST_RESOURCES.isdisjoint(values)
        ours = (names.GPU, *names.REQUEST_RESOURCES)
        assert same(_without(values, *ours), _without(was, *ours))
    mounts = then.get("volumeMounts") or []
    assert same(now["volumeMounts"][: len(mounts)], mounts)
    _variables(now["env"], then.get("env") or [], configuration)
    if injection:
        assert same([now.get("command"), now.get("args")], [then.get("command"), then.get("args")])


def _shares(asked: Pod, total: int) -> int:
    amount = exact(asked.get(names.GPU_AMOUNT, asked.get(names.GPU_NUM)))
    assert amount is not None
    if names.GPU_MEMORY in asked:
        memory = exact(asked[names.GPU_MEMORY])
        assert memory is not None
        return math.ceil(memory / (total * 10**6) * amount * 100)
    percent = exact(asked.get(names.GPU_PERCENT, 100))
    assert percent is not None
    return int(percent * amount)


def _variables(now: list[Pod], then: list[Pod], configuration: Rules) -> None:
    """Every variable of the user keeps its place and content, but for the library path, which keeps its value."""
    known = configuration.catalogue
    libraries = {client.library_path or "" for client in (*known.clients.values(), *known.others)}
    last = next(each for each in reversed(now) if each.get("name") == names.LD_LIBRARY_PATH)
    value = last["value"]
    # By its length: a catalogue may name several directories as one, with colons between them.
    library = max((each for each in libraries if value == each or value.startswith(f"{each}:")), key=len)
    kept = value[len(library) + 1 :]
    at = [index for index, each in enumerate(then) if each.get("name") == names.LD_LIBRARY_PATH]
    if not at:
        assert same(now[: len(then)], then)
        return
    own = then[at[-1]]
    assert same(now[: at[-1]], then[: at[-1]])
    moved = own.get("valueFrom") is not None
    assert same(now[at[-1] + 1 + moved : len(then) + moved], then[at[-1] + 1 :])
    if moved:
        assert kept == f"$({now[at[-1]]['name']})"
        assert same(_without(now[at[-1]], "name"), _without(own, "name"))
    else:
        assert same(_without(now[at[-1]], "value"), _without(own, "value"))
        assert kept == str(own.get("value") or "")


def wrapped(command: Sequence[str], args: Sequence[str], client: Sequence[str], result: Program) -> None:
    """The user's words, or the user's script, run under ``client`` as they are: in one of the documented ways."""
    given = [*command, *args]
    got = [*result.wrapped(client), *(args if result.keeps_args else [])]
    written = [word.replace("$", "$$") for word in client]  # the kubelet reads $$ as $
    line = command[0].strip(" \t\n")
    if len(command) == 1 and not args and set(command[0]) & set(" \t\n"):
        given = ["/bin/bash", "-c", line]
    elif len(command) == 1 and plain(line):
        given = [*line.split(), *args]
    on_path = f'export PATH={shlex.quote(written[0].rpartition("/")[0])}:"$PATH"; '
    calls = [word for word in given if _NAME.search(word)]
    for goes_before in ([], written):
        if got[: len(goes_before)] != goes_before or len(got) != len(goes_before) + len(given):
            continue
        differs = [(one, other) for one, other in zip(given, got[len(goes_before) :], strict=True) if one != other]
        if not differs:
            holds(bool(goes_before), f"{given} became {got}, which is not under the client")
            return
        if calls and all(_same_but_for_the_client(*each, written[0], on_path) for each in differs):
            return
    assert _in_script(given, got, written), f"{given} became {got}"


def _same_but_for_the_client(then: str, now: str, path: str, on_path: str) -> bool:
    """Words that call ``bitfusion``: its path stands in place of the name, or its directory is on PATH."""
    if then.rpartition("/")[2] == "bitfusion" and now == path:
        return True
    first, *pieces = now.removeprefix(on_path).split(shlex.quote(path))
    if not then.startswith(first):
        return False
    at = len(first)
    for piece in pieces:
        name = _NAME.search(then, at)
        at = then.find(piece, name.end()) + len(piece) if name else -1
        if at < len(piece):
            return False
    return then.endswith(pieces[-1]) if pieces else True


def _in_script(given: list[str], got: list[str], client: list[str]) -> bool:
    """The words are the same but for the script, which has the client in front."""
    differs = [(one, other) for one, other in zip(given, got, strict=False) if one != other]
    if len(given) != len(got) or len(differs) != 1 or given[0].rpartition("/")[2] not in {"sh", "bash"}:
        return False
    then, now = differs[0]
    return plain(then.strip(" \t\n")) and shlex.split(now) == [*client, *then.split()]


def plain(script: str) -> bool:
    """Whether a shell makes of ``script`` the words between its blanks, and takes none of them for its own."""
    words = script.split()
    if not words or not _PLAIN.issuperset(script) or words[0] in _NOT_PROGRAMS:
        return False
    variable, equals, _ = words[0].partition("=")
    assigns = bool(equals) and variable.removesuffix("+").isidentifier()
    return shlex.split(script, comments=True) == words and not assigns
