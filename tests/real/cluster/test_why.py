"""``kubectl bitfusion why``: each cause on a real cluster; those of a pool are in test_pool.

What takes its time (an image that is not there, a quota that is to be counted) is made first, all at once.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitfusiond.core import names
from bitfusiond.core.usage import quotas
from bitfusiond.operate import checks
from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster

_TEAM, _IGNORED, _QUOTA, _OWN_TOKEN = "team-why", "team-why-ignored", "team-why-quota", "team-why-token"
_CA = names.TOKEN_SECRETS[names.CA_CRT]
_SERVERS = names.TOKEN_SECRETS[names.SERVERS_CONF]
_LONG = ["sleep", "600"]
_STALE = "echo 'error: context deadline exceeded'; exit 3"


@pytest.fixture(scope="module")
def team(deployed: Cluster, tokens: Path) -> Iterator[str]:
    """Namespaces with pods of every kind; in the end all is as before. The overlay legacy refuses other pods."""
    deployed.since(checks.MATCH_CONDITIONS[1], "matchConditions")
    for each in (_TEAM, _IGNORED, _QUOTA, _OWN_TOKEN):
        deployed.kubectl("create", "namespace", each)
    deployed.kubectl("label", "namespace", _IGNORED, f"{names.ADMISSION_LABEL}=ignore")
    _make(deployed)
    yield _TEAM
    for each in (_TEAM, _IGNORED, _QUOTA, _OWN_TOKEN):
        deployed.kill_pods(each)
        deployed.kubectl("delete", "namespace", each, "--wait=false")
    assert deployed.just("tokens", str(tokens)).status == 0
    deployed.kubectl("rollout", "status", "daemonset/bitfusion-device-plugin", "-n", "kube-system", "--timeout=90s")


def _make(cluster: Cluster) -> None:
    image = cluster.pod_image
    half = partial(pod, image=image, amount=1, percent=5)
    runs = half("runs", _TEAM, _LONG)
    no_distro = half("no-distro", _TEAM, _LONG)
    no_distro["metadata"]["annotations"][names.CLIENT_OS] = "centos8"
    no_image = half("no-image", _TEAM, _LONG)
    no_image["spec"]["containers"][0] |= {"image": "localhost/nobody:none", "imagePullPolicy": "Never"}
    stale = half("stale", _TEAM, ["/bin/sh", "-c", _STALE])
    stale["metadata"]["annotations"][names.MANAGEMENT] = "injection"
    plain = half("plain", _TEAM, _LONG)
    del plain["metadata"]["annotations"]
    plain["spec"]["containers"][0]["resources"] = {}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": _CA, "namespace": _OWN_TOKEN}}
    largest = pod("largest", _TEAM, _LONG, image, amount=10)  # all that the node has, of which some is taken
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "gpus", "namespace": _QUOTA}}
    documents = [
        {**quota, "spec": {"hard": {f"requests.{names.GPU}": "10"}}},
        {**secret, "stringData": {names.CA_CRT: "another"}},
        *(runs, no_distro, no_image, stale, plain, half("ignored", _IGNORED, _LONG)),
        half("own-token", _OWN_TOKEN, _LONG),
        _deployment("refused", _TEAM, half("x", _TEAM, _LONG), percent=101),
        _deployment("over-quota", _QUOTA, half("x", _QUOTA, _LONG), percent=50),
    ]
    made = cluster.create({"apiVersion": "v1", "kind": "List", "items": documents})
    assert made.status == 0, made.output
    cluster.wait(lambda: _phase(cluster, "runs") == "Running", "the pod that runs")
    made = cluster.create(largest)
    assert made.status == 0, made.output


def _deployment(name: str, namespace: str, of: dict[str, Any], percent: int) -> dict[str, Any]:
    limits = of["spec"]["containers"][0]["resources"]["limits"]
    limits["bitfusion.io/gpu-percent"] = percent
    of["metadata"] = {"labels": {"app": name}, "annotations": of["metadata"]["annotations"]}
    of["spec"].pop("restartPolicy")
    spec = {"selector": {"matchLabels": {"app": name}}, "template": {key: of[key] for key in ("metadata", "spec")}}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def _phase(cluster: Cluster, name: str) -> str:
    return str(cluster.get("pod", name, _TEAM)["status"].get("phase"))


def _is_told(cluster: Cluster, target: str, namespace: str, *says: str, seconds: float = 40) -> None:
    """``why`` ends with 1, and each of ``says`` (a regular expression) is a line of it, in the end."""
    last = ""

    def told() -> bool:
        nonlocal last
        why = cluster.bitfusion("why", target, "-n", namespace)
        last = why.output
        return why.status == 1 and all(re.search(f"^{each}", why.answer, re.MULTILINE) for each in says)

    try:
        cluster.wait(told, target, seconds)
    except TimeoutError:
        raise AssertionError(f"{target} is not told all of {says}:\n{last}") from None


def test_a_pod_that_runs(deployed: Cluster, team: str) -> None:
    why = deployed.bitfusion("why", "runs", "-n", team)
    assert why.status == 0, why.output
    assert "WRONG" not in why.answer
    assert "note" not in why.answer, "an administrator may read everything"
    assert "ok     its token is that of the source" in why.answer
    assert why.answer.endswith("it runs on its GPUs\n")
    status = json.loads(deployed.bitfusion("status", "-n", team, "-o", "json").answer)
    (node,) = status["nodes"]
    assert {"namespace": team, "pod": "runs", "shares": 5} in node["holders"]
    assert status["free"] == 1000 - node["used"]


_CAUSES = {
    "plain": (r"WRONG  it does not ask for a GPU", r'       -> put auto-management/bitfusion: "all"'),
    "deployment/refused": (r"WRONG  its pods.* 101 is not an integer from 1 to 100",),
    "largest": (r"WRONG  no node has the 1000 shares", r"note   the most that is free on one node is \d+ of 1000"),
    "no-distro": (r"WRONG  populate failed: --distros: .*there is no client", r"       -> kubectl logs no-distro"),
    "no-image": (r"WRONG  the image localhost/nobody:none of main cannot be pulled \(ErrImageNeverPull\)",),
    "stale": (r"WRONG  main ended: exit status 3", r"WRONG  main says: error: context deadline exceeded"),
}


@pytest.mark.parametrize("target", _CAUSES)
def test_a_cause_of_its_own(deployed: Cluster, team: str, target: str) -> None:
    _is_told(deployed, target, team, *_CAUSES[target])


def test_a_cause_of_its_namespace(deployed: Cluster, team: str) -> None:
    label = (r"WRONG  its namespace has the label", r"       -> kubectl label namespace")
    _is_told(deployed, "ignored", _IGNORED, *label)
    quota = (r"WRONG  its pods are refused: .*exceeded quota: gpus", r"ok     quota gpus: 0 of 10")
    _is_told(deployed, "deployment/over-quota", _QUOTA, *quota)
    why = deployed.bitfusion("why", "own-token", "-n", _OWN_TOKEN)
    assert why.status == 0, why.output
    assert f"note   the token Secret {_CA} is none of our copies, but the namespace's own" in why.answer


def test_a_token_that_is_deleted_while_a_pod_starts(deployed: Cluster, team: str) -> None:
    """Its source too, so that no copy comes back."""
    source = deployed.get("secret", _CA, "kube-system")
    deployed.delete("secret", _CA, "kube-system")
    try:
        deployed.delete("secret", _CA, team)
        _is_told(deployed, "runs", team, f"WRONG  the token Secret {_CA} is not in namespace {team}")
        _deploy(deployed, "late")
        _is_told(deployed, "deployment/late", team, rf"WRONG  its pods.*Secret kube-system/{_CA} .*is missing")
    finally:
        source["metadata"] = {"name": _CA, "namespace": "kube-system"}
        assert deployed.create(source).status == 0


def _deploy(cluster: Cluster, name: str) -> None:
    document = _deployment(name, _TEAM, pod("x", _TEAM, _LONG, cluster.pod_image, amount=1), percent=5)
    if not cluster.match_conditions:  # below 1.28 it fails closed where this label is
        document["spec"]["template"]["metadata"]["labels"][names.MANAGEMENT] = "all"
    assert cluster.create(document).status == 0


def test_a_webhook_that_is_away_or_not_configured_and_servers_that_do_not_answer(
    deployed: Cluster, team: str, server: str
) -> None:
    """Together, as the plugin may give servers half a minute."""
    with socket.create_server(("0.0.0.0", 0)) as closed:
        port = closed.getsockname()[1]
    conf = yaml.safe_dump({"servers": [{"addresses": [f"{server.rpartition(':')[0]}:{port}"]}]})
    with _other_servers(deployed, conf):
        try:
            _without_a_webhook(deployed, team)
        finally:
            done = deployed.just("deploy")
        assert done.status == 0, done.output
        _is_told(deployed, "early", team, r"WRONG  it was created \(.*\) before the webhook was there")
        _is_told(deployed, "runs", team, rf"WRONG  node \S+ offers 0 {names.GPU}", seconds=90)


def _without_a_webhook(cluster: Cluster, team: str) -> None:
    probe = pod("probe", team, _LONG, cluster.pod_image, amount=1)
    cluster.scale_webhook(0)
    # A replica that ends may still be asked.
    gone = "failed calling webhook"
    cluster.wait(lambda: gone in cluster.run("create", "--dry-run=server", "-f", "-", given=probe).output, gone)
    _deploy(cluster, "away")
    _is_told(cluster, "deployment/away", team, r"WRONG  its pods: the API server cannot reach bwkimua")
    cluster.kubectl("delete", "mutatingwebhookconfiguration", names.MUTATING_CONFIGURATION)
    cluster.kubectl("delete", "validatingwebhookconfiguration", names.VALIDATING_CONFIGURATION)
    not_told = r"WRONG  the API server is not told to ask the webhook"
    if cluster.minor >= 30:
        _deploy(cluster, "guarded")
        guard = r"WRONG  its pods.*: refused by the policy bitfusiond-pods: .* was not asked about it"
        _is_told(cluster, "deployment/guarded", team, not_told, guard)
        cluster.kubectl("delete", "validatingadmissionpolicybinding", "bitfusiond-pods")
    early = pod("early", team, _LONG, cluster.pod_image, amount=1)
    cluster.wait(lambda: cluster.create(early).status == 0, "nobody is asked any more", 30)
    tried = r"WRONG  pods that ask for a GPU \(dry run\): the API server did not ask"
    _is_told(cluster, "early", team, not_told, tried)


def _offered(cluster: Cluster) -> int:
    (node,) = cluster.every("node", "")
    return quotas.number(node["status"]["allocatable"].get(names.GPU))


@contextmanager
def _other_servers(cluster: Cluster, conf: str) -> Iterator[None]:
    """The plugin with another servers.conf, which a new pod of it has at once."""
    before = cluster.get("secret", _SERVERS, "kube-system")["data"]
    selector = ("-n", "kube-system", "-l", "app.kubernetes.io/name=bitfusion-device-plugin")
    patch = ("patch", "secret", _SERVERS, "-n", "kube-system", "-p")
    cluster.kubectl(*patch, json.dumps({"stringData": {names.SERVERS_CONF: conf}}))
    cluster.kubectl("delete", "pod", *selector)
    try:
        cluster.wait(lambda: _offered(cluster) == 0, "the plugin has ended", 30)
        cluster.kubectl("rollout", "status", "daemonset/bitfusion-device-plugin", *selector[:2], "--timeout=60s")
        yield
    finally:
        cluster.kubectl(*patch, json.dumps({"data": before}))
        cluster.kubectl("delete", "pod", *selector)
