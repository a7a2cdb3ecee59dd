"""ResourceClaims as the scheduler leaves them, and the ResourceSlices that they point at."""

from __future__ import annotations

from typing import Any

from bitfusiond.core.fields import Json

UID = "5f0c6b1e-3f0a-4d0e-8a61-0d5c7f0b1a2e"
SERVERS = {"gpu-a": "10.1.2.3:56001", "gpu-b": "[2001:db8::2]:56001"}


def result(pool: str, device: str, shares: object = 60, **more: Any) -> Json:
    """A device of a claim's allocation; ``more`` replaces or adds fields, None takes one away."""
    whole = {
        "request": "gpu",
        "driver": "bitfusion.io",
        "pool": pool,
        "device": device,
        "shareID": "11111111-2222-3333-4444-555555555555",
        "consumedCapacity": {"shares": str(shares)},
        **more,
    }
    return {key: value for key, value in whole.items() if value is not None}


def parameters(*variables: Json, requests: list[str] | None = None, **values: str) -> Json:
    """An entry of a claim's configuration, as the webhook writes it."""
    return {
        "source": "FromClaim",
        "requests": ["gpu"] if requests is None else requests,
        "opaque": {"driver": "bitfusion.io", "parameters": {"variables": [*variables], "values": values}},
    }


def claim(
    name: str, *results: Json, config: list[Any] | None = None, pod_claim: str | None = "bitfusion-0", uid: str = UID
) -> Json:
    """A claim of the namespace ``team``, allocated with ``results``."""
    annotations = {} if pod_claim is None else {"resource.kubernetes.io/pod-claim-name": pod_claim}
    return {
        "metadata": {"name": name, "namespace": "team", "uid": uid, "annotations": annotations},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "bitfusion.io"}}]}},
        "status": {"allocation": {"devices": {"results": [*results], "config": config or []}}},
    }


def resource_slice(server: str, *ids: str, address: str | None = None) -> Json:
    """The slice of one server with its GPUs."""
    attributes = {"server": {"string": server}, "address": {"string": address or SERVERS[server]}}
    return {
        "metadata": {"name": f"bitfusion.io-{server}"},
        "spec": {
            "driver": "bitfusion.io",
            "pool": {"name": server, "generation": 1, "resourceSliceCount": 1},
            "allNodes": True,
            "devices": [{"name": f"gpu-{each}", "attributes": dict(attributes)} for each in ids],
        },
    }


def slices() -> dict[str, Json]:
    """Those of two servers with two GPUs each, by pool."""
    return {server: resource_slice(server, "0", "1") for server in SERVERS}
