"""CPU time of the core for one pod, against reading and writing the same JSON and nothing else."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from bitfusiond.core.admission import review
from bitfusiond.core.admission.decision import Patch
from bitfusiond.core.admission.mutate import mutate
from tests.pods import NAMESPACE, container, example, pod, rules
from tests.tools.bench.measure import Figure, compare, cpu_microseconds


def figures() -> list[Figure]:
    """The README's pod, one of 20 containers, one of 200 variables."""
    many = pod(*(container(name=f"c{index}") for index in range(20)))
    wide = pod(container(env=[{"name": f"V{index}", "value": "x" * 40} for index in range(200)]))
    pods = {"the README's pod": example("pod"), "20 GPU containers": many, "200 variables": wide}
    return [each for name, given in pods.items() for each in _figures(name, given)]


def _figures(name: str, given: dict[str, Any]) -> list[Figure]:
    body = json.dumps(
        {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "namespace": NAMESPACE,
                "operation": "CREATE",
                "object": given,
            },
        }
    ).encode()

    def answer() -> bytes:
        request = review.parse(body)
        assert request.object is not None
        verdict = mutate(request.object, request.namespace, rules())
        assert isinstance(verdict, Patch)
        return review.allow(request, verdict.operations, verdict.warnings)

    answered = json.loads(answer())

    def json_alone() -> bytes:
        json.loads(body)
        return json.dumps(answered).encode()

    decide = partial(mutate, given, NAMESPACE, rules())
    return [
        compare(
            f"mutate, {name}",
            "us CPU",
            partial(cpu_microseconds, decide),
            "reading and writing its JSON",
            partial(cpu_microseconds, json_alone),
        ),
        compare(
            f"review to review, {name}",
            "us CPU",
            partial(cpu_microseconds, answer),
            "reading and writing its JSON",
            partial(cpu_microseconds, json_alone),
        ),
    ]
