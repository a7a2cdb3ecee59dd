"""An API server takes the overlays that are for its version, and then asks about the right pods.

Kubernetes 1.20 is the oldest, and has PodSecurityPolicy; 1.37 is the newest that is tried.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.operate import checks
from tests import DATA
from tests.fakes.processes import wait_until
from tests.real.harness import programs
from tests.real.harness.apiserver import APIServer, Refused, started
from tests.unit.manifests import overlays
from tests.unit.manifests.test_conditions import NONES, annotated, asks_for_cpu

OPTED_IN = {names.MANAGEMENT: "all"}
MATCH_CONDITIONS, NO_POLICIES = (minor for _, minor in (checks.MATCH_CONDITIONS, checks.NO_POLICIES))


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server with the namespaces that every cluster has, and the kubectl of its version."""

    api: APIServer
    kubectl: Path
    kubeconfig: Path

    @property
    def overlay(self) -> str:
        """The one for its version."""
        return "community" if self.api.minor >= MATCH_CONDITIONS else "legacy"

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


@contextmanager
def one(directory: Path, **options: int) -> Iterator[Cluster]:
    """With each of ``options`` that an API server of a version below the number has."""
    kubectl = programs.kubectl()
    minor = programs.kubectl_minor(str(kubectl))
    plugins = [f"--enable-admission-plugins={name}" for name, end in options.items() if minor < end]
    with started(directory, *plugins) as api:
        found = Cluster(api, kubectl, api.write_kubeconfig(directory / "kubeconfig"))
        namespace = overlays.one(overlays.overlay("legacy"), "Namespace", "bwki")
        found.apply([namespace])  # a dry run puts nothing into a namespace that is not there
        yield found


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with one(tmp_path_factory.mktemp("policies"), PodSecurityPolicy=NO_POLICIES) as found:
        yield found


@pytest.fixture(scope="module")
def unattended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """With the configurations of its overlay, and no webhook behind them."""
    with one(tmp_path_factory.mktemp("unattended")) as found:
        found.api.namespace("team")
        found.apply([each for each in given(found.overlay) if each["kind"].endswith("WebhookConfiguration")])
        # The API server takes up configurations a moment after they are written.
        wait_until(lambda: refusal(found, "team", **BOTH) != "", "configurations that hold")
        yield found


def given(overlay: str) -> list[Json]:
    return [each for each in overlays.overlay(overlay) if each["kind"] != "Namespace"]


def fits(cluster: Cluster, overlay: str) -> None:
    """Skip the test where the overlay is for other versions."""
    minor = cluster.api.minor
    first, end = {"community": (MATCH_CONDITIONS, 99), "legacy": (20, MATCH_CONDITIONS), "tkgi": (20, NO_POLICIES)}[
        overlay
    ]
    if not first <= minor < end:
        versions = f"1.{first} to 1.{end - 1}" if end < 99 else f"1.{first} and later"
        pytest.skip(f"{overlay} is for Kubernetes {versions}, and KUBEBUILDER_ASSETS has 1.{minor}")


@pytest.mark.parametrize("overlay", overlays.OVERLAYS)
def test_it_takes_every_object(cluster: Cluster, overlay: str) -> None:
    fits(cluster, overlay)
    assert cluster.apply(given(overlay), "--dry-run=server") == {"created (server dry run)"}


@pytest.mark.parametrize("overlay", overlays.OVERLAYS)
def test_it_takes_every_object_by_server_side_apply(cluster: Cluster, overlay: str) -> None:
    fits(cluster, overlay)
    applied = cluster.apply(given(overlay), "--server-side", "--dry-run=server")
    assert applied == {"serverside-applied (server dry run)"}


BOTH = {"labels": OPTED_IN, "annotations": OPTED_IN}


def refusal(cluster: Cluster, namespace: str, **metadata: dict[str, str]) -> str:
    """Why a pod with this metadata is refused; empty: it is admitted."""
    return refused(cluster, namespace, {"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}})


def refused(cluster: Cluster, namespace: str, document: Json) -> str:
    document = {"spec": document["spec"], "metadata": {**document["metadata"], "name": "p", "namespace": namespace}}
    try:
        cluster.api.create(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", document)
    except Refused as answer:
        return str(answer)
    return ""


def test_while_nobody_answers_only_pods_with_the_label_are_refused(unattended: Cluster) -> None:
    fits(unattended, "legacy")
    assert refusal(unattended, "team") == ""
    assert refusal(unattended, "team", annotations=OPTED_IN) == ""
    assert 'failed calling webhook "bwkimua-labelled.bitfusion.io"' in refusal(unattended, "team", labels=OPTED_IN)


def test_while_nobody_answers_pods_are_refused_that_opted_in_or_ask_for_gpus_and_no_others(unattended: Cluster) -> None:
    """By the API server's own CEL: every pod for which there are golden patches, and pods that are none of ours."""
    fits(unattended, "community")
    ours = {file.stem: yaml.safe_load(file.read_text()) for file in (DATA / "pods").glob("*.yaml")}
    ours["gpus alone"] = annotated(None, {**asks_for_cpu(), "resources": {"limits": {names.GPU_AMOUNT: "1"}}})
    others = {f"annotation {value!r}": annotated(value) for value in (None, *NONES)}
    assert len(ours) > 10
    words = 'failed calling webhook "bwkimua.bitfusion.io"'
    assert [name for name, each in ours.items() if words not in refused(unattended, "team", each)] == []
    assert [name for name, each in others.items() if refused(unattended, "team", each)] == []
    injected = refused(unattended, "team", annotated(None, status=names.STATUS_INJECTED))
    assert 'failed calling webhook "bwkimua.bitfusion.io"' in injected


def test_while_nobody_answers_our_own_pods_start(unattended: Cluster) -> None:
    own = pod(unattended.overlay, "Deployment", "bitfusion-webhook-deployment")
    assert refused(unattended, "bwki", {**own, "metadata": BOTH}) == ""


def test_a_namespace_with_the_label_has_nothing_to_do_with_us(unattended: Cluster) -> None:
    """As kube-system must have it before 1.21."""
    exempt = {"metadata": {"name": "exempt", "labels": {"bitfusion.io/admission": "ignore"}}}
    unattended.api.create("/api/v1/namespaces", exempt)
    assert refusal(unattended, "exempt", **BOTH) == ""


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
    fits(cluster, "tkgi")

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
