"""Kinds of pods that a cluster may have beside the README's: each runs to its end under the client."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.e2e.cluster import Cluster, Object
from tests.e2e.examples import pod

_GPU = "bitfusion.io/gpu"
_STRICT = "of-pod-security-restricted"
_LIMITS = {"cpu": "200m", "memory": "256Mi"}
Spec = dict[str, Any]


class Kind(NamedTuple):
    """``change`` makes it of a plain pod whose only container runs ``script``; ``said`` are patterns of its log.

    ``since`` is the first minor version of Kubernetes that has such pods by default.
    """

    since: int
    change: Callable[[Spec], None]
    script: str
    said: str


def another_user(spec: Spec) -> None:
    """Debian lets nobody but root into /root, as the warning of the webhook says."""
    (container,) = spec["containers"]
    container["securityContext"] = {"runAsUser": 12345, "runAsGroup": 12346}
    container["volumeMounts"] = [{"name": "home", "mountPath": "/root"}]
    spec["volumes"] = [{"name": "home", "emptyDir": {}}]


def user_namespace(spec: Spec) -> None:
    spec["hostUsers"] = False


def another_user_of_a_user_namespace(spec: Spec) -> None:
    another_user(spec)
    user_namespace(spec)


def pod_level_resources(spec: Spec) -> None:
    spec["resources"] = {"limits": _LIMITS}
    for name in _LIMITS:
        del spec["containers"][0]["resources"]["limits"][name]


def native_sidecar(spec: Spec) -> None:
    command = ["bash", "-c", "echo up; trap exit TERM; while sleep 0.1; do :; done"]
    sidecar = {"name": "beside", "image": spec["containers"][0]["image"], "command": command}
    spec["initContainers"] = [{**sidecar, "resources": {"limits": _LIMITS}, "restartPolicy": "Always"}]


def native_sidecar_with_the_gpu(spec: Spec) -> None:
    """The container that asks for the GPU is the sidecar, and the other one ends when that has begun."""
    (sidecar,) = spec["containers"]
    sidecar |= {"name": "beside", "restartPolicy": "Always"}
    wait = ["bash", "-c", "until [ -e /shared/up ]; do sleep 0.1; done"]
    spec["initContainers"] = [sidecar]
    other = {"name": "main", "image": sidecar["image"], "command": wait}
    spec["containers"] = [{**other, "resources": {"limits": _LIMITS}}]
    for each in (sidecar, spec["containers"][0]):
        each["volumeMounts"] = [{"name": "shared", "mountPath": "/shared"}]
    spec["volumes"] = [{"name": "shared", "emptyDir": {}}]


_WHO = "stat -c '%a %u %n' /root/.bitfusion/client.yaml; id -u"
_OUTSIDE = "read -r inside outside _ < /proc/self/uid_map; echo user $inside is $outside outside"
_UP = "touch /shared/up; trap exit TERM; while sleep 0.1; do :; done"
_KINDS = {
    "another user": Kind(20, another_user, _WHO, r"600 12345 /root/.bitfusion/client.yaml\n12345\n"),
    "a user namespace": Kind(33, user_namespace, _OUTSIDE, r"user 0 is [1-9]\d* outside"),
    "another user of a user namespace": Kind(
        33, another_user_of_a_user_namespace, f"{_OUTSIDE}; {_WHO}", r"user 0 is [1-9](.|\n)*\n600 12345 .*\n12345\n"
    ),
    "pod-level resources": Kind(34, pod_level_resources, "echo ran", "ran\n"),
    "a native sidecar": Kind(29, native_sidecar, "echo ran", "up\n(.|\n)*ran\n"),
    "a native sidecar with the GPU": Kind(29, native_sidecar_with_the_gpu, _UP, ""),
}


def demand(cluster: Cluster, namespace: str, **kinds: Spec) -> None:
    """The namespace counts shares, and wants cpu and memory of every pod; and other objects, by their kinds."""
    hard = {"requests.cpu": "400m", "limits.memory": "512Mi", f"requests.{_GPU}": "50"}
    for kind, spec in {"ResourceQuota": {"hard": hard}, **kinds}.items():
        document = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "all", "namespace": namespace}, "spec": spec}
        assert cluster.create(document).status == 0


def created(cluster: Cluster, document: Object) -> None:
    """Create the pod, as soon as its namespace's quota counts."""
    last = [cluster.create(document)]

    def done() -> bool:
        if last[-1].status:
            last.append(cluster.create(document))
        return last[-1].status == 0

    try:
        cluster.wait(done, "the quota counts", 20)
    except TimeoutError:
        raise AssertionError(last[-1].output) from None


def asking(namespace: str, script: str, image: str) -> Object:
    document = pod("kind", namespace, ["bash", "-c", script], image, amount=1, percent=50)
    document["spec"]["containers"][0]["resources"]["limits"] |= _LIMITS
    return document


@pytest.mark.parametrize("name", _KINDS)
def test_a_pod_of_another_kind_runs_under_the_client_in_a_namespace_with_a_quota(
    deployed: Cluster, namespace: str, name: str
) -> None:
    kind = _KINDS[name]
    deployed.since(kind.since, f"pods with {name}")
    demand(deployed, namespace)
    document = asking(namespace, kind.script, deployed.pod_image)
    kind.change(document["spec"])
    created(deployed, document)
    log = deployed.ended("kind", namespace)
    assert "bitfusion: run -n 1 -p 0.500000 -- bash -c" in log
    assert "token files and libraries are in place\n" in log
    assert re.search(kind.said, log), log


@pytest.fixture
def restricted(cluster: Cluster) -> Iterator[str]:
    """A namespace whose pods must be as Pod Security ``restricted`` wants them."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    metadata = {"name": _STRICT, "labels": labels}
    assert cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}).status == 0
    yield _STRICT
    cluster.kubectl("delete", "namespace", _STRICT, "--grace-period=1", "--wait=false")


def test_a_restricted_pod_runs_in_a_restricted_namespace_with_a_quota_and_a_limit_range(
    deployed: Cluster, restricted: str
) -> None:
    demand(deployed, restricted, LimitRange={"limits": [{"type": "Container", "max": _LIMITS}]})
    document = asking(restricted, _WHO, deployed.pod_image)
    another_user(document["spec"])
    if deployed.minor >= 23:
        refused = deployed.create(document)
        assert 'violates PodSecurity "restricted:latest"' in refused.output
        assert "populate" not in refused.output, "what we add is as strict as it can be"
    document["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = document["spec"]["containers"]
    container["securityContext"] |= {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    created(deployed, document)
    assert "600 12345 /root/.bitfusion/client.yaml\n12345\n" in deployed.ended("kind", restricted)
    populate = deployed.get("pod", "kind", restricted)["spec"]["initContainers"][0]
    assert populate["securityContext"]["readOnlyRootFilesystem"] is True
    assert populate["securityContext"]["capabilities"] == {"drop": ["ALL"]}
