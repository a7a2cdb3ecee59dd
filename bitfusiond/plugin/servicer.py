"""What the kubelet may ask of the plugin: the gRPC servicer over the device table."""

from __future__ import annotations

import time
from itertools import chain
from typing import Any, TypeVar

from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.devices import DeviceTable, Health, listed
from bitfusiond.plugin.grpc import Bell
from bitfusiond.plugin.metrics import Metrics
from bitfusiond.plugin.v1beta1 import api_pb2 as api
from bitfusiond.plugin.v1beta1.api_grpc import DevicePluginBase

_log = logs.Log("plugin")

RequestT = TypeVar("RequestT")


def options() -> api.DevicePluginOptions:
    """Ids are shares of a pool on the network: there is nothing to reset, but packing them keeps whole GPUs free."""
    return api.DevicePluginOptions(get_preferred_allocation_available=True, pre_start_required=False)


class Servicer(DevicePluginBase):
    """Holds the device table and tells every open ListAndWatch stream of its changes.

    The methods in CamelCase are asyncio-flavoured and called by grpclib; the others may be called from anywhere.
    """

    def __init__(self, table: DeviceTable, metrics: Metrics) -> None:
        self._table = table
        self._metrics = metrics
        self._changed = Bell()
        self._closing = False
        self._streams = 0
        self._last_seen = time.monotonic()
        metrics.show_table(table)
        metrics.show_health(table.health, "not probed")
        metrics.kubelet_unseen.set_function(self._unseen_seconds)

    @property
    def table(self) -> DeviceTable:
        return self._table

    @property
    def streams(self) -> int:
        """How many ListAndWatch streams are open. The kubelet keeps one for as long as it knows of this plugin."""
        return self._streams

    def note_kubelet(self) -> None:
        """Note that the kubelet has just shown that it is there."""
        self._last_seen = time.monotonic()

    def change_health(self, health: Health, reason: str) -> None:
        """Set the health of every device; each open stream gets the new list if that changes anything."""
        self._metrics.show_health(health, reason)
        table = DeviceTable(self._table.size, health)
        changed = table.changed_since(self._table)
        if not changed:
            return
        self._table = table
        self._metrics.show_table(table)
        log = _log.info if health is Health.HEALTHY else _log.warning
        log("devices changed", devices=changed, health=health.value, reason=reason)
        self._changed.ring()

    def open(self) -> None:
        """A new session with the kubelet: streams may be opened (again)."""
        self._closing = False

    def close(self) -> None:
        """End every ListAndWatch stream, and any that is opened from now on."""
        self._closing = True
        self._changed.ring()

    def _unseen_seconds(self) -> float:
        if self._streams:
            self.note_kubelet()
        return time.monotonic() - self._last_seen

    async def GetDevicePluginOptions(self, stream: Stream[api.Empty, api.DevicePluginOptions]) -> None:  # noqa: N802
        await stream.recv_message()
        await stream.send_message(options())

    async def ListAndWatch(self, stream: Stream[api.Empty, api.ListAndWatchResponse]) -> None:  # noqa: N802
        """The list at once, and again whenever it changes, until the stream or the session ends.

        grpclib cancels this call when the kubelet resets the stream or goes away. The kubelet may open a new stream
        before it ends the old one, so nothing here is shared between two of them.
        """
        await stream.recv_message()
        self._streams += 1
        try:
            sent: DeviceTable | None = None
            while not self._closing:
                if self._table == sent:
                    await self._changed.wait()
                    continue
                sent = self._table
                await stream.send_message(_list(sent))
        finally:
            self.note_kubelet()
            self._streams -= 1

    async def GetPreferredAllocation(  # noqa: N802
        self, stream: Stream[api.PreferredAllocationRequest, api.PreferredAllocationResponse]
    ) -> None:
        request = await _received(stream)
        self.note_kubelet()
        response = api.PreferredAllocationResponse()
        for each in request.container_requests:
            try:
                ids = self._table.preferred(each.available_deviceIDs, each.must_include_deviceIDs, each.allocation_size)
            except ValueError as error:
                raise GRPCError(Status.INVALID_ARGUMENT, str(error)) from None
            response.container_responses.add(deviceIDs=ids)
        await stream.send_message(response)

    async def Allocate(self, stream: Stream[api.AllocateRequest, api.AllocateResponse]) -> None:  # noqa: N802
        """How many shares each container has. Nothing is kept: the kubelet does the accounting, and may ask twice."""
        request = await _received(stream)
        self.note_kubelet()
        shares = [len(set(each.devices_ids)) for each in request.container_requests]
        unknown = self._table.unknown(chain.from_iterable(each.devices_ids for each in request.container_requests))
        if unknown:
            # An id that the kubelet did not get from us: it must not start a container on the strength of it.
            message = f"unknown device ids: {listed(unknown)}; this node has 0 to {self._table.size - 1}"
            _log.warning("allocation refused", message=message)
            raise GRPCError(Status.INVALID_ARGUMENT, message)
        response = api.AllocateResponse()
        for count in shares:
            response.container_responses.add(envs={names.SHARES_VARIABLE: str(count)})
        await stream.send_message(response)
        self._metrics.allocations.inc(len(shares))
        self._metrics.shares_allocated.inc(sum(shares))

    async def PreStartContainer(  # noqa: N802
        self, stream: Stream[api.PreStartContainerRequest, api.PreStartContainerResponse]
    ) -> None:
        await stream.recv_message()
        await stream.send_message(api.PreStartContainerResponse())


async def _received(stream: Stream[RequestT, Any]) -> RequestT:
    """The request of a unary call. asyncio-flavoured."""
    request = await stream.recv_message()
    if request is None:
        raise GRPCError(Status.INVALID_ARGUMENT, "the call carries no request")
    return request


def _list(table: DeviceTable) -> api.ListAndWatchResponse:
    response = api.ListAndWatchResponse()
    for each in table.ids():  # messages made one by one, and then put in, would take five times the memory
        response.devices.add(ID=each, health=table.health.value)
    return response
