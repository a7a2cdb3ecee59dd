"""AdmissionReview in, AdmissionReview out: ``admission.k8s.io/v1`` and ``v1beta1``, as raw JSON."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.fields import Json, mapping, objects
from bitfusiond.core.text import cut, one_line

_VERSIONS = ("admission.k8s.io/v1", "admission.k8s.io/v1beta1")
_LONGEST_WARNING = 120  # characters; the API server may cut longer ones
_LONGEST_UID = 256  # characters; the API server's have 36, and it comes back in every answer and log line
_LONGEST_NAME = 253  # characters; of an object in Kubernetes
_OWNER = ("apiVersion", "kind", "name", "uid")
_MOST_PROBLEMS = 100  # that one answer names
# Levels; a pod has some twelve. What json can read differs from 1,000 levels to 10,000 between versions of Python, and
# what can work on it is less.
_DEEPEST = 500
_OF_A_FIELD = re.compile(r"(?P<field>(?:metadata|spec)(?:\.\w+|\[[^]]*\])*): (?P<message>.*)", re.DOTALL)
# kubectl puts a field before every cause. What is wrong with no field of the pod (a missing token, a resource that no
# node has) matters to it for the sake of this one; an operator's proof knows by it that the refusal is ours.
OPTED_IN = f"metadata.annotations[{names.MANAGEMENT}]"


class BadRequestError(ValueError):
    """What came is no AdmissionReview: the caller's fault, HTTP 400."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The controller that made a pod, as its ownerReference names it."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Review:
    """A request of the API server. ``object`` is the pod, None where there is none; ``owner`` its controller."""

    api_version: str
    uid: str
    kind: tuple[str, str]
    operation: str
    subresource: str
    namespace: str
    name: str
    dry_run: bool
    object: Json | None
    owner: Owner | None = None

    @property
    def creates_pod(self) -> bool:
        """Whether it is about a pod being created, and nothing else."""
        return self.kind == ("", "Pod") and self.operation == "CREATE" and not self.subresource


def parse(body: bytes) -> Review:
    """The request in the body of a POST. Raises BadRequestError with one line that says what is wrong."""
    document = _document(body)
    if document.get("kind") != "AdmissionReview":
        raise BadRequestError("the body is not an AdmissionReview")
    if document.get("apiVersion") not in _VERSIONS:
        raise BadRequestError(f"apiVersion {document.get('apiVersion')!r} is not one of {', '.join(_VERSIONS)}")
    request = document.get("request")
    if not isinstance(request, dict):
        raise BadRequestError("the AdmissionReview has no request")
    uid = request.get("uid")
    if not isinstance(uid, str) or not uid:
        raise BadRequestError("request.uid must be a string that is not empty")
    if len(uid) > _LONGEST_UID:
        raise BadRequestError(f"request.uid is longer than {_LONGEST_UID} characters")
    kind = request.get("kind")
    if not isinstance(kind, dict):
        raise BadRequestError("request.kind must be an object")
    pod = request.get("object")
    if pod is not None and not isinstance(pod, dict):
        raise BadRequestError("request.object must be an object")
    review = Review(
        api_version=document["apiVersion"],
        uid=uid,
        kind=(_text(kind, "group"), _text(kind, "kind")),
        operation=_text(request, "operation"),
        subresource=_text(request, "subResource"),
        namespace=_text(request, "namespace"),
        name=_text(request, "name") or _name(pod),
        dry_run=request.get("dryRun") is True,
        object=pod,
        owner=_owner(pod),
    )
    if review.creates_pod and pod is None:
        raise BadRequestError("request.object is missing")
    return review


def _document(body: bytes) -> Json:
    """The JSON object in ``body``, of a depth that all here can work on; empty for another value of JSON."""
    try:
        document = json.loads(body)
        # So few brackets are never that deep: for most pods this is all.
        deep = body.count(b"[") + body.count(b"{") > _DEEPEST and _is_deep(document)
    except RecursionError:
        deep = True
    except ValueError as error:
        reason = one_line(str(error))
        raise BadRequestError(f"the body is not JSON: {reason}" if body else "the body is empty") from None
    if deep:
        raise BadRequestError(f"the body is nested too deeply (more than {_DEEPEST} levels)")
    return document if isinstance(document, dict) else {}


