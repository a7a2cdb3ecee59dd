"""``kubectl bitfusion why``: read what there is about a pod, or about what should make one, and say what is wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bitfusiond.core import names, proof
from bitfusiond.core.clients import catalogue
from bitfusiond.core.clients.catalogue import Catalogue
from bitfusiond.core.diagnosis import facts, filling, makers, pods, running
from bitfusiond.core.diagnosis.facts import ClusterFacts, MakerFacts, PodFacts
from bitfusiond.core.diagnosis.finding import Finding, Unread, good, is_bad
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Object, Pod
from bitfusiond.core.proof import Outcome, Proof
from bitfusiond.core.tokens.copies import BY_SECRET
from bitfusiond.files import read as files
from bitfusiond.kubectl_bitfusion import status, target
from bitfusiond.kubectl_bitfusion.reader import Reader, everything, in_namespace, uid
from bitfusiond.kubectl_bitfusion.target import Family, Target
from bitfusiond.operate.kubectl import Kubectl, KubectlError

_AT_ONCE = 4
_ADMISSION = "admissionregistration.k8s.io/v1"
_SLICES = ("discovery.k8s.io/v1", "discovery.k8s.io/v1beta1")


@dataclass(frozen=True, slots=True)
class Answer:
    """``subject`` is what was asked about, ``findings`` are in the order of its way."""

    subject: str
    namespace: str
    findings: Sequence[Finding]

    @property
    def runs(self) -> bool:
        return not is_bad(self.findings)


def run(reader: Reader, namespace: str, asked: Target) -> Answer:
    """Raises Failure where there is no such thing, or no cluster."""
    if not asked.kind:
        found = target.pod(reader, namespace, asked.name)
        return Answer(asked.words, namespace, pods.diagnose(_of_pod(reader, namespace, found, None)))
    family = target.family(reader, namespace, asked)
    if isinstance(family.pods, Unread) or target.has_too_few(family):
        making = _of_maker(reader, namespace, asked, family)
        if isinstance(family.pods, Unread) or not family.pods or facts.said(making.events, *makers.REFUSALS):
            return Answer(asked.words, namespace, makers.diagnose(making))
    chosen = pods.worst(list(family.pods))
    known = _of_pod(reader, namespace, chosen, family.document)
    count = len(family.pods)
    of = good(f"it has {count} pod{'s' if count > 1 else ''}; this is about {known.name}")
    return Answer(asked.words, namespace, [of, *pods.diagnose(known)])


# --- its cluster ------------------------------------------------------------------------------------------------------


def _cluster(reader: Reader, namespace: str, tried: Proof | Unread, known: tuple[Catalogue, bool]) -> ClusterFacts:
    """All that decides whether a pod is injected."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        about = pool.submit(reader.get, f"/api/v1/namespaces/{namespace}", f"the namespace {namespace}")
        path = f"{in_namespace(_ADMISSION, 'mutatingwebhookconfigurations', '')}/{names.MUTATING_CONFIGURATION}"
        configuration = pool.submit(reader.get, path, "mutatingwebhookconfigurations")
        endpoints = pool.submit(_endpoints, reader)
        quotas = pool.submit(_quotas, reader, namespace)
        return ClusterFacts(
            namespace=namespace,
            about=about.result(),
            configuration=configuration.result(),
            endpoints=endpoints.result(),
            quotas=quotas.result(),
            catalogue=known[0],
            is_packaged=known[1],
            trial=tried,
        )


def _cluster_of_injected(reader: Reader, namespace: str) -> ClusterFacts:
    """What still matters of it to a pod that was injected."""
    return ClusterFacts(
        namespace=namespace,
        about=None,
        configuration=None,
        endpoints=(),
        quotas=_quotas(reader, namespace),
        catalogue=files.load_clients(None),
        is_packaged=True,
        trial=Proof(Outcome.ADMITTED, ""),
    )


