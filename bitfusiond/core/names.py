"""Every annotation, resource, label, path and object name that users and clusters rely on: once."""

from __future__ import annotations

import re

# Annotations of a pod
MANAGEMENT = "auto-management/bitfusion"
STATUS = "auto-management/status"
STATUS_INJECTED = "injected"
# Written by us, where more was added than the packaged template adds: /validate is to be asked in any case.
VALIDATE = "bitfusion.io/validate"
VALIDATE_ALWAYS = "always"
MIRROR = "kubernetes.io/config.mirror"  # Kubernetes' own
CLIENT_OS = "bitfusion-client/os"
CLIENT_VERSION = "bitfusion-client/version"
CLIENT_NAME = "bitfusion-client/name"
CLIENT_SERVERS = "bitfusion-client/servers"
CLIENT_FILTER = "bitfusion-client/filter"

ASKED_BY_ANNOTATION = (MANAGEMENT, CLIENT_NAME, CLIENT_OS, CLIENT_VERSION, CLIENT_SERVERS, CLIENT_FILTER)

# Resources of a container
DOMAIN = "bitfusion.io/"
GPU = "bitfusion.io/gpu"
GPU_AMOUNT = "bitfusion.io/gpu-amount"
GPU_NUM = "bitfusion.io/gpu-num"  # the earlier name of gpu-amount
GPU_PERCENT = "bitfusion.io/gpu-percent"
GPU_MEMORY = "bitfusion.io/gpu-memory"
REQUEST_RESOURCES = frozenset({GPU_AMOUNT, GPU_NUM, GPU_PERCENT, GPU_MEMORY})
SHARES_OF_ONE_GPU = 100

# The pool: driver of its devices, DeviceClass, vendor in CDI
DRIVER = DOMAIN.rstrip("/")
POOL_CONFIGMAP = "bwki-pool-configmap"
UNREACHABLE = "bitfusion.io/unreachable"  # the taint of the GPUs of a server that does not answer
USED_AT = "bitfusion.io/used-at"  # when a pod last needed a ResourceClaimTemplate
POD_CLAIM_NAME = "resource.kubernetes.io/pod-claim-name"  # Kubernetes' own, on a claim made from a template

# Token files
CA_CRT = "ca.crt"
CLIENT_YAML = "client.yaml"
SERVERS_CONF = "servers.conf"
TOKEN_FILES = (CA_CRT, CLIENT_YAML, SERVERS_CONF)

# The Secrets that hold them: one each, or the earlier one with all three keys
TOKEN_SECRETS = {
    CA_CRT: "bitfusion-client-secret-ca.crt",
    CLIENT_YAML: "bitfusion-client-secret-client.yml",
    SERVERS_CONF: "bitfusion-client-secret-servers.conf",
}
EARLIER_TOKEN_SECRET = "bitfusion-secret"  # noqa: S105 - a name

# What a copy of one carries
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY_US = "bitfusiond"
COPIED_FROM = "bitfusion.io/copied-from"
CONTENT_SHA256 = "bitfusion.io/content-sha256"
MARK = "bitfusion.io/mark"

# Objects of the cluster
NAMESPACE = "bwki"
KUBE_SYSTEM = "kube-system"
LONGEST_NAMESPACE = 63  # characters
EXEMPT_NAMESPACES = frozenset({KUBE_SYSTEM, "kube-public", "kube-node-lease"})
WEBHOOK_DEPLOYMENT = "bitfusion-webhook-deployment"  # of the ServiceAccount too
WEBHOOK_SERVICE = "bwki-webhook-svc"
WEBHOOK_CERTIFICATES = "bwki-webhook-certs"
MARK_SECRET = "bwki-token-mark"  # noqa: S105 - a name
TEMPLATE_CONFIGMAP = "bwki-webhook-configmap"
CATALOGUE_CONFIGMAP = "bwki-bitfusion-client-configmap"
CLIENT_CA_CONFIGMAP = "bwki-webhook-client-ca"
REGISTRY_CA_CONFIGMAP = "bwki-webhook-registry-ca"
PLUGIN_DAEMONSET = "bitfusion-device-plugin"
MUTATING_KIND, VALIDATING_KIND = "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"
CONFIGURATION_KINDS = (MUTATING_KIND, VALIDATING_KIND)
MUTATING_CONFIGURATION = "bwki-webhook-cfg"
VALIDATING_CONFIGURATION = "validation.bitfusion.io-cfg"
MUTATING_WEBHOOKS = ("bwkimua.bitfusion.io", "bwkimua-labelled.bitfusion.io")  # the second below Kubernetes 1.28
VALIDATING_WEBHOOKS = ("bwkival.bitfusion.io", "bwkival-labelled.bitfusion.io")
ADMISSION_LABEL = "bitfusion.io/admission"
PACKAGED_DIGEST = "bitfusion.io/packaged-sha256"  # an annotation of the catalogue's ConfigMap
PROBE_LABEL = "bitfusion.io/delivery-probe"  # of the pods that try whether a node mounts images

# Reasons of the Events that we write
EVENT_REFUSED = "BitfusionRefused"
EVENT_SERVER_GONE = "BitfusionServerGone"

# The environment
LD_LIBRARY_PATH = "LD_LIBRARY_PATH"
SHARES_VARIABLE = "BITFUSION_GPU_SHARES"
ALLOCATION_VARIABLE = "BITFUSIOND_ALLOCATION"  # what a claim was given; with _BITFUSION_0 the pod's claim bitfusion-0

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_NAMESPACE = re.compile(LABEL)
_EXTENDED_RESOURCE = re.compile(rf"(?=.{{1,253}}/){LABEL}(\.{LABEL})+/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?")


def is_extended_resource(name: str) -> bool:
    """Whether the API server takes ``name`` as an extended resource: DOMAIN/NAME outside kubernetes.io.

    Source: k8s.io/kubernetes pkg/apis/core/v1/helper, IsExtendedResourceName.
    """
    if not _EXTENDED_RESOURCE.fullmatch(name):
        return False
    domain = name.partition("/")[0]
    return not (domain == "kubernetes.io" or domain.endswith(".kubernetes.io"))


def is_namespace(name: str) -> bool:
    """Whether a namespace can be called so."""
    return _NAMESPACE.fullmatch(name) is not None
