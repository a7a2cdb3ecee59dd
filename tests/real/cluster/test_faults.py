"""``just verify`` finds what is wrong, says why, and names the command that mends it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.real.cluster.examples import pod
from tests.real.harness.cluster import Cluster, Done

_SECRETS = "kube-system"
_TEAM = "team-of-a-stale-copy"
_CA = "bitfusion-client-secret-ca.crt"
_SERVERS = "bitfusion-client-secret-servers.conf"


@pytest.fixture(scope="module", autouse=True)
def mended(deployed: Cluster, tokens: Path) -> Iterator[None]:
    """Whatever the tests did is mended by the commands that verify names, and then it is content again."""
    yield
    assert deployed.just("tokens", str(tokens)).status == 0
    assert deployed.just("deploy").status == 0
    last = Done(1, "")
    deadline = time.monotonic() + 90  # the plugin's pod has a changed Secret within a minute or so
    while last.status and time.monotonic() < deadline:
        last = deployed.just("verify")
    assert last.status == 0, last.output


def _wrong(done: Done) -> str:
    """The rows that are wrong, each with its reason and the next command."""
    assert done.status == 1, done.output
    lines = done.output.splitlines()
    rows = [index for index, line in enumerate(lines) if "WRONG" in line]
    return "\n".join(line for index in rows for line in lines[index : index + 2])


def test_a_missing_token(deployed: Cluster, tokens: Path) -> None:
    deployed.delete("secret", _CA, _SECRETS)
    found = _wrong(deployed.just("verify"))
    assert f"Secret {_SECRETS}/{_CA}" in found
    assert "just tokens DIR" in found
    assert deployed.just("tokens", str(tokens)).status == 0


def test_a_stale_copy_that_is_not_ours(deployed: Cluster) -> None:
    deployed.kubectl("create", "namespace", _TEAM)
    copy = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": _CA, "namespace": _TEAM},
        "stringData": {"ca.crt": "older"},
    }
    assert deployed.create(copy).status == 0
    try:
        done = deployed.just("verify")
        assert f"{_TEAM}/{_CA}" in done.output
        assert "ADOPT=yes" in done.output
    finally:
        deployed.kubectl("delete", "namespace", _TEAM, "--wait=false")


def test_a_servers_conf_that_does_not_parse(deployed: Cluster) -> None:
    with _content(deployed, _SERVERS, "servers.conf", "servers: ["):
        found = _wrong(deployed.just("verify"))
    assert f"Secret {_SECRETS}/{_SERVERS}" in found
    assert "YAML" in found


def test_servers_that_cannot_be_reached(deployed: Cluster, server: str) -> None:
    with socket.create_server(("0.0.0.0", 0)) as closed:
        port = closed.getsockname()[1]
    host = server.rpartition(":")[0]
    conf = yaml.safe_dump({"servers": [{"addresses": [f"{host}:{port}"]}]})
    with _content(deployed, _SERVERS, "servers.conf", conf):
        # A new pod of the plugin has it at once; its third probe in vain tells.
        deployed.kubectl("delete", "pod", "-n", _SECRETS, "-l", "app.kubernetes.io/name=bitfusion-device-plugin")
        found = ""

        def seen() -> bool:
            nonlocal found
            found = deployed.just("verify").output
            return f"{host}:{port}" in found and "WRONG" in found

        deployed.wait(seen, "verify sees that no server answers", 120)
    deployed.kubectl("delete", "pod", "-n", _SECRETS, "-l", "app.kubernetes.io/name=bitfusion-device-plugin")


def test_a_webhook_that_is_not_asked(deployed: Cluster) -> None:
    deployed.delete("mutatingwebhookconfiguration", "bwki-webhook-cfg")
    found = _wrong(deployed.just("verify"))
    assert "MutatingWebhookConfiguration bwki-webhook-cfg" in found
    assert "just deploy" in found
    assert deployed.just("deploy").status == 0


def test_without_a_webhook_the_api_server_itself_refuses_who_opted_in(deployed: Cluster, namespace: str) -> None:
    deployed.since(30, "ValidatingAdmissionPolicy")
    half = pod("half", namespace, ["sleep", "60"], deployed.pod_image, amount=1, percent=50)
    other = {**half, "metadata": {"name": "other", "namespace": namespace}}
    other["spec"] = {"containers": [{"name": "main", "image": deployed.pod_image, "command": ["sleep", "60"]}]}
    deployed.kubectl("scale", "deployment", "bitfusion-webhook-deployment", "-n", "bwki", "--replicas=0")
    try:
        selector = "app.kubernetes.io/name=bitfusion-webhook"
        deployed.wait(lambda: not deployed.every("pod", "bwki", selector), "no replica is left")
        assert "failed calling webhook" in deployed.create(half).output
        ignore = json.dumps([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}])
        for kind, name in (
            ("mutatingwebhookconfiguration", "bwki-webhook-cfg"),
            ("validatingwebhookconfiguration", "validation.bitfusion.io-cfg"),
        ):
            deployed.kubectl("patch", kind, name, "--type=json", "-p", ignore)
        refused = "bitfusiond's webhook was not asked about it"
        deployed.wait(lambda: refused in deployed.create(half).output, "nobody is asked any more", 30)
        assert deployed.create(other).status == 0
        deployed.delete("mutatingwebhookconfiguration", "bwki-webhook-cfg")
        deployed.delete("validatingwebhookconfiguration", "validation.bitfusion.io-cfg")
        assert refused in deployed.create(half).output
    finally:
        deployed.kubectl("scale", "deployment", "bitfusion-webhook-deployment", "-n", "bwki", "--replicas=2")
        assert deployed.just("deploy").status == 0
    assert deployed.create(half).status == 0


def test_a_node_without_a_plugin(deployed: Cluster) -> None:
    nowhere = '{"spec":{"template":{"spec":{"nodeSelector":{"no-such":"node"}}}}}'
    deployed.kubectl("patch", "daemonset", "bitfusion-device-plugin", "-n", _SECRETS, "-p", nowhere)
    selector = "app.kubernetes.io/name=bitfusion-device-plugin"
    deployed.wait(lambda: not deployed.every("pod", _SECRETS, selector), "the plugin's pod is gone")
    try:
        (node,) = deployed.every("node", "")
        found = _wrong(deployed.just("verify"))
        assert node["metadata"]["name"] in found or "DaemonSet kube-system/bitfusion-device-plugin" in found
    finally:
        back = '{"spec":{"template":{"spec":{"nodeSelector":{"no-such":null}}}}}'
        deployed.kubectl("patch", "daemonset", "bitfusion-device-plugin", "-n", _SECRETS, "-p", back)


def test_a_quota_that_is_used_up(deployed: Cluster, namespace: str) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "half", "namespace": namespace},
        "spec": {"hard": {"requests.bitfusion.io/gpu": "50"}},
    }
    assert deployed.create(quota).status == 0
    half = pod("half", namespace, ["sleep", "60"], deployed.pod_image, amount=1, percent=50)
    deployed.wait(lambda: deployed.create(half).status == 0, "the quota counts", 20)

    def used() -> bool:
        status = deployed.get("quota", "half", namespace).get("status", {})
        return bool(status.get("used", {}).get("requests.bitfusion.io/gpu") == "50")

    deployed.wait(used, "50 of 50")
    done = deployed.just("verify")
    assert f"{namespace}/half" in done.output
    assert "50 of 50" in done.output


@contextmanager
def _content(cluster: Cluster, secret: str, key: str, text: str) -> Iterator[None]:
    """The token Secret with other content; what is in it goes back at the end."""
    before = cluster.get("secret", secret, _SECRETS)["data"]
    cluster.kubectl("patch", "secret", secret, "-n", _SECRETS, "-p", yaml.safe_dump({"stringData": {key: text}}))
    try:
        yield
    finally:
        cluster.kubectl("patch", "secret", secret, "-n", _SECRETS, "-p", yaml.safe_dump({"data": before}))
