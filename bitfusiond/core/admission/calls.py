"""Calls of the client that a user wrote: where they stand in a command, and what they ask for."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, pairwise

from bitfusiond.core import names, quantity
from bitfusiond.core.admission import shell
from bitfusiond.core.admission.script import Command, commands
from bitfusiond.core.admission.shell import ASSIGNMENT
from bitfusiond.core.text import shown

CLIENT = "bitfusion"
_NAME = re.compile(r"['\"\\\n]*+".join(CLIENT))  # bit''fusion is the same to a shell

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
_SERVERS = frozenset({"-l", "--server_list", "-s", "--servers"})
_OTHER_OPTIONS_WITH_VALUE = _SERVERS | {"-f", "--filter"}
_NUMBER = re.compile(r"[0-9]{1,19}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Call:
    """One call: ``start`` and ``end`` of the client's name in the word with number ``index``, ``name`` as it is called.

    ``words`` follow it, up to a call that is its program; None stands for one that only the shell knows.
    ``comes_first``: nothing runs before it, ``comes_last``: nothing behind it. One inside a quoted word of a script has
    no length: nobody can put another name there.
    """

    index: int
    start: int
    end: int
    name: str
    words: tuple[str | None, ...]
    comes_first: bool = True
    comes_last: bool = True

    @property
    def arguments(self) -> Sequence[str | None] | None:
        """The words behind ``run`` or ``request_gpus``; None where it asks for no GPUs."""
        at = _behind_options(self.words, 0)
        if self.words[at : at + 1] == (_REQUEST,):
            number = next((word for word in self.words[at + 1 :] if word and word.isdigit()), None)
            return self.words[at + 1 :] if number is None or "-n" in self.words else ("-n", number)
        if self.words[at : at + 1] == (_RUN,):
            return self.words[at + 1 :]
        # The value of an option that nobody here knows.
        return (None,) if at and self.words[at + 1 : at + 2] == (_RUN,) else None

    @property
    def has_path(self) -> bool:
        """Whether it is found without PATH."""
        return "/" in self.name

    @property
    def is_run(self) -> bool:
        """Whether it asks for GPUs."""
        return self.arguments is not None


def is_client(program: str) -> bool:
    """Whether ``program`` is the client, at any path."""
    return posixpath.basename(program) == CLIENT


def mentions_client(text: str) -> bool:
    """Whether a shell may read the client's name in ``text``."""
    return _NAME.search(text) is not None


def in_words(argv: Sequence[str], at: int = 0) -> tuple[list[Call], int | None]:
    """The calls that ``argv`` is from ``at`` on, itself or behind programs that start another (``env``, ``timeout``).

    Each is the program of the one before. The second value is the index of the word that is started in the end; None
    where nobody can say.
    """
    places, program = _chain(argv, at)
    if not places:
        return [], program
    found = [
        Call(at, 0, len(argv[at]), argv[at], tuple(argv[at + 1 : end])) for at, end in pairwise([*places, len(argv)])
    ]
    return found, program


def script_under(words: Sequence[str], program: int | None) -> int | None:
    """Where the script stands that the shell with number ``program`` of ``words`` reads; None where it is no such."""
    if program is None or not shell.is_shell(words[program]):
        return None
    return shell.script_index(words, program)


def _chain(words: Sequence[str | None], at: int = 0) -> tuple[list[int], int | None]:
    """Where the client stands in ``words`` from ``at`` on, each time as the program of the call before, and what else
    is started behind that.
    """
    found: list[int] = []
    program = _started(words, at)
    while program is not None and is_client(words[program] or ""):
        found.append(program)
        at = _behind_options(words, program + 1)
        runs = at < len(words) and words[at] == _RUN
        at_program = _options(words, at + 1)[1] if runs else None
        program = None if at_program is None else _started(words, at_program)
    return found, program


def _behind_options(words: Sequence[str | None], at: int) -> int:
    """Where the first word of ``words`` from ``at`` on stands that is no option."""
    while at < len(words) and (words[at] or "").startswith("-"):
        at += 1
    return at


