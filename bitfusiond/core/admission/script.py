"""The commands in a shell's script: which words it would read as programs and their arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from bitfusiond.core.admission.shell import ASSIGNMENT

# What a command may begin with before its own first word.
_OPENING = frozenset({"if", "then", "elif", "else", "do", "while", "until", "!", "{"})


class Word(NamedTuple):
    """A word of a script, as it is written from ``start`` to ``end``; ``$`` stands for a substitution in it."""

    start: int
    end: int
    raw: str

    @property
    def text(self) -> str | None:
        """The word that a program gets; None where only the shell knows: an expansion or a substitution."""
        return None if _expands(self.raw) else _QUOTING.sub(_unquoted, self.raw)


_TOKEN = re.compile(
    r"""
      (?P<blank> (?: [ \t] | \\\n )++ )
    | (?P<comment> \#[^\n]* )
    | (?P<newline> \n )
    | (?P<arithmetic> \(\( (?: [^()\n] | \([^()\n]*+\) )*+ \)\) )
    | (?P<heredoc> <<-?+ (?!<) )
    | (?P<redirection> <<< | <> | [<>]& | &>>?+ | >> | >\| | [<>] (?!\() )
    | (?P<function> \(\s*+\) )
    | (?P<substitution> [$<>]\( (?!\((?:[^()\n]|\([^()\n]*+\))*+\)\)) )
    | (?P<array> (?<==)\( )
    | (?P<open> \( )
    | (?P<close> \) )
    | (?P<operator> [;&|]++ )
    | (?P<word> (?:
          [^\s;&|()<>'"\\$`]++ | \\. | '[^']*+' | "(?: [^"\\]++ | \\. )*+" | \$'(?: [^'\\]++ | \\. )*+'
        | \$\(\( (?: [^()\n] | \([^()\n]*+\) )*+ \)\)
        | \$\{ (?: [^{}'"\\]++ | \\. | '[^']*+' | "(?: [^"\\]++ | \\. )*+" )*+ \}
        | \$(?![({]) | `(?: [^`\\]++ | \\. )*+` )++ )
    | (?P<other> (?: ['"`] | \$\{ ) .* | . )  # what nobody closes is an error to the shell
    """,
    re.VERBOSE | re.DOTALL,
)
_QUOTING = re.compile(r"""\$?'([^']*+)'|\$?"((?:[^"\\]++|\\.)*+)"|\\(.)""", re.DOTALL)
_QUOTED = re.compile(r"""(?<!\$)'[^']*+'|\\.""", re.DOTALL)
_SPECIAL = frozenset("$`{")
_BRACES = re.compile(r"\{[^{},.]*+(?:,|\.\.)")
_DESCRIPTOR = re.compile(r"[0-9]+|\{\w+\}")


def _unquoted(match: re.Match[str]) -> str:
    single, double, escaped = match.groups()
    if single is not None:
        return str(single)
    if double is not None:
        return re.sub(r'\\(["\\$`\n])', lambda found: "" if found[1] == "\n" else found[1], double)
    return "" if escaped == "\n" else str(escaped)


def _expands(raw: str) -> bool:
    if _SPECIAL.isdisjoint(raw):
        return False
    bare = _QUOTED.sub("", raw)
    return "$" in bare or "`" in bare or bool(_BRACES.search(bare))


Command = list[Word]
_MOST_MISSING = 16


def commands(script: str) -> Iterator[Command]:
    """The simple commands of ``script``: the words of each, without assignments, redirections and what opens a block.

    Also those in a function, a subshell and a substitution that is not inside double quotes. Not read are the bodies of
    here-documents, comments, arrays, and what ``eval``, ``trap`` or an alias would make of a text. Takes time in
    proportion to the length of ``script``.
    """
    return _Reader(script).commands()


class _Outside(NamedTuple):
    """What goes on behind a bracket: the command, the redirection that waits for its target, the bracket's kind."""

    words: Command
    redirection: str
    kind: str
    start: int


class _Reader:
    """One reading of a script: where it is, and what is open there."""

    def __init__(self, script: str) -> None:
        self._script = script
        self._words: Command = []
        self._outside: list[_Outside] = []
        self._redirection = ""  # of which the next word is the target
        self._documents: list[tuple[bool, str]] = []  # their bodies begin behind this line
        self._missing = 0  # of those whose end was looked for

    def commands(self) -> Iterator[Command]:
        at = 0
        while match := _TOKEN.match(self._script, at):
            at = match.end()
            match match.lastgroup:
                case "blank" | "comment" | "other":
                    continue
                case "word":
                    self._word(match.start(), at, match[0])
                case "redirection" | "heredoc":
                    self._redirect(match)
                case "substitution" | "array" as kind:
                    self._open(kind, match.start())
                case "open":
                    yield from self._command()
                    self._open("subshell", match.start())
                case "close":
                    yield from self._close(at)
                case _ if self._outside and self._outside[-1].kind == "array":
                    continue
                case kind:
                    yield from self._command()
                    if kind == "newline":
                        at = self._behind_documents(at)
        while self._outside:
            yield from self._command()
            self._words = self._outside.pop().words
        yield from self._command()

    def _command(self) -> Iterator[Command]:
        """The command that ends here, if there is one."""
        words, self._words, self._redirection = self._words, [], ""
        first = 0
        while first < len(words):
            raw = words[first].raw
            if raw == "function" or (raw == "coproc" and [each.raw for each in words[first + 2 : first + 3]] == ["{"]):
                first += 2  # and its name
            elif raw in {"time", "coproc"}:
                first += 1 + ([each.raw for each in words[first + 1 : first + 2]] == ["-p"])
            elif raw in _OPENING or ASSIGNMENT.match(raw):
                first += 1
            else:
                yield words[first:]
                return

    def _word(self, start: int, end: int, raw: str) -> None:
        if self._redirection in {"<<", "<<-"}:
            self._documents.append((self._redirection == "<<-", _QUOTING.sub(_unquoted, raw)))
        elif not self._redirection:
            if self._words and self._words[-1].end == start:
                start, _, before = self._words.pop()
                raw = before + raw
            self._words.append(Word(start, end, raw))
        self._redirection = ""

    def _redirect(self, match: re.Match[str]) -> None:
        if self._words and self._words[-1].end == match.start() and _DESCRIPTOR.fullmatch(self._words[-1].raw):
            self._words.pop()
        self._redirection = match[0]

    def _open(self, kind: str, start: int) -> None:
        self._outside.append(_Outside(self._words, self._redirection, kind, start))
        self._words, self._redirection = [], ""

    def _close(self, end: int) -> Iterator[Command]:
        if not self._outside:
            self._words = []  # a pattern of `case`
            return
        around = self._outside.pop()
        if around.kind != "array":
            yield from self._command()
        self._words, self._redirection = around.words, around.redirection
        if around.kind == "substitution":
            self._word(around.start, end, "$")

    def _behind_documents(self, at: int) -> int:
        """Where the script goes on behind the here-documents whose bodies begin ``at``.

        Without its last line it may be none: ``let x=1<<2``. Not many are looked for in vain.
        """
        for strips_tabs, delimiter in self._documents:
            if self._missing > _MOST_MISSING:
                break
            end = self._line(delimiter, at, strips_tabs)
            if end is None:
                self._missing += 1
            else:
                at = end
        self._documents.clear()
        return at

    def _line(self, wanted: str, at: int, strips_tabs: bool) -> int | None:
        """Where the line behind ``wanted`` begins, from ``at`` on; None without such a line."""
        while at < len(self._script):
            end = self._script.find("\n", at)
            line = self._script[at:] if end < 0 else self._script[at:end]
            at = len(self._script) if end < 0 else end + 1
            if (line.lstrip("\t") if strips_tabs else line) == wanted:
                return at
        return None
