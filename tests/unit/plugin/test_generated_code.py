"""The committed gRPC code is what ``just proto`` makes of ``proto/``, and speaks as the kubelet does."""

from __future__ import annotations

from pathlib import Path

from bitfusiond.plugin.v1beta1 import api_grpc, api_pb2
from tests import ROOT
from tests.tools import protoc


def test_the_generated_code_is_as_new_as_the_proto_file(tmp_path: Path) -> None:
    generated = protoc.generate(tmp_path)
    assert generated
    stale = [str(file) for file in generated if (ROOT / file).read_bytes() != (tmp_path / file).read_bytes()]
    assert not stale, "run `just proto`"


def test_the_method_paths_are_those_that_a_kubelet_calls() -> None:
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in api_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert methods == {
        "/v1beta1.Registration/Register",
        "/v1beta1.DevicePlugin/GetDevicePluginOptions",
        "/v1beta1.DevicePlugin/ListAndWatch",
        "/v1beta1.DevicePlugin/GetPreferredAllocation",
        "/v1beta1.DevicePlugin/Allocate",
        "/v1beta1.DevicePlugin/PreStartContainer",
    }
    assert api_grpc.DevicePluginBase.__abstractmethods__ == {
        "GetDevicePluginOptions",
        "ListAndWatch",
        "GetPreferredAllocation",
        "Allocate",
        "PreStartContainer",
    }


def test_the_fields_have_the_numbers_and_types_of_the_interface() -> None:
    """Written down from a kubelet's own descriptor: name, number, type, * for repeated."""
    described = {
        message.name: " ".join(
            f"{field.name}={field.number}:{field.message_type.name if field.message_type else field.type}"
            + ("*" if field.is_repeated else "")
            for field in message.fields
        )
        for message in api_pb2.DESCRIPTOR.message_types_by_name.values()
    }
    boolean, text, int64, int32 = 8, 9, 3, 5
    assert described == {
        "Empty": "",
        "DevicePluginOptions": f"pre_start_required=1:{boolean} get_preferred_allocation_available=2:{boolean}",
        "RegisterRequest": f"version=1:{text} endpoint=2:{text} resource_name=3:{text} options=4:DevicePluginOptions",
        "ListAndWatchResponse": "devices=1:Device*",
        "Device": f"ID=1:{text} health=2:{text} topology=3:TopologyInfo",
        "TopologyInfo": "nodes=1:NUMANode*",
        "NUMANode": f"ID=1:{int64}",
        "PreferredAllocationRequest": "container_requests=1:ContainerPreferredAllocationRequest*",
        "ContainerPreferredAllocationRequest": (
            f"available_deviceIDs=1:{text}* must_include_deviceIDs=2:{text}* allocation_size=3:{int32}"
        ),
        "PreferredAllocationResponse": "container_responses=1:ContainerPreferredAllocationResponse*",
        "ContainerPreferredAllocationResponse": f"deviceIDs=1:{text}*",
        "AllocateRequest": "container_requests=1:ContainerAllocateRequest*",
        "ContainerAllocateRequest": f"devices_ids=1:{text}*",
        "AllocateResponse": "container_responses=1:ContainerAllocateResponse*",
        "ContainerAllocateResponse": (
            "envs=1:EnvsEntry* mounts=2:Mount* devices=3:DeviceSpec* annotations=4:AnnotationsEntry* "
            "cdi_devices=5:CDIDevice*"
        ),
        "Mount": f"container_path=1:{text} host_path=2:{text} read_only=3:{boolean}",
        "DeviceSpec": f"container_path=1:{text} host_path=2:{text} permissions=3:{text}",
        "CDIDevice": f"name=1:{text}",
        "PreStartContainerRequest": f"devices_ids=1:{text}*",
        "PreStartContainerResponse": "",
    }
