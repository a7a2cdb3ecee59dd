"""What manifests permit, what an audit log says was asked for, and how the two compare."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}


class Grant(NamedTuple):
    """One verb on one thing. ``namespace`` is that of the Role; None: a ClusterRole. ``name`` None: whatever its name.

    ``homes`` are the namespaces for which a Role would have done.
    """

    namespace: str | None
    group: str
    resource: str
    name: str | None
    verb: str
    homes: frozenset[str] = frozenset()

    def __str__(self) -> str:
        where = f"in {self.namespace}" if self.namespace else "everywhere"
        what = self.resource + (f".{self.group}" if self.group else "") + (f" {self.name}" if self.name else "")
        return f"{self.verb} {what} {where}"


@dataclass(frozen=True, slots=True)
class Request:
    """One line of an audit log."""

    verb: str
    group: str
    resource: str
    namespace: str | None
    name: str | None
    code: int
    decision: str

    @property
    def forbidden(self) -> bool:
        return self.code == 403 or self.decision != "allow"

    def needs(self, grant: Grant) -> bool:
        """Whether it shows that ``grant`` is needed, and needed as widely as it is given."""
        if (self.verb, self.group, self.resource) != (grant.verb, grant.group, grant.resource):
            return False
        # The name of what is being created is in the log, but comes out of the body: RBAC had none to look at.
        if grant.name is not None and (self.verb == "create" or self.name != grant.name):
            return False
        if grant.namespace is not None:
            return self.namespace == grant.namespace
        return self.namespace not in grant.homes


def granted(documents: Iterable[dict[str, Any]], account: str) -> list[Grant]:
    """All that RBAC manifests permit to the ServiceAccount of that name, one verb of one thing at a time."""
    documents = list(documents)
    bindings = [
        document
        for document in documents
        if document["kind"] in {"RoleBinding", "ClusterRoleBinding"}
        and any(subject["kind"] == "ServiceAccount" and subject["name"] == account for subject in document["subjects"])
    ]
    homes = frozenset(each["metadata"]["namespace"] for each in bindings if each["kind"] == "RoleBinding")
    found: list[Grant] = []
    for binding in bindings:
        namespace = binding["metadata"].get("namespace")
        (role,) = (
            document
            for document in documents
            if document["kind"] == binding["roleRef"]["kind"]
            and document["metadata"]["name"] == binding["roleRef"]["name"]
            and document["metadata"].get("namespace") in {namespace, None}
        )
        for rule in role["rules"]:
            things = itertools.product(
                rule["apiGroups"], rule["resources"], rule.get("resourceNames", [None]), rule["verbs"]
            )
            found += [Grant(namespace, *thing, homes=homes if namespace is None else frozenset()) for thing in things]
    return found


def requests(audit_log: Path, user: str) -> Iterator[Request]:
    """What ``user`` asked for. For a list or watch by ``metadata.name`` the API server writes that name.

    A watch is there as soon as its answer begins, and again when it ends.
    """
    for line in audit_log.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            return  # being written
        event = json.loads(line)
        if event["user"].get("username") != user:
            continue
        # What is about no object, such as /version, goes by its path.
        target = event.get("objectRef") or {"resource": event["requestURI"]}
        yield Request(
            verb=event["verb"],
            group=target.get("apiGroup", ""),
            resource=target["resource"] + (f"/{target['subresource']}" if "subresource" in target else ""),
            namespace=target.get("namespace"),
            name=target.get("name"),
            code=event.get("responseStatus", {}).get("code", 0),
            decision=event.get("annotations", {}).get("authorization.k8s.io/decision", ""),
        )


def unused(grants: Iterable[Grant], asked: Iterable[Request]) -> list[str]:
    """The grants that no request needed."""
    asked = list(asked)
    return [str(grant) for grant in grants if not any(request.needs(grant) for request in asked)]
