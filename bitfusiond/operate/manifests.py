"""What deploy applies: the manifests of an overlay with the operator's values put in, in stages."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.clients import catalogue
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object
from bitfusiond.core.tokens import copies
from bitfusiond.errors import ConfigurationError
from bitfusiond.files.read import CATALOGUE, load_yaml
from bitfusiond.operate import overlays, workloads
from bitfusiond.operate.kubectl import FIELD_MANAGER, Ref, ref
from bitfusiond.operate.settings import DEFAULT_REPO
from bitfusiond.operate.tokenplace import EXEMPT, TokenPlace

CATALOGUE_MAP = Ref("ConfigMap", names.CATALOGUE_CONFIGMAP, names.NAMESPACE)
TEMPLATE_MAP = Ref("ConfigMap", names.TEMPLATE_CONFIGMAP, names.NAMESPACE)
# On that ConfigMap: the digest of the packaged catalogue. A content that does not fit it came from CLIENTS or was
# edited, and a deploy without CLIENTS leaves it.

PART_OF = ("app.kubernetes.io/part-of", "bitfusiond")
LABEL = "=".join(PART_OF)

TOTAL_GPU_MEMORY = "TOTAL_GPU_MEMORY"
RESOURCE_NUMS = "RESOURCE_NUMS"
TOKEN_NAMESPACE = "BITFUSIOND_TOKEN_NAMESPACE"  # noqa: S105 - a name
ALLOW_NAMESPACES = "BITFUSIOND_ALLOW_NAMESPACES"
CLIENT_CA = "BITFUSIOND_CLIENT_CA"
CLIENT_CA_MAP = Ref("ConfigMap", names.CLIENT_CA_CONFIGMAP, names.NAMESPACE)
CLIENT_CA_KEY = "client-ca.crt"
IMAGE_LOOKUP = "BITFUSIOND_IMAGE_LOOKUP"
IMAGE_REGISTRIES = "BITFUSIOND_IMAGE_REGISTRIES"
INSECURE_REGISTRIES = "BITFUSIOND_INSECURE_REGISTRIES"
REGISTRY_CA = "BITFUSIOND_REGISTRY_CA"
REGISTRY_CA_MAP = Ref("ConfigMap", names.REGISTRY_CA_CONFIGMAP, names.NAMESPACE)
REGISTRY_CA_KEY = "registry-ca.crt"
POOL = "BITFUSIOND_POOL"
DELIVERY = "BITFUSIOND_DELIVERY"
POOL_MAP = Ref("ConfigMap", names.POOL_CONFIGMAP, names.NAMESPACE)
POOL_KEY = "pool.yaml"
TOKENS_ROLE = "bitfusiond-webhook-tokens"  # of its RoleBinding too
# Bound everywhere, or in each namespace of ALLOW_NAMESPACES, by this name too.
COPIES_ROLE = "bitfusiond-webhook-copies"
COPIES_BINDING = Ref("ClusterRoleBinding", COPIES_ROLE)
# As widely, where images are looked up.
IMAGES_ROLE = "bitfusiond-webhook-images"
IMAGES_BINDING = Ref("ClusterRoleBinding", IMAGES_ROLE)
# Of the Role and the ClusterRole that a webhook with --tls-cert does without, and of their bindings.
CERTIFICATES_ROLE = "bitfusiond-webhook-certificates"
ABSENT = "ALLOW_NAMESPACES names it, and it is not there: the webhook is not permitted to copy tokens into it"
_COMPLETE = "not-known-to-be-complete"  # a condition of the overlay community
_NO_MEMORY = "[0].exists(total_gpu_memory"
_SECRETS_POLICY = Ref("ValidatingAdmissionPolicy", "bitfusiond-webhook-secrets")
NETWORK_POLICY = Ref("NetworkPolicy", "bitfusion-webhook", names.NAMESPACE)
_CONFIGURATION = "/etc/bitfusiond"  # where the webhook finds its files
_VARIABLE_OF = {"Deployment": TOTAL_GPU_MEMORY, "DaemonSet": RESOURCE_NUMS}

_OUR_IMAGE = re.compile(rf"{re.escape(DEFAULT_REPO)}/(bitfusiond|bitfusion-client)(?::[A-Za-z0-9_.-]+)?")
_CONFIGURATIONS = names.CONFIGURATION_KINDS
_POLICY_KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


_KUBE_SYSTEM = TokenPlace(names.KUBE_SYSTEM)


@dataclass(frozen=True, slots=True)
class Values:
    """``clients`` is the text of a catalogue; None = the one of the manifests.

    ``allow_namespaces`` None: nothing was ever said of it. ``client_ca`` and ``registry_ca`` are PEM, empty for none.
    ``api_servers`` are the addresses from which alone the webhook is reached; none: it is reached from everywhere.
    ``digests`` are of images, by NAME:TAG; ``absent`` those of ALLOW_NAMESPACES that are not there. ``pool`` is the
    text of an inventory, empty for none; ``has_claims``: pods hold GPUs of a pool that there was, so that nodes must go
    on serving them. ``delivery`` is that of clients, ``init`` or ``image``.
    """

    image_repo: str
    image_tag: str
    total_gpu_memory: int
    resource_nums: int
    clients: str | None = None
    tokens: TokenPlace = _KUBE_SYSTEM
    allow_namespaces: str | None = None
    client_ca: str = ""
    api_server_only: bool = False
    api_servers: tuple[str, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)
    image_lookup: bool = False
    image_registries: str | None = None
    insecure_registries: str = ""
    registry_ca: str = ""
    absent: frozenset[str] = frozenset()
    pool: str = ""
    has_claims: bool = False
    delivery: str = "init"

    @property
    def serves_claims(self) -> bool:
        """Whether nodes serve claims on the pool."""
        return bool(self.pool) or self.has_claims

    @property
    def named(self) -> frozenset[str] | None:
        """The namespaces in which alone the webhook may write copies; None: in all."""
        return copies.followed(self.tokens.allowed, EXEMPT)

    @property
    def takes_tokens(self) -> bool:
        """Whether a client of the catalogue needs them."""
        if self.clients is None:
            return True
        known = catalogue.parse(load_yaml(self.clients))
        return any(client.takes_tokens for client in (*known.clients.values(), *known.others))

    def image(self, name: str) -> str:
        """As a manifest names it. Beside a digest the tag is for people: what is pulled has that digest."""
        tagged = f"{self.image_repo}/{name}:{self.image_tag}"
        return f"{tagged}@{self.digests[tagged]}" if tagged in self.digests else tagged


@dataclass(frozen=True, slots=True)
class Stages:
    """The manifests in the order of a deploy.

    The API server must not ask a webhook that is not ready: it would refuse every pod that opted in. So what makes it
    ask comes last, and the Service before it. The plugin comes when the webhook runs from the same image: an image that
    no node can pull then costs nobody the plugin that works. ``configurations`` are those of the webhooks, and then the
    policies: what a webhook of before makes of a pod meanwhile is its own affair.
    """

    base: list[Object]
    plugin: list[Object]
    services: list[Object]
    configurations: list[Object]

    @property
    def all(self) -> list[Object]:
        return [*self.base, *self.plugin, *self.services, *self.configurations]


def labelled_by_us(document: Object) -> bool:
    """Whether it was our field manager that gave it the label of ours."""
    return any(
        entry.get("manager") == FIELD_MANAGER
        and f"f:{PART_OF[0]}" in mapping(entry, "fieldsV1", "f:metadata", "f:labels")
        for entry in document["metadata"].get("managedFields") or []
    )


def build(documents: Iterable[Object], values: Values) -> Stages:
    """The manifests with the operator's values, in stages."""
    documents = [
        *documents,
        *(overlays.documents_of(overlays.IMAGE_LOOKUP_PERMISSIONS) if values.image_lookup else []),
        *(overlays.documents_of(overlays.POOL_PERMISSIONS) if values.serves_claims else []),
    ]
    made = [substituted(each, values) for document in documents for each in _bound(document, values)]
    return stages([*made, *(_file_map(what, key, text) for what, key, text in _files(values) if text)])


