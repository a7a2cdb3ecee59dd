"""The tree of a chart's documents as the text of Helm's templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from bitfusiond.files import yaml_documents
from bitfusiond.operate.chart.conditions import ALWAYS, Formula, Term
from bitfusiond.operate.chart.merge import Either, Fixed, List, Node, Object
from bitfusiond.operate.chart.options import EXPRESSIONS, FRAGMENTS, LOOPS

_HEAD = """\
{{- /* Made by `just chart` from the manifests of bitfusiond. Which options are taken: _helpers.tpl */ -}}
{{- $on := include "bitfusiond.options" . | fromYaml -}}
"""


def text(documents: Iterable[tuple[Formula, Node]]) -> str:
    """A file of templates: each document, where its formula holds."""
    lines = _together((formula, _looped(["---", *_block(node)])) for formula, node in documents)
    return _HEAD + _filled("\n".join(lines)) + "\n"


def _together(parts: Iterable[tuple[Formula, list[str]]]) -> list[str]:
    """The lines of all parts; those that follow each other and are there for the same reason are asked about once."""
    found: list[str] = []
    for formula, group in groupby(parts, key=itemgetter(0)):
        lines = [line for _, part in group for line in part]
        found += lines if formula == ALWAYS else [f"{{{{- if {question(formula)} }}}}", *lines, "{{- end }}"]
    return found


def question(formula: Formula) -> str:
    """``formula`` as an argument of ``if``."""
    terms = [_term(each) for each in formula]
    return terms[0] if len(terms) == 1 else f"or {' '.join(map(_enclosed, terms))}"


def _term(term: Term) -> str:
    parts = [f"$on.{each}" for each in sorted(term.wanted)] + [f"not $on.{each}" for each in sorted(term.unwanted)]
    return parts[0] if len(parts) == 1 else f"and {' '.join(map(_enclosed, parts))}"


def _enclosed(part: str) -> str:
    return f"({part})" if " " in part else part


def _looped(lines: list[str]) -> list[str]:
    """``lines`` once for each of what they hold the placeholder for, unless lines inside are."""
    written = "\n".join(lines)
    for placeholder, over in LOOPS.items():
        if re.search(rf"{re.escape(placeholder)}\b", written) and f"range {over}" not in written:
            lines = [f"{{{{- range {over} }}}}", *lines, "{{- end }}"]
    return lines


def _block(node: Node) -> list[str]:
    match _opened(node):
        case Object(entries):
            return _together((formula, _entry(key, each)) for formula, key, each in entries)
        case List(items):
            return _together((formula, _looped(_item(each))) for formula, each in items)
        case Either(cases):
            return list(_cases(cases, lambda each: _dumped(each.value)))
        case Fixed(value):
            return _dumped(value)


def _opened(node: Node) -> Node:
    """A value with a loop in it as a tree, so that the loop is around the smallest item."""
    if not isinstance(node, Fixed) or not any(placeholder in str(node.value) for placeholder in LOOPS):
        return node
    if isinstance(node.value, dict):
        return Object(tuple((ALWAYS, key, Fixed(each)) for key, each in node.value.items()))
    if isinstance(node.value, list):
        return List(tuple((ALWAYS, Fixed(each)) for each in node.value))
    return node


def _entry(key: str, node: Node) -> list[str]:
    match _opened(node):
        case Object() | List() as opened:
            return [f"{key}:", *_indented(_block(opened))]
        case Either(cases):
            return list(_cases(cases, lambda each: _dumped({key: each.value})))
        case Fixed(value):
            return _dumped({key: value})


def _item(node: Node) -> list[str]:
    opened = _opened(node)
    if isinstance(opened, Fixed):
        return _dumped([opened.value])
    first, *rest = _indented(_block(opened))
    # What begins with a question cannot begin in the line of the dash.
    return ["-", first, *rest] if first.lstrip().startswith("{{") else [f"- {first[2:]}", *rest]


def _cases(cases: Iterable[tuple[Formula, Fixed]], write: Any) -> Iterator[str]:
    word = "if"
    for formula, each in cases:
        yield f"{{{{- {word} {question(formula)} }}}}" if formula != ALWAYS else "{{- else }}"
        yield from write(each)
        word = "else if"
    yield "{{- end }}"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" if line else line for line in lines]


def _dumped(value: Any) -> list[str]:
    literal = yaml_documents.dump([value]).replace("{{", '{{ "{{" }}')
    return literal.removesuffix("\n").removesuffix("\n...").split("\n")


_ALL = sorted([*FRAGMENTS, *EXPRESSIONS], key=len, reverse=True)
_WHOLE = re.compile(rf"(?<=[:-] )'?({'|'.join(map(re.escape, _ALL))})'?$", re.MULTILINE)
_INSIDE = re.compile("|".join(map(re.escape, _ALL)))


def _filled(written: str) -> str:
    """With expressions in the place of placeholders; a value that is one as a whole stands as JSON, which is YAML."""
    written = _WHOLE.sub(lambda found: f"{{{{ {EXPRESSIONS[found[1]]} | toJson }}}}", written)
    return _INSIDE.sub(lambda found: FRAGMENTS.get(found[0]) or f"{{{{ {EXPRESSIONS[found[0]]} }}}}", written)