def _quotas(reader: Reader, namespace: str) -> list[Object] | Unread:
    path = in_namespace("v1", "resourcequotas", namespace)
    return reader.all(path, f"resourcequotas in {namespace}", everything)


def _endpoints(reader: Reader) -> list[Object] | Unread:
    selector = f"kubernetes.io/service-name={names.WEBHOOK_SERVICE}"
    for version in _SLICES:
        path = in_namespace(version, "endpointslices", names.NAMESPACE)
        found = reader.all(path, f"endpointslices in {names.NAMESPACE}", everything, labelSelector=selector)
        if found:
            return found
    return []


def _catalogue(reader: Reader) -> tuple[Catalogue, bool]:
    """The operator's catalogue, and whether it is the packaged one instead, as this account may not read it."""
    path = f"{in_namespace('v1', 'configmaps', names.NAMESPACE)}/{names.CATALOGUE_CONFIGMAP}"
    found = reader.get(path, "configmaps")
    text = None if isinstance(found, Unread) else mapping(found, "data").get(files.CATALOGUE)
    try:
        return catalogue.parse(files.load_yaml(str(text or ""))), False
    except ValueError:
        return files.load_clients(None), True


def _client(pod: Pod) -> dict[str, str]:
    """The annotations that name its client."""
    annotations = mapping(pod, "metadata", "annotations")
    return {key: str(annotations[key]) for key in names.ASKED_BY_ANNOTATION if key in annotations} | {
        names.MANAGEMENT: "all"
    }


def _tried(kubectl: Kubectl, pod: Pod) -> Proof | Unread:
    """What a dry run of ``pod`` says. A quota's words have the reason Forbidden too."""
    try:
        stored = kubectl.create([pod], "--dry-run=server")
    except KubectlError as error:
        message = str(error).removeprefix("kubectl create: ")
        if 'cannot create resource "pods"' in message:
            return Unread("what a dry run says (it takes the permission to create pods)")
        return proof.judge_error(message)
    return proof.judge(stored[0]) if stored else Unread("what a dry run says", "kubectl printed nothing")


# --- what makes pods --------------------------------------------------------------------------------------------------


def _of_maker(reader: Reader, namespace: str, asked: Target, family: Family) -> MakerFacts:
    template = facts.template(family.document)
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**mapping(template, "metadata"), "generateName": f"{asked.name[:50]}-", "namespace": namespace},
        "spec": _without_claims(family.document, mapping(template, "spec")),
    }
    tried = _tried(reader.kubectl, pod) if template else Unread("the template of its pods", "it has none of the usual")
    makers_of = {uid(each) for each in family.makers}
    return MakerFacts(
        kind=asked.kind,
        document=family.document,
        cluster=_cluster(reader, namespace, tried, _catalogue(reader)),
        events=_events(reader, namespace, makers_of),
        trial=tried,
    )


def _without_claims(document: Object, spec: Object) -> Object:
    """``spec`` with a volume for each claim that a StatefulSet's controller would make: a dry run makes none."""
    made = [str(mapping(each, "metadata").get("name")) for each in _claim_templates(document)]
    kept = [each for each in objects(spec.get("volumes")) if each.get("name") not in made]
    return {**spec, "volumes": [*kept, *({"name": each, "emptyDir": {}} for each in made)]} if made else spec


def _claim_templates(document: Object) -> list[Object]:
    return objects(mapping(document, "spec").get("volumeClaimTemplates"))


def _events(reader: Reader, namespace: str, about: set[str]) -> list[Object] | Unread:
    """The events about objects of these UIDs."""

    def concerns(event: Object) -> bool:
        return mapping(event, "involvedObject").get("uid") in about

    found: list[Object] = []
    for each in sorted(about):
        path = in_namespace("v1", "events", namespace)
        some = reader.all(path, f"events in {namespace}", concerns, fieldSelector=f"involvedObject.uid={each}")
        if isinstance(some, Unread):
            return some
        found += some
    return found


# --- a pod ------------------------------------------------------------------------------------------------------------


