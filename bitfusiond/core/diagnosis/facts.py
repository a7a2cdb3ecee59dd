"""What a diagnosis goes by, as it was read from a cluster: each thing may be an Unread in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bitfusiond.core.clients.catalogue import Catalogue
from bitfusiond.core.diagnosis.finding import Unread
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import (
    EndpointSlice,
    Event,
    Namespace,
    Node,
    Object,
    Pod,
    ResourceClaim,
    ResourceQuota,
    ResourceSlice,
    Secret,
    WebhookConfiguration,
)
from bitfusiond.core.proof import Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What of a cluster concerns a pod, whether that is there yet or not. None: there is no such object.

    ``trial`` is what a dry run of a pod that asks for a GPU said, ``catalogue`` the operator's, or the packaged one
    where ``is_packaged``.
    """

    namespace: str
    about: Namespace | Unread | None
    configuration: WebhookConfiguration | Unread | None
    endpoints: Sequence[EndpointSlice] | Unread
    quotas: Sequence[ResourceQuota] | Unread
    catalogue: Catalogue
    is_packaged: bool = False
    trial: Proof | Unread


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFacts:
    """A pod, and what there is about it.

    ``maker`` is what made it, where the user named that. ``claims`` are those of the pod by name; ``all_claims`` and
    ``slices`` those of the pool. ``copies`` and ``sources`` are token Secrets by name: None = there is none.
    ``logs`` are the last lines of its containers by name.
    """

    pod: Pod
    cluster: ClusterFacts
    maker: Object | None = None
    events: Sequence[Event] | Unread = ()
    node: Node | Unread | None = None
    nodes: Sequence[Node] | Unread = ()
    node_pods: Sequence[Pod] | Unread = ()
    claims: Mapping[str, ResourceClaim | Unread | None] = field(default_factory=dict)
    all_claims: Sequence[ResourceClaim] | Unread = ()
    slices: Sequence[ResourceSlice] | Unread = ()
    copies: Mapping[str, Secret | Unread | None] = field(default_factory=dict)
    sources: Mapping[str, Secret | Unread | None] = field(default_factory=dict)
    logs: Mapping[str, str | Unread] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(mapping(self.pod, "metadata").get("name"))

    @property
    def words(self) -> str:
        """For a command: ``NAME -n NAMESPACE``."""
        return f"{self.name} -n {self.cluster.namespace}"

    @property
    def status(self) -> Object:
        return mapping(self.pod, "status")

    @property
    def containers(self) -> list[Object]:
        """Those that stay, sidecars too."""
        spec = mapping(self.pod, "spec")
        sidecars = [each for each in objects(spec.get("initContainers")) if each.get("restartPolicy") == "Always"]
        return [*sidecars, *objects(spec.get("containers"))]

    @property
    def describe(self) -> str:
        return f"kubectl describe pod {self.words}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakerFacts:
    """What makes pods and has none: ``kind`` as kubectl calls it. ``events`` are about it and what it made.

    ``trial`` is what a dry run of its pod said.
    """

    kind: str
    document: Object
    cluster: ClusterFacts
    events: Sequence[Event] | Unread = ()
    trial: Proof | Unread

    @property
    def name(self) -> str:
        return str(mapping(self.document, "metadata").get("name"))

    @property
    def words(self) -> str:
        return f"{self.kind} {self.name} -n {self.cluster.namespace}"


def template(document: Object) -> Object:
    """The template of the pods that ``document`` makes, ``{}`` where there is none in the usual places."""
    for path in (("spec", "template"), ("spec", "jobTemplate", "spec", "template")):
        if found := mapping(document, *path):
            return found
    return {}


def said(events: Sequence[Event] | Unread, *reasons: str) -> list[str]:
    """The messages of events with one of ``reasons`` (any, without), the newest first."""
    if isinstance(events, Unread):
        return []
    fitting = [each for each in events if not reasons or each.get("reason") in reasons]
    newest = sorted(fitting, key=_when, reverse=True)
    return list(dict.fromkeys(str(each.get("message") or "") for each in newest))


def _when(event: Event) -> str:
    series = mapping(event, "series").get("lastObservedTime")
    return str(event.get("lastTimestamp") or series or event.get("eventTime") or "")
