"""The README's pods through a real API server that asks the real webhook over HTTPS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bitfusiond.core import names
from tests import DATA, EXAMPLES
from tests.pods import NAMESPACE, container, example, pod
from tests.real.harness.apiserver import APIServer, Refused
from tests.real.harness.webhook import CONFIGURATIONS, Replica, alone

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@pytest.fixture(scope="module")
def webhook(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """The webhook as a process, registered with the API server for every pod."""
    api.namespace(NAMESPACE)
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    everywhere = {"rules": [rule], "sideEffects": "None", "admissionReviewVersions": ["v1", "v1beta1"]}
    webhooks = [{"name": name, "failurePolicy": "Fail", **everywhere} for _, _, _, name, _ in CONFIGURATIONS]
    with alone(api, tmp_path_factory.mktemp("webhook"), webhooks) as replica:
        yield replica


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
    api: APIServer, webhook: Replica, name: str, words: str, shares: str
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
def test_every_pod_of_the_golden_files_is_valid_for_the_api_server(
    api: APIServer, webhook: Replica, given: Path
) -> None:
    """No clash of names, paths or resources makes a pod that the API server then refuses."""
    document = yaml.safe_load(given.read_text())
    for volume in ("code", "download"):
        document["spec"].setdefault("volumes", [])
        document["spec"]["volumes"].append({"name": volume, "emptyDir": {}})
    assert _annotations(api.create(f"{PODS}?dryRun=All", document))[names.STATUS] == "injected"


def test_a_refusal_reaches_the_user_word_for_word(api: APIServer, webhook: Replica) -> None:
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
    api: APIServer, webhook: Replica, tmp_path: Path, where: str, given: dict[str, Any], problems: str
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


def test_a_refusal_of_very_many_problems_reaches_the_user(api: APIServer, webhook: Replica) -> None:
    limits = {names.GPU_AMOUNT: "0", names.GPU_PERCENT: "0"}
    wrong = pod(*[container(limits, name=f"c{index}") for index in range(60)])
    with pytest.raises(Refused, match=r"; and 20 more$") as refused:
        api.create(PODS, wrong)
    assert len(refused.value.status["details"]["causes"]) == 101


def test_a_pod_without_the_annotation_is_not_touched(api: APIServer, webhook: Replica) -> None:
    plain = {"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    stored = api.create(f"{PODS}?dryRun=All", plain)
    assert "initContainers" not in stored["spec"]
    assert names.STATUS not in _annotations(stored)


def test_a_pod_that_claims_to_be_injected_and_is_not_is_refused(api: APIServer, webhook: Replica) -> None:
    with pytest.raises(Refused, match="was not injected, or another webhook took parts away"):
        api.create(PODS, pod(annotations={names.STATUS: names.STATUS_INJECTED}))


def test_a_quota_counts_the_shares_and_refuses_the_third_half(api: APIServer, webhook: Replica) -> None:
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