def _started(words: Sequence[str | None], at: int) -> int | None:
    """Where in ``words`` from ``at`` on the program stands that is none of _STARTERS; None where nobody can say."""
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

    Behind a shell's script there may be a further command, which the script starts by ``exec "$@"``.
    """
    if found := _calls_from(argv, 0):
        return found
    at = 0
    while at < len(argv):
        word = argv[at]
        if shell.is_shell_of_any_kind(word) and (index := shell.script_index(argv, at)) is not None:
            if index < len(argv):
                found += in_script(argv[index], index)
            at = index + 1  # the name may be the program too: exec "$0" "$@"
            continue
        then = argv[at + 1] if at + 1 < len(argv) else ""
        if is_client(word) and "/" in word and (then in _ASKING or then.startswith("-")):
            return found + _calls_from(argv, at)
        at += 1
    return found


def _calls_from(argv: Sequence[str], at: int) -> list[Call]:
    """The calls that ``argv`` is from ``at`` on, with those in the script that they start."""
    found, program = in_words(argv, at)
    index = script_under(argv, program) if found else None
    if index is not None and index < len(argv) and not shell.is_restricted(argv[program:index]):
        found += in_script(argv[index], index)
    return found


def too_long(commands: Iterable[Sequence[str]]) -> str | None:
    """What is wrong where the ``commands`` of a pod are too long to be read for calls."""
    words = list(chain.from_iterable(commands))
    if sum(map(len, words)) <= MOST_CHARACTERS:
        return None
    length = sum(map(len, filter(_NAME.search, words)))
    if length <= MOST_CHARACTERS:
        return None
    return f"the commands that call {CLIENT} have {length} characters: bitfusiond reads at most {MOST_CHARACTERS}"


def in_script(script: str, index: int = 0) -> list[Call]:
    """The calls in a shell's ``script``, which is the word with number ``index`` of its command."""
    if not mentions_client(script):
        return []
    found = []
    first = last = None
    for command in commands(script):
        first, last = first or command[0], max(last or command[0], command[0])
        if any(mentions_client(word.raw) for word in command):
            found += [replace(call, comes_first=command[0] is first) for call in _calls(command, index)]
    return sorted(
        (replace(call, comes_last=last is not None and call.end > last.start) for call in found),
        key=lambda call: call.start,
    )


def _calls(command: Command, index: int) -> list[Call]:
    words = [word.text for word in command]
    places, program = _chain(words)
    found = [
        Call(index, command[at].start, command[at].end, words[at] or "", tuple(words[at + 1 : end]))
        for at, end in pairwise([*places, len(words)])
    ]
    known = [word or "$" for word in words]
    at_script = script_under(known, program)
    if at_script is not None and at_script < len(words) and not shell.is_restricted(known[program:at_script]):
        start = command[at_script].start
        is_login = shell.is_login(known[program:at_script])
        inside = in_script(known[at_script], index)
        found += [replace(call, start=start, end=start) for call in inside if call.has_path or not is_login]
    return found


def excess(calls: Iterable[Call], counted: int, sizes: Mapping[int, int]) -> str | None:
    """What is wrong where one of ``calls`` asks for more than the ``counted`` shares of its container."""
    for call in calls:
        options, _ = _options(call.arguments or ())
        words = " ".join([CLIENT, "run", *(f"{option} {value}" for option, value in options if value is not None)])
        for option, value in options:
            if option is not None and value is not None and not _NUMBER.fullmatch(value):
                return f"{shown(words)}: {shown(value)} is no plain number, which could be compared: write it in digits"
        wanted = shares(call, sizes)
        if wanted is not None and wanted > counted:
            return (
                f"{shown(words)} asks for {wanted} shares of {names.GPU}, the container for {counted}: ask for less"
                f" there, or for more in resources.limits; {names.SHARES_OF_ONE_GPU} shares are one GPU"
            )
    return None


def names_servers(call: Call) -> str | None:
    """The option by which ``call`` says itself which servers it uses."""
    words = call.arguments or ()
    program = _options(words)[1]
    names = (word.partition("=")[0] for word in words[: program or 0] if word is not None)
    return next((name for name in names if name in _SERVERS), None)


def shares(call: Call, sizes: Mapping[int, int]) -> int | None:
    """How many hundredths of a GPU ``call`` asks for; None where that cannot be said.

    Without ``-p`` and ``-m`` the client takes whole GPUs. ``sizes`` are the megabytes of those that there
    are, with how many have each.
    """
    if call.arguments is None:
        return 0
    gpus = Fraction(1)
    fraction: Fraction | None = None
    for option, value in sorted(_options(call.arguments)[0], key=lambda each: each[0] not in _GPUS):
        if option is None or value is None or not _NUMBER.fullmatch(value):
            return None
        number = Fraction(value)
        if option in _GPUS:
            gpus = number
        elif option in _FRACTION:
            fraction = max(fraction or Fraction(0), number)
        elif not sizes:
            return None
        else:
            fraction = max(fraction or Fraction(0), number / quantity.fitting(number, gpus, sizes))
    return math.ceil(gpus * (Fraction(1) if fraction is None else fraction) * names.SHARES_OF_ONE_GPU)


def _options(words: Sequence[str | None], at: int = 0) -> tuple[list[tuple[str | None, str | None]], int | None]:
    """The options about GPUs from ``at`` on, with their values: ``-n 2``, ``-n2``, ``-n=2``, ``--partial=0.5``.

    Besides, where the program behind them begins. A word that only the shell knows, and an option that nobody here
    knows, may be anything: (None, None) stands for it, and None for the program.
    """
    found: list[tuple[str | None, str | None]] = []
    while at < len(words):
        word = words[at]
        if word == "--" or not (word is None or word.startswith("-")):
            return found, at + (word == "--")
        name, equals, value = (word or "").partition("=")
        if not name.startswith("--"):
            name, equals, value = name[:2], (word or "")[2:], (word or "")[2:].removeprefix("=")
        follows = words[at + 1] if at + 1 < len(words) else None
        if name in {*_GPUS, *_FRACTION, *_MEGABYTES}:
            found.append((name, value if equals else follows))
        elif name not in _OTHER_OPTIONS_WITH_VALUE:
            return [*found, (None, None)], None
        at += 1 if equals else 2
    return found, None
