"""The only place that runs kubectl: JSON in and out, errors as one line.

Server-side apply throughout, under a field manager of our own: what others wrote beside our fields (the webhook's
``caBundle``, a Service's address, somebody's labels) stays, a field that left the manifests goes, and an apply that
changes nothing leaves the object's resourceVersion as it was. kubectl 1.20 is the oldest that is tried.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlencode

from bitfusiond.core import fields
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.objects import Object
from bitfusiond.core.text import shown
from bitfusiond.errors import ConfigurationError, Failure

FIELD_MANAGER = "bitfusiond-deploy"
REQUEST_SECONDS = 30
# Kubectl's own deadline is for each request: it may ask several times, and for the API's groups first.
_REQUESTS = 6
PAGE = 500  # objects of a list that come at once
MOST_PAGES = 100
# Objects that one call deletes: what can be made in a namespace without end fits no command line, nor the deadline.
MOST_AT_ONCE = 50

_SERVER_ERROR = re.compile(r"Error from server(?: \((?P<reason>\w+)\))?: ")
_NOISE = re.compile(r"^(Warning:|W\d{4} |[EI]\d{4} )")


class KubectlError(Failure):
    """kubectl, or the API server behind it, said no; ``reason`` is the API server's word for it (``NotFound``), empty
    where there was none.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Ref:
    """An object by what kubectl calls it. ``kind`` as in manifests; ``namespace`` empty for a cluster's own."""

    kind: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"

    @property
    def words(self) -> str:
        """For a command line that a person copies: ``configmap x -n bwki``."""
        return f"{self.kind.lower()} {self.name}" + (f" -n {self.namespace}" if self.namespace else "")


def ref(document: Object) -> Ref:
    """What kubectl calls ``document``."""
    metadata = document["metadata"]
    return Ref(document["kind"], metadata["name"], metadata.get("namespace") or "")


