"""The user's command under ``bitfusion run``: the command table of the README."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from bitfusiond.core.admission import shell
from bitfusiond.core.admission.request import Demand
from bitfusiond.core.quantity import MEGABYTE

_SHELL = "/bin/bash"
_CLIENT = "bitfusion"
_BLANKS = " \t\n"  # a shell's; a no-break space is part of a word
_RUN = re.compile(r"\s+run(?:\s|$)")
_INSIDE = re.compile(r"(?:^|[\s/;&|(])bitfusion\s+run(?:\s|$)")


class CommandError(ValueError):
    """A command that cannot be put under the client. ``field`` is ``command`` or ``args``."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A container's new ``command``; ``args`` are taken up in it, unless ``keeps_args``."""

    command: list[str]
    keeps_args: bool = False


def client_words(binary_path: str, demand: Demand, filters: Sequence[str]) -> list[str]:
    """CLIENT: ``BINARY run -n N -p 0.500000 --filter K=V --``, or ``-m`` with whole megabytes, rounded down."""
    words = [binary_path, "run", "-n", str(demand.amount)]
    if demand.memory is not None:
        words += ["-m", str(demand.memory // MEGABYTE)]
    elif demand.percent is not None:
        words += ["-p", f"{demand.percent // 100}.{demand.percent % 100:02d}0000"]
    for each in filters:
        words += ["--filter", each]
    return [*words, "--"]


def wrap(command: Sequence[str], args: Sequence[str], client: Sequence[str]) -> Wrapped:
    """``command`` and ``args`` of a container, run under ``client`` (what :func:`client_words` gives).

    Raises CommandError where there is nothing to run, or where args would not reach the program.
    """
    if not command or not command[0].strip(_BLANKS):
        raise CommandError(
            "command", "must be set, as the ENTRYPOINT of the image cannot be seen: write the program and its arguments"
        )
    client = [_literal(word) for word in client]
    # A whole line first: it may end in a path that looks like the client's.
    if len(command) == 1 and not set(_BLANKS).isdisjoint(command[0]):
        return _one_string(command[0].strip(_BLANKS), args, client)
    if _is_client(command[0]):
        return Wrapped([client[0], *command[1:]], keeps_args=True)
    return Wrapped(_argument_list([*command, *args], client))


def _one_string(line: str, args: Sequence[str], client: Sequence[str]) -> Wrapped:
    """A whole command line as the only element: no container runtime could run it, but users were told to write it."""
    if not args:
        return Wrapped(_argument_list([_SHELL, "-c", line], client))
    if not shell.is_plain(line):
        raise CommandError(
            "args",
            "cannot follow a command that is a shell script of its own: put them into the command, or write"
            ' ["/bin/bash", "-c", SCRIPT, "bash"] and let the script use "$@"',
        )
    words = line.split()
    return Wrapped([client[0], *words[1:], *args] if _is_client(words[0]) else [*client, *words, *args])


def _argument_list(argv: list[str], client: Sequence[str]) -> list[str]:
    index = shell.script_index(argv) if shell.is_shell(argv[0]) else None
    if index is None:
        return [*client, *argv]
    if index == len(argv):
        raise CommandError("command", "has -c without a script: put the script behind it, or into args")
    before, script, after = argv[:index], argv[index], argv[index + 1 :]
    plain = shell.is_plain(script.strip(_BLANKS))
    if _CLIENT in script:
        start, end = shell.first_program(script)
        if _is_client(script[start:end]) and (plain or _RUN.match(script, end)):
            return [*before, script[:start] + shlex.quote(client[0]) + script[end:], *after]
    if plain:
        return [*before, f"{shlex.join(client)} {script.strip(_BLANKS)}", *after]
    return [*client, *before, script, *after]


def calls_client_inside(command: Sequence[str], args: Sequence[str]) -> bool:
    """Whether ``bitfusion run`` seems to stand somewhere inside, where :func:`wrap` leaves it alone.

    The program would then ask for GPUs under a client that has asked already.
    """
    words = [*command, *args]
    if not any(_CLIENT in word for word in words):
        return False
    if words and (_is_client(words[0]) or _is_client(words[0][slice(*shell.first_program(words[0]))])):
        return False
    index = shell.script_index(words) if words and shell.is_shell(words[0]) else None
    if index is not None and index < len(words) and _is_client(words[index][slice(*shell.first_program(words[index]))]):
        return False
    return bool(_INSIDE.search(" ".join(words)))


def _is_client(program: str) -> bool:
    return posixpath.basename(program) == _CLIENT


def _literal(word: str) -> str:
    """``word`` such that the kubelet's expansion of ``$(VAR)`` gives it back: ``$$`` is one ``$``.

    Source: Kubernetes' reference for Container, ``command`` and ``args``.
    """
    return word.replace("$", "$$")