def _of_pod(reader: Reader, namespace: str, pod: Pod, maker: Object | None) -> PodFacts:
    """Only what can matter: of a pod that is not injected the webhook, of one that is placed its node."""
    events = _events(reader, namespace, {uid(pod)})
    if not pods.is_injected(pod):
        tried = _tried(reader.kubectl, proof.pod(namespace, _client(pod)))
        cluster = _cluster(reader, namespace, tried, _catalogue(reader))
        return PodFacts(pod=pod, cluster=cluster, maker=maker, events=events)
    if running.has_ended(pod):
        cluster = _cluster_of_injected(reader, namespace)
        return PodFacts(pod=pod, cluster=cluster, maker=maker, events=events, logs=_logs(reader, namespace, pod))
    uses_pool = bool(mapping(pod, "spec").get("resourceClaims"))
    claims = _claims(reader, namespace, pod)
    copies, sources = _tokens(reader, namespace, pod)
    node = mapping(pod, "spec").get("nodeName")
    waits = not node
    return PodFacts(
        pod=pod,
        cluster=_cluster_of_injected(reader, namespace),
        maker=maker,
        events=events,
        node=reader.get(f"/api/v1/nodes/{node}", "nodes") if node else None,
        nodes=status.offering_nodes(reader) if waits and not uses_pool else (),
        node_pods=status.counting_pods(reader, "") if waits and not uses_pool else (),
        claims=claims,
        all_claims=status.pool_claims(reader, "") if waits and uses_pool else (),
        slices=status.pool_slices(reader) if uses_pool else (),
        copies=copies,
        sources=sources,
        logs=_logs(reader, namespace, pod),
    )


def _claims(reader: Reader, namespace: str, pod: Pod) -> Mapping[str, Object | Unread | None]:
    made = objects(mapping(pod, "status").get("resourceClaimStatuses"))
    wanted = [str(each["resourceClaimName"]) for each in made if each.get("resourceClaimName")]
    path = in_namespace(status.RESOURCES, "resourceclaims", namespace)
    return {name: reader.get(f"{path}/{name}", f"resourceclaims in {namespace}") for name in wanted}


def _tokens(
    reader: Reader, namespace: str, pod: Pod
) -> tuple[dict[str, Object | Unread | None], dict[str, Object | Unread | None]]:
    """The token Secrets that the pod mounts, and what each of them was copied from."""
    copies: dict[str, Object | Unread | None] = {}
    sources: dict[str, Object | Unread | None] = {}
    for name in filling.token_secrets(pod):
        copy = reader.get(f"{in_namespace('v1', 'secrets', namespace)}/{name}", f"secrets in {namespace}")
        copies[name] = copy
        if isinstance(copy, dict):
            noted = mapping(copy, "metadata", "annotations").get(names.COPIED_FROM)
            origin, _, source = str(noted or f"{names.KUBE_SYSTEM}/{name}").partition("/")
            if names.is_namespace(origin) and source in {*BY_SECRET, names.EARLIER_TOKEN_SECRET}:
                path = f"{in_namespace('v1', 'secrets', origin)}/{source}"
                sources[name] = reader.get(path, f"secrets in {origin}, so not whether its token is the right one")
    return copies, sources


def _logs(reader: Reader, namespace: str, pod: Pod) -> dict[str, str | Unread]:
    """Of ``populate`` where it failed, and of the containers that stay."""
    state = mapping(pod, "status")
    wanted = []
    populate = filling.populate_name(pod)
    if populate and filling.last_end(state, populate).get("exitCode") not in {None, 0}:
        wanted.append(populate)
    known = [str(each.get("name")) for each in objects(mapping(pod, "spec").get("containers"))]
    wanted += [each for each in known if filling.state_of(state, each, "running") or filling.last_end(state, each)]

    def read(container: str) -> str | Unread:
        waits = filling.state_of(state, container, "waiting") is not None
        return reader.log(namespace, str(mapping(pod, "metadata").get("name")), container, previous=waits)

    return {each: read(each) for each in wanted}
