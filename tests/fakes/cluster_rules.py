"""The few rules of the API server about objects on which our code could stumble."""

from __future__ import annotations

import base64
from typing import NamedTuple

from bitfusiond.kube import CLAIM_TEMPLATES, MUTATING, NODES, SECRETS, VALIDATING, InvalidError, Object, Resource


class Key(NamedTuple):
    """One object of the cluster."""

    resource: Resource
    namespace: str | None
    name: str


def type_of(resource: Resource) -> dict[str, str]:
    return {"apiVersion": resource.api_version, "kind": resource.kind}


def qualified(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else resource.plural


def encode_string_data(document: Object) -> None:
    for key, value in document.pop("stringData", {}).items():
        document.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def validate(key: Key, before: Object, after: Object) -> None:
    """Raise InvalidError, as the API server does, with all that is wrong with ``after``."""
    problems = []
    if key.resource == SECRETS:
        after.setdefault("type", "Opaque")
        if before and before["type"] != after["type"]:
            problems.append("type: field is immutable")
        if before.get("immutable") and (before.get("data") != after.get("data") or not after.get("immutable")):
            problems.append("data: field is immutable when `immutable` is set")
    elif key.resource in (MUTATING, VALIDATING):
        for index, webhook in enumerate(after.get("webhooks", [])):
            if not {"url", "service"} & webhook.get("clientConfig", {}).keys():
                problems.append(f"webhooks[{index}].clientConfig: exactly one of url or service is required")
            missing = {"sideEffects", "admissionReviewVersions"} - webhook.keys()
            problems += [f"webhooks[{index}].{each}: Required value" for each in sorted(missing)]
    elif key.resource == CLAIM_TEMPLATES:
        _default_requests(after)
        if before and before["spec"] != after["spec"]:
            problems.append("spec: Invalid value: field is immutable")
    elif key.resource == NODES and key.namespace is not None:
        problems.append("metadata.namespace: Forbidden: not allowed on this type")
    if problems:
        raise InvalidError(f'{qualified(key.resource)} "{key.name}" is invalid: {"; ".join(problems)}')


def _default_requests(template: Object) -> None:
    for request in template["spec"]["spec"].get("devices", {}).get("requests", []):
        for exact in [request["exactly"]] if "exactly" in request else request["firstAvailable"]:
            exact.setdefault("allocationMode", "ExactCount")
            exact.setdefault("count", 1)
