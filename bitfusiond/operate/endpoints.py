"""Where a Service leads, by its EndpointSlices: kube-proxy goes by them, and the API server of 1.37 too.

Kubernetes 1.20 has them (v1beta1) in the same form. The Endpoints object is deprecated from 1.33 on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import EndpointSlice
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate.kubectl import Kubectl, Ref

KIND = "EndpointSlice"
_API_SERVER = Ref("Service", "kubernetes", "default")


class Endpoint(NamedTuple):
    """``pod`` is empty where the address belongs to none."""

    pod: str
    ready: bool


def command(service: Ref) -> str:
    """For a person who wants to look."""
    return f"kubectl get endpointslices -n {service.namespace} -l {_label(service)}"


def find(kubectl: Kubectl, service: Ref) -> list[Endpoint]:
    """All endpoints of a Service."""
    return of_slices(kubectl.all(KIND, "-l", _label(service), namespace=service.namespace))


def of_slices(slices: Iterable[EndpointSlice]) -> list[Endpoint]:
    """Each pod once, though it may have addresses of two families."""
    by_pod = {}
    for each in slices:
        for endpoint in each.get("endpoints") or []:
            # Unknown counts as ready, says the API.
            ready = mapping(endpoint, "conditions").get("ready") is not False
            pod = mapping(endpoint, "targetRef").get("name", "")
            by_pod[pod or tuple(endpoint["addresses"])] = Endpoint(pod, ready)
    return list(by_pod.values())


def of_api_server(kubectl: Kubectl) -> tuple[str, ...]:
    """The addresses of the API servers, as they say themselves. Raises ConfigurationError where there is none."""
    slices = kubectl.all(KIND, "-l", _label(_API_SERVER), namespace=_API_SERVER.namespace)
    found = {address for each in slices for end in each.get("endpoints") or [] for address in end["addresses"]}
    if not found:
        raise ConfigurationError(f"API_SERVER_ONLY: `{command(_API_SERVER)}` shows no address: give API_SERVER_ONLY=no")
    return tuple(sorted(found))


def _label(service: Ref) -> str:
    return f"kubernetes.io/service-name={service.name}"
