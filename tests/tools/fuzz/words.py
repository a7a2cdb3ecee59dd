"""Targets: what stands in one field of a pod, and the file names of client packages."""

from __future__ import annotations

import math
import shlex
from fractions import Fraction

from bitfusiond.core import names, quantity
from bitfusiond.core.admission import command, optin
from bitfusiond.core.admission.decision import Patch, Refusal
from bitfusiond.core.admission.demand import Demand
from bitfusiond.core.admission.optin import Mode
from bitfusiond.core.clients import catalogue, packages
from bitfusiond.core.fields import Document
from tests import pods
from tests.tools.fuzz import invariants
from tests.tools.fuzz.choices import Choices, text

_ANNOTATIONS = (names.MANAGEMENT, names.CLIENT_OS, names.CLIENT_VERSION, names.CLIENT_FILTER, names.STATUS)
_MODES = {"all", "y", "yes", "true", "on", "injection"}

_A_CLIENT_S_WORDS = b"\x00" + bytes([49, 1]) + text("$(X)", " ")  # no args, 50 percent, one filter
SEEDS = {
    "annotations": (
        text("server.addr=", "a", " ", "server.dirver-version=1") + b"\x00",
        text("device.name=", "'", "Tesla V100", "'") + b"\x01\x00\x01" + text("yes"),
        text("device.id", " ", "device.id") + b"\x02\x01\x01" + text("\u00a0") + b"\x02\x00\x02\x04",
    ),
    "commands": (
        b"\x02" + text("python") + text("x.py") + _A_CLIENT_S_WORDS,
        b"\x01" + text("python x.py") + _A_CLIENT_S_WORDS,
        b"\x01" + text("python x.py") + b"\x01" + text("$(X)") + b"\x00\x00",
        b"\x03" + text("bash") + text("-c") + text("\n", "python x.py", " ") + _A_CLIENT_S_WORDS,
        b"\x03" + text("/bin/sh") + text("-ec") + text("python x.py", ";", "a") + _A_CLIENT_S_WORDS,
        b"\x03" + text("bash") + text("-c") + text("exec ", "bitfusion", " run ", "a") + _A_CLIENT_S_WORDS,
        b"\x02" + text("bitfusion") + text("run") + _A_CLIENT_S_WORDS,
        b"\x03" + text("bash") + text("-c") + text("\u00a0", "python x.py") + _A_CLIENT_S_WORDS,
    ),
    "quantities": tuple(
        b"\x00" + written.encode()
        for written in ("8Gi", "1.5e-1", "+5.25M", "-0.5", "9223372036854775808", "1E", "1E2", f"{'0' * 63}1", "٣")
    ),
    "packages": (
        b"bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb",
        b"bitfusion-client-centos7-4.5.0-4.x86_64.rpm",
        b"bitfusion-client-centos7-4.5.0-4.x86_64\n.rpm",
    ),
}


def annotated(data: bytes) -> None:
    """Annotations of any content: what is taken reaches the command word for word, what is not is said."""
    choices = Choices(data)
    given = {names.CLIENT_FILTER: choices.text()}
    for _ in range(choices.below(4)):
        given[choices.pick(_ANNOTATIONS)] = choices.text() if choices.chance() else choices.value()
    written_pod = pods.pod(annotations=given)
    written = written_pod["metadata"]["annotations"]
    mode = optin.opt_in(Document(written_pod), pods.NAMESPACE).mode
    opted_in = isinstance(written[names.MANAGEMENT], str) and written[names.MANAGEMENT].lower() in _MODES
    assert opted_in == (mode in {Mode.ALL, Mode.INJECTION})
    verdict = pods.verdict(written_pod)
    if isinstance(verdict, Refusal):
        invariants.told(verdict.problems)
        assert all(each.startswith("metadata.annotations[") for each in verdict.problems)
    elif isinstance(verdict, Patch) and mode is Mode.ALL:
        argv = pods.argv(pods.admitted(written_pod)["spec"]["containers"][0])
        wanted = [
            word.replace("dirver", "driver", 1) if word.startswith("server.dirver-version=") else word
            for word in shlex.split(written[names.CLIENT_FILTER] or "")
        ]
        found = argv[argv.index("--filter") : argv.index("--")] if wanted else []
        assert found == [word for each in wanted for word in ("--filter", each)]


def commands(data: bytes) -> None:
    """Command and args of any content: run as they are under the client, or refused with the field."""
    choices = Choices(data)
    words, args = choices.texts(), choices.texts(3)
    percent = 1 + choices.below(100)
    filters = [f"device.name={choices.text()}" for _ in range(choices.below(3))]
    client = pods.client_words(pods.BINARY, Demand(1, percent, None, percent), filters)
    try:
        result = command.program(words, args)
    except command.CommandError as error:
        invariants.said_in_one_line(str(error))
        script = len(words) == 1 and not invariants.plain(words[0].strip(" \t\n"))
        invariants.holds(error.field == "command" or (bool(args) and script), f"{words} with {args}: {error}")
        return
    invariants.wrapped(words, args, client, result)


def quantities(data: bytes) -> None:
    """Any text or number: its exact value, or no quantity."""
    choices = Choices(data)
    kind = choices.below(4)
    value: object
    if kind == 0:
        value = data[1:].decode("utf-8", "replace")
    else:
        value = choices.text() if kind == 1 else choices.value(depth=1)
    expected = invariants.exact(value)
    try:
        found = quantity.parse(value)
    except ValueError as error:
        invariants.holds(str(error) in {"not a quantity", "too large"}, str(error))
        invariants.holds(expected is None, f"{value!r} is {expected}")
    else:
        assert found == expected, f"{value!r} is {expected}, not {found}"
    try:
        whole = quantity.integer(value)
    except ValueError:
        invariants.holds(expected is None or expected.denominator != 1, f"{value!r} is {expected}")
    else:
        assert whole == expected
    memory, total, amount = choices.number(), 1 + choices.number(), 1 + choices.number()
    formula = Fraction(memory, total * 10**6) * amount * 100
    assert quantity.shares_of_memory(memory, total, amount) == math.ceil(formula)


def package_names(data: bytes) -> None:
    """Any file name: an entry that the catalogue takes, or one line."""
    file = data.decode("utf-8", "replace")
    try:
        package = packages.parse(file)
    except packages.PackageError as error:
        invariants.said_in_one_line(str(error))
        return
    assert file.endswith(packages.SUFFIXES)
    assert package.version.isdecimal()
    found = catalogue.parse(packages.document({package: "opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib"}))
    assert found.find(package.os, package.version).package == file