def stages(documents: list[Object]) -> Stages:
    """What pods need (accounts, ConfigMaps, priority classes) comes before what makes pods."""

    def of(*kinds: str) -> list[Object]:
        return [each for each in documents if each["kind"] in kinds]

    asking = (*_CONFIGURATIONS, *_POLICY_KINDS)
    later = ("Service", *_VARIABLE_OF, *asking)
    needed = [each for each in documents if each["kind"] not in later]
    last = [each for kind in asking for each in of(kind)]
    return Stages([*needed, *of("Deployment")], of("DaemonSet"), of("Service"), last)


def _bound(document: Object, values: Values) -> Iterator[Object]:
    """What is permitted in the namespaces that may have copies, as widely as these may be."""
    if ref(document) not in {COPIES_BINDING, IMAGES_BINDING} or values.named is None:
        yield document
        return
    for namespace in sorted(values.named - values.absent):
        yield {**document, "kind": "RoleBinding", "metadata": {**document["metadata"], "namespace": namespace}}


def substituted(document: Object, values: Values) -> Object:
    """``document`` with our images, the variables and files as ``values`` has them."""
    result: Object = _images(document, values)
    if result["kind"] in _VARIABLE_OF:
        _fit_workload(result, values)
    if ref(result) == CATALOGUE_MAP:
        if values.clients is None:
            result["metadata"].setdefault("annotations", {})[names.PACKAGED_DIGEST] = digest(result["data"][CATALOGUE])
        else:
            result["data"] = {**(result.get("data") or {}), CATALOGUE: values.clients}
    if result["metadata"]["name"] == TOKENS_ROLE:
        result["metadata"]["namespace"] = values.tokens.namespace
        if values.named is not None and result["kind"] == "Role":
            result["rules"][0]["resourceNames"] += names.TOKEN_SECRETS.values()
    if result["kind"] == names.VALIDATING_KIND:
        for webhook in result["webhooks"]:
            _fit_conditions(webhook, values)
    if ref(result) == _SECRETS_POLICY:
        (closed,) = result["spec"]["variables"]
        # In our own namespace the policy lets nothing be written but our own Secrets anyway.
        namespaces = dict.fromkeys([*sorted(names.EXEMPT_NAMESPACES), values.tokens.namespace])
        closed["expression"] = str([each for each in namespaces if each != names.NAMESPACE])  # a list of CEL
    if ref(result) == NETWORK_POLICY and values.api_servers:
        result["spec"]["ingress"] = _from_api_servers(result["spec"]["ingress"], values.api_servers)
    return result


