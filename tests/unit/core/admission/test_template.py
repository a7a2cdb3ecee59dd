"""The operator's injection template: every way in which it can be wrong, and what of it is the operator's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from bitfusiond.core.admission import template
from bitfusiond.core.admission.decision import Patch, Rules
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.files import read
from tests.pods import NAMESPACE, container, pod, rules


def _document() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(read.packaged("sidecarconfig.yaml"))
    return document


def _changed(path: str, value: object) -> dict[str, Any]:
    document = _document()
    *parents, last = path.split(".")
    place: Any = document
    for key in parents:
        place = place[int(key) if key.isdecimal() else key]
    place[int(last) if last.isdecimal() else last] = value
    return document


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "the file must be a mapping of initContainers, containers, volumes"),
        ({"sidecars": []}, "unknown key 'sidecars': allowed are initContainers, containers, volumes"),
        ({**_document(), "initContainers": []}, "initContainers: needs at least one"),
        ({**_document(), "initContainers": "x"}, "initContainers: must be a list of objects, not x"),
        ({**_document(), "containers": []}, "containers: needs exactly one"),
        ({**_document(), "volumes": None}, "initContainers[0].volumeMounts[0].name: bitfusion-distro is not one of volumes"),
        (_changed("initContainers.0.image", ""), "initContainers[0].image: must name an image"),
        (_changed("initContainers.0.name", None), "initContainers[0].name: must be a string that is not empty"),
        (_changed("initContainers.0.args", "x"), "initContainers[0].args: must be a list of strings, not x"),
        (_changed("initContainers.0.command", ["sh", "-c", "cp BITFUSION_CLIENT_OPT_PATH /x"]), "is of the 0.4 integration"),
        (_changed("initContainers.0.securityContext", 1), "initContainers[0].securityContext: must be an object, not 1"),
        (_changed("containers.0.command", ["x"]), "containers[0]: unknown key 'command'"),
        (_changed("containers.0.volumeMounts.0.mountPath", "x"), "containers[0].volumeMounts[0].mountPath: x is not an absolute path"),
        (_changed("containers.0.volumeMounts.0.name", ["a"]), 'containers[0].volumeMounts[0].name: ["a"] is not one of volumes'),
        (_changed("containers.0.volumeMounts.0.mountPath", "/opt/bitfusion/"), "containers[0].volumeMounts: /opt/bitfusion is there twice"),
        (_changed("containers.0.volumeMounts", []), "containers[0].volumeMounts: the client must be mounted somewhere"),
        (_changed("initContainers.0.name", "Fill_"), "initContainers[0].name: Fill_ is not of lower-case letters, digits and -"),
        (_changed("initContainers.0.resources", {"limits": "x"}), "initContainers[0].resources.limits: must be an object, not x"),
        (_changed("initContainers.0.resources", {"limits": {"cpu": "x"}}), "initContainers[0].resources.limits[cpu]: x is not a quantity"),
        (_changed("initContainers.0.resources", {"limits": {"bitfusion.io/gpu": 1}}), "this container must not hold GPU shares"),
        (_changed("initContainers.0.resources", {"limits": {7: 1}}), "initContainers[0].resources.limits[7]: is not the name of a resource"),
        (_changed("containers.0.env", [{"name": "A\nB"}, {"name": "A\nB"}]), 'containers[0].env[1].name: "A\\nB" is there twice'),
        (_changed("initContainers.0.resources", {"limits": {"a\n": "x"}}), 'resources.limits["a\\n"]: x is not a quantity'),
        (_changed("containers.0.volumeMounts", [{"name": "bitfusion-distro", "mountPath": "/a\nb"}] * 2), '"/a\\nb" is there twice'),
        (_changed("volumes.1.name", "bitfusion-distro"), "volumes[1].name: bitfusion-distro is there twice"),
    ],
)  # fmt: skip
def test_a_wrong_template_says_where_and_what(document: object, message: str) -> None:
    with pytest.raises(template.TemplateError) as error:
        template.parse(document)
    assert message in str(error.value)


def _mutated(document: dict[str, Any], given: dict[str, Any]) -> Patch:
    configuration = Rules(rules().catalogue, template.parse(document), 16000)
    verdict = mutate(given, NAMESPACE, configuration)
    assert isinstance(verdict, Patch), verdict
    return verdict


def test_image_names_mounts_and_variables_are_the_operators() -> None:
    document = _document()
    document["initContainers"][0] |= {"name": "fill", "image": "r/c:1", "args": ["--log-format", "text"]}
    document["initContainers"][0]["securityContext"] = {"runAsUser": 9}
    document["initContainers"].append({"name": "second", "image": "r/d:1"})
    document["containers"][0]["env"] = [
        {"name": "EXTRA", "value": "1"},
        {"name": "TAKEN", "value": "ours"},
        {"name": "LD_LIBRARY_PATH", "value": "$LD_LIBRARY_PATH"},  # as in the template of 0.4
    ]
    given = pod()
    given["spec"]["containers"][0]["env"] = [{"name": "TAKEN", "value": "mine"}]
    before = copy.deepcopy(document)
    operations = _mutated(document, given).operations
    assert document == before
    first, second = operations[-1]["value"]
    assert (first["name"], first["image"], second["name"]) == ("fill", "r/c:1", "second")
    assert first["args"] == ["--log-format", "text", "--client-os", "ubuntu18", "--client-version", "450"]
    assert first["securityContext"]["runAsUser"] == 9
    added = [each["value"]["name"] for each in operations if each["path"].endswith("/env/-")]
    assert added == ["LD_LIBRARY_PATH", "EXTRA"]


def test_what_the_template_says_of_resources_wins_and_stays_valid() -> None:
    document = _document()
    document["initContainers"][0]["resources"] = {"limits": {"cpu": "1"}, "requests": {"memory": "1Gi"}}
    large = {"limits": {"cpu": "4", "bitfusion.io/gpu-amount": "1"}}
    first = _mutated(document, pod(container(resources=large))).operations[-1]["value"][0]
    assert first["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "1", "memory": "1Gi"}}


def test_the_packaged_template_names_the_documented_secrets_and_paths() -> None:
    packaged = rules().template
    secrets = {volume["secret"]["secretName"] for volume in packaged.volumes if "secret" in volume}
    assert secrets == {f"bitfusion-client-secret-{name}" for name in ("ca.crt", "client.yml", "servers.conf")}
    assert {mount["mountPath"] for mount in packaged.volume_mounts} == {
        "/bitfusion",
        "/opt/bitfusion",
        "/root/.bitfusion/client.yaml",
        "/etc/bitfusion/servers.conf",
        "/etc/bitfusion/tls/ca.crt",
    }
