"""``kubectl bitfusion`` as kubectl runs it, against a real API server and a real webhook, by accounts of all kinds."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.pool.inventory import Gpu, Server
from bitfusiond.core.pool.slices import resource_slice
from bitfusiond.operate import checks
from tests import ROOT
from tests.fakes.processes import wait_until
from tests.pods import container, pod
from tests.real.apiserver.operate.conftest import READY
from tests.real.harness import programs
from tests.real.harness.apiserver import RBAC, APIServer
from tests.real.harness.operator import Operator
from tests.real.harness.webhook import CONFIGURATIONS, Installation

COMPLETES = 26  # kubectl asks plugins for completions from here on
_numbers = itertools.count()

pytestmark = pytest.mark.usefixtures("cluster")


@dataclass(frozen=True)
class User:
    """Somebody with kubectl, and our programs on the PATH."""

    kubeconfig: Path
    programs: Path = Path(sys.executable).parent

    def kubectl(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = programs.kubectl()
        environment = {
            "PATH": f"{self.programs}:{program.parent}:/usr/bin:/bin",
            "HOME": "/nonexistent",
            "KUBECONFIG": str(self.kubeconfig),
            **variables,
        }
        return subprocess.run(
            [program, *words], env=environment, cwd="/", capture_output=True, text=True, timeout=120, check=False
        )

    def bitfusion(self, *words: str) -> tuple[int, list[str]]:
        """The exit status, and the lines of the answer."""
        done = self.kubectl("bitfusion", *words)
        assert "Traceback" not in done.stderr
        return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]


@pytest.fixture
def admin(api: APIServer, tmp_path: Path) -> User:
    return User(api.write_kubeconfig(tmp_path / "admin"))


@pytest.fixture
def team(api: APIServer, cluster: Installation) -> Iterator[str]:
    """A namespace, in the end without pods and quotas, which are wrong on purpose."""
    name = api.namespace(f"team-of-kubectl-{next(_numbers)}")
    yield name
    api.request("DELETE", f"{pods(name)}?gracePeriodSeconds=0")
    api.request("DELETE", f"/api/v1/namespaces/{name}/resourcequotas")


def user(api: APIServer, directory: Path, team: str, *rules: Json, roles: tuple[str, ...] = ("view",)) -> User:
    """An account that has ``roles`` in its namespace, and what ``rules`` say everywhere."""
    token = api.account(team, f"user-{team}", list(rules))
    for each in roles:  # no controller aggregates them here
        role = ("ClusterRole", f"system:aggregate-to-{each}")
        api.bind(f"{RBAC}/namespaces/{team}/rolebindings", each, role, (team, f"user-{team}"))
    return User(api.write_kubeconfig(directory / "user", token))


def pods(team: str) -> str:
    return f"/api/v1/namespaces/{team}/pods"


def runs(api: APIServer, team: str, name: str) -> None:
    """The scheduler and the kubelet: a pod that is there is bound, and runs."""
    target = {"apiVersion": "v1", "kind": "Node", "name": "good"}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    api.create(f"{pods(team)}/{name}/binding", binding)
    done = {"name": "populate", "state": {"terminated": {"exitCode": 0}}} | dict.fromkeys(("image", "imageID"), "i")
    main = {"name": "main", "state": {"running": {}}} | dict.fromkeys(("image", "imageID"), "i")
    rest = {"ready": True, "restartCount": 0}
    status = {"phase": "Running", "initContainerStatuses": [done | rest], "containerStatuses": [main | rest]}
    api.merge(f"{pods(team)}/{name}/status", {"status": {**status, "conditions": READY}})


def test_a_pod_that_runs_and_who_has_what(api: APIServer, admin: User, team: str) -> None:
    api.create(pods(team), pod())
    runs(api, team, "p")
    status, lines = admin.bitfusion("why", "p", "-n", team)
    assert (status, lines[-1]) == (0, "it runs on its GPUs"), lines
    assert "ok     its token is that of the source" in lines
    status, lines = admin.bitfusion("-n", team, "status", "-o", "json")
    found = json.loads("\n".join(lines))
    assert (status, found["counted"], found["held"]) == (0, "nodes", 50)
    (node,) = [each for each in found["nodes"] if each["name"] == "good"]
    assert {"namespace": team, "pod": "p", "shares": 50} in node["holders"]
    assert found["free"] == node["free"] == 1000 - node["used"]


def test_a_pod_that_the_webhook_was_not_asked_about(api: APIServer, admin: User, team: str) -> None:
    labels = {names.ADMISSION_LABEL: "ignore"}
    api.merge(f"/api/v1/namespaces/{team}", {"metadata": {"labels": labels}})
    plain = pod(container({}))
    api.create(pods(team), plain)
    status, lines = admin.bitfusion("why", "p", "-n", team)
    assert status == 1
    assert f"       -> kubectl label namespace {team} {names.ADMISSION_LABEL}-" in lines
    api.merge(f"/api/v1/namespaces/{team}", {"metadata": {"labels": {names.ADMISSION_LABEL: None}}})
    status, lines = admin.bitfusion("why", "p", "-n", team)
    assert status == 1
    assert any(each.startswith("WRONG  the webhook was not asked when it was created") for each in lines), lines
    assert f"ok     a pod that asks for a GPU in {team} would be injected now (dry run)" in lines


def _deployment(api: APIServer, team: str, **limits: str) -> None:
    template = pod(container(limits))
    template["metadata"] |= {"labels": {"app": "x"}}
    template["metadata"].pop("name")
    spec = {"selector": {"matchLabels": {"app": "x"}}, "template": template}
    path = f"/apis/apps/v1/namespaces/{team}/deployments"
    api.create(path, {"metadata": {"name": "app"}, "spec": spec})


def test_what_makes_pods_and_has_none_is_tried_by_a_dry_run(api: APIServer, admin: User, team: str) -> None:
    """No controller runs here, so there is no event either."""
    _deployment(api, team, **{names.GPU_AMOUNT: "1", names.GPU_PERCENT: "101"})
    status, lines = admin.bitfusion("why", "deployment/app", "-n", team)
    assert status == 1
    (told,) = [each for each in lines if each.startswith("WRONG")]
    assert told.startswith("WRONG  its pods (dry run) are refused: ")
    assert "[bitfusion.io/gpu-percent]: 101 is not an integer from 1 to 100" in told


def test_without_a_webhook_the_policy_refuses_and_is_told_by_its_name(
    api: APIServer, admin: User, operator: Operator, team: str
) -> None:
    programs.since(30, api.minor, "ValidatingAdmissionPolicy")
    _deployment(api, team, **{names.GPU_AMOUNT: "1", names.GPU_PERCENT: "50"})
    for path, _, name, _, _ in CONFIGURATIONS:
        api.request("DELETE", f"{path}/{name}")
    try:
        lines: list[str] = []

        def told() -> bool:
            lines[:] = admin.bitfusion("why", "deployment/app", "-n", team)[1]
            return any("refused by the policy bitfusiond-pods: " in each for each in lines)

        wait_until(told, "the API server asks nobody any more")
        assert f"WRONG  the API server is not told to ask the webhook: there is no {names.MUTATING_KIND}" in "".join(
            lines
        )
        assert "       -> an operator runs: kubectl bitfusion check" in lines
    finally:
        assert operator.run("deploy").status == 0


def test_a_quota_that_is_used_up(api: APIServer, admin: User, team: str) -> None:
    key = f"requests.{names.GPU}"
    path = f"/api/v1/namespaces/{team}/resourcequotas"
    api.create(path, {"metadata": {"name": "gpus"}, "spec": {"hard": {key: "50"}}})
    api.merge(f"{path}/gpus/status", {"status": {"hard": {key: "50"}, "used": {key: "30"}}})
    _deployment(api, team, **{names.GPU_AMOUNT: "1", names.GPU_PERCENT: "50"})
    status, lines = admin.bitfusion("why", "deploy/app", "-n", team)
    assert status == 1
    (told,) = [each for each in lines if each.startswith("WRONG")]
    assert "exceeded quota: gpus, requested: requests.bitfusion.io/gpu=50" in told
    assert "ok     quota gpus: 30 of 50 shares used, 20 left" in lines


def test_a_user_with_the_role_view_gets_an_answer_and_is_told_what_he_may_not_read(
    api: APIServer, team: str, tmp_path: Path
) -> None:
    api.create(pods(team), pod())
    runs(api, team, "p")
    somebody = user(api, tmp_path, team)
    status, lines = somebody.bitfusion("why", "p", "-n", team)
    assert (status, lines[-1]) == (0, "it runs on its GPUs")
    assert [each for each in lines if each.startswith("note")] == [
        f"note   may not read secrets in {team}: ask the operator",
        "note   may not read nodes: ask the operator",
    ]
    status, lines = somebody.bitfusion("status", "-n", team)
    assert status == 0
    # Without the API of pools there is none, and nodes count.
    of_nodes = "pods and claims of all namespaces, so what is free is not known"
    unread = "resourceslices" if api.minor >= checks.ONE_POOL[1] else of_nodes
    assert lines[-1] == f"may not read {unread}: ask the operator"
    assert f"in {team}: 50 shares held" in lines


def test_the_permissions_in_the_docs_are_what_it_takes(api: APIServer, team: str, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "kubectl.md").read_text()
    block = next(each for each in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "ClusterRole" in each)
    of_cluster, of_bwki = yaml.safe_load_all(block)
    somebody = user(api, tmp_path, team, *of_cluster["rules"], roles=("view", "edit"))
    roles = f"{RBAC}/namespaces/bwki"
    api.create(f"{roles}/roles", of_bwki)
    account = (team, f"user-{team}")
    api.bind(f"{roles}/rolebindings", f"b-{team}", ("Role", of_bwki["metadata"]["name"]), account)
    api.create(pods(team), pod(container({}), mode="none"))
    api.merge(f"{pods(team)}/p", {"metadata": {"annotations": {names.MANAGEMENT: "all"}}})
    status, lines = somebody.bitfusion("why", "p", "-n", team)
    assert status == 1
    assert not [each for each in lines if "may not read" in each or "cannot read" in each]
    assert any("the webhook runs" in each for each in lines)
    _, lines = somebody.bitfusion("status", "-n", team)
    assert not [each for each in lines if "may not read" in each]


def test_one_pool(api: APIServer, admin: User, team: str) -> None:
    programs.since(36, api.minor, "pool that is counted once")
    root = "/apis/resource.k8s.io/v1"
    document = resource_slice(Server("gpu-a", "gpu-a.example:1", (Gpu("0", "Tesla V100", 16000),), "a"), 1)
    document["metadata"]["name"] = "bitfusion.io-gpu-a"
    api.create(f"{root}/resourceslices", document)
    exactly = {"deviceClassName": names.DRIVER, "capacity": {"requests": {"shares": "60"}}}
    claims = f"{root}/namespaces/{team}/resourceclaims"
    spec = {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}
    api.create(claims, {"metadata": {"name": "c"}, "spec": spec})
    share = "11111111-2222-3333-4444-555555555555"
    result = {"request": "gpu", "driver": names.DRIVER, "pool": "gpu-a", "device": "gpu-0", "shareID": share}
    devices = {"results": [{**result, "consumedCapacity": {"shares": "60"}}]}
    used = {"allocation": {"devices": devices}, "reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}
    api.merge(f"{claims}/c/status", {"status": used})
    try:
        _, lines = admin.bitfusion("status", "-n", team)
        assert lines[1].split() == [
            *["gpu-a", "gpu-a.example:1", "0", "Tesla", "V100", "100", "60", "40"],
            f"{team}/p",
            "60",
        ]
        assert "40 of 100 shares free (100 = one GPU), counted by one pool" in lines
    finally:
        api.request("DELETE", f"{root}/resourceslices/bitfusion.io-gpu-a")
        api.request("DELETE", f"{claims}/c")


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["why", "none", "-n", "default"], 1, "there is no pod none in namespace default"),
        (["why", "nothing/none"], 1, "nothing none: kubectl get: the server doesn't have a resource type"),
        (["why", "p", "--context", "nobodys"], 2, "nobodys"),
        (["status", "-A", "--context", "nobodys"], 2, "which cluster is meant is not clear"),
        (["why", "job/x", "-n", "default", "--context=nobodys"], 2, "which cluster is meant is not clear"),
        (["status", "--kubeconfig", "/nonexistent"], 2, "which cluster is meant is not clear"),
        (["status", "--user=nobody"], 2, "which cluster is meant is not clear"),
    ],
)
def test_what_cannot_be_answered_is_one_line(admin: User, words: list[str], status: int, told: str) -> None:
    done = admin.kubectl("bitfusion", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("kubectl bitfusion: ")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_credentials_that_are_not_known_are_no_cluster_that_is_silent(api: APIServer, tmp_path: Path) -> None:
    stranger = User(api.write_kubeconfig(tmp_path / "stranger", "no-such-token"))
    done = stranger.kubectl("bitfusion", "status", "-n", "default")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kubectl bitfusion: the cluster does not know you: ")


def test_kubectl_completes_our_words(api: APIServer, admin: User, team: str) -> None:
    kubectl_minor = programs.kubectl_minor(str(programs.kubectl()))
    if kubectl_minor < COMPLETES:
        pytest.skip(f"kubectl asks plugins for completions from 1.{COMPLETES} on; this is 1.{kubectl_minor}")
    api.create(pods(team), pod(mode="none"))
    # The shell's script does the same.
    assert admin.kubectl("__complete", "bitfusion", "st").stdout.splitlines() == ["status", ":4"]
    done = admin.kubectl("__complete", "bitfusion", "why", "-n", team, "p")
    assert done.stdout.splitlines() == ["p", ":4"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an installation from a wheel, away from the checkout."""
    directory = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", directory, ROOT], check=True, timeout=120)
    (wheel,) = directory.glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", directory / "site", wheel], check=True, timeout=120)
    return directory / "site"


def test_check_of_an_installed_package_is_verify(
    api: APIServer, operator: Operator, installed: Path, tmp_path: Path
) -> None:
    verified = operator.run("verify")
    somebody = User(api.write_kubeconfig(tmp_path / "k"), installed / "bin")
    # Before what the checkout's environment has: there is no other bitfusiond then.
    variables = {"PYTHONPATH": str(installed), "TIMEOUT": "20"}
    done = somebody.kubectl("bitfusion", "check", **variables)
    assert (done.returncode, done.stdout) == (verified.status, verified.out), done.stderr
    assert done.stdout.endswith("all is right\n")
    where = subprocess.run(
        [sys.executable, "-c", "import bitfusiond.operate.overlays as o; print(o.OVERLAYS)"],
        env={**os.environ, **variables},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.strip() == str(installed / "bitfusiond" / "manifests" / "overlays")


def test_render_needs_no_cluster(admin: User, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump(pod()))
    done = admin.kubectl("bitfusion", "render", "-f", str(file), "--diff", KUBECONFIG="/nonexistent")
    assert done.returncode == 0
    assert f"+    {names.STATUS}: {names.STATUS_INJECTED}" in done.stdout
