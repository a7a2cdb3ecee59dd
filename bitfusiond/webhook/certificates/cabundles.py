"""The ``caBundle`` of webhooks in their configurations: reading it, and writing it and nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import NamedTuple

from cryptography import x509

from bitfusiond import logs, pki
from bitfusiond.core import names
from bitfusiond.core.text import from_base64
from bitfusiond.kube import MUTATING, VALIDATING, Cluster, ClusterError, ConflictError, NotFoundError, Object, Resource

FIELD_MANAGER = "bitfusiond-certificates"

_log = logs.Log("certificates")


class Target(NamedTuple):
    """A configuration, and the webhooks in it whose caBundles are ours, as far as it has them.

    The manifests of API servers with matchConditions have the first, those of older ones both
    (manifests/overlays/legacy).

    Who applies the configuration by server-side apply too and leaves one of these webhooks out of it, but not the
    configuration, is told by the API server that the rest is invalid (422): the entry stays for our sake. To take a
    webhook away, take the configuration away first.
    """

    resource: Resource
    name: str
    webhooks: tuple[str, ...]


TARGETS = (
    Target(MUTATING, names.MUTATING_CONFIGURATION, names.MUTATING_WEBHOOKS),
    Target(VALIDATING, names.VALIDATING_CONFIGURATION, names.VALIDATING_WEBHOOKS),
)


class Held(NamedTuple):
    """The caBundle of each of our webhooks in a configuration, and the metadata of the latter as it was read."""

    bundles: Mapping[str, bytes]
    metadata: Object

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The CAs that the API server trusts for any of them."""
        return tuple(each for pem in self.bundles.values() for each in pki.certificates_of(pem))

    @property
    def trusted(self) -> frozenset[str]:
        """The fingerprints of those that it trusts for every one of them."""
        found = [frozenset(map(pki.fingerprint, pki.certificates_of(pem))) for pem in self.bundles.values()]
        return frozenset.intersection(*found)


Read = Mapping[Target, Held | None]
"""None: the configuration does not exist, or has none of our webhooks, or they call another installation."""


async def read(cluster: Cluster, target: Target, namespace: str) -> Held | None:
    """What the API server trusts when it calls the webhooks in ``namespace``; None if it calls none of them there.

    Two installations know the configurations by the same names. Only the one whose Service is called writes its CA:
    else each would put its own in place of the other's, for ever, and every second pod would be refused.
    """
    try:
        configuration = await cluster.get(target.resource, None, target.name)
    except NotFoundError:
        return None
    clients = {each.get("name"): each.get("clientConfig") or {} for each in configuration.get("webhooks") or ()}
    bundles = {
        name: from_base64(clients[name].get("caBundle"))
        for name in target.webhooks
        if name in clients and (clients[name].get("service") or {}).get("namespace", namespace) == namespace
    }
    return Held(bundles, configuration["metadata"]) if bundles else None


async def write(cluster: Cluster, found: Read, pem: bytes) -> bool:
    """Write ``pem`` where it is not; whether there was such a place.

    Only into what still is as it was read. Every place is tried before the error of the first is raised.
    """
    again, failure = False, None
    for target, held in found.items():
        if held is None or set(held.bundles.values()) == {pem}:
            continue
        again = True
        body = _only_ca_bundles(target, held, pem)
        try:
            await cluster.apply(target.resource, None, target.name, body, field_manager=FIELD_MANAGER)
        except (ConflictError, NotFoundError):
            continue  # changed or deleted meanwhile
        except ClusterError as error:
            failure = failure or error
        else:
            _log.info("caBundle written", configuration=target.name, webhooks=list(held.bundles))
    if failure is not None:
        raise failure
    return again


def _only_ca_bundles(target: Target, held: Held, pem: bytes) -> Object:
    """The smallest body that the API server (tried: 1.20) takes for webhooks that are there.

    All that we hold in one body, also those that have ``pem`` already: what an apply leaves out, its manager gives up.
    ``name`` is the key by which the list is merged: the entry and its name become ours beside the other manager's. The
    fields that a webhook must have (``sideEffects``, ``admissionReviewVersions``, ``url`` or ``service``) are looked
    for in the merged object only, so they stay the other manager's; and for a configuration or a webhook that is not
    there that check fails (422), so that this creates neither. ``uid`` and ``resourceVersion`` make it fail (409) where
    anything at all changed since it was read.
    """
    bundle = base64.b64encode(pem).decode()
    metadata = {key: held.metadata[key] for key in ("uid", "resourceVersion")}
    return {
        "apiVersion": f"{target.resource.group}/{target.resource.version}",
        "kind": target.resource.kind,
        "metadata": {"name": target.name, **metadata},
        "webhooks": [{"name": name, "clientConfig": {"caBundle": bundle}} for name in held.bundles],
    }
