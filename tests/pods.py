"""Pods for tests: the README's, and how the API server and the kubelet treat them."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jsonpatch
import yaml

from bitfusiond.core import names
from bitfusiond.core.admission import demand
from bitfusiond.core.admission.decision import Patch, Refusal, Rules
from bitfusiond.core.admission.demand import Demand
from bitfusiond.core.admission.mutate import Verdict, mutate
from bitfusiond.core.clients.client import wrapped_words
from bitfusiond.core.objects import Pod
from bitfusiond.files import config
from tests import EXAMPLES

NAMESPACE = "tensorflow-benchmark"
TREE = "/bitfusion/bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb"
BINARY = f"{TREE}/usr/bin/bitfusion"
LIBRARIES = f"{TREE}/opt/bitfusion/lib/x86_64-linux-gnu/bitfusion/lib/"


@cache
def rules(total_gpu_memory: int = 16000) -> Rules:
    """What the packaged files say, for a webhook in namespace bwki."""
    return config.load(None, None, total_gpu_memory, names.EXEMPT_NAMESPACES | {names.NAMESPACE})


def example(name: str) -> Pod:
    """A pod of manifests/examples, or the pod that the controller of one would make."""
    document: Pod = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    if document["kind"] == "Pod":
        return document
    template = document["spec"]["template"]
    metadata = {"generateName": f"{document['metadata']['name']}-", **template.get("metadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def pod(*containers: Pod, annotations: Mapping[str, Any] | None = None, mode: str = "all", **spec: Any) -> Pod:
    """A pod that opted in, with ``containers`` (by default one that asks for half a GPU)."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "annotations": {
                names.MANAGEMENT: mode,
                names.CLIENT_OS: "ubuntu18",
                names.CLIENT_VERSION: "450",
                **(annotations or {}),
            },
        },
        "spec": {"containers": list(containers) or [container()], **spec},
    }


def container(limits: Mapping[str, Any] | None = None, **fields: Any) -> Pod:
    """A container that runs ``python x.py`` on half a GPU, or on what ``limits`` say."""
    return {
        "name": "main",
        "image": "i",
        "command": ["python", "x.py"],
        "resources": {"limits": dict(limits or {names.GPU_AMOUNT: "1", names.GPU_PERCENT: "50"})},
        **fields,
    }


def client_words(binary_path: str, asked: Demand, filters: Sequence[str]) -> list[str]:
    """What a documented client with this program puts in front of a container's own."""
    documented = dataclasses.replace(rules().catalogue.find("ubuntu18", "450"), binary_path=binary_path)
    return wrapped_words(documented.wrap, demand.values(asked, documented, {16000: 1000}), filters)


def verdict(given: Pod, namespace: str = NAMESPACE, total_gpu_memory: int = 16000) -> Verdict:
    """What the webhook decides; the pod it is given must come out unchanged."""
    before = copy.deepcopy(given)
    result = mutate(given, namespace, rules(total_gpu_memory))
    assert given == before, "mutate() must not change its input"
    return result


def admitted(given: Pod, namespace: str = NAMESPACE, total_gpu_memory: int = 16000) -> Pod:
    """The pod after the patch, applied by a library that is not ours."""
    result = verdict(given, namespace, total_gpu_memory)
    assert isinstance(result, Patch), result
    patched: Pod = jsonpatch.apply_patch(given, result.operations)
    return patched


def problems(given: Pod, total_gpu_memory: int = 16000) -> list[str]:
    """Why the webhook refuses the pod."""
    result = verdict(given, total_gpu_memory=total_gpu_memory)
    assert isinstance(result, Refusal), result
    return result.problems


def argv(of: Pod, variables: Mapping[str, str] | None = None) -> list[str]:
    """What the kubelet hands to the container runtime: command, then args, with ``$(VAR)`` expanded.

    ``$$`` is one ``$``; a reference to an unknown variable stays as it is. Source: Kubernetes'
    third_party/forked/golang/expansion.
    """
    known = variables or {}

    def expanded(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        return known.get(match[1], match[0])

    words = [*(of.get("command") or []), *(of.get("args") or [])]
    return [re.sub(r"\$\$|\$\(([^)]*)\)", expanded, word) for word in words]
