"""``--role render``: a user's YAML as the webhook would admit it, without a cluster."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import jsonpatch

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Patch, Refusal, Rules
from bitfusiond.core.admission.mutate import NOT_OPTED_IN, Verdict, mutate
from bitfusiond.core.fields import Json, mapping
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import config, yaml_documents
from bitfusiond.settings import Render

_Path = tuple[str | int, ...]

# Where these keep the pod that their controller makes. Wherever another kind has one, that is said.
_KNOWN_PLACES: frozenset[_Path] = frozenset(
    {(), ("template",), ("spec", "template"), ("spec", "jobTemplate", "spec", "template")}
)


def run(settings: Render, stdin: BinaryIO, stdout: BinaryIO, stderr: TextIO) -> int:
    """Print what the cluster would hold, or ``--diff``; return 1 where the webhook would refuse something.

    What it refuses is said on ``stderr`` and left out of the result, as ``kubectl create`` does; so is input that is no
    YAML, with nothing printed. Raises Failure where the result cannot be written.
    """
    exempt = names.EXEMPT_NAMESPACES | {names.NAMESPACE}
    rules = config.load(settings.clients, settings.injection, settings.total_gpu_memory, exempt, pool=settings.pool)
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
        result, is_refused = _admit(document, rules, source, stderr, keep_refused=settings.diff)
        refused = refused or is_refused
        if result is not None:
            admitted.append(result)
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


def _admit(document: object, rules: Rules, source: str, stderr: TextIO, *, keep_refused: bool) -> tuple[object, bool]:
    """One document as admitted, and whether anything in it was refused.

    What is refused comes back as it was with ``keep_refused`` (a diff then says nothing of it), else as None.
    """
    if not isinstance(document, dict):
        return document, False
    if isinstance(document.get("items"), list):
        results = [_admit(item, rules, source, stderr, keep_refused=keep_refused) for item in document["items"]]
        kept = [result for result, _ in results if result is not None]
        return {**document, "items": kept}, any(refused for _, refused in results)
    metadata = mapping(document, "metadata")
    namespace, name = metadata.get("namespace") or "default", metadata.get("name") or metadata.get("generateName")
    title = f"{source}: {document.get('kind')} {namespace}/{name or '?'}"
    is_pod = document.get("kind") == "Pod"
    admitted, verdicts = document, []
    for where, pod in [((), document)] if is_pod else _templates(document):
        verdict = mutate(pod, str(namespace), rules)
        verdicts.append(verdict)
        for line in _lines(verdict, where):
            print(f"{title}: {line}", file=stderr)
        if isinstance(verdict, Patch):
            admitted = _with_inside(admitted, where, jsonpatch.apply_patch(pod, verdict.operations))
    if (
        not is_pod
        and all(each == NOT_OPTED_IN for each in verdicts)
        and names.MANAGEMENT in mapping(metadata, "annotations")
    ):
        print(f"{title}: {_on_the_wrong_object(document)}", file=stderr)
    if any(isinstance(each, Refusal) for each in verdicts):
        return (document if keep_refused else None), True
    return admitted, False


def _lines(verdict: Verdict, where: _Path) -> Iterator[str]:
    """What is said of a pod that stands at ``where`` in its document."""
    place = "" if where in _KNOWN_PLACES else f"{_written(where)}: "
    if isinstance(verdict, Refusal):
        yield from (f"{place}refused: {problem}" for problem in verdict.problems)
    elif isinstance(verdict, Patch):
        if place:
            yield f"{place}taken for the template of a pod"
        yield from (f"{place}warning: {warning}" for warning in verdict.warnings)


def _on_the_wrong_object(document: Json) -> str:
    """What is said of a document that opted in itself, and not its pods."""
    annotation = f"metadata.annotations[{names.MANAGEMENT}]"
    for where, _ in _templates(document):
        return f"{annotation} is not on its pods: put it into {_written(where)}.metadata.annotations"
    return f"{annotation} is there, but no pod was found in it: it was not looked into"


def _templates(value: Any, path: _Path = ()) -> Iterator[tuple[_Path, Json]]:
    """Every template of a pod in ``value``: what stands under ``template`` and has containers."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inside in items:
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