def _fit_workload(workload: Object, values: Values) -> None:
    variable = _VARIABLE_OF[workload["kind"]]
    number = values.total_gpu_memory if variable == TOTAL_GPU_MEMORY else values.resource_nums
    for container in workload["spec"]["template"]["spec"]["containers"]:
        container["env"] = workloads.with_variable(container.get("env") or [], variable, str(number))
    if workload["kind"] == "Deployment":
        _choose(workload, values)
    elif values.serves_claims:
        _serve_claims(workload)


def _fit_conditions(webhook: Object, values: Values) -> None:
    """Which pods are known to be complete: what asks for memory by what a GPU has, and none where claims are needed."""
    conditions = webhook.get("matchConditions") or []
    for condition in conditions:
        expression = condition["expression"]
        condition["expression"] = expression.replace(_NO_MEMORY, _NO_MEMORY.replace("0", str(values.total_gpu_memory)))
    if values.pool and conditions:
        webhook["matchConditions"] = [each for each in conditions if each["name"] != _COMPLETE]


def _choose(webhook: Object, values: Values) -> None:
    """The variables and files of the webhook."""
    for container in webhook["spec"]["template"]["spec"]["containers"]:
        for name, value in _trust(values):
            container["env"] = workloads.with_variable(container["env"], name, value)
    for configmap, _, text in _files(values):
        if text:
            _mount(webhook, configmap)


