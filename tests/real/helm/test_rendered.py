"""What Helm makes of the chart is what a deploy with the same choices applies, whatever is chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme

from bitfusiond.core import names
from bitfusiond.files.read import CATALOGUE, packaged
from bitfusiond.operate import checks, choices, current, manifests, overlays, settings
from tests.real.harness.helm import Helm
from tests.unit.manifests.overlays import overlay

_DIGESTS = {"bitfusiond": f"sha256:{'a' * 64}", "bitfusion-client": f"sha256:{'b' * 64}"}
_POOL = """\
servers:
- name: gpu-a
  address: 10.1.2.3:56001
  gpus:
  - {id: "0", name: 'Tesla "V100" {{ .Values }}', memory: 16000M}
  - {id: "1", name: Tesla V100, memory: 32000M}
"""
_CATALOGUE = f"# Of the tests: < > & {{{{ 'ä' }}}} \U0001f600\n{packaged(CATALOGUE)}"
_ADDRESSES = ("10.0.0.1", "fd00::1")
_CAS = "".join(trustme.CA().cert_pem.bytes().decode() for _ in range(2))


class Case(NamedTuple):
    """What is said to Helm, and the same to a deploy.

    ``files`` are variables whose value is a file's text, ``more`` is what a deploy finds out by asking the cluster.
    """

    values: Mapping[str, Any] = {}
    variables: Mapping[str, str] = {}
    files: Mapping[str, str] = {}
    version: str = "1.37.2"
    more: Mapping[str, Any] = {}


_POOL_VALUES = {"pool": _POOL, "resourceNums": 300}
_LOOKUP = {"imageLookup": True, "imageRegistries": ["registry.example:5000", "*.corp.example"]}
_LOOKUP_VARIABLES = {"IMAGE_LOOKUP": "on", "IMAGE_REGISTRIES": "registry.example:5000,*.corp.example"}
_INSECURE = ["http://registry.example:5000", "https://[fd00::2]:5000"]

CASES = {
    "nothing": Case(),
    **{
        f"nothing on {version}": Case(version=version) for version in ("1.21.0", "1.25.9", "1.27.0", "1.29.1", "1.30.0")
    },
    "a vendor's version": Case(version="v1.30.4-gke.1282000"),
    "legacy on a new one": Case({"platform": "legacy"}, {"K8S_PLATFORM": "legacy"}),
    **{
        f"tkgi on {version}": Case({"platform": "tkgi"}, {"K8S_PLATFORM": "tkgi"}, version=version)
        for version in ("1.24.9", "1.26.0", "1.30.0")
    },
    "images": Case(
        {"image": {"repository": "registry.example:5000/a/b", "tag": "1.2_x"}},
        {"IMAGE_REPO": "registry.example:5000/a/b", "IMAGE_TAG": "1.2_x"},
    ),
    "digests": Case(
        {"image": {"repository": "localhost", "tag": "test", "digests": _DIGESTS}},
        {"IMAGE_REPO": "localhost", "IMAGE_TAG": "test"},
        {"IMAGE_DIGESTS": "".join(f"localhost/{name}:test@{digest}\n" for name, digest in _DIGESTS.items())},
    ),
    "numbers": Case(
        {"totalGpuMemory": 81920000, "resourceNums": 1234}, {"TOTAL_GPU_MEMORY": "81920000", "RESOURCE_NUMS": "1234"}
    ),
    "a catalogue": Case({"clients": _CATALOGUE}, files={"CLIENTS": _CATALOGUE}),
    **{
        f"tokens in {name}": Case({"tokenNamespace": name}, {"TOKEN_NAMESPACE": name})
        for name in ("123", "true", "kube-public", names.NAMESPACE)
    },
    "globs": Case({"allowNamespaces": ["team-*", "a[0-9]"]}, {"ALLOW_NAMESPACES": "team-*,a[0-9]"}),
    "names": Case({"allowNamespaces": ["b", "a", "kube-system"]}, {"ALLOW_NAMESPACES": "b,a,kube-system"}),
    "many names": Case(
        {"allowNamespaces": [f"n{n}" for n in range(33)]}, {"ALLOW_NAMESPACES": ",".join(f"n{n}" for n in range(33))}
    ),
    "the most names": Case(
        {"allowNamespaces": [f"n{n}" for n in range(32)]}, {"ALLOW_NAMESPACES": ",".join(f"n{n}" for n in range(32))}
    ),
    "CAs": Case({"clientCa": _CAS, "registryCa": _CAS}, files={"CLIENT_CA": _CAS, "REGISTRY_CA": _CAS}),
    "addresses": Case({"apiServers": list(_ADDRESSES)}, {"API_SERVER_ONLY": "yes"}, more={"api_servers": _ADDRESSES}),
    "a pool that was": Case({"servesClaims": True}, more={"has_claims": True}),
    "the image lookup": Case(_LOOKUP, _LOOKUP_VARIABLES),
    "registries of all kinds": Case(
        {"imageLookup": True, "insecureRegistries": _INSECURE},
        {"IMAGE_LOOKUP": "on", "INSECURE_REGISTRIES": ",".join(_INSECURE)},
    ),
    "a pool": Case(_POOL_VALUES, {"RESOURCE_NUMS": "300"}, {"POOL": _POOL}),
    "delivery": Case({"delivery": "image"}, {"DELIVERY": "image"}),
    "everything": Case(
        {
            **_LOOKUP,
            **_POOL_VALUES,
            "delivery": "image",
            "clients": _CATALOGUE,
            "apiServers": list(_ADDRESSES),
            "tokenNamespace": "tokens",
            "allowNamespaces": ["a", "b"],
            "insecureRegistries": _INSECURE,
            "clientCa": _CAS,
            "registryCa": _CAS,
            "servesClaims": True,
        },
        {
            **_LOOKUP_VARIABLES,
            "RESOURCE_NUMS": "300",
            "DELIVERY": "image",
            "API_SERVER_ONLY": "yes",
            "TOKEN_NAMESPACE": "tokens",
            "ALLOW_NAMESPACES": "a,b",
            "INSECURE_REGISTRIES": ",".join(_INSECURE),
        },
        {"POOL": _POOL, "CLIENTS": _CATALOGUE, "CLIENT_CA": _CAS, "REGISTRY_CA": _CAS},
        more={"api_servers": _ADDRESSES},
    ),
}


def deployed(case: Case, directory: Path) -> list[Any]:
    """What a deploy with the same choices applies to an empty cluster of that version, but for the namespace."""
    variables = dict(case.variables)
    # Nothing that was pushed from this checkout counts.
    for name, text in {"IMAGE_DIGESTS": "", **case.files}.items():
        (directory / name).write_text(text)
        variables[name] = str(directory / name)
    chosen = settings.resolve(variables)
    values, _ = choices.choose(chosen, current.Running())
    values = replace(values, **case.more)
    major, minor = case.version.removeprefix("v").split(".")[:2]
    version = int(major), int(minor)
    platform, _ = checks.platform(chosen.platform, version)
    documents = manifests.build(overlays.fitting(overlay(platform), platform, version), values).all
    return [each for each in documents if each["kind"] != "Namespace"]


def in_order(documents: list[Any]) -> list[Any]:
    return sorted(documents, key=lambda each: json.dumps([each["kind"], each["metadata"]], sort_keys=True))


@pytest.mark.parametrize("name", CASES)
def test_helm_renders_what_a_deploy_applies(chart: Helm, tmp_path: Path, name: str) -> None:
    case = CASES[name]
    rendered, wanted = in_order(chart.objects(case.version, case.values)), in_order(deployed(case, tmp_path))
    assert [(each["kind"], each["metadata"]) for each in rendered] == [
        (each["kind"], each["metadata"]) for each in wanted
    ]
    for one, other in zip(rendered, wanted, strict=True):
        assert one == other
