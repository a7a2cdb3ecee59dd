"""The ``caBundle`` of webhooks in their configurations: reading it, and writing it and nothing else."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import NamedTuple

from cryptography import x509

from bitfusiond import logs
from bitfusiond.webhook.certificates import authority
from bitfusiond.webhook.cluster import (
    MUTATING,
    VALIDATING,
    Cluster,
    ClusterError,
    ConflictError,
    NotFoundError,
    Object,
    Resource,
)

FIELD_MANAGER = "bitfusiond-certificates"

_log = logs.Log("certificates")


class Target(NamedTuple):
    """One webhook of a configuration: the caBundle that is ours. One of a configuration, since an apply names them all.

    Who applies the configuration by server-side apply too and leaves this webhook out of it, but not the
    configuration, is told by the API server that the rest is invalid (422): the entry stays for our sake. To take the
    webhook away, take the configuration away.
    """

    resource: Resource
    name: str
    webhook: str


TARGETS = (
    Target(MUTATING, "bwki-webhook-cfg", "bwkimua.bitfusion.io"),
    Target(VALIDATING, "validation.bitfusion.io-cfg", "bwkival.bitfusion.io"),
)


class Held(NamedTuple):
    """A caBundle, and the metadata of the configuration that it was read from."""

    pem: bytes
    metadata: Object

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        return authority.certificates_of(self.pem)


Read = Mapping[Target, Held | None]
"""None: the configuration, or our webhook in it, does not exist, or calls another installation."""


async def read(cluster: Cluster, target: Target, namespace: str) -> Held | None:
    """What the API server trusts when it calls the webhook in ``namespace``; None if it does not call that one.

    Two installations know the configurations by the same names. Only the one whose Service is called writes its CA:
    else each would put its own in place of the other's, for ever, and every second pod would be refused.
    """
    try:
        configuration = await cluster.get(target.resource, None, target.name)
    except NotFoundError:
        return None
    for webhook in configuration.get("webhooks") or ():
        if webhook.get("name") == target.webhook:
            client = webhook.get("clientConfig") or {}
            if (client.get("service") or {}).get("namespace", namespace) != namespace:
                return None
            return Held(_decoded(client.get("caBundle")), configuration["metadata"])
    return None


async def write(cluster: Cluster, found: Read, pem: bytes) -> bool:
    """Write ``pem`` where it is not; whether there was such a place.

    Only into what still is as it was read. Every place is tried before the error of the first is raised.
    """
    again, failure = False, None
    for target, held in found.items():
        if held is None or held.pem == pem:
            continue
        again = True
        body = _only_ca_bundle(target, held.metadata, pem)
        try:
            await cluster.apply(target.resource, None, target.name, body, field_manager=FIELD_MANAGER)
        except (ConflictError, NotFoundError):
            continue  # changed or deleted meanwhile
        except ClusterError as error:
            failure = failure or error
        else:
            _log.info("caBundle written", configuration=target.name, webhook=target.webhook)
    if failure is not None:
        raise failure
    return again


def _only_ca_bundle(target: Target, metadata: Object, pem: bytes) -> Object:
    """The smallest body that the API server (tried: 1.20) takes for a webhook that is there.

    ``name`` is the key by which it merges the list: the entry and its name become ours beside the other manager's. The
    fields that a webhook must have (``sideEffects``, ``admissionReviewVersions``, ``url`` or ``service``) are looked
    for in the merged object only, so they stay the other manager's; and for a configuration or a webhook that is not
    there that check fails (422), so that this creates neither. ``uid`` and ``resourceVersion`` make it fail (409) where
    anything at all changed since ``metadata`` was read.
    """
    return {
        "apiVersion": f"{target.resource.group}/{target.resource.version}",
        "kind": target.resource.kind,
        "metadata": {"name": target.name, "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]},
        "webhooks": [{"name": target.webhook, "clientConfig": {"caBundle": base64.b64encode(pem).decode()}}],
    }


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b""