def _serve_claims(plugin: Object) -> None:
    """The patch of manifests/pool, as kustomize would merge it: each of its lists goes behind the plugin's own."""
    (patch,) = overlays.documents_of(overlays.POOL_NODES)
    added, spec = patch["spec"]["template"]["spec"], plugin["spec"]["template"]["spec"]
    (container,), (more,) = spec["containers"], added.pop("containers")
    for owner, extra in ((container, more), (spec, added)):
        for key, value in extra.items():
            owner[key] = [*(owner.get(key) or []), *value] if isinstance(value, list) else value


def _trust(values: Values) -> Iterator[tuple[str, str]]:
    """The variables of the webhook that are there where an operator said so."""
    if values.tokens.namespace != names.KUBE_SYSTEM:
        yield TOKEN_NAMESPACE, values.tokens.namespace
    if values.allow_namespaces is not None:
        yield ALLOW_NAMESPACES, values.allow_namespaces
    if values.client_ca:
        yield CLIENT_CA, f"{_CONFIGURATION}/{CLIENT_CA_KEY}"
    if values.image_lookup:
        yield IMAGE_LOOKUP, "true"
    if values.image_registries is not None:
        yield IMAGE_REGISTRIES, values.image_registries
    if values.insecure_registries:
        yield INSECURE_REGISTRIES, values.insecure_registries
    if values.registry_ca:
        yield REGISTRY_CA, f"{_CONFIGURATION}/{REGISTRY_CA_KEY}"
    if values.delivery != "init":
        yield DELIVERY, values.delivery
    if values.pool:
        yield POOL, f"{_CONFIGURATION}/{POOL_KEY}"


def _files(values: Values) -> Iterator[tuple[Ref, str, str]]:
    """The ConfigMaps of what an operator gave: which, under which key, and the text, empty for none."""
    yield CLIENT_CA_MAP, CLIENT_CA_KEY, values.client_ca
    yield REGISTRY_CA_MAP, REGISTRY_CA_KEY, values.registry_ca
    yield POOL_MAP, POOL_KEY, values.pool


def _file_map(what: Ref, key: str, text: str) -> Object:
    metadata = {"name": what.name, "namespace": what.namespace, "labels": dict([PART_OF])}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {key: text}}


def _mount(deployment: Object, configmap: Ref) -> None:
    """Beside the other files, in the volume that projects them."""
    (volume,) = (each for each in deployment["spec"]["template"]["spec"]["volumes"] if "projected" in each)
    volume["projected"]["sources"].append({"configMap": {"name": configmap.name}})


def _from_api_servers(ingress: Sequence[Object], addresses: Iterable[str]) -> list[Object]:
    """Each port in a rule of its own: the one of the webhook for these alone.

    The other one stays open: kubelets probe it, Prometheus reads it.
    """
    blocks = [{"ipBlock": {"cidr": f"{each}/{ipaddress.ip_address(each).max_prefixlen}"}} for each in addresses]
    return [
        {"ports": [port], **({"from": blocks} if port["port"] == "https" else {})}
        for rule in ingress
        for port in rule["ports"]
    ]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _images(value: Any, values: Values) -> Any:
    """Image names stand in the containers, and inside the text of the injection template."""
    if isinstance(value, dict):
        return {key: _images(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [_images(each, values) for each in value]
    if isinstance(value, str):
        return _OUR_IMAGE.sub(lambda match: values.image(match[1]), value)
    return value


def catalogue_text(path: Path) -> str:
    """The catalogue that CLIENTS names. Raises ConfigurationError where the webhook would not take it."""
    try:
        text = path.read_text("utf-8")
        catalogue.parse(load_yaml(text))
    except OSError as error:
        raise ConfigurationError(f"CLIENTS: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"CLIENTS: {path}: {error}") from None
    return text
