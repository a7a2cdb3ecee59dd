"""``--role render``: a user's YAML as the webhook would admit it, without a cluster."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

import jsonpatch

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Patch, Refusal, Rules
from bitfusiond.core.admission.mutate import Verdict, mutate
from bitfusiond.core.admission.template import Delivery
from bitfusiond.core.fields import Json, mapping
from bitfusiond.core.pool import claims
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import config, yaml_documents
from bitfusiond.settings import Render

_Path = tuple[str | int, ...]

# Where these keep the pod that their controller makes. Wherever another kind has one, that is said.
_KNOWN_PLACES: frozenset[_Path] = frozenset(
    {(), ("template",), ("spec", "template"), ("spec", "jobTemplate", "spec", "template")}
)


class _Admitted(NamedTuple):
    """A document, None for one that is left out; the templates that its ``claims`` are made from."""

    document: object
    is_refused: bool = False
    claims: tuple[Json, ...] = ()


def run(settings: Render, stdin: BinaryIO, stdout: BinaryIO, stderr: TextIO) -> int:
    """Print what the cluster would hold, or ``--diff``; return 1 where the webhook would refuse something.

    What it refuses is said on ``stderr`` and left out of the result, as ``kubectl create`` does; so is input that is no
    YAML, with nothing printed. Raises Failure where the result cannot be written.
    """
    exempt = names.EXEMPT_NAMESPACES | {names.NAMESPACE}
    rules = config.load(
        settings.clients,
        settings.injection,
        settings.total_gpu_memory,
        exempt,
        pool=settings.pool,
        delivery=Delivery(settings.delivery),
    )
    source = "standard input" if settings.file == "-" else settings.file
    try:
        documents = yaml_documents.load(_read(settings.file, stdin).decode())
    except UnicodeDecodeError:
        print(f"{source}: it is not UTF-8 text", file=stderr)
        return 1
    except ValueError as error:
        print(f"{source}: {error}", file=stderr)
        return 1
    before = yaml_documents.dump(documents)
    admitted: list[object] = []
    refused = False
    for document in documents:
        result = _admit(document, rules, source, stderr, keep_refused=settings.diff)
        refused = refused or result.is_refused
        admitted += [each for each in result.claims if each not in admitted]
        if result.document is not None:
            admitted.append(result.document)
    after = yaml_documents.dump(admitted)
    if settings.diff:
        lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), source, f"{source} (admitted)")
        after = "".join(lines)
    try:
        stdout.write(after.encode())
        stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Failure(f"standard output: {error.strerror}") from None
    return 1 if refused else 0


def _read(file: str, stdin: BinaryIO) -> bytes:
    try:
        return stdin.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"--file: cannot read {file}: {error.strerror}") from None


def _admit(
    document: object, rules: Rules, source: str, stderr: TextIO, *, keep_refused: bool, kind: str = ""
) -> _Admitted:
    """One document as admitted. ``kind`` is for one that names none itself.

    What is refused comes back as it was with ``keep_refused`` (a diff then says nothing of it), else as None.
    """
    if not isinstance(document, dict):
        return _Admitted(document)
    kind = str(document.get("kind") or kind)
    if isinstance(document.get("items"), list):
        of = kind.removesuffix("List")  # what stands in a PodList need not say that it is a Pod
        results = [
            _admit(item, rules, source, stderr, keep_refused=keep_refused, kind=of) for item in document["items"]
        ]
        kept = [each.document for each in results if each.document is not None]
        made = tuple(template for each in results for template in each.claims)
        return _Admitted({**document, "items": kept}, any(each.is_refused for each in results), made)
    metadata = mapping(document, "metadata")
    namespace, name = str(metadata.get("namespace") or "default"), metadata.get("name") or metadata.get("generateName")
    title = f"{source}: {kind or None} {namespace}/{name or '?'}"
    pods: dict[_Path, Json] = {(): document} if kind == "Pod" else dict(_templates(document))
    admitted, verdicts, claimed = document, [], list[Json]()
    for where, pod in pods.items():
        verdict = mutate(pod, namespace, rules)
        verdicts.append(verdict)
        for line in _lines(verdict, where):
            print(f"{title}: {line}", file=stderr)
        if isinstance(verdict, Patch):
            admitted = _with_inside(admitted, where, jsonpatch.apply_patch(pod, verdict.operations))
            claimed += [claims.document(each, namespace) for each in verdict.claims]
    if namespace not in rules.exempt_namespaces:
        for line in _unseen(document, pods):
            print(f"{title}: {line}", file=stderr)
    if any(isinstance(each, Refusal) for each in verdicts):
        return _Admitted(document if keep_refused else None, is_refused=True)
    return _Admitted(admitted, claims=tuple(claimed))


def _lines(verdict: Verdict, where: _Path) -> Iterator[str]:
    """What is said of a pod that stands at ``where`` in its document."""
    place = "" if where in _KNOWN_PLACES else f"{_written(where)}: "
    if isinstance(verdict, Refusal):
        yield from (f"{place}refused: {problem}" for problem in verdict.problems)
    elif isinstance(verdict, Patch):
        if place:
            yield f"{place}taken for the template of a pod"
        yield from (f"{place}warning: {warning}" for warning in verdict.warnings)


def _unseen(document: Json, pods: Mapping[_Path, Json]) -> Iterator[str]:
    """What is said of annotations that stand where the webhook does not see them, and not on the ``pods`` either.

    What stands in one of those is about it, what stands elsewhere is about all of them.
    """
    for path, keys in _mentions(document):
        about = [where for where in pods if path[: len(where)] == where] or list(pods)
        seen = [mapping(pods[where], "metadata", "annotations") for where in about]
        missing = [key for key in keys if not any(key in each for each in seen)]
        if not missing:
            continue
        field = f"{_written(path)}[{', '.join(missing)}]"
        if about:
            metadata = _written((*about[0], "metadata", "annotations"))
            yield f"{field} is not seen by the webhook: put it into {metadata}"
        elif path[-1:] == ("labels",):
            yield f"{field} is a label: put it into {_written((*path[:-1], 'annotations'))}"
        else:
            yield f"{field} is there, but no pod was found in it: render what its pods are to be, as a Pod"


def _mentions(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, list[str]]]:
    """Where the keys of our annotations stand in ``value``."""
    if isinstance(value, dict) and (keys := [key for key in names.ASKED_BY_ANNOTATION if key in value]):
        yield path, keys
    for key, inside in _inside(value):
        yield from _mentions(inside, (*path, key))


def _inside(value: Any) -> Iterable[tuple[str | int, Any]]:
    return value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()


def _templates(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, Json]]:
    """Every template of a pod in ``value``: what stands under ``template`` and has containers."""
    for key, inside in _inside(value):
        if key == "template" and isinstance(mapping(inside, "spec").get("containers"), list):
            yield (*path, key), inside
        else:
            yield from _templates(inside, (*path, key))


def _written(path: _Path) -> str:
    """``spec.workerGroupSpecs[0].template``."""
    return "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in path).removeprefix(".")


def _with_inside(value: Any, where: _Path, pod: Json) -> Any:
    """``value`` with ``pod`` at the place ``where``."""
    if not where:
        return pod
    key, *rest = where
    copy = value.copy()
    copy[key] = _with_inside(value[key], tuple(rest), pod)
    return copy
