"""Kubernetes manifests as text: many YAML or JSON documents in, the same values in the same order of keys out."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

from bitfusiond.core.text import one_line

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

# libyaml's composer recurses in C, up to 0.2.5 without a bound of its own, so a file of brackets would end the process.
# What writes YAML recurses too, in Python; an alias is as deep there as what it repeats.
_DEEPEST = 200
# Nor has it a bound on what aliases of aliases multiply to.
_LARGEST = 1_000_000
_CHARACTERS = 32  # of a text count as one value more

# YAML takes a no-break space for a letter. At these places of a line it was meant to be a space.
_NO_BREAK_SPACE = re.compile(r"^[ -]*\u00a0|:\u00a0", re.MULTILINE)

_PASTED = "indented with U+00A0 (no-break space), as text from a web page often is: use plain spaces"

# JSON writes a character beyond U+FFFF as two escapes, YAML as one.
_JSON_ESCAPE = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)")

# Plain words that some YAML reader takes for something else than a string, beyond those that PyYAML itself knows:
# YAML 1.1's y and n, and what Go's reader (kubectl's) tries as a number: YAML 1.2's octal numbers, numbers in capitals
# or with leading zeros, exponents without a sign.
_AMBIGUOUS = re.compile(
    r"""
    [yYnN]
    | (?:[-+]_*)? 0 [bBoOxX] [0-9a-fA-F_]+
    | (?:[-+]_*)? (?: \.[0-9]+ | [0-9][0-9_]* (?: \.[0-9_]* )? ) (?: [eE][-+]?[0-9]+ )?
    | [0-9]{4}-[0-9]{2}-[0-9]{2} .*
    """,
    re.VERBOSE,
)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """As kubectl reads: dates and times stay strings, as do = and <<, 1e3 and -_1 are numbers, y and n are booleans, a
    key that is there twice is an error."""

    bool_values: ClassVar = {**_SafeLoader.bool_values, "y": True, "n": False}


_NOT_AS_KUBECTL = {f"tag:yaml.org,2002:{tag}" for tag in ("timestamp", "int", "float", "value")}
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, expression) for tag, expression in resolvers if tag not in _NOT_AS_KUBECTL]
    for letter, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]\Z"), list("yYnN"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"(?:[-+]_*)?(?:0|[1-9][0-9_]*|0[0-7_]+|0o[0-7_]+|0b[01_]+|0x[0-9a-fA-F_]+)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]_*)?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9_]*)?)(?:[eE][-+]?[0-9]+)?\Z"
        r"|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
    ),
    list("-+.0123456789"),
)


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Hashable, Any]:
    """A mapping as a dict. Raises ConstructorError for a key that is there twice or is no scalar."""
    own: set[Hashable] = set()
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable) or key in own:
            problem = f"the key {key!r} is there twice" if isinstance(key, Hashable) else "a key must be a string"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        own.add(key)
    loader.flatten_mapping(node)  # what `<<` merges comes first, so that the mapping's own keys win
    return {
        loader.construct_object(key, deep=True): loader.construct_object(value, deep=True) for key, value in node.value
    }


def _binary(loader: Any, node: yaml.ScalarNode) -> str:
    """What ``!!binary`` stands for, as text."""
    content: bytes = loader.construct_yaml_binary(node)
    return content.decode(errors="replace")


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:binary", _binary)
_Loader.add_constructor("tag:yaml.org,2002:merge", _SafeLoader.construct_yaml_str)  # << that is no key


class _Dumper(_SafeDumper):  # type: ignore[misc]
    """For people: scripts of several lines as blocks, no anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _string(dumper: Any, value: str) -> yaml.ScalarNode:
    quoted = _AMBIGUOUS.fullmatch(value) or _NO_BREAK_SPACE.search(value)
    style = "|" if "\n" in value else "'" if quoted else None
    node: yaml.ScalarNode = dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)
    return node


_Dumper.add_representer(str, _string)