class Kubectl:
    """``program`` is KUBECTL; which cluster is meant is kubectl's affair (KUBECONFIG, current context), unless
    ``options`` say it (``--context=NAME``). ``seconds`` is the deadline of one request.
    """

    def __init__(self, program: str = "kubectl", options: Sequence[str] = (), seconds: int = REQUEST_SECONDS) -> None:
        self.program = program
        self.options = tuple(options)
        self.seconds = seconds
        # Asking for a kind that is not there has kubectl read anew which are.
        self._absent_kinds: set[str] = set()

    def run(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints. Raises KubectlError; ConfigurationError where there is no such program."""
        done = self._run(*arguments, stdin=stdin)
        if done.returncode != 0:
            raise _error(arguments, done.stderr)
        return done.stdout

    def _run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """However it ended."""
        command = [self.program, f"--request-timeout={self.seconds}s", *self.options, *arguments]
        try:
            return subprocess.run(  # noqa: S603 - what the operator named, without a shell
                command,
                input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True,
                encoding="utf-8",
                errors="replace",  # a container's log may hold anything
                check=False,
                timeout=_REQUESTS * self.seconds,
            )
        except FileNotFoundError:
            raise ConfigurationError(
                f"KUBECTL: {self.program!r} is not there: install kubectl, or name the program in KUBECTL"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"KUBECTL: {self.program!r} cannot be run: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise KubectlError(
                f"kubectl {arguments[0]}: no answer within {_REQUESTS * self.seconds} s: does the API server answer"
                " `kubectl get --raw /readyz`?"
            ) from None

    def json(self, *arguments: str, stdin: str | None = None) -> list[Object]:
        """The objects that kubectl prints with ``-o json``, those of a List one by one."""
        return objects_in(self.run(*arguments, "-o", "json", stdin=stdin))

    def get(self, what: Ref) -> Object | None:
        """The object, or None where there is none, or no such kind."""
        try:
            objects = self._listed(what.kind, what.name, *_in(what.namespace), "--ignore-not-found", "-o", "json")
        except KubectlError as error:
            if error.reason == "NotFound":
                return None
            raise
        return objects[0] if objects else None

    def existing(self, refs: Iterable[Ref]) -> dict[Ref, Object]:
        """Those of ``refs`` that are there, of kinds that every cluster has; one call for each namespace."""
        by_namespace: dict[str, list[str]] = {}
        for each in dict.fromkeys(refs):
            by_namespace.setdefault(each.namespace, []).append(f"{each.kind.lower()}/{each.name}")
        if len(by_namespace) > 1:
            # Of what is in no namespace kubectl may be asked beside what is in one.
            in_none = by_namespace.pop("", [])
            by_namespace[next(iter(by_namespace))] += in_none
        present = []
        for namespace, named in by_namespace.items():
            present += self.json("get", *named, *_in(namespace), "--ignore-not-found")
        return {ref(each): each for each in present}

    def all(self, kind: str, *arguments: str, namespace: str = "") -> list[Object]:
        """The objects of a kind (or several, ``a,b``), of all namespaces where none is given; [] for no such kind."""
        where = _in(namespace) if namespace else ["--all-namespaces"]
        return self._listed(kind, *where, *arguments, "-o", "json")

    def all_with_managers(self, kind: str, *arguments: str) -> list[Object]:
        """As :meth:`all`, with ``managedFields``: kubectl from 1.21 on hides them in JSON, and never in this form."""
        return self._listed(kind, "--all-namespaces", *arguments, "-o", "jsonpath={@}")

    def _listed(self, kind: str, *arguments: str) -> list[Object]:
        if kind in self._absent_kinds:
            return []
        try:
            return objects_in(self.run("get", kind.lower(), *arguments))
        except KubectlError as error:
            if error.reason != "NoKind":
                raise
            self._absent_kinds.add(kind)
            return []

    def get_all(self, documents: Sequence[Object]) -> dict[Ref, Object]:
        """Those of ``documents`` that the cluster has, as it has them."""
        if not documents:
            return {}
        return {ref(each): each for each in self.json("get", "--ignore-not-found", "-f", "-", stdin=_text(documents))}

    def apply(self, documents: Sequence[Object], *, manager: str = FIELD_MANAGER) -> dict[Ref, Object]:
        """Server-side apply, in the order given, over whoever else wrote these fields; the objects as they are now."""
        if not documents:
            return {}
        options = ["--server-side", "--force-conflicts", f"--field-manager={manager}"]
        return {ref(each): each for each in self.json("apply", *options, "-f", "-", stdin=_text(documents))}

    def create(self, documents: Sequence[Object], *arguments: str) -> list[Object]:
        return self.json("create", *arguments, "-f", "-", stdin=_text(documents))

    def patch(self, what: Ref, operations: Sequence[Operation]) -> None:
        """A JSON Patch. It stands in the arguments, for everybody on this machine to see: nothing secret."""
        arguments = ["patch", what.kind.lower(), what.name, *_in(what.namespace)]
        self.run(*arguments, "--type=json", "-p", json.dumps(list(operations)))

    def delete(self, what: Ref, *arguments: str) -> bool:
        """Whether there was such an object."""
        command = ["delete", what.kind.lower(), what.name, *_in(what.namespace), "--ignore-not-found"]
        try:
            return bool(self.run(*command, "--wait=false", *arguments).strip())
        except KubectlError as error:
            if error.reason in {"NotFound", "NoKind"}:
                return False
            raise

    def delete_each(self, refs: Sequence[Ref]) -> Iterator[tuple[Ref, KubectlError | None]]:
        """Delete ``refs`` in their order: each that was there, and why it stays if it does.

        One call for those in a row that are in one namespace or in none; where it fails, one for each that it left.
        """
        for group in _rows(refs):
            words = [f"{each.kind.lower()}/{each.name}" for each in group]
            namespace = max(each.namespace for each in group)
            printed, is_done = "", False
            # Where it does not end in time, the others shall not wait for the one that hangs.
            with suppress(KubectlError):
                done = self._run("delete", *words, *_in(namespace), "--ignore-not-found", "--wait=false", "-o", "name")
                printed, is_done = done.stdout, done.returncode == 0
            deleted = set(map(_without_group, printed.split()))
            for each, word in zip(group, words, strict=True):
                if word in deleted:
                    yield each, None
                elif not is_done:
                    try:
                        if self.delete(each):
                            yield each, None
                    except KubectlError as error:
                        yield each, error

    def raw(self, path: str) -> str:
        return self.run("get", "--raw", path)

    def document(self, path: str) -> Object:
        """The object at a path of the API. Raises KubectlError."""
        try:
            return fields.mapping(json.loads(self.raw(path)))
        except ValueError:
            raise KubectlError(f"{path}: the answer is not JSON: is it a Kubernetes API server?", "NotJson") from None

    def pages(self, path: str, **selectors: str) -> Iterator[list[Object]]:
        """A list of the API's, page by page: who keeps little of each object needs no memory for all of them.

        ``selectors`` are labelSelector and fieldSelector. Raises KubectlError, also for more pages than anybody needs.
        """
        following = ""
        for _ in range(MOST_PAGES):
            query = {**selectors, "limit": str(PAGE), **({"continue": following} if following else {})}
            answer = self.document(f"{path}?{urlencode(query)}")
            yield fields.objects(answer.get("items"))
            following = str(fields.mapping(answer, "metadata").get("continue") or "")
            if not following:
                return
        raise KubectlError(f"{path} has more than {MOST_PAGES * PAGE} objects: ask for one namespace", "TooMany")


def objects_in(text: str) -> list[Object]:
    """The objects in what kubectl printed: one, a List, or several one after the other. Raises KubectlError."""
    decoder = json.JSONDecoder()
    objects: list[Object] = []
    rest = text.strip()
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            raise _no_object(rest) from None
        if not isinstance(value, dict):
            raise _no_object(rest)
        objects += value["items"] if isinstance(value.get("items"), list) else [value]
        rest = rest[end:].lstrip()
    return objects


def _no_object(text: str) -> KubectlError:
    return KubectlError(
        f"kubectl printed {shown(text.splitlines()[0])} where JSON is expected: does KUBECTL, or a program called"
        " kubectl, print something of its own?",
        "NotJson",
    )


def _without_group(printed: str) -> str:
    """``clusterrole/x`` of ``clusterrole.rbac.authorization.k8s.io/x``."""
    kind, _, name = printed.partition("/")
    return f"{kind.partition('.')[0]}/{name}"


def _rows(refs: Iterable[Ref]) -> list[list[Ref]]:
    """``refs`` in their order: together, up to ``MOST_AT_ONCE``, those in a row in one namespace or in none."""
    rows: list[list[Ref]] = []
    for each in refs:
        namespaces = {other.namespace for other in rows[-1]} - {""} if rows else set()
        is_full = bool(rows) and len(rows[-1]) == MOST_AT_ONCE
        if rows and not is_full and (not each.namespace or namespaces <= {each.namespace}):
            rows[-1].append(each)
        else:
            rows.append([each])
    return rows


def _in(namespace: str) -> list[str]:
    return ["-n", namespace] if namespace else []


def _text(documents: Iterable[Object]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(documents)})


def _error(arguments: Sequence[str], stderr: str) -> KubectlError:
    """kubectl's stderr in one line, without its log and without what it says twice."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and not _NOISE.match(line)]
    text = "; ".join(dict.fromkeys(lines)) or stderr.strip() or "it failed without a word"
    server_error = _SERVER_ERROR.search(text)
    reason = (server_error["reason"] or "Unknown") if server_error else ""
    if not server_error and re.search(r"no matches for kind|the server doesn't have a resource type", text):
        reason = "NoKind"
    return KubectlError(f"kubectl {arguments[0]}: {_SERVER_ERROR.sub('', text).removeprefix('error: ')}", reason)
