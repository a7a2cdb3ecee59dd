"""What the cluster runs now, as far as a deploy without that variable keeps it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object
from bitfusiond.files.read import CATALOGUE, packaged
from bitfusiond.operate import manifests, overlays, rollout, workloads
from bitfusiond.operate.kubectl import Kubectl, Ref, ref
from bitfusiond.operate.settings import DIGEST
from bitfusiond.operate.upgrade04 import leftovers
from bitfusiond.settings.values import Parser, insecure_registries, parts, registry_globs

WEBHOOK = Ref("Deployment", names.WEBHOOK_DEPLOYMENT, names.NAMESPACE)
PLUGIN = Ref("DaemonSet", names.PLUGIN_DAEMONSET, names.KUBE_SYSTEM)

IMAGES = ("bitfusiond", "bitfusion-client")
_WITH_DIGEST = re.compile(rf"([^\s@\"']+/(?:{'|'.join(IMAGES)}):[^\s/:@]+)@({DIGEST})")


@dataclass(frozen=True, slots=True)
class Running:
    """None: nothing is there to be kept. ``image`` is that of the webhook, whosever it is; ``digests`` by NAME:TAG."""

    total_gpu_memory: int | None = None
    resource_nums: int | None = None
    clients: str | None = None
    image: str | None = None
    token_namespace: str | None = None
    allow_namespaces: str | None = None
    client_ca: str | None = None
    client_ca_path: str | None = None
    tls_cert: str | None = None
    api_server_only: bool | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    image_lookup: bool | None = None
    image_registries: str | None = None
    insecure_registries: str | None = None
    registry_ca: str | None = None
    registry_ca_path: str | None = None
    pool: str | None = None
    pool_path: str | None = None
    delivery: str | None = None


TO_READ = (
    WEBHOOK,
    PLUGIN,
    leftovers.PLUGIN,
    manifests.CATALOGUE_MAP,
    manifests.TEMPLATE_MAP,
    manifests.CLIENT_CA_MAP,
    manifests.REGISTRY_CA_MAP,
    manifests.POOL_MAP,
    manifests.NETWORK_POLICY,
)


def read(kubectl: Kubectl) -> Running:
    return of_objects(kubectl.existing(TO_READ))


def of_objects(found: Mapping[Ref, Object]) -> Running:
    """From those of ``TO_READ`` that are there; those of 0.4 have the same variables."""
    webhook, plugin = found.get(WEBHOOK), found.get(PLUGIN) or found.get(leftovers.PLUGIN)
    image = next((each["image"] for each in workloads.containers(webhook)), None) if webhook else None
    texts = [image or "", *map(str, mapping(found.get(manifests.TEMPLATE_MAP), "data").values())]
    policy = found.get(manifests.NETWORK_POLICY)
    return Running(
        _number(workloads.variable(webhook, manifests.TOTAL_GPU_MEMORY)),
        _number(workloads.variable(plugin, manifests.RESOURCE_NUMS)),
        _clients(found.get(manifests.CATALOGUE_MAP)),
        image,
        workloads.option(webhook, manifests.TOKEN_NAMESPACE) or None,
        ",".join(parts(workloads.option(webhook, manifests.ALLOW_NAMESPACES) or "")) or None,
        mapping(found.get(manifests.CLIENT_CA_MAP), "data").get(manifests.CLIENT_CA_KEY) or None,
        workloads.option(webhook, manifests.CLIENT_CA) or None,
        workloads.option(webhook, workloads.TLS_CERT) or None,
        None if policy is None else _is_for_api_servers(policy),
        {match[1]: match[2] for text in texts for match in _WITH_DIGEST.finditer(text)},
        _is_on(workloads.option(webhook, manifests.IMAGE_LOOKUP)),
        _taken(registry_globs, workloads.option(webhook, manifests.IMAGE_REGISTRIES)),
        _taken(insecure_registries, workloads.option(webhook, manifests.INSECURE_REGISTRIES)),
        mapping(found.get(manifests.REGISTRY_CA_MAP), "data").get(manifests.REGISTRY_CA_KEY) or None,
        workloads.option(webhook, manifests.REGISTRY_CA) or None,
        mapping(found.get(manifests.POOL_MAP), "data").get(manifests.POOL_KEY) or None,
        workloads.option(webhook, manifests.POOL) or None,
        workloads.option(webhook, manifests.DELIVERY) or None,
    )


def _is_on(value: str | None) -> bool | None:
    """Of a switch, behind whose flag stands nothing or the next option; None where it was never given."""
    return None if value is None else value.lower() != "false"


def _taken(parse: Parser, value: str | None) -> str | None:
    """None for what a webhook would not start with."""
    try:
        return value if value and parse(value) else None
    except ValueError:
        return None


def _is_for_api_servers(policy: Object) -> bool:
    """Whether the webhook's port is open for some addresses only. Who may read metrics is the operator's affair."""
    return any(
        "ipBlock" in source
        for rule in policy["spec"].get("ingress") or []
        if any(port.get("port") in {"https", 8443} for port in rule.get("ports") or [])
        for source in rule.get("from") or []
    )


def _clients(configmap: Object | None) -> str | None:
    """The catalogue in the cluster, where it is the operator's: from CLIENTS, or edited. That of 0.4 is replaced."""
    text: str | None = mapping(configmap, "data").get(CATALOGUE)
    if text is None or manifests.PART_OF not in mapping(configmap, "metadata", "labels").items():
        return None
    packaged_there = mapping(configmap, "metadata", "annotations").get(names.PACKAGED_DIGEST)
    ours = {manifests.digest(packaged(CATALOGUE)), packaged_there}
    return None if manifests.digest(text) in ours else text


def _number(value: str | None) -> int | None:
    return int(value) if value and value.isascii() and value.isdecimal() else None


def absent(kubectl: Kubectl, values: manifests.Values) -> frozenset[str]:
    """Of the namespaces in which alone the webhook may write copies those that are not there, or are going."""
    named = values.named or frozenset()
    there = kubectl.existing(Ref("Namespace", each) for each in named)
    return named - {what.name for what, each in there.items() if not rollout.is_ending(each)}


def of_choices(kubectl: Kubectl) -> list[Ref]:
    """What deploys applied for choices: nobody needs it any more when its choice is not in force."""
    permissions = kubectl.all_with_managers("Role,RoleBinding", "-l", manifests.LABEL)
    found = [ref(each) for each in permissions if each["metadata"]["name"] == manifests.TOKENS_ROLE]
    bindings = {("RoleBinding", name) for name in (manifests.COPIES_ROLE, manifests.IMAGES_ROLE)}
    found += [
        ref(each)
        for each in permissions
        if (each["kind"], each["metadata"]["name"]) in bindings and manifests.labelled_by_us(each)
    ]
    found += kubectl.existing(
        [
            *(manifests.COPIES_BINDING, manifests.IMAGES_BINDING, Ref("ClusterRole", manifests.IMAGES_ROLE)),
            *(manifests.CLIENT_CA_MAP, manifests.REGISTRY_CA_MAP, manifests.POOL_MAP),
            *overlays.pool_permissions(),
        ]
    )
    return found