def load(text: str) -> list[Any]:
    """Every document of ``text`` that is not empty, as kubectl sends it: by way of JSON.

    So keys are strings, and what an anchor repeats is a copy: a change to one place is none to the other. Raises
    ValueError with one line that says where and what.
    """
    if text.lstrip()[:1] in {"{", "["}:
        text = _JSON_ESCAPE.sub(_yaml_escape, text)
    try:
        _check(text)
        for node in yaml.compose_all(text, Loader=_SafeLoader):
            _check_expanded(node)
        documents = _construct(text)
        return [_json(document) for document in documents if document is not None]
    except yaml.YAMLError as error:
        if _NO_BREAK_SPACE.search(text):
            raise ValueError(_pasted(text)) from None
        raise ValueError("not YAML: " + one_line(str(error).replace('in "<unicode string>", ', "at "))) from None
    except RecursionError:  # a caller that was deep in functions of its own
        raise _too_deep() from None
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from None


def _json(document: object) -> Any:
    """The value as JSON has it. Raises ValueError for one that JSON cannot hold."""
    try:
        return json.loads(json.dumps(document, allow_nan=False))
    except ValueError as error:  # .inf and .nan, an alias to what is around it, a number of 5,000 digits
        raise ValueError(f"not JSON: {error}") from None


def _construct(text: str) -> list[Any]:
    """The values of all documents, by our rules. Raises YAMLError and ValueError."""
    try:
        return list(yaml.load_all(text, Loader=_Loader))
    except (LookupError, AttributeError, ValueError):
        # PyYAML's own way of meeting `!!bool x`, `!!int ""` or 5,000 digits; its words may repeat the value.
        raise ValueError("not YAML: a value does not fit its tag") from None


def _check(text: str) -> None:
    """Raises ValueError for what a YAML reader takes without a word and its user did not mean."""
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _DEEPEST:
                    raise _too_deep()
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.ScalarEvent) and not event.style and _NO_BREAK_SPACE.search(event.value):
                raise ValueError(_pasted(text))
    except yaml.MarkedYAMLError as error:
        # libyaml 0.2.6 counts too, up to 1000, and reads on for 1024 characters before it tells of the first bracket.
        if error.problem == "exceeded maximum nesting depth":
            raise _too_deep() from None
        raise


def _too_deep() -> ValueError:
    return ValueError(f"not YAML: nested too deeply (more than {_DEEPEST} levels)")


def _check_expanded(node: yaml.Node | None) -> None:
    """Raises ValueError where ``node``, once its aliases are copies, is too large or too deep."""
    if node is None:
        return
    size, depth = _expanded(node, {})
    if size > _LARGEST:
        raise ValueError(f"not YAML: its aliases expand to more than {_LARGEST} values")
    if depth > _DEEPEST:
        raise _too_deep()


def _expanded(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values ``node`` holds once its aliases are copies, and in how many levels.

    Each anchor is counted once and multiplied. A long text is several values.
    """
    if id(node) not in known:
        known[id(node)] = (1, 0)  # also for an alias to what is around it, which is refused later
        if isinstance(node, yaml.CollectionNode):
            pairs = isinstance(node, yaml.MappingNode)
            children = [each for pair in node.value for each in pair] if pairs else node.value
            inside = [_expanded(child, known) for child in children]
            known[id(node)] = (1 + sum(size for size, _ in inside), 1 + max((depth for _, depth in inside), default=0))
        else:
            known[id(node)] = (1 + len(node.value) // _CHARACTERS, 0)
    return known[id(node)]


def _pasted(text: str) -> str:
    match = _NO_BREAK_SPACE.search(text)
    line = text.count("\n", 0, match.start()) + 1 if match else 1
    return f"not YAML: line {line}: {_PASTED}"


def _yaml_escape(match: re.Match[str]) -> str:
    if match[1] is None:
        return match[0]
    return f"\\U{0x10000 + (int(match[1], 16) - 0xD800) * 0x400 + int(match[2], 16) - 0xDC00:08x}"


def dump(documents: list[Any]) -> str:
    """``documents`` as YAML, separated by ``---``; the order of keys stays."""
    text: str = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=2**30
    )
    return text
