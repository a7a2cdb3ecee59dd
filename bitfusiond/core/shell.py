"""What sh and bash would read in a script: just enough to know when a word may be put in front of it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence

_SHELLS = frozenset({"sh", "bash"})

# Words, and nothing that a shell treats as more than a character of a word. Whoever is not matched is still served,
# by way of a shell of its own; so the list may be short, but nothing on it may be special anywhere.
_PLAIN = re.compile(r"[A-Za-z0-9_./,:@%+=-]+(?:[ \t]+[A-Za-z0-9_./,:@%+=-]+)*")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")

# Known to the shell alone, or to the shell first: `CLIENT cd /x` would not change the shell's directory.
_SHELL_WORDS = frozenset(
    """
    . : [ alias bg bind break builtin caller case cd command compgen complete compopt continue coproc declare dirs
    disown do done echo elif else enable esac eval exec exit export false fc fg fi for function getopts hash help
    history if in jobs kill let local logout mapfile popd printf pushd pwd read readarray readonly return select set
    shift shopt source suspend test then time times trap true type typeset ulimit umask unalias unset until wait while
    """.split()  # noqa: SIM905 - a list of 70 quoted words is not easier to read
)
# After these the next word is again a program.
_PREFIXES = frozenset(
    ["!", "{", "builtin", "command", "do", "elif", "else", "exec", "if", "nohup", "then", "time", "until", "while"]
)

_OPTIONS_WITH_VALUE = frozenset({"--rcfile", "--init-file"})
_OPERATOR = frozenset(";&|()\n")
_BLANK = frozenset(" \t")


def is_shell(program: str) -> bool:
    """Whether ``program`` is sh or bash, at any path."""
    return posixpath.basename(program) in _SHELLS


def script_index(argv: Sequence[str]) -> int | None:
    """Where the script of ``bash [options] -c SCRIPT [name arguments...]`` stands in ``argv``; None without ``-c``.

    ``len(argv)`` where there is a ``-c`` but no script. Options may be joined (``-ec``), may take a value
    (``-o pipefail``) and may follow ``-c``: the script is the first word that is none. Source: bash(1), OPTIONS.
    """
    takes_script = False
    index = 1
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
    if not _PLAIN.fullmatch(script):
        return False
    first = script.split(maxsplit=1)[0]
    return first not in _SHELL_WORDS and not _ASSIGNMENT.match(first)


def programs(script: str) -> Iterator[tuple[int, int]]:
    """Where the words stand that the shell would run as programs: ``script[start:end]``, quoting included.

    Follows quotes, substitutions, comments and redirections. It is no parser: the body of a here-document and the
    patterns of ``case`` look like commands to it.
    """
    position, at_program = 0, True
    while position < len(script):
        character = script[position]
        if character in _OPERATOR:
            position, at_program = position + 1, True
        elif character in _BLANK:
            position += 1
        elif character == "#":
            position = _end_of_line(script, position)
        elif character in "<>":
            position = _word_end(script, _redirection_target(script, position))
        else:
            end = _word_end(script, position)
            word = script[position:end]
            if at_program and not _ASSIGNMENT.match(word) and word not in _PREFIXES:
                at_program = False
                yield position, end
            position = end


def _end_of_line(script: str, position: int) -> int:
    end = script.find("\n", position)
    return len(script) if end < 0 else end


def _redirection_target(script: str, position: int) -> int:
    while position < len(script) and script[position] in "<>&|- \t":
        position += 1
    return position


def _word_end(script: str, position: int) -> int:
    while position < len(script) and not (script[position] in _BLANK or script[position] in ";&|()<>\n"):
        position = _after(script, position)
    return position


def _after(script: str, position: int) -> int:
    """The position after the character, quoted string or substitution that begins at ``position``."""
    character = script[position]
    if character == "\\":
        return min(position + 2, len(script))
    if character == "'":
        end = script.find("'", position + 1)
        return len(script) if end < 0 else end + 1
    if character in {'"', "`"}:
        return _closed(script, position + 1, character)
    if script.startswith("$(", position):
        return _closed(script, position + 2, ")")
    if script.startswith("${", position):
        return _closed(script, position + 2, "}")
    return position + 1


def _closed(script: str, position: int, closing: str) -> int:
    """The position after ``closing``, past whatever is nested before it."""
    closers = [closing]
    while position < len(script) and closers:
        character = script[position]
        if character == closers[-1]:
            closers.pop()
            position += 1
        elif character == "\\":
            position += 2
        elif character == "'" and closers[-1] != '"':
            end = script.find("'", position + 1)
            position = len(script) if end < 0 else end + 1
        elif script.startswith(("$(", "${"), position):
            closers.append(")" if script[position + 1] == "(" else "}")
            position += 2
        elif character == '"' or (character == "`" and closing != "`"):
            closers.append(character)
            position += 1
        elif character == "(" and closers[-1] == ")":
            closers.append(")")
            position += 1
        else:
            position += 1
    return min(position, len(script))
