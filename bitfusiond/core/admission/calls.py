"""Calls of the client that a user wrote: where they stand in a command, and what they ask for."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from bitfusiond.core import names
from bitfusiond.core.admission import shell
from bitfusiond.core.admission.script import Command, commands
from bitfusiond.core.admission.shell import ASSIGNMENT
from bitfusiond.core.text import shown

CLIENT = "bitfusion"

# Characters of all commands of a pod that may hold a call: what Linux takes as one argument (MAX_ARG_STRLEN). To read
# them takes some 2 microseconds each at worst.
MOST_CHARACTERS = 131_072

# Programs whose arguments are a command: how many words of their own come before it, and their options with a value.
_STARTERS: dict[str, tuple[int, str]] = {
    **dict.fromkeys(("builtin", "catchsegv", "dumb-init", "nohup", "setsid", "unbuffer"), (0, "")),
    "chrt": (1, "-T -P -D"),
    "command": (0, ""),
    "env": (0, "-u --unset -C --chdir"),
    "exec": (0, "-a"),
    "gosu": (1, ""),
    "ionice": (0, "-c --class -n --classdata -P -u"),
    "nice": (0, "-n --adjustment"),
    "numactl": (0, "-i -N -m -C -p --interleave --cpunodebind --membind --physcpubind --preferred"),
    "stdbuf": (0, "-i -o -e --input --output --error"),
    "su-exec": (1, ""),
    "sudo": (0, "-u -g -h -p -C -D -r -t -T -U -R --user --group --host --prompt --chdir"),
    "taskset": (1, ""),
    "time": (0, "-f -o --format --output"),
    "timeout": (1, "-s -k --signal --kill-after"),
    "tini": (0, "-p -e"),
    "xargs": (0, "-I -n -P -L -d -E -s -a --arg-file --delimiter --max-args --max-procs --replace"),
    **dict.fromkeys(
        ("mpirun", "mpiexec", "horovodrun"),
        (0, "-np -n -c -H -host --host -hostfile --hostfile -machinefile -x --map-by --bind-to -N --npernode -wdir"),
    ),
}

# Source: VMware vSphere Bitfusion User Guide, "Partition GPU memory"; the long names are of `bitfusion run --help`.
_ASKING = _RUN, _REQUEST = "run", "request_gpus"
_GPUS, _FRACTION, _MEGABYTES = ("-n", "--num_gpus"), ("-p", "--partial"), ("-m", "--memory")
_OTHER_OPTIONS_WITH_VALUE = frozenset({"-f", "--filter", "-l", "--server_list", "-s", "--servers"})
_NUMBER = re.compile(r"[0-9]{1,19}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: ``start`` and ``end`` of the client's name in the word with number ``index``, ``name`` as it is called.

    ``words`` follow it; None stands for one that only the shell knows. ``comes_first``: nothing runs before it,
    ``comes_last``: nothing behind it.
    """

    index: int
    start: int
    end: int
    name: str
    words: tuple[str | None, ...]
    comes_first: bool = True
    comes_last: bool = True

    @property
    def asked(self) -> Sequence[str | None] | None:
        """The words behind ``run`` or ``request_gpus``; None where it asks for no GPUs."""
        at = next(
            (at for at, word in enumerate(self.words) if word is None or not word.startswith("-")), len(self.words)
        )
        if self.words[at : at + 1] == (_REQUEST,):
            number = next((word for word in self.words[at + 1 :] if word and word.isdigit()), None)
            return self.words[at + 1 :] if number is None or "-n" in self.words else ("-n", number)
        if self.words[at : at + 1] == (_RUN,):
            return self.words[at + 1 :]
        # The value of an option that nobody here knows.
        return (None,) if at and self.words[at + 1 : at + 2] == (_RUN,) else None

    @property
    def is_run(self) -> bool:
        """Whether it asks for GPUs."""
        return self.asked is not None

    @property
    def is_by_path(self) -> bool:
        """Whether PATH does not matter to it."""
        return "/" in self.name


def is_client(program: str) -> bool:
    """Whether ``program`` is the client, at any path."""
    return posixpath.basename(program) == CLIENT


def in_words(argv: Sequence[str]) -> Call | None:
    """The call that ``argv`` is, itself or behind programs that start another one (``env``, ``timeout``)."""
    index = _started(argv)
    if index is None or not is_client(argv[index]):
        return None
    return Call(index, 0, len(argv[index]), argv[index], tuple(argv[index + 1 :]))


def shell_in_words(argv: Sequence[str]) -> int | None:
    """Where the shell stands that ``argv`` starts, itself or behind programs that start another one."""
    index = _started(argv)
    return index if index is not None and shell.is_shell(argv[index]) else None


def _started(words: Sequence[str | None]) -> int | None:
    """Where in ``words`` the program stands that is none of _STARTERS; None where that cannot be said."""
    at = 0
    while at < len(words) and (word := words[at]) is not None:
        starter = _STARTERS.get(posixpath.basename(word))
        if starter is None:
            return at
        at = _behind(words, at + 1, *starter)
    return None


