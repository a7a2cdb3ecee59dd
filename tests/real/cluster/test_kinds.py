"""Kinds of pods that a cluster may have beside the README's: each runs to its end under the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster, Done, Object

_GPU = "bitfusion.io/gpu"
_HOME, _STRICT = "kinds-of-pods", "of-pod-security-restricted"
_LIMITS, _REQUESTS = {"cpu": "200m", "memory": "256Mi"}, {"cpu": "20m", "memory": "64Mi"}
Spec = dict[str, Any]


class Kind(NamedTuple):
    """``change`` makes it of a plain pod whose container runs ``script``; ``said`` are patterns of lines in its log.

    ``since`` is the first minor version of Kubernetes that has such pods by default.
    """

    since: int
    change: Callable[[Spec], None]
    script: str
    said: tuple[str, ...] = ()


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
    """The pod has them, and its containers have none of their own."""
    spec["resources"] = {"limits": _LIMITS, "requests": _REQUESTS}
    resources = spec["containers"][0]["resources"]
    del resources["requests"]
    for name in _LIMITS:
        del resources["limits"][name]


def native_sidecar(spec: Spec) -> None:
    command = ["bash", "-c", "echo up; trap exit TERM; while sleep 0.1; do :; done"]
    sidecar = {"name": "beside", "image": spec["containers"][0]["image"], "command": command}
    spec["initContainers"] = [
        {**sidecar, "resources": {"limits": _LIMITS, "requests": _REQUESTS}, "restartPolicy": "Always"}
    ]


def native_sidecar_with_the_gpu(spec: Spec) -> None:
    """The container that asks for the GPU is the sidecar, and the other one ends when that has begun."""
    (sidecar,) = spec["containers"]
    sidecar |= {"name": "beside", "restartPolicy": "Always"}
    wait = ["bash", "-c", "until [ -e /shared/up ]; do sleep 0.1; done"]
    spec["initContainers"] = [sidecar]
    other = {"name": "main", "image": sidecar["image"], "command": wait}
    spec["containers"] = [{**other, "resources": {"limits": _LIMITS, "requests": _REQUESTS}}]
    for each in (sidecar, spec["containers"][0]):
        each["volumeMounts"] = [{"name": "shared", "mountPath": "/shared"}]
    spec["volumes"] = [{"name": "shared", "emptyDir": {}}]


_WHO = "stat -c '%a %u %n' /root/.bitfusion/client.yaml; id -u"
_OUTSIDE = "read -r inside outside _ < /proc/self/uid_map; echo user $inside is $outside outside"
_UP = "touch /shared/up; trap exit TERM; while sleep 0.1; do :; done"
_ITS_OWN = (r"600 12345 /root/\.bitfusion/client\.yaml", "12345")
_MAPPED = (r"user 0 is [1-9]\d* outside",)
_KINDS = {
    "another user": Kind(20, another_user, _WHO, _ITS_OWN),
    "a user namespace": Kind(33, user_namespace, _OUTSIDE, _MAPPED),
    "another user of a user namespace": Kind(
        33, another_user_of_a_user_namespace, f"{_OUTSIDE}; {_WHO}", _MAPPED + _ITS_OWN
    ),
    "pod-level resources": Kind(34, pod_level_resources, "echo ran", ("ran",)),
    "a native sidecar": Kind(29, native_sidecar, "echo ran", ("up", "ran")),
    "a native sidecar with the GPU": Kind(29, native_sidecar_with_the_gpu, _UP),
}


@contextmanager
def demanding(cluster: Cluster, namespace: str, labels: Spec, hard: Spec, **others: Spec) -> Iterator[None]:
    """A namespace whose quota wants cpu and memory of every pod; ``others`` are more objects of it, by their kinds."""
    metadata = {"name": namespace, "labels": labels}
    documents = [{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}]
    for kind, spec in {"ResourceQuota": {"hard": hard}, **others}.items():
        metadata = {"name": "all", "namespace": namespace}
        documents.append({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec})
    for each in documents:
        assert cluster.create(each).status == 0
    cluster.wait(lambda: "used" in cluster.get("quota", "all", namespace).get("status", {}), "the quota counts", 20)
    yield
    cluster.kubectl("delete", "namespace", namespace, "--grace-period=1", "--wait=false")


def asking(name: str, namespace: str, script: str, image: str) -> Object:
    document = pod(name, namespace, ["bash", "-c", script], image, amount=1, percent=50)
    document["spec"]["containers"][0]["resources"] |= {"requests": _REQUESTS}
    document["spec"]["containers"][0]["resources"]["limits"] |= _LIMITS
    return document


def named(kind: str) -> str:
    return kind.lower().replace(" ", "-")


@pytest.fixture(scope="module")
def created(deployed: Cluster) -> Iterator[dict[str, Done]]:
    """All kinds that this Kubernetes has, at once: how their creation ended."""
    kinds = {name: kind for name, kind in _KINDS.items() if kind.since <= deployed.minor}
    hard = {"requests.cpu": "2", "limits.memory": "4Gi", f"requests.{_GPU}": str(50 * len(kinds))}
    with demanding(deployed, _HOME, {}, hard):
        found = {}
        for name, kind in kinds.items():
            document = asking(named(name), _HOME, kind.script, deployed.pod_image)
            kind.change(document["spec"])
            found[name] = deployed.create(document)
        yield found


@pytest.mark.parametrize("name", _KINDS)
def test_a_pod_of_another_kind_runs_under_the_client_in_a_namespace_with_a_quota(
    deployed: Cluster, created: dict[str, Done], name: str
) -> None:
    kind = _KINDS[name]
    deployed.since(kind.since, f"pods with {name}")
    assert created[name].status == 0, created[name].output
    in_place = "bitfusion: .* token files and libraries are in place"
    log = deployed.ended(named(name), _HOME, in_place, *kind.said)
    assert "bitfusion: run -n 1 -p 0.500000 -- bash -c" in log


def test_a_restricted_pod_runs_in_a_restricted_namespace_with_a_quota_and_a_limit_range(deployed: Cluster) -> None:
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    hard = {"requests.cpu": _REQUESTS["cpu"], "limits.memory": _LIMITS["memory"], f"requests.{_GPU}": "50"}
    document = asking("strict", _STRICT, _WHO, deployed.pod_image)
    another_user(document["spec"])
    with demanding(deployed, _STRICT, labels, hard, LimitRange={"limits": [{"type": "Container", "max": _LIMITS}]}):
        if deployed.minor >= 23:
            refused = deployed.create(document)
            assert 'violates PodSecurity "restricted:latest"' in refused.output
            assert "populate" not in refused.output, "what we add is as strict as it can be"
        document["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        (container,) = document["spec"]["containers"]
        container["securityContext"] |= {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        done = deployed.create(document)
        assert done.status == 0, done.output
        deployed.ended("strict", _STRICT, "600 12345 /root/.bitfusion/client.yaml\n12345")
        populate = deployed.get("pod", "strict", _STRICT)["spec"]["initContainers"][0]
    assert populate["securityContext"]["readOnlyRootFilesystem"] is True
    assert populate["securityContext"]["capabilities"] == {"drop": ["ALL"]}
