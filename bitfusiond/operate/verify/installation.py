"""The objects of an installation: there, as they should be, running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitfusiond.core import names
from bitfusiond.core.admission import template
from bitfusiond.core.clients import catalogue
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import ConfigMap, Namespace, Object, Service, Workload
from bitfusiond.core.pool import inventory
from bitfusiond.files.read import load_yaml
from bitfusiond.operate import endpoints, overlays, rollout
from bitfusiond.operate.endpoints import Endpoint
from bitfusiond.operate.kubectl import Kubectl, Ref, ref
from bitfusiond.operate.manifests import CATALOGUE_MAP, POOL_KEY, POOL_MAP, TEMPLATE_MAP
from bitfusiond.operate.report import NOTE, OK, WRONG, Row
from bitfusiond.operate.workloads import containers

DEPLOY = "just deploy"
SERVICE = Ref("Service", names.WEBHOOK_SERVICE, names.NAMESPACE)
# What must be equal in an object of these kinds; the rest of them may be others'.
_COMPARED = {
    "ClusterRole": ("rules",),
    "Role": ("rules",),
    "ClusterRoleBinding": ("roleRef", "subjects"),
    "RoleBinding": ("roleRef", "subjects"),
    "ValidatingAdmissionPolicy": (
        "spec.failurePolicy",
        "spec.matchConditions",
        "spec.matchConstraints.namespaceSelector",
        "spec.matchConstraints.resourceRules",
        "spec.variables",
        "spec.validations",
    ),
    "ValidatingAdmissionPolicyBinding": ("spec.policyName", "spec.validationActions"),
}
_WORKLOADS = ("Deployment", "DaemonSet")
# Looked at by the module `webhooks`
_ELSEWHERE = names.CONFIGURATION_KINDS


def ending(namespace: Namespace | None) -> list[Row]:
    """A namespace that is being deleted: nothing in it can be mended, and no deploy goes before it is gone."""
    if namespace is None or not rollout.is_ending(namespace):
        return []
    words = f"namespace {namespace['metadata']['name']}"
    fix = f"just deploy, when it is gone; what keeps it: kubectl get {words} -o yaml"
    return [Row(str(ref(namespace)), WRONG, "it is being deleted", fix)]


def absent(found: Mapping[Ref, Object]) -> list[Row]:
    """One row where nothing is installed; ``found`` are the objects of the manifests that are there."""
    if any(what.kind != "Namespace" for what in found):
        return []
    return [Row("bitfusiond", WRONG, "it is not installed", DEPLOY)]


def check(kubectl: Kubectl, wanted: Sequence[Object], found: Mapping[Ref, Object]) -> list[Row]:
    """A row for each object of the manifests but the webhook configurations."""
    rows = []
    for document in wanted:
        what = ref(document)
        current = found.get(what)
        if document["kind"] in _ELSEWHERE:
            continue
        if current is None:
            rows.append(Row(str(what), WRONG, "it is not there", DEPLOY))
        elif document["kind"] in _WORKLOADS:
            rows += workload(current, rollout.snapshot(kubectl, current))
        elif what == SERVICE:
            rows.append(service(current, endpoints.find(kubectl, what)))
        else:
            rows.append(compared(document, current))
    return rows


def outdated(what: Ref) -> Row:
    return Row(str(what), WRONG, "of an earlier choice, and nothing needs it any more", DEPLOY)


def compared(wanted: Object, current: Object) -> Row:
    """Permissions and policies must be those of the manifests; a ConfigMap must be one that the webhook takes up."""
    what = ref(wanted)
    differing = [path for path in _COMPARED.get(wanted["kind"], ()) if _at(wanted, path) != _at(current, path)]
    if differing:
        return Row(str(what), WRONG, f"{' and '.join(differing)}: not as in the manifests", DEPLOY)
    problem = _configmap(what, current)
    if problem:
        return Row(
            str(what),
            WRONG,
            f"{problem}; the webhook keeps the last good one until it restarts",
            f"kubectl edit {what.words}",
        )
    if wanted["kind"] == "Namespace" and overlays.ignored(wanted) and not overlays.ignored(current):
        detail = f"it has no label {overlays.IGNORED}=ignore: its pods may wait for the webhook"
        fix = f"kubectl label {what.words} {overlays.IGNORED}=ignore --overwrite"
        return Row(str(what), WRONG, detail, fix)
    return Row(str(what), OK)


def _at(document: Object, path: str) -> object:
    """None for what is absent, and for an empty object: the API server writes one where nothing was said."""
    *parents, last = path.split(".")
    return mapping(document, *parents).get(last) or None


def _configmap(what: Ref, current: ConfigMap) -> str | None:
    checks = {
        CATALOGUE_MAP: ("bitfusion-client-config.yaml", catalogue.parse),
        TEMPLATE_MAP: ("sidecarconfig.yaml", template.parse),
        POOL_MAP: (POOL_KEY, inventory.parse),
    }
    if what not in checks:
        return None
    key, parse = checks[what]
    text = (current.get("data") or {}).get(key)
    if text is None:
        return f"it has no key {key}"
    try:
        parse(load_yaml(text))
    except ValueError as error:
        return f"{key}: {error}"
    return None


def workload(current: Workload, seen: rollout.Snapshot) -> list[Row]:
    """How many pods are ready, why others are not, and whether all run the image that they should."""
    what = ref(current)
    ready, wanted, done = rollout.progress(current)
    if what.kind == "Deployment" and not wanted:
        return [Row(str(what), WRONG, "scaled to zero: nobody answers the API server", DEPLOY)]
    state = OK if done and wanted else WRONG
    detail = "; ".join([f"{ready}/{wanted} ready", *([] if done else rollout.explain(current, seen))])
    if what.kind == "DaemonSet" and not wanted:
        detail = "no node takes it: every node has a taint or a label that keeps it out"
    rows = [Row(str(what), state, detail, "" if state == OK else f"kubectl describe {what.words}")]
    images = {container["image"] for container in containers(current)}
    strays = [pod for pod in seen.pods if not images & {each["image"] for each in pod["spec"]["containers"]}]
    if strays:
        listed = ", ".join(f"{pod['metadata']['name']} ({pod['spec']['containers'][0]['image']})" for pod in strays)
        rows.append(
            Row(
                f"images of {what}", WRONG, f"not {', '.join(images)}: {listed}", f"kubectl rollout status {what.words}"
            )
        )
    elif seen.pods:
        rows.append(Row(f"images of {what}", OK, ", ".join(images)))
    return rows


def service(current: Service, leads_to: Sequence[Endpoint]) -> Row:
    what = ref(current)
    ready = sum(each.ready for each in leads_to)
    if not ready:
        detail = f"no ready endpoint, {len(leads_to)} that are not ready" if leads_to else "no endpoint"
        return Row(
            str(what), WRONG, f"{detail}: the API server cannot reach the webhook", "kubectl get pods -n bwki -o wide"
        )
    return Row(str(what), OK, f"{ready} ready endpoint{'s' if ready > 1 else ''}")


def version(wanted: Sequence[Object], found: Mapping[Ref, Object]) -> list[Row]:
    """A note where the cluster runs another version than this checkout would deploy."""
    rows = []
    for document in wanted:
        current = found.get(ref(document))
        if document["kind"] not in _WORKLOADS or current is None:
            continue
        here, there = ({each["image"] for each in containers(of)} for of in (document, current))
        if here != there:
            detail = f"{', '.join(there)}; this checkout would deploy {', '.join(here)}"
            rows.append(Row(f"version of {ref(document)}", NOTE, detail))
    return rows
