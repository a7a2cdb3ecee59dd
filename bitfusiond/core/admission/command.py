"""The user's command under the client, such as ``bitfusion run``: the command table of the README."""

from __future__ import annotations

import enum
import posixpath
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bitfusiond.core.admission import calls, shell
from bitfusiond.core.admission.calls import Call
from bitfusiond.core.clients.client import BINARY
from bitfusiond.core.fields import Field, names_of, objects
from bitfusiond.core.images.image import Image, Unreadable

_SHELL = "/bin/bash"
_BLANKS = " \t\n"  # a shell's; a no-break space is part of a word
_NAME = re.compile(r"(?<![\w./-])bitfusion(?![\w./-])")
_RUN_INSIDE = re.compile(r"(?:^|[\s/;&|('\"`])(?P<name>bitfusion)\s+run(?:\s|$)")

_NOT_SEEN = "must be set, as the ENTRYPOINT of the image cannot be seen: write the program and its arguments"

# What puts the client's directory on the PATH of a script, around it.
_PATH_BEGINS, _PATH_ENDS = "export PATH=", ':"$PATH"; '


class CommandError(ValueError):
    """A command that cannot be put under the client. ``field`` is ``command`` or ``args``."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Place(enum.Enum):
    """Where the client goes: before all words, at the beginning of the script, nowhere as the user calls it."""

    WORDS = enum.auto()
    SCRIPT = enum.auto()
    NOWHERE = enum.auto()


@dataclass(frozen=True, slots=True)
class Program:
    """What a container runs, cut where the client goes.

    ``words`` are its command and args as they are to run; ``script`` is the number of the word that is a shell's line,
    if there is one that matters. ``calls`` are the user's own calls of the client; the path of the client takes the
    place of the ``renamed`` ones, and where it ``needs_path``, as there may be more of them, the script gets the
    client's directory on its PATH.
    ``hidden_call``: ``bitfusion run`` seems to stand in a place where nobody can say whether it is a call.
    """

    words: tuple[str, ...]
    place: Place = Place.WORDS
    script: int | None = None
    calls: tuple[Call, ...] = ()
    renamed: tuple[Call, ...] = ()
    needs_path: bool = False
    keeps_args: bool = False
    hidden_call: bool = False

    def wrapped(self, client: Sequence[str]) -> list[str]:
        """The new ``command``, with the words of ``client`` that go before a program.

        The container's args are taken up in it, unless ``keeps_args``.
        """
        client = [_literal(word) for word in client]
        words = list(self.words)
        for call in reversed(self.renamed):
            line = words[call.index]
            name = shlex.quote(client[0]) if call.index == self.script else client[0]
            words[call.index] = line[: call.start] + name + line[call.end :]
        if self.script is not None and self.needs_path:
            directory = shlex.quote(posixpath.dirname(client[0]))
            words[self.script] = f"{_PATH_BEGINS}{directory}{_PATH_ENDS}{words[self.script]}"
        if self.place is Place.WORDS:
            return [*client, *words]
        if self.script is not None and self.place is Place.SCRIPT:
            words[self.script] = f"{shlex.join(client)} {words[self.script].strip(_BLANKS)}"
        return words


def hook_program(words: Sequence[str]) -> Program | None:
    """What a hook or a probe runs: never put under the client, but the calls in it reach it; None for a broken one."""
    try:
        found = _argument_list(list(words), ())
    except CommandError:
        return None
    is_served = found.needs_path or bool(calls.anywhere(words))
    return replace(found, place=Place.NOWHERE, hidden_call=found.hidden_call and not is_served)


def has_client_on_path(script: str) -> bool:
    """Whether ``script`` is one that got the client's directory on its PATH."""
    directory = script.removeprefix(_PATH_BEGINS).partition(_PATH_ENDS)[0]
    return script.startswith(f"{_PATH_BEGINS}{directory}{_PATH_ENDS}") and directory.endswith(posixpath.dirname(BINARY))


def has_torn_path_line(line: str) -> bool:
    """Whether what begins such a script stands inside ``line``: another webhook joined words to it, without quotes."""
    return f" {_PATH_BEGINS}" in line and _PATH_ENDS in line


def is_line(command: Sequence[str]) -> bool:
    """Whether ``command`` is a whole command line as its only element, as the README of 0.4 has it."""
    return len(command) == 1 and not set(_BLANKS).isdisjoint(command[0])


def read(container: Field, image: Image | Unreadable | None = None, *, knows_bitfusion: bool) -> Program | None:
    """The program of ``container``, or of its ``image`` where it has no command; None where they are wrong.

    See :func:`program`.
    """
    command, args = container["command"], container["args"]
    words, more = command.strings(), args.strings()
    if (command.value and not words) or (args.value and not more):
        return None  # said already
    variables = names_of(objects(container.value.get("env")))
    try:
        if words or image is None:
            return program(words, more, variables, knows_bitfusion=knows_bitfusion)
        argv = _words_of_image(image, more)
        return _argument_list(argv, variables) if knows_bitfusion else Program(tuple(argv))
    except CommandError as error:
        container[error.field].problem(str(error))
        return None


