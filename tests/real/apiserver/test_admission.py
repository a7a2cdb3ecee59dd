"""The README's pods through a real API server that asks the real webhook over HTTPS."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from bitfusiond.core import names
from tests import DATA, EXAMPLES
from tests.fakes.processes import running, wait_until
from tests.pods import NAMESPACE, container, example, pod
from tests.real.harness.apiserver import APIServer, Refused
from tests.real.harness.webhook import Replica

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1"


@pytest.fixture(scope="module")
def webhook(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The webhook as a process, registered with the API server for every pod; gives its log."""
    directory = tmp_path_factory.mktemp("webhook")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(directory / "cert.pem", append=True)
    log = directory / "log"
    arguments = [
        *[sys.executable, "-m", "bitfusiond", "--role", "webhook", "--kubeconfig", "none"],
        *["--listen", "127.0.0.1:0", "--observe", "none", "--drain-seconds", "0", "--total-gpu-memory", "16000"],
        *["--tls-cert", str(directory / "cert.pem"), "--tls-key", str(directory / "key.pem")],
    ]
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
    with running(arguments, log) as process:
        address = Replica(process, log).address
        api.namespace(NAMESPACE)
        for kind, name, path in (
            ("Mutating", "bwkimua.bitfusion.io", "mutate"),
            ("Validating", "bwkival.bitfusion.io", "validate"),
        ):
            api.create(
                f"{WEBHOOKS}/{kind.lower()}webhookconfigurations",
                _configuration(kind, name, f"https://{address}/{path}", bundle),
            )
        # The API server takes up a new configuration a moment later.
        wait_until(lambda: names.STATUS in _annotations(api.create(f"{PODS}?dryRun=All", pod())), "the configurations")
        yield log


def _configuration(kind: str, name: str, url: str, bundle: str) -> dict[str, Any]:
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": [
            {
                "name": name,
                "clientConfig": {"url": url, "caBundle": bundle},
                "rules": [rule],
                "sideEffects": "None",
                "admissionReviewVersions": ["v1", "v1beta1"],
                "failurePolicy": "Fail",
            }
        ],
    }


