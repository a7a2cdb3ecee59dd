"""What must be right before anything is changed: every problem at once, each with its fix."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bitfusiond.core import copies, names
from bitfusiond.core.copies import TOKENS, Missing, Token
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate import tokenfiles
from bitfusiond.operate.kubectl import Json, Kubectl, KubectlError
from bitfusiond.operate.settings import COMMUNITY, LEGACY, TKGI

TOKEN_NAMESPACE = "kube-system"  # noqa: S105 - a namespace
# matchConditions of webhooks are on by default from here on.
MATCH_CONDITIONS = (1, 28)
# PodSecurityPolicy, for which the overlay tkgi is, ends before this one.
NO_POLICIES = (1, 25)
OLDEST = (1, 20)

Version = tuple[int, int]


def server_version(kubectl: Kubectl) -> Version:
    """The API server's version. Raises KubectlError that names the context where it does not answer."""
    try:
        answer = json.loads(kubectl.run("version", "-o", "json"))
    except KubectlError as error:
        raise KubectlError(
            f"the cluster does not answer (context {context(kubectl)}): {error}; choose another with"
            " `kubectl config use-context NAME` or KUBECONFIG"
        ) from None
    return version_of(answer.get("serverVersion") or {})


def version_of(server: Json) -> Version:
    """From ``{"major": "1", "minor": "28+"}``."""
    numbers = [re.match(r"\d+", str(server.get(part) or "")) for part in ("major", "minor")]
    if numbers[0] is None or numbers[1] is None:
        raise KubectlError("the API server does not tell its version: is it a Kubernetes API server?")
    return int(numbers[0][0]), int(numbers[1][0])


def context(kubectl: Kubectl) -> str:
    try:
        return kubectl.run("config", "current-context").strip()
    except KubectlError:
        return "none"


def platform(wanted: str, version: Version) -> tuple[str, str | None]:
    """Which overlay fits the API server, and why it is not the one that was asked for.

    Raises ConfigurationError for a server that none fits.
    """
    told = f"{version[0]}.{version[1]}"
    if version < OLDEST:
        raise ConfigurationError(f"the API server is {told}; bitfusiond needs {OLDEST[0]}.{OLDEST[1]} or later")
    if wanted == COMMUNITY and version < MATCH_CONDITIONS:
        since = f"{MATCH_CONDITIONS[0]}.{MATCH_CONDITIONS[1]}"
        return LEGACY, f"the API server is {told}, which has no matchConditions (from {since}): using {LEGACY}"
    if wanted == TKGI and version >= NO_POLICIES:
        instead, _ = platform(COMMUNITY, version)
        return instead, f"the API server is {told}, which has no PodSecurityPolicy: {TKGI} needs nothing of its own"
    return wanted, None


_ADMIN: Sequence[tuple[str, str, str, str]] = (
    # namespace, API group, resource, verb; applying needs create and patch
    *(("", "", "namespaces", verb) for verb in ("create", "patch")),
    *(("", "", "nodes", verb) for verb in ("list",)),
    *(("", "", "secrets", verb) for verb in ("list", "patch")),
    *(
        ("bwki", "", each, verb)
        for each in ("configmaps", "serviceaccounts", "services")
        for verb in ("create", "patch")
    ),
    *(("bwki", "apps", "deployments", verb) for verb in ("create", "patch")),
    *(("kube-system", "apps", "daemonsets", verb) for verb in ("create", "patch", "delete")),
    *(
        ("", "rbac.authorization.k8s.io", each, verb)
        for each in ("clusterroles", "clusterrolebindings", "roles", "rolebindings")
        for verb in ("create", "patch")
    ),
    *(
        ("", "admissionregistration.k8s.io", f"{each}webhookconfigurations", verb)
        for each in ("mutating", "validating")
        for verb in ("create", "patch")
    ),
    ("default", "", "pods", "create"),
)


def permissions(kubectl: Kubectl, needed: Iterable[tuple[str, str, str, str]] = _ADMIN) -> list[str]:
    """What this user may not do and must: asked of the API server in one call."""
    reviews = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {"namespace": namespace, "group": group, "resource": resource, "verb": verb}
            },
        }
        for namespace, group, resource, verb in needed
    ]
    return denied(kubectl.create(reviews))


def denied(reviews: Iterable[Json]) -> list[str]:
    found = []
    for review in reviews:
        asked: dict[str, Any] = review["spec"]["resourceAttributes"]
        if not review.get("status", {}).get("allowed"):
            where = f" in {asked['namespace']}" if asked.get("namespace") else ""
            group = f".{asked['group']}" if asked.get("group") else ""
            found.append(f"{asked['verb']} {asked['resource']}{group}{where}")
    if not found:
        return []
    return [f"your account may not: {', '.join(found)}; deploy as an administrator of the cluster (cluster-admin)"]


def namespace(found: Json | None) -> list[str]:
    """Whether the namespace can be applied to."""
    if found is None or "deletionTimestamp" not in found["metadata"]:
        return []
    name = found["metadata"]["name"]
    return [f"Namespace {name} is being deleted: deploy when `kubectl get namespace {name}` finds it no more"]


def token_secrets(kubectl: Kubectl) -> dict[str, Json]:
    """The Secrets of the token namespace that may be sources, by name."""
    found = {}
    for name in (*names.TOKEN_SECRETS.values(), names.EARLIER_TOKEN_SECRET):
        for each in kubectl.all("Secret", "--field-selector", f"metadata.name={name}", namespace=TOKEN_NAMESPACE):
            found[name] = each
    return found


def tokens(secrets: dict[str, Json]) -> list[str]:
    """What is wrong with the sources of the tokens."""
    return [problem for token in TOKENS for problem in token_problems(token, secrets)]


def token_problems(token: Token, secrets: dict[str, Json]) -> list[str]:
    """What is wrong with the source of one token; its content is never quoted."""
    source = copies.content(token, secrets, TOKEN_NAMESPACE)
    if isinstance(source, Missing):
        return [f"{source.message}, or all three with `just tokens DIR`"]
    return [
        f"Secret {source.origin}: {problem}; mend the file and run `just tokens DIR`"
        for problem in tokenfiles.problems(token.file, tokenfiles.decoded(source.data))
    ]
