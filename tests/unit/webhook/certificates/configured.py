"""A cluster in memory with the two webhook configurations."""

from __future__ import annotations

from bitfusiond.kube import ConflictError, Object, Resource
from bitfusiond.webhook.certificates.cabundles import TARGETS
from tests.fakes.cluster import FakeCluster
from tests.fakes.cluster_rules import Key

NAMESPACE = "bwki"


class Cluster(FakeCluster):
    """One whose apply refuses, as the API server does, what was made for another state of the object."""

    async def apply(
        self, resource: Resource, namespace: str | None, name: str, body: Object, *, field_manager: str
    ) -> Object:
        await self.asked("patch", resource, namespace, name)
        stored = (self.find(resource, namespace, name) or {}).get("metadata", {})
        for key in ("uid", "resourceVersion"):
            if body.get("metadata", {}).get(key) not in (None, stored.get(key)):
                raise ConflictError(f"{name}: another {key}")
        return self._write(Key(resource, namespace, name), body, field_manager, applied=True)


def configuration(name: str, *webhooks: str, namespace: str = NAMESPACE) -> Object:
    """With these webhooks, all of the installation in ``namespace``."""
    entries = [
        {
            "name": webhook,
            "clientConfig": {"service": {"name": "bwki-webhook-svc", "namespace": namespace}},
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        for webhook in webhooks
    ]
    return {"metadata": {"name": name}, "webhooks": entries}


def put_configurations(cluster: FakeCluster) -> None:
    """As in manifests/overlays/legacy: each with both of its webhooks."""
    for resource, name, webhooks in TARGETS:
        cluster.put(resource, configuration(name, *webhooks))
