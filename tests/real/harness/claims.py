"""A pool of two servers with a GPU each, as the API server has it, and pods that claim shares of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes import client

from bitfusiond.core.fields import Json
from tests.fakes.pool import SERVERS, parameters, resource_slice
from tests.fakes.processes import wait_until
from tests.real.harness.node import NAMESPACE, Node

GROUP, VERSION = "resource.k8s.io", "v1"
CDI = Path("/var/run/cdi")
TEMPLATE, SMALL_TEMPLATE = "shares-60", "shares-5"
_SHARES = {"value": "100", "requestPolicy": {"default": "100", "validRange": {"min": "1", "max": "100", "step": "1"}}}
_LUPINE = parameters({"name": "LUPINE_SERVER", "value": "{servers}"})
_PRINT = "env | grep -e BITFUSIOND_ -e LUPINE | sort"


@dataclass(frozen=True)
class Claims:
    """Objects that the tests make by hand, which the webhook makes otherwise."""

    node: Node
    objects: Any  # CustomObjectsApi

    @contextmanager
    def pool(self) -> Iterator[None]:
        """The slices, the class of their devices, and a template for 60 shares of a GPU."""
        self._create(
            "deviceclasses",
            _named(
                "bitfusion.io", {"spec": {"selectors": [{"cel": {"expression": 'device.driver == "bitfusion.io"'}}]}}
            ),
        )
        try:
            for server in SERVERS:
                self._create("resourceslices", _shared(resource_slice(server, "0")))
            for name, shares in (TEMPLATE, "60"), (SMALL_TEMPLATE, "5"):
                template = {"spec": {"spec": {"devices": _devices(shares)}}}
                self.objects.create_namespaced_custom_object(
                    GROUP, VERSION, NAMESPACE, "resourceclaimtemplates", _named(name, template)
                )
            yield
        finally:
            for plural in "resourceslices", "deviceclasses":
                for each in self.objects.list_cluster_custom_object(GROUP, VERSION, plural)["items"]:
                    self.objects.delete_cluster_custom_object(GROUP, VERSION, plural, each["metadata"]["name"])
            self.objects.delete_collection_namespaced_custom_object(GROUP, VERSION, NAMESPACE, "resourceclaimtemplates")

    def set_address(self, server: str, address: str) -> None:
        """Of a server, in its slice."""
        name = f"bitfusion.io-{server}"
        found = self.objects.get_cluster_custom_object(GROUP, VERSION, "resourceslices", name)
        for device in found["spec"]["devices"]:
            device["attributes"]["address"] = {"string": address}
        self.objects.replace_cluster_custom_object(GROUP, VERSION, "resourceslices", name, found)

    def results(self, pod: str) -> list[tuple[str, str]]:
        """What the scheduler gave to the claims of a pod, in the order of their names: uid and server."""
        listed = self.objects.list_namespaced_custom_object(GROUP, VERSION, NAMESPACE, "resourceclaims")["items"]
        own = [each for each in listed if each["metadata"]["ownerReferences"][0]["name"] == pod]
        own.sort(key=lambda each: each["metadata"]["annotations"]["resource.kubernetes.io/pod-claim-name"])
        found = []
        for each in own:
            (result,) = each["status"]["allocation"]["devices"]["results"]
            found.append((each["metadata"]["uid"], result["pool"]))
        return found

    @contextmanager
    def pod(self, name: str, claims: Sequence[str] = ("bitfusion-0",)) -> Iterator[None]:
        """A pod that :meth:`create` makes, deleted at the end."""
        self.create(name, claims)
        try:
            yield
        finally:
            self.delete(name)

    def create(self, name: str, claims: Sequence[str] = ("bitfusion-0",), template: str = TEMPLATE) -> None:
        """A pod with a container for each claim and an init container that names all."""
        containers = [self._container(each, [each], f"{_PRINT}; exec sleep 3600") for each in claims]
        spec = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "resourceClaims": [{"name": each, "resourceClaimTemplateName": template} for each in claims],
            "initContainers": [self._container("populate", claims, _PRINT)],
            "containers": containers,
        }
        self.node.core.create_namespaced_pod(NAMESPACE, _named(name, {"spec": spec}))

    def delete(self, name: str) -> None:
        """Delete a pod, if it is still there, and wait for its end: until it is unprepared it is Terminating."""
        try:
            self.node.core.delete_namespaced_pod(name, NAMESPACE)
        except client.ApiException as error:
            if error.status != 404:
                raise
        pods = self.node.core.list_namespaced_pod
        wait_until(
            lambda: not pods(NAMESPACE, field_selector=f"metadata.name={name}").items, f"the end of pod {name}", 60
        )

    def env(self, pod: str, container: str) -> dict[str, str]:
        """The variables that a container saw."""
        log = self.node.core.read_namespaced_pod_log(pod, NAMESPACE, container=container)
        return dict(line.split("=", 1) for line in log.splitlines())

    def events(self, pod: str) -> list[str]:
        """The messages of a pod's events about claims."""
        found = self.node.core.list_namespaced_event(NAMESPACE, field_selector=f"involvedObject.name={pod}").items
        return [each.message for each in found if "DynamicResources" in each.reason]

    def _container(self, name: str, claims: Sequence[str], script: str) -> Json:
        return {
            "name": name,
            "image": self.node.pod_image,
            "command": ["sh", "-c", script],
            "resources": {"claims": [{"name": each} for each in claims]},
        }

    def _create(self, plural: str, body: Json) -> None:
        self.objects.create_cluster_custom_object(GROUP, VERSION, plural, body)


def files() -> set[str]:
    """The names of our files for the container runtime."""
    return {each.name for each in CDI.iterdir() if "bitfusion" in each.name} if CDI.is_dir() else set()


def _named(name: str, body: Json) -> Json:
    kinds = {"bitfusion.io": "DeviceClass", **dict.fromkeys((TEMPLATE, SMALL_TEMPLATE), "ResourceClaimTemplate")}
    typed = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kinds[name]} if name in kinds else {}
    return {**typed, "metadata": {"name": name}, **body}


def _devices(shares: str) -> Json:
    exactly = {"deviceClassName": "bitfusion.io", "capacity": {"requests": {"shares": shares}}}
    config = {"requests": _LUPINE["requests"], "opaque": _LUPINE["opaque"]}
    return {"requests": [{"name": "gpu", "exactly": exactly}], "config": [config]}


def _shared(body: Json) -> Json:
    for device in body["spec"]["devices"]:
        device |= {"allowMultipleAllocations": True, "capacity": {"shares": _SHARES}}
    return {"apiVersion": f"{GROUP}/{VERSION}", "kind": "ResourceSlice", **body}
