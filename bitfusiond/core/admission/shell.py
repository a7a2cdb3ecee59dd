"""How sh and bash are started, and when a word may be put in front of their script."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence

_SHELLS = frozenset({"sh", "bash"})
_SHELLS_TO_READ = _SHELLS | {"ash", "dash", "ksh", "zsh"}

# Words, and nothing that a shell treats as more than a character of a word. Whoever is not matched is still served,
# by way of a shell of its own; so the list may be short, but nothing on it may be special anywhere.
_PLAIN = re.compile(r"[A-Za-z0-9_./,:@%+=-]+(?:[ \t]+[A-Za-z0-9_./,:@%+=-]+)*")
ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\[[^\]]*+\])?+\+?=")

# Known to the shell alone, or to the shell first: `CLIENT cd /x` would not change the shell's directory.
_SHELL_WORDS = frozenset(
    """
    . : [ alias bg bind break builtin caller case cd chdir command compgen complete compopt continue coproc declare dirs
    disown do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help
    history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set
    shift shopt source suspend test then time times trap true type typeset ulimit umask unalias unset until wait while
    """.split()  # noqa: SIM905 - a list of 70 quoted words is not easier to read
)
# Those of them that are programs too, in nearly every image.
_PROGRAMS_TOO = frozenset({"[", "echo", "false", "kill", "printf", "pwd", "test", "true"})
_OPTIONS_WITH_VALUE = frozenset({"--rcfile", "--init-file"})


def is_shell(program: str) -> bool:
    """Whether ``program`` is sh or bash, at any path."""
    return posixpath.basename(program) in _SHELLS


def is_shell_of_any_kind(program: str) -> bool:
    """Whether ``program`` reads a script as sh does, as far as we read it: others may put it in front of a command."""
    return posixpath.basename(program) in _SHELLS_TO_READ


def script_index(argv: Sequence[str], shell: int = 0) -> int | None:
    """Where the script of ``bash [options] -c SCRIPT [name arguments...]`` stands in ``argv``; None without ``-c``.

    ``shell`` is where the shell itself stands.

    ``len(argv)`` where there is a ``-c`` but no script. Options may be joined (``-ec``), may take a value
    (``-o pipefail``) and may follow ``-c``: the script is the first word that is none. Source: bash(1), OPTIONS.
    """
    takes_script = False
    index = shell + 1
    while index < len(argv):
        word = argv[index]
        if word in {"-", "--"}:
            index += 1
            break
        if not word.startswith(("-", "+")):
            break
        index += 1
        if word.startswith("--"):
            index += word in _OPTIONS_WITH_VALUE
        else:
            takes_script = takes_script or (word[0] == "-" and "c" in word)
            index += word.count("o") + word.count("O")
    return min(index, len(argv)) if takes_script else None


def is_plain(script: str) -> bool:
    """Whether ``script`` is one simple command whose words are what stands between its blanks.

    Not so with operators, redirections, expansions, quotes, comments, assignments in front, or a word of the shell's
    own (``exec``, ``cd``, ``if``) as the program.
    """
    return is_argument_list(script) and script.split(maxsplit=1)[0] not in _SHELL_WORDS


def is_argument_list(script: str) -> bool:
    """Whether the words between the blanks of ``script`` are a program and its arguments, without a shell too."""
    if not _PLAIN.fullmatch(script):
        return False
    first = script.split(maxsplit=1)[0]
    return not ASSIGNMENT.match(first) and (first not in _SHELL_WORDS or first in _PROGRAMS_TOO)


def starts_a_program(script: str) -> bool:
    """Whether a plain ``script`` starts what any other program can start as well.

    A path may be that of a file without ``#!``, which only a shell runs; and a shell's own ``-c`` is left apart, so
    that nobody takes its script for further words.
    """
    words = script.split()
    return "/" not in words[0] and not (is_shell(words[0]) and script_index(words) is not None)


def starts_more_than_programs(argv: Sequence[str], variables: Iterable[str]) -> bool:
    """Whether the shell of ``argv``, with its options up to the script, knows commands that are no programs.

    A login shell (``-l``) and an interactive one (``-i``) read files that may hold functions and aliases, BASH_ENV
    names another one, BASH_FUNC_x%% is a function, and a restricted shell (``-r``) refuses a path. Source: bash(1),
    INVOCATION and RESTRICTED SHELL.
    """
    if is_login(argv) or is_restricted(argv) or _has_option(argv, "i", None):
        return True
    return any(name == "BASH_ENV" or name.startswith("BASH_FUNC_") for name in variables)


def is_login(argv: Sequence[str]) -> bool:
    """Whether the shell of ``argv``, with its options up to the script, reads a profile, which may set PATH anew."""
    return _has_option(argv, "l", "--login")


def is_restricted(argv: Sequence[str]) -> bool:
    """Whether the shell of ``argv``, with its options up to the script, lets nobody set PATH."""
    return _has_option(argv, "r", "--restricted")


def _has_option(argv: Sequence[str], letter: str, word: str | None) -> bool:
    """Whether a shell is given an option by its letter, also among others as in ``-lc``, or by its word."""
    return any(each == word or (each[:1] == "-" and each[:2] != "--" and letter in each) for each in argv[1:])