def _annotations(of: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = of["metadata"].get("annotations", {})
    return found


@pytest.mark.parametrize(
    ("name", "words", "shares"),
    [
        ("pod", "-n 1 -p 0.500000 -- python", "50"),
        ("pod-memory", "-n 1 -m 8000 -- python", "50"),
        ("pod-filter", "--filter server.hostname=bf-server --filter server.addr=192.168.1.1 -- python", "50"),
        ("pod-injection", "bitfusion run -n 1 -p 0.5 -- python", "50"),
        ("deployment", "-n 1 -p 0.250000 -- python", "25"),
        ("job", "-n 1 -p 0.250000 -- python", "25"),
    ],
)
def test_the_documented_pods_are_admitted_and_stored(
    api: APIServer, webhook: Path, name: str, words: str, shares: str
) -> None:
    stored = api.create(f"{PODS}?dryRun=All", example(name))
    main = stored["spec"]["containers"][0]
    assert words in " ".join(main["command"])
    assert main["resources"] == {"limits": {names.GPU: shares}, "requests": {names.GPU: shares}}
    assert stored["spec"]["initContainers"][0]["name"] == "populate"
    assert _annotations(stored)[names.STATUS] == "injected"


@pytest.mark.parametrize(
    "given",
    [pytest.param(path, id=path.stem) for path in sorted((DATA / "pods").glob("*.yaml"))],
)
def test_every_pod_of_the_golden_files_is_valid_for_the_api_server(api: APIServer, webhook: Path, given: Path) -> None:
    """No clash of names, paths or resources makes a pod that the API server then refuses."""
    document = yaml.safe_load(given.read_text())
    for volume in ("code", "download"):
        document["spec"].setdefault("volumes", [])
        document["spec"]["volumes"].append({"name": volume, "emptyDir": {}})
    assert _annotations(api.create(f"{PODS}?dryRun=All", document))[names.STATUS] == "injected"


def test_a_refusal_reaches_the_user_word_for_word(api: APIServer, webhook: Path) -> None:
    with pytest.raises(Refused) as refused:
        api.create(PODS, pod(container({names.GPU_AMOUNT: "1", names.GPU_PERCENT: "101"})))
    assert refused.value.code == 422
    assert refused.value.status["message"] == (
        'admission webhook "bwkimua.bitfusion.io" denied the request: spec.containers[0].resources.limits'
        "[bitfusion.io/gpu-percent]: 101 is not an integer from 1 to 100"
    )


PERCENT = "spec.containers[0].resources.limits[bitfusion.io/gpu-percent]: 150 is not an integer from 1 to 100"
AMOUNT = "spec.containers[0].resources.limits[bitfusion.io/gpu-amount]: 0 is not an integer of at least 1"
FILTER = "metadata.annotations[bitfusion-client/filter]: bf is not of the form key=value"
LOST = "metadata.annotations[auto-management/bitfusion]: the pod opted in but was not injected, or another webhook took"
WRONG = [
    (pod(container({names.GPU_AMOUNT: "1", names.GPU_PERCENT: "150"})), f"{PERCENT}\n"),
    (pod(container({names.GPU_AMOUNT: "0"}), annotations={names.CLIENT_FILTER: "bf"}), f"\n* {AMOUNT}\n* {FILTER}\n"),
    (pod(annotations={names.STATUS: names.STATUS_INJECTED}), LOST),
]


@pytest.mark.parametrize(("given", "problems"), WRONG, ids=["one", "several", "of no field"])
@pytest.mark.parametrize("where", ["KUBEBUILDER_ASSETS", "PATH"])
def test_kubectl_prints_every_problem(
    api: APIServer, webhook: Path, tmp_path: Path, where: str, given: dict[str, Any], problems: str
) -> None:
    """Of an answer that is Invalid and has no causes, kubectl up to 1.23 prints only that the request is invalid."""
    kubectl = shutil.which("kubectl", path=os.environ[where])
    if kubectl is None:
        pytest.skip(f"put a kubectl into {where} to run this")
    kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
    document = json.dumps({"apiVersion": "v1", "kind": "Pod", **given})
    command = [kubectl, "--kubeconfig", str(kubeconfig), "create", "-n", NAMESPACE, "-f", "-"]
    done = subprocess.run(command, input=document, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f'The Pod "p" is invalid: {problems}')


def test_a_refusal_of_very_many_problems_reaches_the_user(api: APIServer, webhook: Path) -> None:
    limits = {names.GPU_AMOUNT: "0", names.GPU_PERCENT: "0"}
    wrong = pod(*[container(limits, name=f"c{index}") for index in range(60)])
    with pytest.raises(Refused, match=r"; and 20 more$") as refused:
        api.create(PODS, wrong)
    assert len(refused.value.status["details"]["causes"]) == 101


def test_a_pod_without_the_annotation_is_not_touched(api: APIServer, webhook: Path) -> None:
    plain = {"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    stored = api.create(f"{PODS}?dryRun=All", plain)
    assert "initContainers" not in stored["spec"]
    assert names.STATUS not in _annotations(stored)


def test_a_pod_that_claims_to_be_injected_and_is_not_is_refused(api: APIServer, webhook: Path) -> None:
    with pytest.raises(Refused, match="was not injected, or another webhook took parts away"):
        api.create(PODS, pod(annotations={names.STATUS: names.STATUS_INJECTED}))


def test_a_quota_counts_the_shares_and_refuses_the_third_half(api: APIServer, webhook: Path) -> None:
    namespace = "quota"
    api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    quota = yaml.safe_load((EXAMPLES / "quota.yaml").read_text())
    quota["metadata"]["namespace"] = namespace
    path = f"/api/v1/namespaces/{namespace}"
    created = api.create(f"{path}/resourcequotas", quota)
    # The controller manager, which is not here, would write the first status.
    hard = quota["spec"]["hard"]
    created["status"] = {"hard": hard, "used": dict.fromkeys(hard, "0")}
    api.request("PUT", f"{path}/resourcequotas/bitfusion-quota/status", created)
    pods = [{**pod(), "metadata": {**pod()["metadata"], "name": f"p{index}"}} for index in range(3)]
    for each in pods[:2]:
        api.create(f"{path}/pods", each)
    used = api.request("GET", f"{path}/resourcequotas/bitfusion-quota")["status"]["used"]
    assert used == {"requests.bitfusion.io/gpu": "100"}
    with pytest.raises(Refused, match=r"exceeded quota: bitfusion-quota, requested: requests.bitfusion.io/gpu=50"):
        api.create(f"{path}/pods", pods[2])
