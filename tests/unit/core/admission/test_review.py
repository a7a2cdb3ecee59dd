"""AdmissionReview in both versions, and every body that is none."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core.admission import review
from tests.strategies import json_values


def _body(version: str = "v1", **changes: Any) -> bytes:
    request = {
        "uid": "u-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "n",
        "operation": "CREATE",
        "object": {"metadata": {"generateName": "p-"}},
        **changes,
    }
    return json.dumps(
        {"apiVersion": f"admission.k8s.io/{version}", "kind": "AdmissionReview", "request": request}
    ).encode()


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_the_answer_is_in_the_version_of_the_question(version: str) -> None:
    """apiVersion, kind and uid come back, as an API server that speaks v1 demands."""
    request = review.parse(_body(version))
    for answer in (review.allow(request), review.refuse(request, ["no"])):
        document = json.loads(answer)
        assert (document["apiVersion"], document["kind"]) == (f"admission.k8s.io/{version}", "AdmissionReview")
        assert document["response"]["uid"] == "u-1"


def test_an_allowing_answer_has_a_patch_only_where_there_is_one() -> None:
    request = review.parse(_body())
    assert json.loads(review.allow(request))["response"] == {"uid": "u-1", "allowed": True}
    operations = [{"op": "add", "path": "/x", "value": "ü"}]
    response = json.loads(review.allow(request, operations, ["w" * 200]))["response"]
    assert response["patchType"] == "JSONPatch"
    assert json.loads(base64.b64decode(response["patch"])) == operations
    assert response["warnings"] == ["w" * 117 + "..."]


def test_a_refusing_answer_says_why() -> None:
    problems = [
        "spec.containers[0].command: must be set",
        "metadata.annotations[a/b, c/d]: x: y",
        "Secret a/b is missing",
    ]
    response = json.loads(review.refuse(review.parse(_body()), problems))["response"]
    causes = [
        ("spec.containers[0].command", "must be set"),
        ("metadata.annotations[a/b, c/d]", "x: y"),
        ("metadata.annotations[auto-management/bitfusion]", "Secret a/b is missing"),
    ]
    details = {
        "kind": "Pod",
        "name": "p-",
        "causes": [{"reason": "FieldValueInvalid", "field": field, "message": message} for field, message in causes],
    }
    status = {"status": "Failure", "code": 422, "reason": "Invalid", "message": "; ".join(problems), "details": details}
    assert response == {"uid": "u-1", "allowed": False, "status": status}


@given(st.lists(st.text() | st.from_regex(r"(spec|metadata)[.a-z\[\]]*: .*")))
def test_a_refusal_has_every_problem_word_for_word_in_its_message_and_among_its_causes(problems: list[str]) -> None:
    """kubectl prints FIELD: MESSAGE of each cause, so a problem may only be split where it has such a form."""
    status = json.loads(review.refuse(review.parse(_body()), problems))["response"]["status"]
    assert status["message"] == "; ".join(problems)
    printed = [f"{cause['field']}: {cause['message']}" for cause in status["details"]["causes"]]
    assert [line.removeprefix(f"{review.OPTED_IN}: ") for line in printed] == [
        problem.removeprefix(f"{review.OPTED_IN}: ") for problem in problems
    ]


def test_of_very_many_problems_the_first_are_said_and_the_others_counted() -> None:
    """An answer of megabytes is none that the API server takes."""
    problems = [f"spec.containers[{index}].name: wrong" for index in range(150)]
    status = json.loads(review.refuse(review.parse(_body()), problems))["response"]["status"]
    assert status["message"].endswith("spec.containers[99].name: wrong; and 50 more")
    assert len(status["details"]["causes"]) == 101
    assert status["details"]["causes"][-1]["message"] == "and 50 more"


def test_what_is_read_from_a_request() -> None:
    request = review.parse(_body(dryRun=True))
    assert (request.namespace, request.name, request.dry_run, request.creates_pod) == ("n", "p-", True, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}},
        {"kind": {"group": "apps", "version": "v1", "kind": "Pod"}},
        {"subResource": "ephemeralcontainers"},
    ],
)
def test_only_the_creation_of_a_pod_is_one(changes: dict[str, Any]) -> None:
    """Kind, operation and subresource are looked at."""
    assert not review.parse(_body(**changes)).creates_pod


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty"),
        (b"{", "the body is not JSON"),
        (b"\xff\xfe\x00", "the body is not JSON"),
        (b"[" * 100_000, "the body is nested too deeply (more than 500 levels)"),
        (b"[" * 501 + b"]" * 501, "the body is nested too deeply (more than 500 levels)"),
        (b'{"a":' * 501 + b"1" + b"}" * 501, "the body is nested too deeply (more than 500 levels)"),
        (b"[" * 500 + b"]" * 500, "the body is not an AdmissionReview"),
        (b"[" + b"[],{}," * 1000 + b"1]", "the body is not an AdmissionReview"),
        (b"[" + b"[],{}," * 1000 + b"[" * 499 + b"]" * 500, "the body is not an AdmissionReview"),
        (b"[" + b"[],{}," * 1000 + b"[" * 500 + b"]" * 501, "the body is nested too deeply (more than 500 levels)"),
        (b'[{"a":' * 250 + b"1" + b"}]" * 250, "the body is not an AdmissionReview"),
        (b"1" * 10_000, "the body is not JSON"),
        (b"[]", "the body is not an AdmissionReview"),
        (b"null", "the body is not an AdmissionReview"),
        (b'{"kind": "Pod"}', "the body is not an AdmissionReview"),
        (b'{"kind": "AdmissionReview"}', "apiVersion None is not one of admission.k8s.io/v1, admission.k8s.io/v1beta1"),
        (_body("v2"), "apiVersion 'admission.k8s.io/v2' is not one of"),
        (b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"}', "the AdmissionReview has no request"),
        (
            b'{"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": null}',
            "the AdmissionReview has no request",
        ),
        (_body(uid=""), "request.uid must be a string that is not empty"),
        (_body(uid=7), "request.uid must be a string that is not empty"),
        (_body(kind="Pod"), "request.kind must be an object"),
        (_body(namespace=1), "request.namespace must be a string"),
        (_body(object="x"), "request.object must be an object"),
        (_body(object=None), "request.object is missing"),
    ],
)
def test_what_is_no_admission_review_is_a_bad_request(body: bytes, message: str) -> None:
    """No panic, no empty answer."""
    with pytest.raises(review.BadRequestError, match="^" + re.escape(message)):
        review.parse(body)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_body_raises_anything_else(body: bytes) -> None:
    with pytest.raises(review.BadRequestError):
        review.parse(body)


def test_a_long_name_does_not_make_a_long_answer() -> None:
    asked = review.parse(_body(name="é" * 2_000_000))
    assert len(review.refuse(asked, ["spec: wrong"])) < 4096