def _words_of_image(image: Image | Unreadable, args: list[str]) -> list[str]:
    """What a container runs that has no command. Raises CommandError where that is not known."""
    if isinstance(image, Unreadable):
        raise CommandError("command", f"{_NOT_SEEN}; image lookup: {image.reason}")
    words = [*map(_unexpanded, image.entrypoint), *(args or map(_unexpanded, image.cmd))]
    if not words:
        raise CommandError("command", "must be set, as the image has neither ENTRYPOINT nor CMD")
    return words


def program(
    command: Sequence[str], args: Sequence[str], variables: Iterable[str] = (), *, knows_bitfusion: bool = True
) -> Program:
    """What ``command`` and ``args`` of a container run, which sets these ``variables``.

    ``knows_bitfusion``: the user may call the client himself, by that name; no other client has one that users know.

    Raises CommandError where there is nothing to run, or where args would not reach the program.
    """
    if not command or not command[0].strip(_BLANKS):
        raise CommandError("command", _NOT_SEEN)
    # A whole line first: it may end in a path that looks like the client's.
    argv = _words_of(command[0].strip(_BLANKS), args) if is_line(command) else [*command, *args]
    if not knows_bitfusion:
        return Program(tuple(argv))
    found = _argument_list(argv, variables)
    is_in_command = not found.needs_path and all(call.index < len(command) for call in found.renamed)
    if not is_line(command) and calls.is_client(command[0]) and is_in_command:
        return replace(found, words=tuple(command), keeps_args=True)
    return found


def _words_of(line: str, args: Sequence[str]) -> list[str]:
    """A whole command line as the only element: no container runtime could run it, but users were told to write it."""
    if not args:
        return [_SHELL, "-c", line]
    if not shell.is_argument_list(line):
        raise CommandError(
            "args",
            "cannot follow a command that is a shell script of its own: put them into the command, or write"
            ' ["/bin/bash", "-c", SCRIPT, "bash"] and let the script use "$@"',
        )
    return [*line.split(), *args]


def _argument_list(argv: list[str], variables: Iterable[str]) -> Program:
    """What a list of words runs: a shell with its script, or any other program. Raises CommandError."""
    words = tuple(argv)
    own, first = calls.in_words(argv)
    index = calls.script_under(argv, first)
    if first is None or index is None:
        place = Place.NOWHERE if own else Place.WORDS
        return Program(words, place, calls=tuple(own), renamed=tuple(own), hidden_call=_hides_calls(words, own))
    if index == len(argv):
        raise CommandError("command", "has -c without a script: put the script behind it, or into args")
    return _script(words, own, first, index, variables)


def _script(words: tuple[str, ...], own: Sequence[Call], first: int, index: int, variables: Iterable[str]) -> Program:
    """The program where the shell with number ``first`` of ``words`` reads the script with number ``index``.

    It stands under the user's ``own`` calls, if there are any.
    """
    script, invocation = words[index], words[first:index]
    is_plain = shell.is_plain(script.strip(_BLANKS))
    is_restricted = shell.is_restricted(invocation)
    inside = [] if is_restricted else calls.in_script(script, index)
    is_hidden = not is_plain and not is_restricted and _mentions_others(script, inside)
    if own or inside or is_hidden:
        found = (*own, *inside)
        renamed = tuple(call for call in found if call.end > call.start)
        runs = any(call.is_run for call in found)
        is_found_by_path = not is_hidden and (
            not inside or (len(inside) == 1 and inside[0].comes_first and (runs or is_plain))
        )
        return Program(
            words,
            Place.NOWHERE if runs or is_found_by_path else Place.WORDS,
            index,
            found,
            renamed=renamed,
            needs_path=not is_found_by_path,
            hidden_call=any(call.has_path and call not in renamed for call in found)
            or ((is_found_by_path or not runs) and _hides_calls(words, found)),
        )
    goes_in = (
        first == 0
        and is_plain
        and shell.starts_a_program(script.strip(_BLANKS))
        and not shell.starts_more_than_programs(invocation, variables)
    )
    place = Place.SCRIPT if goes_in else Place.WORDS
    return Program(words, place, index, hidden_call=_hides_calls(words, ()))


def _mentions_others(script: str, found: Sequence[Call]) -> bool:
    """Whether ``bitfusion`` stands in ``script`` as a word beside the calls that were ``found``: perhaps one more."""
    known = {call.end for call in found}
    return any(match.end() not in known and match.end() + 1 not in known for match in _NAME.finditer(script))


def _hides_calls(words: Sequence[str], found: Sequence[Call]) -> bool:
    """Whether ``bitfusion run`` stands in ``words`` where it was not ``found``: quoted, or behind any other program."""
    known = {(call.index, call.end) for call in found}
    lines = [(index, word) for index, word in enumerate(words) if calls.CLIENT in word]
    return any(
        (calls.is_client(line) and words[index + 1 : index + 2] == ("run",) and (index, len(line)) not in known)
        or any((index, match.end("name")) not in known for match in _RUN_INSIDE.finditer(line))
        for index, line in lines
    )


def _literal(word: str) -> str:
    """``word`` such that the kubelet's expansion of ``$(VAR)`` gives it back: ``$$`` is one ``$``.

    Source: Kubernetes' reference for Container, ``command`` and ``args``.
    """
    return word.replace("$", "$$")


def _unexpanded(word: str) -> str:
    """``word`` of an image, in which the kubelet expands nothing, such that it is the same in a pod's command."""
    return re.sub(r"\$(?=[$(])", "$$", word)
