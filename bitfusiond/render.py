"""``--role render``: a user's YAML as the webhook would admit it, without a cluster."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import BinaryIO, TextIO

import jsonpatch

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Patch, Refusal, Rules
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.fields import Json, mapping
from bitfusiond.core.objects import Pod
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import config, yaml_documents
from bitfusiond.settings import Render

# Where each kind keeps the pod that its controller makes.
_POD_TEMPLATES: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "PodTemplate": ("template",),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
    **dict.fromkeys(
        ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job"), ("spec", "template")
    ),
}


def run(settings: Render, stdin: BinaryIO, stdout: BinaryIO, stderr: TextIO) -> int:
    """Print what the cluster would hold, or ``--diff``; return 1 where the webhook would refuse something.

    What it refuses is said on ``stderr`` and left out of the result, as ``kubectl create`` does; so is input that is no
    YAML, with nothing printed. Raises Failure where the result cannot be written.
    """
    rules = config.load(
        settings.clients, settings.injection, settings.total_gpu_memory, names.EXEMPT_NAMESPACES | {names.NAMESPACE}
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
    where = _POD_TEMPLATES.get(str(document.get("kind")))
    pod = {} if where is None else mapping(document, *where)
    if where is None or not pod:
        return document, False  # without a template it is for the API server to refuse
    metadata = mapping(document, "metadata")
    namespace = metadata.get("namespace") or "default"
    title = f"{source}: {document['kind']} {namespace}/{metadata.get('name') or metadata.get('generateName') or '?'}"
    verdict = mutate(pod, str(namespace), rules)
    if isinstance(verdict, Refusal):
        for problem in verdict.problems:
            print(f"{title}: refused: {problem}", file=stderr)
        return (document if keep_refused else None), True
    if not isinstance(verdict, Patch):
        return document, False
    for warning in verdict.warnings:
        print(f"{title}: warning: {warning}", file=stderr)
    return _with_pod(document, where, jsonpatch.apply_patch(pod, verdict.operations)), False


def _with_pod(document: Json, where: tuple[str, ...], pod: Pod) -> Json:
    """A copy of ``document`` with ``pod`` under the keys ``where``."""
    if not where:
        return pod
    key, *rest = where
    return {**document, key: _with_pod(document[key], tuple(rest), pod)}
