"""``kubectl bitfusion status``: who has how many shares, and what is free."""

from __future__ import annotations

from bitfusiond.core import names
from bitfusiond.core.diagnosis.finding import Unread
from bitfusiond.core.objects import Object
from bitfusiond.core.pool import slices
from bitfusiond.core.usage import holdings, quotas
from bitfusiond.core.usage.usage import Usage
from bitfusiond.kubectl_bitfusion.reader import Reader, everything, in_namespace, pods_path

RESOURCES = "resource.k8s.io/v1"
_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"


def read(reader: Reader, namespace: str) -> Usage:
    """What is used now. ``namespace`` is whose pods and quotas are listed, empty for those of all."""
    notes: list[str] = []

    def known(found: list[Object] | Unread) -> list[Object]:
        if isinstance(found, Unread):
            notes.append(found.words)
            return []
        return found

    offered = pool_slices(reader)
    published = known(offered)
    claims = pool_claims(reader, "")
    knows_holders = not isinstance(claims, Unread)
    if isinstance(claims, Unread) and namespace:
        claims = pool_claims(reader, namespace)
    given = known(claims)
    if published or isinstance(offered, Unread):
        # With a pool each node offers all of it: nodes count only where it is seen that there is none.
        nodes, pods = [], known(counting_pods(reader, namespace))
    else:
        nodes, everywhere = known(offering_nodes(reader)), counting_pods(reader, "")
        knows_holders = not isinstance(everywhere, Unread)
        if isinstance(everywhere, Unread) and namespace:
            everywhere = counting_pods(reader, namespace)
        pods = known(everywhere)
    if namespace and reader.get(f"/api/v1/namespaces/{namespace}", "namespaces") is None:
        notes.append(f"there is no namespace {namespace}: `kubectl get namespaces` lists those that are there")
    if not knows_holders and not isinstance(offered, Unread):
        notes.append("may not read pods and claims of all namespaces, so what is free is not known: ask the operator")
    found = known(reader.all(in_namespace("v1", "resourcequotas", namespace), "resourcequotas", everything))
    by_pod = holdings.by_pod(given)
    listed = [holdings.of_pod(each, by_pod) for each in pods]
    mine = [each for each in listed if namespace in {"", each.namespace}]
    return Usage(
        namespace,
        holdings.servers(published, given),
        holdings.nodes(nodes, pods),
        sorted(mine, key=lambda pod: (pod.namespace, pod.name)),
        sorted(quotas.share_quotas(found), key=lambda quota: (quota.namespace, quota.name)),
        knows_holders,
        tuple(dict.fromkeys(notes)),
    )


def pool_slices(reader: Reader) -> list[Object] | Unread:
    """What is offered of a pool; nothing where each node counts for itself."""
    selector = f"spec.driver={names.DRIVER}"
    path = in_namespace(RESOURCES, "resourceslices", "")
    found = reader.all(path, "resourceslices", slices.is_ours, fieldSelector=selector)
    # Who may not read them is told so of a kind that is not there, too: everybody may ask for what there is.
    if isinstance(found, Unread) and reader.get(f"/apis/{RESOURCES}", "kinds") is None:
        return []
    return found


def pool_claims(reader: Reader, namespace: str) -> list[Object] | Unread:
    """The claims that were given shares of the pool."""
    path = in_namespace(RESOURCES, "resourceclaims", namespace)
    return reader.all(path, "resourceclaims", lambda claim: bool(holdings.results(claim)))


def offering_nodes(reader: Reader) -> list[Object] | Unread:
    return reader.all(
        "/api/v1/nodes", "nodes", lambda node: names.GPU in str((node.get("status") or {}).get("allocatable"))
    )


def counting_pods(reader: Reader, namespace: str) -> list[Object] | Unread:
    """The pods that have shares of Kubernetes' counting, or wait for them."""
    return reader.all(pods_path(namespace), "pods", holdings.is_counting, fieldSelector=_NOT_ENDED)
