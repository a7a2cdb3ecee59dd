"""The user's command under ``bitfusion run``: the command table of the README."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bitfusiond.core.admission import shell
from bitfusiond.core.admission.demand import Demand
from bitfusiond.core.fields import Field
from bitfusiond.core.quantity import MEGABYTE

_SHELL = "/bin/bash"
_CLIENT = "bitfusion"
_BLANKS = " \t\n"  # a shell's; a no-break space is part of a word
_RUN = re.compile(r"\s+run(?:\s|$)")
_WHOLE = (0, 0)  # the first word, all of it
_INSIDE = re.compile(r"(?:^|[\s/;&|(])bitfusion\s+run(?:\s|$)")


class CommandError(ValueError):
    """A command that cannot be put under the client. ``field`` is ``command`` or ``args``."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Program:
    """What a container runs, cut where the client goes.

    ``words`` are its command and args as they are to run; ``script`` is the number of the word that is a shell's line
    and takes the client at its beginning, None where the client goes before all words. ``own`` is where in that line,
    or in the first word, the user calls the client already: its path takes that place and nothing else is added.
    """

    words: tuple[str, ...]
    script: int | None = None
    own: tuple[int, int] | None = None
    keeps_args: bool = False
    calls_client_inside: bool = False

    def under(self, client: Sequence[str]) -> list[str]:
        """The new ``command``, with the words of ``client`` (what :func:`client_words` gives).

        The container's args are taken up in it, unless ``keeps_args``.
        """
        client = [_literal(word) for word in client]
        words = list(self.words)
        if self.script is None:
            return [client[0], *words[1:]] if self.own else [*client, *words]
        line = words[self.script]
        if self.own:
            start, end = self.own
            words[self.script] = line[:start] + shlex.quote(client[0]) + line[end:]
        else:
            words[self.script] = f"{shlex.join(client)} {line.strip(_BLANKS)}"
        return words


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


def read(container: Field) -> Program | None:
    """The program of ``container``; None where its command or args are wrong."""
    command, args = container["command"], container["args"]
    words, more = command.strings(), args.strings()
    if (command.value and not words) or (args.value and not more):
        return None  # said already
    try:
        return program(words, more)
    except CommandError as error:
        container[error.field].problem(str(error))
        return None


def program(command: Sequence[str], args: Sequence[str]) -> Program:
    """What ``command`` and ``args`` of a container run.

    Raises CommandError where there is nothing to run, or where args would not reach the program.
    """
    if not command or not command[0].strip(_BLANKS):
        raise CommandError(
            "command", "must be set, as the ENTRYPOINT of the image cannot be seen: write the program and its arguments"
        )
    # A whole line first: it may end in a path that looks like the client's.
    if len(command) == 1 and not set(_BLANKS).isdisjoint(command[0]):
        read = _one_string(command[0].strip(_BLANKS), args)
    elif _is_client(command[0]):
        return Program(tuple(command), own=_WHOLE, keeps_args=True)
    else:
        read = _argument_list([*command, *args])
    return replace(read, calls_client_inside=True) if _calls_client_inside(command, args) else read


def _one_string(line: str, args: Sequence[str]) -> Program:
    """A whole command line as the only element: no container runtime could run it, but users were told to write it."""
    if not args:
        return _argument_list([_SHELL, "-c", line])
    if not shell.is_plain(line):
        raise CommandError(
            "args",
            "cannot follow a command that is a shell script of its own: put them into the command, or write"
            ' ["/bin/bash", "-c", SCRIPT, "bash"] and let the script use "$@"',
        )
    words = line.split()
    return Program((*words, *args), own=_WHOLE if _is_client(words[0]) else None)


def _argument_list(argv: list[str]) -> Program:
    """What a list of words runs: a shell with its script, or any other program. Raises CommandError."""
    words = tuple(argv)
    index = shell.script_index(argv) if shell.is_shell(argv[0]) else None
    if index is None:
        return Program(words)
    if index == len(argv):
        raise CommandError("command", "has -c without a script: put the script behind it, or into args")
    script = argv[index]
    plain = shell.is_plain(script.strip(_BLANKS))
    if _CLIENT in script:
        start, end = shell.first_program(script)
        if _is_client(script[start:end]) and (plain or _RUN.match(script, end)):
            return Program(words, index, own=(start, end))
    return Program(words, index if plain else None)


def _calls_client_inside(command: Sequence[str], args: Sequence[str]) -> bool:
    """Whether ``bitfusion run`` seems to stand somewhere inside, where the client's path does not take its place.

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
