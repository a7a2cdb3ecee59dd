"""The plugin driven by a gRPC implementation that shares nothing with ours: grpcio, blocking, in threads."""

from __future__ import annotations

import itertools
import queue
import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio

from bitfusiond.core.devices import Health
from bitfusiond.plugin import service, servicer
from bitfusiond.plugin.v1beta1 import api_pb2 as api
from tests.fakes.processes import until
from tests.unit.conftest import Events
from tests.unit.plugin.conftest import RunPlugin

pytestmark = pytest.mark.slow
SECONDS = 10.0


class Client:
    """A kubelet's connection to the plugin."""

    def __init__(self, path: Path) -> None:
        self.channel = grpc.insecure_channel(f"unix:{path}")

    def unary(self, method: str, request: Any, answer: Any) -> Any:
        call = self.channel.unary_unary(
            f"/v1beta1.DevicePlugin/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return call(request, timeout=SECONDS, wait_for_ready=True)

    def watch(self) -> Any:
        call = self.channel.unary_stream(
            "/v1beta1.DevicePlugin/ListAndWatch",
            request_serializer=api.Empty.SerializeToString,
            response_deserializer=api.ListAndWatchResponse.FromString,
        )
        return call(api.Empty(), wait_for_ready=True)


@contextmanager
def client(directory: Path) -> Iterator[Client]:
    connected = Client(directory / "bitfusion.io")
    try:
        yield connected
    finally:
        connected.channel.close()


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    with trio.fail_after(2 * SECONDS):
        return await trio.to_thread.run_sync(partial(function, *arguments), abandon_on_cancel=True)


@pytest.fixture
def servicers(monkeypatch: pytest.MonkeyPatch) -> list[servicer.Servicer]:
    """Every servicer that the plugin makes, for a look inside."""
    made: list[servicer.Servicer] = []

    class Seen(servicer.Servicer):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(service, "Servicer", Seen)
    return made


def healths(response: api.ListAndWatchResponse) -> set[str]:
    return {device.health for device in response.devices}


async def test_it_registers_with_a_kubelet_that_speaks_another_grpc(directory: Path, run_plugin: RunPlugin) -> None:
    requests: queue.Queue[api.RegisterRequest] = queue.Queue()

    def register(request: api.RegisterRequest, _context: object) -> api.Empty:
        requests.put(request)
        return api.Empty()

    handler = grpc.unary_unary_rpc_method_handler(
        register,
        request_deserializer=api.RegisterRequest.FromString,
        response_serializer=api.Empty.SerializeToString,
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler})]
    )
    server.add_insecure_port(f"unix:{directory / 'kubelet.sock'}")
    server.start()
    try:
        async with run_plugin():
            request = await in_thread(partial(requests.get, timeout=SECONDS))
    finally:
        await in_thread(server.stop(None).wait)
    assert (request.version, request.endpoint, request.resource_name) == ("v1beta1", "bitfusion.io", "bitfusion.io/gpu")
    assert request.options.get_preferred_allocation_available


async def test_every_call_is_answered(directory: Path, run_plugin: RunPlugin) -> None:
    async with run_plugin():
        with client(directory) as kubelet:
            options = await in_thread(kubelet.unary, "GetDevicePluginOptions", api.Empty(), api.DevicePluginOptions)
            assert options == api.DevicePluginOptions(get_preferred_allocation_available=True)
            request = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=["3", "4"])])
            answer = await in_thread(kubelet.unary, "Allocate", request, api.AllocateResponse)
            assert dict(answer.container_responses[0].envs) == {"BITFUSION_GPU_SHARES": "2"}
            preferred = api.PreferredAllocationRequest(
                container_requests=[
                    api.ContainerPreferredAllocationRequest(available_deviceIDs=["9", "8", "7"], allocation_size=2)
                ]
            )
            answer = await in_thread(
                kubelet.unary, "GetPreferredAllocation", preferred, api.PreferredAllocationResponse
            )
            assert list(answer.container_responses[0].deviceIDs) == ["7", "8"]
            started = await in_thread(
                kubelet.unary,
                "PreStartContainer",
                api.PreStartContainerRequest(devices_ids=["3"]),
                api.PreStartContainerResponse,
            )
            assert started == api.PreStartContainerResponse()


async def test_an_unknown_id_is_invalid_argument_with_its_name(directory: Path, run_plugin: RunPlugin) -> None:
    """Allocate accepted any id."""
    request = api.AllocateRequest(container_requests=[api.ContainerAllocateRequest(devices_ids=["gpu-0"])])
    async with run_plugin():
        with client(directory) as kubelet:
            with pytest.raises(grpc.RpcError) as refused:
                await in_thread(kubelet.unary, "Allocate", request, api.AllocateResponse)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert refused.value.details() == "unknown device ids: 'gpu-0'; this node has 0 to 999"


