"""The chart on a real cluster, by Helm: over a deploy and back, installed, upgraded, tested, removed.

The tests are one story and run in their order, after those of ``just uninstall`` and of upgrades.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.core import proof
from bitfusiond.operate.chart import package
from tests.real.cluster.conftest import NAMESPACE
from tests.real.cluster.examples import pod
from tests.real.harness import helm
from tests.real.harness.cluster import Cluster, Object
from tests.real.harness.helm import Helm
from tests.unit.manifests.overlays import overlay

_OWN_SECRETS = {"bwki-webhook-certs", "bwki-token-mark"}
_TRUST = "jsonpath={.webhooks[*].clientConfig.caBundle}"


@pytest.fixture(scope="module")
def chart(cluster: Cluster, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """Helm, a cluster with the tokens, and a namespace for pods."""
    cluster.since(21, "what the chart needs")
    program = helm.program()
    directory = tmp_path_factory.mktemp("chart")
    package.run(overlay, directory, print)
    assert cluster.just("tokens", str(tokens)).status == 0
    cluster.run("create", "namespace", NAMESPACE)
    chart = Helm(program, directory / f"bitfusiond-{package.version()}.tgz")
    yield chart
    if "bitfusiond" in chart.run("list", "--short").answer:
        chart.run("uninstall", "bitfusiond", "--wait")
    cluster.clear(NAMESPACE)


def values(cluster: Cluster, **more: Any) -> Mapping[str, Any]:
    image = {"repository": cluster.variables["IMAGE_REPO"], "tag": cluster.variables["IMAGE_TAG"]}
    return {"image": image, "totalGpuMemory": 16000, **more}


def test_the_chart_refuses_what_just_deploy_installed(chart: Helm, cluster: Cluster) -> None:
    assert cluster.just("deploy").status == 0
    done = chart.run("install", "bitfusiond", str(chart.chart), values=values(cluster))
    assert done.status == 1
    assert "bitfusiond is here, and not by Helm: `just uninstall` first, then install" in done.output
    cluster.scale_webhook(0)  # which does not drain first
    assert cluster.just("uninstall").status == 0


def test_while_helm_installs_a_pod_that_opts_in_is_refused_or_injected(chart: Helm, cluster: Cluster) -> None:
    """Never let through, from the first moment on in which the API server knows the webhook."""
    done = chart.run("install", "bitfusiond", str(chart.chart), values=values(cluster))
    assert done.status == 0, done.output
    for words in ("helm test bitfusiond -n bwki", "-n kube-system bitfusion-client-secret-ca.crt"):
        assert words in done.output
    assert "kubectl label namespace" not in done.output  # just deploy has labelled it
    wanted = proof.pod(NAMESPACE, proof.client_of(None))
    answers: list[proof.Proof] = []

    def is_injected() -> bool:
        assert tried(cluster, proof.plain(wanted)).outcome is proof.Outcome.NOT_ASKED
        answers.append(tried(cluster, wanted))
        return answers[-1].outcome is proof.Outcome.ADMITTED

    cluster.wait(is_injected, "a pod that is injected")
    known = list(itertools.dropwhile(lambda answer: answer.outcome is proof.Outcome.NOT_ASKED, answers))
    print([answer.detail for answer in known])
    # Where the API server knows the policy of manifests/guard a moment before the webhook, it refuses by itself.
    assert all(
        answer.outcome in {proof.Outcome.UNREACHABLE, proof.Outcome.ADMITTED}
        or "was not asked about it" in answer.detail
        for answer in known
    )


def tried(cluster: Cluster, document: Object) -> proof.Proof:
    """What the API server answers to a dry run."""
    done = cluster.run("create", "--dry-run=server", "-o", "json", "-f", "-", given=document)
    return proof.judge(json.loads(done.answer)) if done.status == 0 else proof.judge_error(done.output)


def test_a_pod_runs_and_the_test_passes_and_leaves_nothing(chart: Helm, cluster: Cluster) -> None:
    _rolled_out(cluster)
    assert cluster.create(pod("first", NAMESPACE, ["true"], cluster.pod_image, amount=1, percent=50)).status == 0
    cluster.ended("first", NAMESPACE)
    done = chart.run("test", "bitfusiond")
    assert done.status == 0, done.output
    assert "a pod that opts in, by dry run: asked, patched" in done.output
    assert "a pod that does not opt in, by dry run: the API server did not ask the webhook" in done.output
    left = cluster.every("pod,serviceaccount,role,rolebinding", "", "app.kubernetes.io/name=bitfusiond-test")
    assert left == []
    done = cluster.just("verify")
    assert done.status == 0, done.output
    assert "bwki/bitfusiond: where `just deploy` is the fix below, it is `helm upgrade`" in done.output


def test_an_upgrade_and_a_rollback_change_what_was_said_and_nothing_that_the_webhook_made(
    chart: Helm, cluster: Cluster
) -> None:
    before, made = (
        cluster.started(pod("stays", NAMESPACE, ["sleep", "600"], cluster.pod_image, amount=1)),
        _made(cluster),
    )
    changed = values(cluster, resourceNums=500, totalGpuMemory=8000)
    done = chart.run("upgrade", "bitfusiond", str(chart.chart), "--wait", values=changed)
    assert done.status == 0, done.output
    assert _said(cluster) == ("8000", "500")
    cluster.wait(lambda: _allocatable(cluster) == "500", "the new number of devices")
    done = chart.run("rollback", "bitfusiond", "1", "--wait")
    assert done.status == 0, done.output
    assert _said(cluster) == ("16000", "1000")
    assert _made(cluster) == made
    assert cluster.life("stays", NAMESPACE) == before


def _made(cluster: Cluster) -> list[Any]:
    """The Secrets of the webhook, and what it wrote into the configurations."""
    found: list[Any] = [cluster.get("secret", name, "bwki")["data"] for name in sorted(_OWN_SECRETS)]
    configurations = (
        ("mutatingwebhookconfiguration", "bwki-webhook-cfg"),
        ("validatingwebhookconfiguration", "validation.bitfusion.io-cfg"),
    )
    found += [cluster.kubectl("get", kind, name, "-o", _TRUST) for kind, name in configurations]
    assert all(found)
    return found


def _said(cluster: Cluster) -> tuple[str, str]:
    """Of the two numbers of a deploy, as the workloads have them."""
    found = []
    for kind, name, namespace, variable in (
        ("deployment", "bitfusion-webhook-deployment", "bwki", "TOTAL_GPU_MEMORY"),
        ("daemonset", "bitfusion-device-plugin", "kube-system", "RESOURCE_NUMS"),
    ):
        (container,) = cluster.get(kind, name, namespace)["spec"]["template"]["spec"]["containers"]
        found += [each["value"] for each in container["env"] if each["name"] == variable]
    memory, shares = found
    return memory, shares


def _allocatable(cluster: Cluster) -> str:
    (node,) = cluster.every("node", "")
    return str(node["status"]["allocatable"].get("bitfusion.io/gpu"))


def _rolled_out(cluster: Cluster) -> None:
    for what, namespace in (
        ("deployment/bitfusion-webhook-deployment", "bwki"),
        ("daemonset/bitfusion-device-plugin", "kube-system"),
    ):
        cluster.kubectl("rollout", "status", what, "-n", namespace, "--timeout=60s")


def test_just_deploy_and_just_uninstall_leave_a_release_alone(chart: Helm, cluster: Cluster) -> None:
    before = _said(cluster)
    for recipe, words in (
        ("deploy", "to go over to deploy, `helm uninstall bitfusiond -n bwki` first"),
        ("uninstall", "`helm uninstall bitfusiond -n bwki` takes it away"),
    ):
        done = cluster.just(recipe, TOTAL_GPU_MEMORY="1")
        assert done.status == 1
        assert f"{recipe}: " in done.output
        assert words in done.output
    assert _said(cluster) == before


def test_an_uninstall_leaves_what_the_page_says_and_a_deploy_goes_on_from_there(chart: Helm, cluster: Cluster) -> None:
    made = [cluster.get("secret", name, "bwki")["data"] for name in sorted(_OWN_SECRETS)]
    done = chart.run("uninstall", "bitfusiond")
    assert done.status == 0, done.output
    kinds = "deployment,daemonset,service,configmap,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget"
    kinds += ",clusterrole,clusterrolebinding,priorityclass,mutatingwebhookconfiguration,validatingwebhookconfiguration"
    cluster.wait(lambda: not cluster.every(kinds, "", "app.kubernetes.io/part-of=bitfusiond"), "the end of all objects")
    assert {each["metadata"]["name"] for each in cluster.every("secret", "bwki")} == _OWN_SECRETS
    assert cluster.find("secret", "bitfusion-client-secret-ca.crt", "kube-system") is not None
    assert cluster.every("secret", NAMESPACE, "app.kubernetes.io/managed-by=bitfusiond") != []
    assert cluster.get("pod", "stays", NAMESPACE)["status"]["phase"] == "Running"
    done = cluster.just("deploy")
    assert done.status == 0, done.output
    assert not re.search(r"Helm|helm", done.output)
    assert [cluster.get("secret", name, "bwki")["data"] for name in sorted(_OWN_SECRETS)] == made
