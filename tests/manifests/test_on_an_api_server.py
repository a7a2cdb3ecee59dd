"""The oldest API server that legacy and tkgi are for: 1.20, with PodSecurityPolicy on, as plans of TKGi can have it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.apiserver import APIServer, started
from tests.cluster.webhook import write_kubeconfig
from tests.fakes.processes import wait_until
from tests.manifests import overlays
from tests.manifests.overlays import Json


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server with the namespaces that every cluster has, and the kubectl of its version."""

    api: APIServer
    kubectl: Path
    kubeconfig: Path

    def run(self, *arguments: str, given: str = "") -> str:
        """What kubectl prints. Fails the test with its words where it fails."""
        command = [str(self.kubectl), "--kubeconfig", str(self.kubeconfig), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def apply(self, documents: list[Json], *options: str) -> set[str]:
        """What became of the objects: "created", "unchanged" and such words, each once."""
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})
        printed = self.run("apply", "--filename=-", *options, given=given)
        return {line.split(" ", 1)[1] for line in printed.splitlines()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        pytest.skip("set KUBEBUILDER_ASSETS to a directory with kube-apiserver, etcd and kubectl to run this")
    kubectl = Path(assets) / "kubectl"
    minor = overlays.minor_version(str(kubectl))
    if minor > 24:
        pytest.skip(f"KUBEBUILDER_ASSETS has Kubernetes 1.{minor}, and this is about versions up to 1.24")
    directory = tmp_path_factory.mktemp("manifests")
    with started(Path(assets), directory, "--enable-admission-plugins=PodSecurityPolicy") as api:
        found = Cluster(api, kubectl, write_kubeconfig(directory / "kubeconfig", api))
        namespace = overlays.one(overlays.overlay("legacy"), "Namespace", "bwki")
        found.apply([namespace])  # a dry run puts nothing into a namespace that is not there
        yield found


def given(overlay: str) -> list[Json]:
    return [each for each in overlays.overlay(overlay) if each["kind"] != "Namespace"]


@pytest.mark.parametrize("overlay", ["legacy", "tkgi"])
def test_it_takes_every_object(cluster: Cluster, overlay: str) -> None:
    assert cluster.apply(given(overlay), "--dry-run=server") == {"created (server dry run)"}


@pytest.mark.parametrize("overlay", ["legacy", "tkgi"])
def test_it_takes_every_object_by_server_side_apply(cluster: Cluster, overlay: str) -> None:
    applied = cluster.apply(given(overlay), "--server-side", "--dry-run=server")
    assert applied == {"serverside-applied (server dry run)"}


def pod(overlay: str, kind: str, name: str) -> Json:
    """The pod that the controller would make."""
    template = overlays.pod(overlays.overlay(overlay), kind, name)
    spec = {"serviceAccountName": "default", **template["spec"]}
    # Priorities are worked out of objects that these tests do not create.
    spec.pop("priorityClassName")
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"}, "spec": spec}


PODS = pytest.mark.parametrize(
    ("kind", "name", "namespace", "controller"),
    [
        ("Deployment", "bitfusion-webhook-deployment", "bwki", "replicaset-controller"),
        ("DaemonSet", "bitfusion-device-plugin", "kube-system", "daemon-set-controller"),
    ],
)


@PODS
def test_where_pods_need_a_policy_the_overlay_tkgi_has_one_that_fits(
    cluster: Cluster, kind: str, name: str, namespace: str, controller: str
) -> None:
    def create() -> Json:
        options = ("--dry-run=server", "--output=json", "--filename=-", f"--namespace={namespace}")
        user = f"--as=system:serviceaccount:kube-system:{controller}"
        created: Json = json.loads(cluster.run("create", *options, user, given=json.dumps(pod("tkgi", kind, name))))
        return created

    def admits() -> bool:
        try:
            create()
        except AssertionError:
            return False
        return True

    policies = [each for each in given("tkgi") if each["kind"] in {"PodSecurityPolicy", "Role", "RoleBinding"}]
    with pytest.raises(AssertionError, match="PodSecurityPolicy: "):
        create()
    cluster.apply(policies)
    try:
        wait_until(admits, "a pod under the policies of tkgi", 20)  # the API server follows them by watches of its own
        admitted = create()
    finally:
        cluster.run("delete", "--filename=-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": policies}))
    assert admitted["metadata"]["annotations"]["kubernetes.io/psp"].startswith("bitfusiond-")
    before = pod("tkgi", kind, name)["spec"]["containers"][0]["securityContext"]
    assert admitted["spec"]["containers"][0]["securityContext"].items() >= before.items()
