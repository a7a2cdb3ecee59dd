"""Pods where the scheduler counts the pool: a claim for each GPU container, and what the pool can never give."""

from __future__ import annotations

import dataclasses
from typing import Any

import jsonpatch
import pytest

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal, Rules, Untouched
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.pool.inventory import Gpu, Pool, Server
from tests import pods
from tests.pods import NAMESPACE, container, pod

_A = Server("gpu-a", "10.1.2.3:56001", (Gpu("0", "V100", 16000), Gpu("1", "V100", 16000)), "gpu-a", cuda_version="11.2")
_B = Server("gpu-b", "10.1.2.4:56001", (Gpu("0", "A100", 32000),), "gpu-b")


def _rules(*servers: Server, total: int = 0) -> Rules:
    return dataclasses.replace(pods.rules(total), pool=Pool(servers or (_A, _B)))


def _admitted(given: dict[str, Any], rules: Rules | None = None) -> tuple[dict[str, Any], Patch]:
    rules = rules or _rules()
    verdict = mutate(given, NAMESPACE, rules)
    assert isinstance(verdict, Patch), verdict
    after: dict[str, Any] = jsonpatch.apply_patch(given, verdict.operations)
    assert isinstance(mutate(after, NAMESPACE, rules), Untouched)
    return after, verdict


def _problems(given: dict[str, Any], rules: Rules | None = None) -> list[str]:
    verdict = mutate(given, NAMESPACE, rules or _rules())
    assert isinstance(verdict, Refusal), verdict
    return verdict.problems


def test_a_gpu_container_gets_its_claim_and_populate_shares_it() -> None:
    after, verdict = _admitted(pod())
    (template,) = verdict.claims
    assert after["spec"]["resourceClaims"] == [
        {"name": "bitfusion-0", "resourceClaimTemplateName": template.name},
    ]
    (main,), (populate,) = after["spec"]["containers"], after["spec"]["initContainers"]
    assert main["resources"]["claims"] == [{"name": "bitfusion-0"}]
    assert main["resources"]["limits"] == {names.GPU: "50"}
    assert populate["resources"]["claims"] == [{"name": "bitfusion-0"}]
    assert populate["args"][-2:] == ["--claims", "bitfusion-0"]


def test_each_gpu_container_has_a_claim_of_its_own_and_its_own_servers_conf() -> None:
    whole = container({names.GPU_AMOUNT: 1}, name="whole")
    after, verdict = _admitted(pod(container(), whole, container(name="again")))
    assert len(verdict.claims) == 2
    claims = [each["resources"]["claims"] for each in after["spec"]["containers"]]
    assert claims == [[{"name": f"bitfusion-{number}"}] for number in range(3)]
    mounted = [
        mount["subPath"]
        for each in after["spec"]["containers"]
        for mount in each["volumeMounts"]
        if mount["mountPath"] == "/etc/bitfusion/servers.conf"
    ]
    assert mounted == [f"bitfusion-{number}/servers.conf" for number in range(3)]
    assert after["spec"]["initContainers"][0]["args"][-1] == "bitfusion-0,bitfusion-1,bitfusion-2"


def test_claims_of_the_pods_own_stay_and_keep_their_names() -> None:
    own = [{"name": "bitfusion-0", "resourceClaimName": "mine"}]
    given = pod(
        container(
            resources={"limits": {names.GPU_AMOUNT: 1}, "claims": [{"name": "bitfusion-0"}]},
        ),
        resourceClaims=own,
    )
    after, _ = _admitted(given)
    assert [each["name"] for each in after["spec"]["resourceClaims"]] == ["bitfusion-0", "bitfusion-1"]
    (main,) = after["spec"]["containers"]
    assert main["resources"]["claims"] == [{"name": "bitfusion-0"}, {"name": "bitfusion-1"}]


def test_memory_counts_by_the_smallest_gpu_that_has_it() -> None:
    after, verdict = _admitted(pod(container({names.GPU_AMOUNT: 1, names.GPU_MEMORY: "8000M"})))
    assert after["spec"]["containers"][0]["resources"]["limits"] == {names.GPU: "50"}
    (request,) = verdict.claims[0].spec["devices"]["requests"]
    assert [each["capacity"]["requests"]["shares"] for each in request["firstAvailable"]] == ["50", "25"]
    after, verdict = _admitted(pod(container({names.GPU_AMOUNT: 1, names.GPU_MEMORY: "24000M"})))
    assert after["spec"]["containers"][0]["resources"]["limits"] == {names.GPU: "75"}


def test_a_filter_is_the_schedulers_too_and_memory_counts_by_what_it_leaves() -> None:
    limits = {names.GPU_AMOUNT: 1, names.GPU_MEMORY: "8000M"}
    after, verdict = _admitted(pod(container(limits), annotations={names.CLIENT_FILTER: "server.hostname=gpu-b"}))
    assert after["spec"]["containers"][0]["resources"]["limits"] == {names.GPU: "25"}
    (request,) = verdict.claims[0].spec["devices"]["requests"]
    assert 'server_hostname == "gpu-b"' in request["exactly"]["selectors"][0]["cel"]["expression"]
    assert "--filter server.hostname=gpu-b" in " ".join(after["spec"]["containers"][0]["command"])