def _is_deep(document: Any) -> bool:
    """Whether ``document`` has more levels of lists and objects than anything here can work on."""
    level: list[Any] = [[document]]
    for _ in range(_DEEPEST + 1):
        level = [
            value
            for parent in level
            for value in (parent.values() if type(parent) is dict else parent)
            if type(value) is dict or type(value) is list
        ]
        if not level:
            return False
    return True


def _text(parent: Json, key: str) -> str:
    """A string of the request, empty where it is absent. Raises BadRequestError."""
    value = parent.get(key)
    if value is not None and not isinstance(value, str):
        raise BadRequestError(f"request.{key} must be a string")
    return value or ""


def _name(pod: Json | None) -> str:
    """A pod of a controller has no name yet, only what the name is going to begin with."""
    metadata = pod.get("metadata") if pod else None
    if not isinstance(metadata, dict):
        return ""
    return next((value for key in ("name", "generateName") if isinstance(value := metadata.get(key), str)), "")


def _owner(pod: Json | None) -> Owner | None:
    """The controller among the owners of the pod, its fields cut to what Kubernetes allows."""
    for each in objects(mapping(pod, "metadata").get("ownerReferences")):
        fields = [value for key in _OWNER if isinstance(value := each.get(key), str)]
        if each.get("controller") is True and len(fields) == len(_OWNER):
            return Owner(*(cut(value, _LONGEST_NAME) for value in fields))
    return None


def allow(review: Review, operations: Sequence[Operation] = (), warnings: Sequence[str] = ()) -> bytes:
    """The answer that admits, with a JSON Patch where ``operations`` are given."""
    response: Json = {"uid": review.uid, "allowed": True}
    if operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(_to_json(operations)).decode()
    if warnings:
        response["warnings"] = [cut(warning, _LONGEST_WARNING) for warning in warnings]
    return _answer(review, response)


def refuse(review: Review, problems: Sequence[str]) -> bytes:
    """The answer that refuses because of ``problems``.

    They are there twice. A controller shows the message; kubectl shows the causes, and up to 1.23 nothing else of an
    answer whose reason is Invalid.
    """
    named, more = _first(problems)
    causes = [_cause(problem) for problem in [*named, *([more] if more else [])]]
    status = {
        "status": "Failure",
        "code": 422,
        "reason": "Invalid",
        "message": message(problems),
        "details": {"kind": "Pod", "name": cut(review.name, _LONGEST_NAME), "causes": causes},
    }
    return _answer(review, {"uid": review.uid, "allowed": False, "status": status})


def message(problems: Sequence[str]) -> str:
    """All of them in one line, but of very many only the first."""
    named, more = _first(problems)
    return "; ".join(named) + (f"; {more}" if more else "")


def _first(problems: Sequence[str]) -> tuple[Sequence[str], str]:
    """Those that an answer names, as the API server has to take it, and words for the others."""
    more = len(problems) - _MOST_PROBLEMS
    return problems[:_MOST_PROBLEMS], f"and {more} more" if more > 0 else ""


def _cause(problem: str) -> dict[str, str]:
    """A StatusCause of Kubernetes' API. With its field before it, kubectl prints a ``problem`` word for word."""
    match = _OF_A_FIELD.fullmatch(problem)
    field, text = match.group("field", "message") if match else (OPTED_IN, problem)
    return {"reason": "FieldValueInvalid", "field": field, "message": text}


def _answer(review: Review, response: Json) -> bytes:
    return _to_json({"apiVersion": review.api_version, "kind": "AdmissionReview", "response": response})


_encoder = json.JSONEncoder(separators=(",", ":"), check_circular=False)


def _to_json(value: object) -> bytes:
    return _encoder.encode(value).encode()
