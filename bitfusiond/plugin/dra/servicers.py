"""What the kubelet may ask of the driver: who it is, and to prepare and unprepare claims, in both versions.

The methods in CamelCase are asyncio-flavoured and called by grpclib.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.pool import cdi
from bitfusiond.core.pool.cdi import ClaimRef, Prepared
from bitfusiond.core.text import one_line, shown
from bitfusiond.plugin.dra.driver import Driver
from bitfusiond.plugin.dra.registration import api_grpc as registration_grpc
from bitfusiond.plugin.dra.registration import api_pb2 as registration
from bitfusiond.plugin.dra.v1 import api_grpc as v1_grpc
from bitfusiond.plugin.dra.v1 import api_pb2 as v1
from bitfusiond.plugin.dra.v1beta1 import api_grpc as v1beta1_grpc
from bitfusiond.plugin.dra.v1beta1 import api_pb2 as v1beta1
from bitfusiond.plugin.grpc import from_trio
from bitfusiond.plugin.metrics import DriverMetrics

TYPE = "DRAPlugin"
# The kubelet takes the first of its own that is among them.
SERVICES = ("v1.DRAPlugin", "v1beta1.DRAPlugin")
MOST_CLAIMS = 256  # of one call: those of one pod
_LONGEST_NAME = 253
_LONGEST_ERROR = 500

_log = logs.Log("dra")


class Registration(registration_grpc.RegistrationBase):
    """Tells the kubelet where the driver answers, and hears whether it is registered."""

    def __init__(self, endpoint: Path, metrics: DriverMetrics) -> None:
        self._endpoint = endpoint
        self._metrics = metrics
        self._problem: str | None = "the DRA driver is not registered with the kubelet yet"
        metrics.registered.set(0)

    def problem(self) -> str | None:
        """Why the driver is not registered; None when it is."""
        return self._problem

    def lost(self, reason: str) -> None:
        """The kubelet cannot know us any more."""
        self._set(f"the DRA driver is not registered: {reason}")

    async def GetInfo(self, stream: Stream[registration.InfoRequest, registration.PluginInfo]) -> None:  # noqa: N802
        await stream.recv_message()
        await stream.send_message(
            registration.PluginInfo(
                type=TYPE, name=names.DRIVER, endpoint=str(self._endpoint), supported_versions=SERVICES
            )
        )

    async def NotifyRegistrationStatus(  # noqa: N802
        self, stream: Stream[registration.RegistrationStatus, registration.RegistrationStatusResponse]
    ) -> None:
        request = await stream.recv_message()
        if request is not None and request.plugin_registered:
            self._set(None)
            _log.info("driver registered", driver=names.DRIVER, endpoint=str(self._endpoint))
        else:
            reason = one_line(request.error if request else "", _LONGEST_ERROR)
            self._set(f"the kubelet did not register the DRA driver: {reason}")
            _log.warning("driver not registered", driver=names.DRIVER, error=reason)
        await stream.send_message(registration.RegistrationStatusResponse())

    def _set(self, problem: str | None) -> None:
        self._problem = problem
        self._metrics.registered.set(int(problem is None))


class _Calls:
    """Both calls of DRAPlugin, over the messages ``_api`` of one version."""

    _api: Any

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def NodePrepareResources(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        claims = await _claims(stream)
        found: Mapping[str, Prepared | str] = await from_trio(self._driver.prepare, claims)
        response = self._api.NodePrepareResourcesResponse()
        for uid, outcome in found.items():
            if isinstance(outcome, str):
                response.claims[uid].error = outcome
            else:
                self._add_devices(response.claims[uid].devices, outcome)
        await stream.send_message(response)

    async def NodeUnprepareResources(self, stream: Stream[Any, Any]) -> None:  # noqa: N802
        claims = await _claims(stream)
        found = await from_trio(self._driver.unprepare, claims)
        response = self._api.NodeUnprepareResourcesResponse()
        for uid, error in found.items():
            response.claims[uid].error = error
        await stream.send_message(response)

    def _add_devices(self, devices: Any, prepared: Prepared) -> None:
        """One for each GPU; the claim's variables come with whichever of them a container gets."""
        for result in prepared.results:
            device = devices.add(
                request_names=[result.request.partition("/")[0]],
                pool_name=result.pool,
                device_name=result.device,
                cdi_device_ids=[cdi.device_id(prepared.claim.uid)],
            )
            self._add_share(device, result.share_id)

    def _add_share(self, device: Any, share_id: str | None) -> None:
        """Tell which share of the device it is, where the version has a field for it."""


class CallsV1(_Calls, v1_grpc.DRAPluginBase):
    _api = v1

    def _add_share(self, device: v1.Device, share_id: str | None) -> None:
        if share_id is not None:
            device.share_id = share_id


class CallsV1beta1(_Calls, v1beta1_grpc.DRAPluginBase):
    _api = v1beta1


async def _claims(stream: Stream[Any, Any]) -> list[ClaimRef]:
    """The claims of a request, each once. Raises GRPCError for what no kubelet asks. asyncio-flavoured."""
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the call carries no request")
    if len(request.claims) > MOST_CLAIMS:
        raise GRPCError(
            Status.INVALID_ARGUMENT, f"the call is about {len(request.claims)} claims: at most {MOST_CLAIMS} are taken"
        )
    return list(_checked(request.claims).values())


def _checked(claims: Iterable[Any]) -> dict[str, ClaimRef]:
    found = {}
    for claim in claims:
        # The UID becomes a file's name, the others a path of the API server's.
        if not cdi.is_uid(claim.uid) or not all(
            0 < len(name) <= _LONGEST_NAME and "/" not in name for name in (claim.namespace, claim.name)
        ):
            raise GRPCError(Status.INVALID_ARGUMENT, f"no claim: {shown([claim.namespace, claim.name, claim.uid])}")
        found[claim.uid] = ClaimRef(claim.namespace, claim.name, claim.uid)
    return found