def test_a_script_may_ask_for_what_its_filter_leaves() -> None:
    limits = {names.GPU_AMOUNT: 1, names.GPU_MEMORY: "8000M"}
    given = pod(
        container(limits, command=["bash", "-c", "bitfusion run -n 1 -m 8000 x"]),
        annotations={names.CLIENT_FILTER: "server.hostname=gpu-b"},
    )
    after, _ = _admitted(given)
    assert isinstance(validate(after, NAMESPACE, _rules(), None), Allowed)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (pod(nodeName="n"), "spec.nodeName: goes past the scheduler, which gives out the pool's GPUs"),
        (
            pod(annotations={names.CLIENT_FILTER: "server.hostname=gpu-c"}),
            "bitfusion-client/filter]: gpu-c is no server.hostname of a server of the pool: choose of gpu-a, gpu-b",
        ),
        (
            pod(annotations={names.CLIENT_NAME: "lupine", names.CLIENT_SERVERS: "gpu-c:1"}),
            "bitfusion-client/servers]: gpu-c:1 is not the address of a server of the pool: choose of 10.1.2.3:56001",
        ),
        (
            pod(container({names.GPU_AMOUNT: 4})),
            "spec.containers[0].resources: asks for 4 GPUs; the pool has 2 of 16000M and 1 of 32000M",
        ),
        (pod(container({names.GPU_AMOUNT: 33})), "33 GPUs are more than a claim can have, 32"),
        (pod(container({names.GPU_AMOUNT: 3, names.GPU_MEMORY: "8G"})), "asks for 3 GPUs; the pool has"),
        (
            pod(container({names.GPU_AMOUNT: 1, names.GPU_MEMORY: "64G"})),
            "64G is more than the 32000M that one GPU has",
        ),
        (pod(resourceClaims=[{}] * 257), "spec.resourceClaims: has 257 entries"),
        (pod(resourceClaims=3), "spec.resourceClaims: must be a list of objects"),
    ],
)
def test_what_the_pool_can_never_give_is_refused(given: dict[str, Any], problem: str) -> None:
    assert len(found := _problems(given)) == 1
    assert problem in found[0]


def test_a_wrong_filter_is_told_once() -> None:
    assert len(_problems(pod(annotations={names.CLIENT_FILTER: "server.host=x"}))) == 1


def test_servers_that_only_the_node_knows_go_with_the_claim() -> None:
    given = pod(container(env=[{"name": "POCL_DEVICES", "value": "mine"}]), annotations={names.CLIENT_NAME: "pocl"})
    after, verdict = _admitted(given)
    variables = verdict.claims[0].spec["devices"]["config"][0]["opaque"]["parameters"]["variables"]
    assert [each["name"] for each in variables] == ["POCL_REMOTE{index}_PARAMETERS"]
    (main,) = after["spec"]["containers"]
    assert {"LD_LIBRARY_PATH", "OCL_ICD_VENDORS", "POCL_DEVICES"} <= {each["name"] for each in main["env"]}
    assert not any("PARAMETERS" in each["name"] for each in main["env"])
    assert any(
        "POCL_DEVICES is set already: the client pocl gets that, not the servers" in each for each in verdict.warnings
    )
    assert "claims" not in after["spec"]["initContainers"][0].get("resources", {})  # it writes no servers.conf
    assert isinstance(validate(after, NAMESPACE, _rules(), None), Allowed)


def test_addresses_that_a_pod_names_are_what_the_scheduler_chooses_from() -> None:
    annotations = {names.CLIENT_NAME: "lupine", names.CLIENT_SERVERS: "10.1.2.4:56001"}
    _, verdict = _admitted(pod(annotations=annotations))
    (request,) = verdict.claims[0].spec["devices"]["requests"]
    assert 'address == "10.1.2.4:56001"' in request["exactly"]["selectors"][0]["cel"]["expression"]


def test_a_client_with_servers_of_its_own_uses_none_of_the_pool() -> None:
    rules = _rules()
    catalogue = rules.catalogue
    others = tuple(dataclasses.replace(each, servers=("h:1",)) for each in catalogue.others)
    after, verdict = _admitted(
        pod(annotations={names.CLIENT_NAME: "lupine"}),
        dataclasses.replace(rules, catalogue=dataclasses.replace(catalogue, others=others)),
    )
    assert verdict.claims == ()
    assert "resourceClaims" not in after["spec"]


def test_the_same_pod_without_a_pool_has_no_claim() -> None:
    verdict = mutate(pod(), NAMESPACE, pods.rules())
    assert isinstance(verdict, Patch)
    assert verdict.claims == ()


def test_a_pod_that_will_be_stored_must_have_its_claims() -> None:
    after, verdict = _admitted(pod())
    assert validate(after, NAMESPACE, _rules(), None) == Allowed(True, (verdict.claims[0].name,))
    del after["spec"]["containers"][0]["resources"]["claims"]
    refused = validate(after, NAMESPACE, _rules(), None)
    assert isinstance(refused, Refusal)
    assert "spec.containers[0] has no claim on the pool" in refused.problems[0]


def test_a_pod_that_asks_for_more_than_the_pool_is_found_whatever_nodes_offer() -> None:
    whole = {names.GPU_AMOUNT: 3}
    after, _ = _admitted(pod(container(whole), container(whole, name="again")))
    refused = validate(after, NAMESPACE, _rules(), {names.GPU: 1000})
    assert isinstance(refused, Refusal)
    assert refused.problems == [
        f"Resource validation failed: the pod asks for 600 of {names.GPU}, the pool has 300: ask for less"
    ]


def test_a_webhook_that_names_the_node_afterwards_is_found() -> None:
    after, _ = _admitted(pod())
    after["spec"]["nodeName"] = "n"
    refused = validate(after, NAMESPACE, _rules(), None)
    assert isinstance(refused, Refusal)
    assert "spec.nodeName: goes past the scheduler" in refused.problems[0]
