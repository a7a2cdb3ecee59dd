"""Targets: an AdmissionReview as bytes, and pods as structures; both go the way of a request."""

from __future__ import annotations

import base64
import copy
import functools
import json
from collections.abc import Iterator
from typing import Any

import jsonpatch
import yaml

from bitfusiond.core import names
from bitfusiond.core.admission import review
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal, Untouched
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.admission.validate import validate
from tests import DATA, EXAMPLES, pods
from tests.tools.fuzz import invariants
from tests.tools.fuzz.choices import Choices

_MOST_CHANGES = 8
_NODES = {"bitfusion.io/gpu": 1000}


@functools.cache
def known_pods() -> list[Any]:
    """The README's pods and those of ``tests/data/pods``: every structure begins as one of them."""
    examples = [pods.example(path.stem) for path in sorted(EXAMPLES.glob("*.yaml")) if path.stem != "quota"]
    others = [yaml.safe_load(path.read_text()) for path in sorted((DATA / "pods").glob("*.yaml"))]
    # Those of other clients last: kept inputs name a pod by its number.
    known = [pods.pod(), *examples, *others]
    return sorted(known, key=lambda pod: names.CLIENT_NAME in pod["metadata"]["annotations"])


def request(pod: Any, version: str = "v1") -> bytes:
    """The API server's question about ``pod``."""
    asked = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": pods.NAMESPACE,
        "operation": "CREATE",
        "object": pod,
    }
    document = {"apiVersion": f"admission.k8s.io/{version}", "kind": "AdmissionReview", "request": asked}
    return json.dumps(document, separators=(",", ":")).encode()


def review_seeds() -> tuple[bytes, ...]:
    """Reviews of every known pod."""
    odd = pods.pod(securityContext={"runAsGroup": float("inf")}, initContainers=5)
    return tuple(request(pod, version) for pod in [*known_pods(), odd] for version in ("v1", "v1beta1"))


def structure_seeds() -> tuple[bytes, ...]:
    """Every known pod, with a change or two."""
    return tuple(bytes([index]) + b"\x05" * 9 for index in range(len(known_pods())))


def admission(data: bytes) -> None:
    """Any body: a broken request is said in one line, anything else gets an answer that the API server can read."""
    try:
        asked = review.parse(data)
    except review.BadRequestError as error:
        invariants.said_in_one_line(str(error))
        return
    if not asked.creates_pod or asked.object is None:
        _answered(asked, review.allow(asked))
        return
    decided(asked, asked.object)


def decided(asked: review.Review, pod: dict[str, Any]) -> None:
    """Both endpoints' decisions about ``pod``, and the same about the pod that comes of it."""
    rules = pods.rules()
    before = copy.deepcopy(pod)
    verdict = mutate(pod, asked.namespace, rules)
    assert invariants.same(pod, before), "mutate() must not change its input"
    match verdict:
        case Refusal():
            invariants.told(verdict.problems)
            _answered(asked, review.refuse(asked, verdict.problems))
        case Untouched():
            _answered(asked, review.allow(asked))
        case Patch():
            answer = _answered(asked, review.allow(asked, verdict.operations, verdict.warnings))
            operations = invariants.strict_json(base64.b64decode(answer["patch"], validate=True))
            after = jsonpatch.apply_patch(before, operations)
            invariants.patched(before, after, rules)
            assert isinstance(mutate(after, asked.namespace, rules), Untouched), "a second call changes the pod"
            again = validate(after, asked.namespace, rules, None)
            assert isinstance(again, Allowed), f"/validate refuses our own work: {again}"
    stored_verdict = validate(pod, asked.namespace, rules, _NODES)
    if isinstance(stored_verdict, Refusal):
        invariants.told(stored_verdict.problems)


def _answered(asked: review.Review, body: bytes) -> dict[str, Any]:
    """What the API server reads in ``body``, which must fit the question."""
    document = invariants.strict_json(body)
    assert (document["apiVersion"], document["kind"]) == (asked.api_version, "AdmissionReview")
    response: dict[str, Any] = document["response"]
    assert response["uid"] == asked.uid
    assert all(len(warning) <= 120 for warning in response.get("warnings", []))
    assert len(body) <= 4 * 2**20, f"an answer of {len(body)} bytes"
    return response


def structures(data: bytes) -> None:
    """A known pod with some fields changed, taken out, or put elsewhere."""
    choices = Choices(data)
    pod = copy.deepcopy(choices.pick(known_pods()))
    for _ in range(_MOST_CHANGES):
        if choices.left:
            _change(pod, choices)
    admission(request(pod))


def _change(pod: Any, choices: Choices) -> None:
    places = list(_places(pod))
    if not places:
        return
    parent, key = places[choices.below(len(places))]
    match choices.below(6):
        case 0 if isinstance(parent, dict):
            del parent[key]
        case 1 if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        case 2:
            other, at = choices.pick(places)
            parent[key] = copy.deepcopy(other[at])
        case 3 if isinstance(parent[key], dict):
            parent[key][choices.key()] = choices.value()
        case 4:
            parent[key] = choices.texts()
        case 5:
            parent[key] = choices.text()
        case _:
            parent[key] = choices.value()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every field and element inside of ``value``, as its parent and its key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)
