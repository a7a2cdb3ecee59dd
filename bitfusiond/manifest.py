"""Kubernetes manifests as text: many YAML or JSON documents in, the same values in the same order of keys out."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any

import yaml

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SafeDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

# libyaml's composer recurses in C without a bound of its own, so a file of brackets would end the process.
_DEEPEST = 200

# Plain words that some YAML reader takes for something else than a string, beyond those that PyYAML itself knows:
# YAML 1.1's y and n, and what Go's reader (kubectl's) tries as a number: YAML 1.2's octal numbers, numbers in capitals
# or with leading zeros, exponents without a sign.
_AMBIGUOUS = re.compile(
    r"""
    [yYnN]
    | [-+]? 0 [bBoOxX] [0-9a-fA-F_]+
    | [-+]? (?: \.[0-9]+ | [0-9][0-9_]* (?: \.[0-9_]* )? ) (?: [eE][-+]?[0-9]+ )?
    | [0-9]{4}-[0-9]{2}-[0-9]{2} .*
    """,
    re.VERBOSE,
)


class _Loader(_SafeLoader):  # type: ignore[misc]
    """As kubectl reads: dates stay strings, a key that is there twice is an error."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, expression) for tag, expression in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for letter, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Hashable, Any]:
    loader.flatten_mapping(node)
    found: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable) or key in found:
            problem = f"the key {key!r} is there twice" if isinstance(key, Hashable) else "a key must be a string"
            raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


class _Dumper(_SafeDumper):  # type: ignore[misc]
    """For people: scripts of several lines as blocks, no anchors."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _string(dumper: Any, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else '"' if _AMBIGUOUS.fullmatch(value) else None
    node: yaml.ScalarNode = dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)
    return node


_Dumper.add_representer(str, _string)


def load(text: str) -> list[Any]:
    """Every document of ``text`` that is not empty, as kubectl sends it: by way of JSON.

    So keys are strings, and what an anchor repeats is a copy: a change to one place is none to the other. Raises
    ValueError with one line that says where and what.
    """
    try:
        _check_depth(text)
        documents = list(yaml.load_all(text, Loader=_Loader))
        return [json.loads(json.dumps(document)) for document in documents if document is not None]
    except yaml.YAMLError as error:
        raise ValueError("not YAML: " + " ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("not YAML: nested too deeply") from None
    except TypeError as error:
        raise ValueError(f"not JSON: {error}") from None


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise ValueError(f"not YAML: nested too deeply (more than {_DEEPEST} levels)")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def dump(documents: list[Any]) -> str:
    """``documents`` as YAML, separated by ``---``; the order of keys stays."""
    text: str = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=2**30
    )
    return text
