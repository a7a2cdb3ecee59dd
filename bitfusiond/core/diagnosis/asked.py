"""Whether a pod asks for GPUs, in words that the webhook understands, in a namespace that it looks at."""

from __future__ import annotations

from collections.abc import Iterator

from bitfusiond.core import names
from bitfusiond.core.admission import optin
from bitfusiond.core.admission.optin import Mode, OptIn
from bitfusiond.core.diagnosis.facts import ClusterFacts
from bitfusiond.core.diagnosis.finding import Finding, Unread, bad, good, unknown
from bitfusiond.core.fields import Document, Json, mapping, objects
from bitfusiond.core.objects import Object, Pod
from bitfusiond.core.text import shown

_ADD = f'put {names.MANAGEMENT}: "all" into metadata.annotations of the pod, or of the template that it is made from'


def read(pod: Pod, namespace: str) -> OptIn:
    return optin.opt_in(Document(pod), namespace)


def annotation(pod: Pod, cluster: ClusterFacts, maker: Object | None) -> Iterator[Finding]:
    """What the pod's annotation says."""
    field = Document(pod)
    asked = optin.opt_in(field, cluster.namespace)
    if asked.is_mirror:
        yield bad(
            "the kubelet runs this pod from a file on its node, and such a pod cannot be injected",
            "create it in the API server instead",
        )
    elif asked.mode is None:
        yield bad(f"it asks in a word that nobody knows: {'; '.join(field.problems)}", "write all, injection or none")
    elif asked.mode is not Mode.NONE:
        value = mapping(pod, "metadata", "annotations").get(names.MANAGEMENT)
        yield good(f"it asks for a GPU: {names.MANAGEMENT} is {shown(value)}")
    elif not asked.is_injected:
        yield _not_asked(pod, maker)


def _not_asked(pod: Pod, maker: Object | None) -> Finding:
    if maker is not None and names.MANAGEMENT in mapping(maker, "metadata", "annotations"):
        return bad(
            f"the annotation {names.MANAGEMENT} stands on what makes the pod, where the webhook does not see it",
            "put it into spec.template.metadata.annotations",
        )
    if names.MANAGEMENT in mapping(pod, "metadata", "labels"):
        return bad(f"{names.MANAGEMENT} is a label of it, and must be an annotation", _ADD)
    value = mapping(pod, "metadata", "annotations").get(names.MANAGEMENT)
    if value is not None:
        return bad(f"it wants no GPU: {names.MANAGEMENT} is {shown(value)}", 'write "all" instead')
    if left := left_over(pod):
        return bad(f"it asks for {', '.join(left)} without the annotation {names.MANAGEMENT}", _ADD)
    return bad(f"it does not ask for a GPU: it has no annotation {names.MANAGEMENT}", _ADD)


def left_over(pod: Pod) -> list[str]:
    """The resources of ours that it asks for and no node has: the webhook would have taken them away."""
    spec = mapping(pod, "spec")
    containers = [*objects(spec.get("initContainers")), *objects(spec.get("containers"))]
    asked = {key for each in containers for key in _resources(each)}
    return sorted(asked & names.REQUEST_RESOURCES)


def _resources(container: Json) -> list[str]:
    return [*mapping(container, "resources", "limits"), *mapping(container, "resources", "requests")]


def values(pod: Pod, cluster: ClusterFacts) -> Iterator[Finding]:
    """Whether the webhook knows the client and the filter that the annotations name."""
    field = Document(pod)["metadata"]["annotations"]
    optin.filters(field.entry(names.CLIENT_FILTER))
    optin.servers(field.entry(names.CLIENT_SERVERS))
    if field.problems:
        yield bad(f"the webhook refuses it: {'; '.join(field.problems)}", "mend the annotation")
    field = Document(pod)["metadata"]["annotations"]
    client = optin.client(field, cluster.catalogue)
    if field.problems and cluster.is_packaged:
        yield unknown(
            f"its client is none of those that come with bitfusiond: {'; '.join(field.problems)}",
            "ask the operator which clients this cluster has",
        )
    elif field.problems:
        yield bad(f"the webhook refuses it: {'; '.join(field.problems)}", "name one of these clients")
    elif client is not None:
        yield good(f"its client is known: {' '.join(filter(None, (client.name, client.os, client.version)))}")


def namespace(cluster: ClusterFacts) -> Iterator[Finding]:
    """Whether the API server is to ask about pods of the namespace."""
    if cluster.namespace in names.EXEMPT_NAMESPACES | {names.NAMESPACE}:
        yield bad(
            f"pods of the namespace {cluster.namespace} are never injected", "create it in a namespace of your own"
        )
    elif isinstance(cluster.about, Unread):
        yield cluster.about.finding
    elif mapping(cluster.about, "metadata", "labels").get(names.ADMISSION_LABEL) == "ignore":
        yield bad(
            f"its namespace has the label {names.ADMISSION_LABEL}=ignore: the API server does not ask the webhook",
            f"kubectl label namespace {cluster.namespace} {names.ADMISSION_LABEL}-",
        )