def _behind(words: Sequence[str | None], at: int, own: int, options: str) -> int:
    """Where the command of a starter begins whose words begin ``at``."""
    with_value = options.split()
    while at < len(words):
        word = words[at] or ""
        if word == "--":
            at += 1
            break
        if word.startswith("-"):
            at += 1 + (word in with_value)
        elif ASSIGNMENT.match(word):
            at += 1
        else:
            break
    return at + own


def anywhere(argv: Sequence[str]) -> list[Call]:
    """The calls in ``argv``, also where another program that nobody knows stands in front of the client's path.

    Behind a shell's script and its name there may be a further command, which the script starts by ``exec "$@"``.
    """
    if call := in_words(argv):
        return [call]
    found: list[Call] = []
    at = 0
    while at < len(argv):
        word = argv[at]
        if shell.is_shell_of_any_kind(word) and (index := shell.script_index(argv, at)) is not None:
            if index < len(argv):
                found += in_script(argv[index], index)
            at = index + 2
            continue
        then = argv[at + 1] if at + 1 < len(argv) else ""
        if is_client(word) and "/" in word and (then in _ASKING or then.startswith("-")):
            return [*found, Call(at, 0, len(word), word, tuple(argv[at + 1 :]))]
        at += 1
    return found


def too_long(commands: Iterable[Sequence[str]]) -> str | None:
    """What is wrong where the ``commands`` of a pod are too long to be read for calls."""
    length = sum(len(word) for words in commands for word in words if CLIENT in word)
    if length <= MOST_CHARACTERS:
        return None
    return f"the commands that call {CLIENT} have {length} characters: bitfusiond reads at most {MOST_CHARACTERS}"


def in_script(script: str, index: int = 0) -> list[Call]:
    """The calls in a shell's ``script``, which is the word with number ``index`` of its command."""
    if CLIENT not in script:
        return []
    found = []
    first = last = None
    for command in commands(script):
        first, last = first or command[0], max(last or command[0], command[0])
        if any(CLIENT in word.raw for word in command) and (call := _call(command, index)):
            found.append(replace(call, comes_first=command[0] is first))
    return sorted(
        (replace(call, comes_last=last is not None and call.end > last.start) for call in found),
        key=lambda call: call.start,
    )


def _call(command: Command, index: int) -> Call | None:
    words = [word.text for word in command]
    at = _started(words)
    if at is None or not is_client(name := words[at] or ""):
        return None
    return Call(index, command[at].start, command[at].end, name, tuple(words[at + 1 :]))


def excess(calls: Iterable[Call], counted: int, total_megabytes: int) -> str | None:
    """What is wrong where one of ``calls`` asks for more than the ``counted`` shares of its container."""
    for call in calls:
        options = list(_options(call.asked or ()))
        words = " ".join([CLIENT, "run", *(f"{option} {value}" for option, value in options if value is not None)])
        for option, value in options:
            if option is not None and value is not None and not _NUMBER.fullmatch(value):
                return f"{shown(words)}: {shown(value)} is no plain number, which could be compared: write it in digits"
        asked = shares(call, total_megabytes)
        if asked is not None and asked > counted:
            return (
                f"{shown(words)} asks for {asked} shares of {names.GPU}, the container for {counted}: ask for less"
                f" there, or for more in resources.limits; {names.SHARES_OF_ONE_GPU} shares are one GPU"
            )
    return None


def shares(call: Call, total_megabytes: int) -> int | None:
    """How many hundredths of a GPU ``call`` asks for; None where that cannot be said.

    Without ``-p`` and ``-m`` the client takes whole GPUs. ``total_megabytes`` is the memory of one, 0 = not known.
    """
    if call.asked is None:
        return 0
    gpus = Fraction(1)
    fraction: Fraction | None = None
    for option, value in _options(call.asked):
        if option is None or value is None or not _NUMBER.fullmatch(value):
            return None
        number = Fraction(value)
        if option in _GPUS:
            gpus = number
        elif option in _FRACTION:
            fraction = max(fraction or Fraction(0), number)
        elif not total_megabytes:
            return None
        else:
            fraction = max(fraction or Fraction(0), number / total_megabytes)
    return math.ceil(gpus * (Fraction(1) if fraction is None else fraction) * names.SHARES_OF_ONE_GPU)


def _options(words: Sequence[str | None]) -> Iterator[tuple[str | None, str | None]]:
    """The options about GPUs before the program, with their values: ``-n 2``, ``-n2``, ``-n=2``, ``--partial=0.5``.

    A word that only the shell knows, and an option that nobody here knows, may be anything: (None, None) stands for it.
    """
    following = iter(words)
    for word in following:
        if word == "--" or not (word is None or word.startswith("-")):
            return
        name, equals, value = (word or "").partition("=")
        if not name.startswith("--"):
            name, equals, value = name[:2], (word or "")[2:], (word or "")[2:].removeprefix("=")
        if name in _OTHER_OPTIONS_WITH_VALUE:
            if not equals:
                next(following, None)
        elif name in {*_GPUS, *_FRACTION, *_MEGABYTES}:
            yield name, value if equals else next(following, None)
        else:
            yield None, None
            return
