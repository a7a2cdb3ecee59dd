"""``deploy`` over a running 0.4: what is replaced goes, what runs is not interrupted."""

from __future__ import annotations

import base64
from contextlib import ExitStack
from pathlib import Path

import trustme

from bitfusiond import pki
from bitfusiond.core import names
from tests.fakes.processes import wait_until
from tests.real.harness import installed04
from tests.real.harness.apiserver import APIServer, secret_path
from tests.real.harness.operator import REPLICA_SETS, WEBHOOK, Operator, controllers, ended
from tests.real.harness.tokens import SERVERS, put_tokens, token_files
from tests.real.harness.webhook import MUTATING, VALIDATING, Installation


def test_an_upgrade_from_04_keeps_its_webhook_trusted_until_ours_is_ready_and_removes_what_it_left(
    api: APIServer, operator: Operator, tmp_path: Path
) -> None:
    ca, files = trustme.CA(), token_files()
    put_tokens(api, files=files)
    installed04.install(api, ca)
    put_tokens(api, "team-same", files)  # as 0.4 copied them: word for word, without a label
    put_tokens(api, "team-other", token_files("other", SERVERS.replace("56001", "56009")))
    installation = Installation(api, tmp_path)
    with ExitStack() as stack:
        stack.enter_context(controllers(api))
        deploying = operator.start("deploy")
        try:
            wait_until(lambda: _is_ours(api), "our Deployment in the place of the one of 0.4", 60)
            assert installed04.is_left(api), "nothing of 0.4 may go before ours is ready"
            # What a kubelet would do now:
            stack.enter_context(installation.ready_replica())
            for path in (f"{MUTATING}/bwki-webhook-cfg", f"{VALIDATING}/validation.bitfusion.io-cfg"):
                bundle = base64.b64decode(api.request("GET", path)["webhooks"][0]["clientConfig"]["caBundle"])
                issuers = {each.subject.rfc4514_string() for each in pki.certificates_of(bundle)}
                assert len(issuers) == 2, "both the CA of 0.4 and ours"
            stack.enter_context(installation.endpoints_follow())
            result = ended(deploying)
        finally:
            deploying.kill()
        assert result.status == 0, result.err + result.out
        assert "TOTAL_GPU_MEMORY: 16000 (as it runs)" in result.lines
        assert "RESOURCE_NUMS: 700 (as it runs)" in result.lines
        assert installed04.is_left(api) == []
        for removed in (
            "ClusterRoleBinding bwki-webhook-deployment",
            "DaemonSet kube-system/bitfusion-cli-device-plugin",
        ):
            assert f"{removed}: removed" in result.out
        assert api.request("GET", "/api/v1/namespaces/bwki/services/bwki-webhook-svc")["spec"]["selector"] == {
            "app.kubernetes.io/name": "bitfusion-webhook"
        }
        assert not {"cert.pem", "key.pem"} & set(api.request("GET", secret_path("bwki", "bwki-webhook-certs"))["data"])
        _copies_are_adopted_where_they_are_the_sources(api, operator, result.out)


def _is_ours(api: APIServer) -> bool:
    deployment = api.find(WEBHOOK)
    return deployment is not None and "app" not in deployment["spec"]["selector"]["matchLabels"]


def _copies_are_adopted_where_they_are_the_sources(api: APIServer, operator: Operator, said: str) -> None:
    for name in names.TOKEN_SECRETS.values():
        assert f"Secret team-same/{name}: adopted" in said
        assert f"Secret team-other/{name}: not managed" in said
        assert _labels(api, "team-other", name) == {}
    result = operator.run("deploy", ADOPT="yes")
    assert result.status == 0, result.err
    sources = {name: api.secret("kube-system", name) for name in names.TOKEN_SECRETS.values()}
    for name, source in sources.items():
        assert f"Secret team-other/{name}: adopted" in result.out
        assert _labels(api, "team-other", name) == {names.MANAGED_BY: names.MANAGED_BY_US}
        wait_until(lambda name=name, source=source: api.secret("team-other", name) == source, f"{name} of the source")  # type: ignore[misc]


def _labels(api: APIServer, of: str, name: str) -> dict[str, str]:
    labels: dict[str, str] = api.request("GET", secret_path(of, name))["metadata"].get("labels", {})
    return labels


def test_a_cluster_of_04_is_uninstalled_too(api: APIServer, operator: Operator) -> None:
    api.namespace("bwki")
    for path in (WEBHOOK, f"{MUTATING}/bwki-webhook-cfg", f"{VALIDATING}/validation.bitfusion.io-cfg"):
        api.delete(path)
    assert operator.run("uninstall").status == 0
    installed04.install(api, trustme.CA())
    with controllers(api):
        result = operator.run("uninstall")
    # No controller deletes what a Deployment leaves: its ReplicaSet is what this cluster cannot clear away by itself.
    assert f"ReplicaSet bwki/{installed04.REPLICA_SET}" not in result.err
    assert result.status == 0, result.err
    assert installed04.is_left(api) in ([], [f"{REPLICA_SETS}/{installed04.REPLICA_SET}"])