async def test_the_list_comes_at_once_and_then_only_on_change_to_every_stream(
    directory: Path, run_plugin: RunPlugin, servicers: list[servicer.Servicer]
) -> None:
    """1000 devices were sent again every interval, in random order."""
    async with run_plugin():
        with client(directory) as old, client(directory) as new:
            streams = [old.watch(), new.watch()]
            for stream in streams:
                first = await in_thread(next, stream)
                assert [device.ID for device in first.devices] == [str(index) for index in range(1000)]
                assert healths(first) == {"Healthy"}
            assert servicers[0].streams == 2
            servicers[0].change_health(Health.HEALTHY, "still")  # no change: nothing may be sent
            servicers[0].change_health(Health.UNHEALTHY, "gone")
            for stream in streams:
                assert healths(await in_thread(next, stream)) == {"Unhealthy"}
            servicers[0].change_health(Health.HEALTHY, "back")
            assert healths(await in_thread(next, streams[1])) == {"Healthy"}


async def test_a_stream_that_lags_gets_the_present_state_and_not_every_step(
    directory: Path, run_plugin: RunPlugin, servicers: list[servicer.Servicer]
) -> None:
    async with run_plugin(resource_nums="5"):
        with client(directory) as kubelet:
            stream = kubelet.watch()
            await in_thread(next, stream)
            for health in itertools.islice(itertools.cycle([Health.UNHEALTHY, Health.HEALTHY]), 9):
                servicers[0].change_health(health, "flapping")
            assert healths(await in_thread(next, stream)) == {"Unhealthy"}


async def test_list_and_watch_ends_with_its_stream(
    directory: Path, run_plugin: RunPlugin, servicers: list[servicer.Servicer], events: Events
) -> None:
    """ListAndWatch went on for ever after its stream had ended, with an error line per interval."""
    async with run_plugin():
        with client(directory) as kubelet, client(directory) as other:
            stream, staying = kubelet.watch(), other.watch()
            await in_thread(next, stream)
            await in_thread(next, staying)
            stream.cancel()
            await until(lambda: servicers[0].streams == 1)
            kubelet.channel.close()
            servicers[0].change_health(Health.UNHEALTHY, "gone")
            assert healths(await in_thread(next, staying)) == {"Unhealthy"}
            other.channel.close()
            await until(lambda: servicers[0].streams == 0)
        servicers[0].change_health(Health.HEALTHY, "back")
        await trio.sleep(0.1)
    assert {line["level"] for line in events() if line["event"] != "devices changed"} == {"INFO"}


async def test_on_stop_streams_end_with_status_ok(directory: Path, run_plugin: RunPlugin) -> None:
    with client(directory) as kubelet:
        async with run_plugin() as stop:
            stream = kubelet.watch()
            await in_thread(next, stream)
            stop.set()
            assert await in_thread(list, stream) == []
            assert await in_thread(stream.code) is grpc.StatusCode.OK


async def test_a_kubelet_that_does_not_read_cannot_hold_up_the_end(
    directory: Path, run_plugin: RunPlugin, servicers: list[servicer.Servicer]
) -> None:
    with client(directory) as kubelet:
        async with run_plugin(resource_nums="200000") as stop:
            stream = kubelet.watch()  # 4 MB that nobody takes: more than a stream's window
            await until(lambda: servicers and servicers[0].streams)
            await trio.sleep(1)
            started = trio.current_time()
            stop.set()
        assert trio.current_time() - started < 3
        stream.cancel()


async def test_the_largest_list_arrives_within_the_kubelets_limit(directory: Path, run_plugin: RunPlugin) -> None:
    """grpcio keeps the same 4 MiB limit on what it receives as the kubelet's grpc-go."""
    async with run_plugin(resource_nums="205019"):
        with client(directory) as kubelet:
            assert len((await in_thread(next, kubelet.watch())).devices) == 205019


HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"  # the preface and empty SETTINGS


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        HTTP2 + b"\0\0\0\x7f\0\0\0\0\0",
        HTTP2 + b"\0\0\x05\x01\x05\0\0\0\x01hello",
        b"",
    ],
    ids=["HTTP/1.1", "unknown frame", "bad headers", "nothing"],
)
async def test_a_client_that_talks_nonsense_disturbs_nobody(
    directory: Path, run_plugin: RunPlugin, sent: bytes, events: Events
) -> None:
    async with run_plugin():
        with client(directory) as kubelet:
            stream = kubelet.watch()
            await in_thread(next, stream)
            with socket.socket(socket.AF_UNIX) as strange:
                strange.connect(str(directory / "bitfusion.io"))
                strange.sendall(sent)
                await trio.sleep(0.2)
            assert stream.is_active()
            await in_thread(kubelet.unary, "GetDevicePluginOptions", api.Empty(), api.DevicePluginOptions)
    assert not events("session failed")
