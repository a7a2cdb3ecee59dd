"""The client mounted from its image: the same paths, nothing copied, and no init container but for tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import jsonpatch
import pytest

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal, Untouched
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.admission.template import Delivery
from bitfusiond.core.admission.validate import validate
from tests import pods
from tests.pods import NAMESPACE, TREE, pod

_RULES = dataclasses.replace(pods.rules(), delivery=Delivery.IMAGE, servers=lambda: ["h:1"])
_IMAGE = "docker.io/bitfusiondeviceplugin/bitfusion-client:0.5.0"


def _admitted(given: dict[str, Any]) -> dict[str, Any]:
    verdict = mutate(given, NAMESPACE, _RULES)
    assert isinstance(verdict, Patch), verdict
    after: dict[str, Any] = jsonpatch.apply_patch(given, verdict.operations)
    assert isinstance(mutate(after, NAMESPACE, _RULES), Untouched)
    assert isinstance(validate(after, NAMESPACE, _RULES, None), Allowed)
    return after


def _mounts(container: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {each["mountPath"]: (each["name"], each.get("subPath")) for each in container["volumeMounts"]}


def test_the_documented_client_is_where_it_was_and_only_its_tokens_are_copied() -> None:
    after = _admitted(pod())
    (main,), (populate,) = after["spec"]["containers"], after["spec"]["initContainers"]
    volumes = {each["name"]: each for each in after["spec"]["volumes"]}
    assert volumes["bitfusion-client-image"]["image"] == {"reference": _IMAGE, "pullPolicy": "IfNotPresent"}
    mounts = _mounts(main)
    assert mounts[TREE] == ("bitfusion-client-image", TREE.strip("/"))
    assert mounts["/opt/bitfusion"] == ("bitfusion-client-image", f"{TREE.strip('/')}/opt/bitfusion")
    assert mounts["/bitfusion"] == ("bitfusion-distro", None)
    assert mounts["/root/.bitfusion/client.yaml"] == ("bitfusion-client-dir", "client.yaml")
    assert "/bitfusion-distro" not in _mounts(populate)
    assert populate["args"][-6:] == ["--delivery", "image", "--client-os", "ubuntu18", "--client-version", "450"]
    assert main["command"][0].startswith(TREE)


@pytest.mark.parametrize("name", ["lupine", "pocl"])
def test_a_client_without_tokens_needs_no_init_container(name: str) -> None:
    after = _admitted(pod(annotations={names.CLIENT_NAME: name, names.CLIENT_SERVERS: "h:1"}))
    assert "initContainers" not in after["spec"]
    assert _mounts(after["spec"]["containers"][0]) == {
        "/bitfusion": ("bitfusion-distro", None),
        f"/bitfusion/{name}": ("bitfusion-client-image", f"bitfusion/{name}"),
    }


def test_a_volume_of_the_users_with_that_name_stays() -> None:
    after = _admitted(pod(volumes=[{"name": "bitfusion-client-image", "emptyDir": {}}]))
    assert _mounts(after["spec"]["containers"][0])[TREE][0] == "bitfusion-client-image-2"


def test_a_mount_of_the_users_where_the_client_goes_is_refused() -> None:
    mounts = [{"name": "v", "mountPath": TREE}]
    given = pod(pods.container(volumeMounts=mounts), volumes=[{"name": "v", "emptyDir": {}}])
    verdict = mutate(given, NAMESPACE, _RULES)
    assert isinstance(verdict, Refusal)
    assert "is where the client goes" in verdict.problems[0]


def test_a_limit_of_the_disk_is_no_matter_where_nothing_is_copied() -> None:
    catalogue = _RULES.catalogue
    sized = {key: dataclasses.replace(each, size=10**9) for key, each in catalogue.clients.items()}
    rules = dataclasses.replace(_RULES, catalogue=dataclasses.replace(catalogue, clients=sized))
    limits = {names.GPU_AMOUNT: 1, names.GPU_PERCENT: 50, "ephemeral-storage": "1M"}
    warned = [
        mutate(pod(pods.container(limits)), NAMESPACE, each)
        for each in (rules, dataclasses.replace(rules, delivery=Delivery.INIT))
    ]
    assert ["ephemeral-storage" in str(each.warnings) for each in warned if isinstance(each, Patch)] == [False, True]


def test_a_pod_that_another_webhook_took_the_image_from_is_refused() -> None:
    after = _admitted(pod())
    main = after["spec"]["containers"][0]
    main["volumeMounts"] = [each for each in main["volumeMounts"] if each["mountPath"] != TREE]
    refused = validate(after, NAMESPACE, _RULES, None)
    assert isinstance(refused, Refusal)
    assert f"mount at {TREE}" in refused.problems[0]
