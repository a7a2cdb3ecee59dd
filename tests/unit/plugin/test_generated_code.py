"""The committed gRPC code is what ``just proto`` makes of ``proto/``, and speaks as the kubelet does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bitfusiond.plugin.dra.registration import api_pb2 as registration
from bitfusiond.plugin.dra.v1 import api_pb2 as dra_v1
from bitfusiond.plugin.dra.v1beta1 import api_pb2 as dra_v1beta1
from bitfusiond.plugin.v1beta1 import api_grpc, api_pb2
from tests import ROOT
from tests.tools import protoc


def test_the_generated_code_is_as_new_as_the_proto_file(tmp_path: Path) -> None:
    generated = protoc.generate(tmp_path)
    assert generated
    stale = [str(file) for file in generated if (ROOT / file).read_bytes() != (tmp_path / file).read_bytes()]
    assert not stale, "run `just proto`"


def test_the_method_paths_are_those_that_a_kubelet_calls() -> None:
    assert methods(api_pb2) == {
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


def methods(api: Any) -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for service in api.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def described(api: Any) -> dict[str, str]:
    """The fields of each message: name, number, type, * for repeated, ? for one that may be absent."""
    return {
        message.name: " ".join(
            f"{field.name}={field.number}:{field.message_type.name if field.message_type else field.type}"
            + ("*" if field.is_repeated else "")
            + ("?" if field.has_presence and not field.message_type else "")
            for field in message.fields
        )
        for message in api.DESCRIPTOR.message_types_by_name.values()
    }


BOOLEAN, TEXT, INT64, INT32 = 8, 9, 3, 5


def test_a_driver_is_registered_by_the_interface_of_kubelets() -> None:
    """Written down from k8s.io/kubelet v0.37.2, pkg/apis/pluginregistration/v1."""
    assert methods(registration) == {
        "/pluginregistration.Registration/GetInfo",
        "/pluginregistration.Registration/NotifyRegistrationStatus",
    }
    assert described(registration) == {
        "InfoRequest": "",
        "PluginInfo": f"type=1:{TEXT} name=2:{TEXT} endpoint=3:{TEXT} supported_versions=4:{TEXT}*",
        "RegistrationStatus": f"plugin_registered=1:{BOOLEAN} error=2:{TEXT}",
        "RegistrationStatusResponse": "",
    }


@pytest.mark.parametrize(("version", "api"), [("v1", dra_v1), ("v1beta1", dra_v1beta1)])
def test_a_driver_is_asked_by_the_interface_of_kubelets(version: str, api: Any) -> None:
    """Written down from k8s.io/kubelet v0.37.2, pkg/apis/dra."""
    share = f" share_id=5:{TEXT}?" if version == "v1" else ""
    assert methods(api) == {
        f"/k8s.io.kubelet.pkg.apis.dra.{version}.DRAPlugin/NodePrepareResources",
        f"/k8s.io.kubelet.pkg.apis.dra.{version}.DRAPlugin/NodeUnprepareResources",
    }
    assert described(api) == {
        "NodePrepareResourcesRequest": "claims=1:Claim*",
        "NodePrepareResourcesResponse": "claims=1:ClaimsEntry*",
        "NodePrepareResourceResponse": f"devices=1:Device* error=2:{TEXT}",
        "Device": f"request_names=1:{TEXT}* pool_name=2:{TEXT} device_name=3:{TEXT} cdi_device_ids=4:{TEXT}*{share}",
        "NodeUnprepareResourcesRequest": "claims=1:Claim*",
        "NodeUnprepareResourcesResponse": "claims=1:ClaimsEntry*",
        "NodeUnprepareResourceResponse": f"error=1:{TEXT}",
        "Claim": f"namespace=1:{TEXT} uid=2:{TEXT} name=3:{TEXT}",
    }


def test_the_fields_have_the_numbers_and_types_of_the_interface() -> None:
    """Written down from a kubelet's own descriptor: name, number, type, * for repeated."""
    assert described(api_pb2) == {
        "Empty": "",
        "DevicePluginOptions": f"pre_start_required=1:{BOOLEAN} get_preferred_allocation_available=2:{BOOLEAN}",
        "RegisterRequest": f"version=1:{TEXT} endpoint=2:{TEXT} resource_name=3:{TEXT} options=4:DevicePluginOptions",
        "ListAndWatchResponse": "devices=1:Device*",
        "Device": f"ID=1:{TEXT} health=2:{TEXT} topology=3:TopologyInfo",
        "TopologyInfo": "nodes=1:NUMANode*",
        "NUMANode": f"ID=1:{INT64}",
        "PreferredAllocationRequest": "container_requests=1:ContainerPreferredAllocationRequest*",
        "ContainerPreferredAllocationRequest": (
            f"available_deviceIDs=1:{TEXT}* must_include_deviceIDs=2:{TEXT}* allocation_size=3:{INT32}"
        ),
        "PreferredAllocationResponse": "container_responses=1:ContainerPreferredAllocationResponse*",
        "ContainerPreferredAllocationResponse": f"deviceIDs=1:{TEXT}*",
        "AllocateRequest": "container_requests=1:ContainerAllocateRequest*",
        "ContainerAllocateRequest": f"devices_ids=1:{TEXT}*",
        "AllocateResponse": "container_responses=1:ContainerAllocateResponse*",
        "ContainerAllocateResponse": (
            "envs=1:EnvsEntry* mounts=2:Mount* devices=3:DeviceSpec* annotations=4:AnnotationsEntry* "
            "cdi_devices=5:CDIDevice*"
        ),
        "Mount": f"container_path=1:{TEXT} host_path=2:{TEXT} read_only=3:{BOOLEAN}",
        "DeviceSpec": f"container_path=1:{TEXT} host_path=2:{TEXT} permissions=3:{TEXT}",
        "CDIDevice": f"name=1:{TEXT}",
        "PreStartContainerRequest": f"devices_ids=1:{TEXT}*",
        "PreStartContainerResponse": "",
    }
