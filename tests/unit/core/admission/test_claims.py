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
from bitfusiond.core.clients.client import Client, Variable
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


def test_an_init_container_shares_the_claim_of_a_container_that_asks_the_same() -> None:
    """A claim lasts as long as the pod, and a quota counts the larger of both: two would be more than it sees."""
    given = pod(initContainers=[container(name="warm")])
    after, verdict = _admitted(given)
    assert len(verdict.claims) == 1
    assert len(after["spec"]["resourceClaims"]) == 1
    (_, warm), (main,) = after["spec"]["initContainers"], after["spec"]["containers"]
    assert warm["resources"]["claims"] == main["resources"]["claims"] == [{"name": "bitfusion-0"}]
    (problem,) = _problems(pod(initContainers=[container({names.GPU_AMOUNT: 1}, name="warm")]))
    assert problem.startswith("spec.initContainers[0].resources: a claim lasts as long as its pod")
    assert "ask for 1 GPUs with 100 hundredths of each in one of them too" in problem


def test_a_sidecar_has_a_claim_of_its_own() -> None:
    after, _ = _admitted(pod(initContainers=[container(name="side", restartPolicy="Always")]))
    assert [each["name"] for each in after["spec"]["resourceClaims"]] == ["bitfusion-0", "bitfusion-1"]


def test_where_only_init_containers_ask_they_share_one_claim() -> None:
    plain = {"name": "plain", "image": "i"}
    after, _ = _admitted(pod(plain, initContainers=[container(name="a"), container(name="b")]))
    assert [each["name"] for each in after["spec"]["resourceClaims"]] == ["bitfusion-0"]


def test_what_the_pool_cannot_give_to_all_containers_together_is_refused() -> None:
    small = Server("s", "s:1", (Gpu("0", "V100", 16000),), "s")
    sixty = {names.GPU_AMOUNT: 1, names.GPU_PERCENT: 60}
    (problem,) = _problems(pod(container(sixty), container(sixty, name="b")), _rules(small))
    assert problem == (
        "spec.containers: the pod asks for 120 hundredths of GPUs in all, 2 times for more than half of one; the pool"
        " has 1 of 16000M: ask for less"
    )
    two = Server("s", "s:1", (Gpu("0", "V100", 16000), Gpu("1", "V100", 16000)), "s")
    assert len(_problems(pod(*(container(sixty, name=f"c{each}") for each in range(3))), _rules(two))) == 1
    _admitted(pod(container(sixty), container(sixty, name="b")), _rules(two))


def test_a_pod_that_would_keep_the_scheduler_busy_is_refused() -> None:
    many = Server("s", "s:1", tuple(Gpu(str(each), "V100", 16000) for each in range(64)), "s")
    one = {names.GPU_AMOUNT: 1, names.GPU_PERCENT: 1}
    nine = pod(*(container(one, name=f"c{each}") for each in range(9)))
    assert "in more than 8 containers, the scheduler would search too long" in _problems(nine, _rules(many))[0]
    assert "for more than 16 GPUs" in _problems(pod(container({names.GPU_AMOUNT: 17})), _rules(many))[0]
    _admitted(pod(container({names.GPU_AMOUNT: 16})), _rules(many))


def test_servers_that_a_call_names_itself_go_past_the_scheduler() -> None:
    call = ["bash", "-c", "/opt/bitfusion/bin/bitfusion run -n 1 -p 0.5 -l 10.9.9.9:56001 -- x -l 3"]
    (problem,) = _problems(pod(container(command=call), mode="injection"))
    assert problem.startswith("spec.containers[0].command: bitfusion run -l names servers")
    _admitted(pod(container(command=["bash", "-c", "bitfusion run -n 1 -p 0.5 x -l 3"])))


def test_a_size_that_too_few_gpus_have_counts_for_nobody() -> None:
    """What the client is told, what a quota counts and what the claim has are of the same size."""
    small = Server("s", "s:1", (Gpu("0", "T4", 16000),), "s")
    large = Server("l", "l:1", (Gpu("0", "A100", 32000), Gpu("1", "A100", 32000)), "l")
    after, verdict = _admitted(pod(container({names.GPU_AMOUNT: 2, names.GPU_MEMORY: "8000M"})), _rules(small, large))
    assert after["spec"]["containers"][0]["resources"]["limits"] == {names.GPU: "50"}
    (request,) = verdict.claims[0].spec["devices"]["requests"]
    assert request["exactly"]["capacity"]["requests"] == {"shares": "25"}


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
        (
            pod(container({names.GPU_AMOUNT: 3, names.GPU_MEMORY: "8G"})),
            "asks for 3 GPUs by their memory, and all GPUs of a container are then of one size; the pool has 2",
        ),
        (
            pod(annotations={names.CLIENT_FILTER: " ".join(["device.id=0"] * 65)}),
            "bitfusion-client/filter]: has 65 words: at most 64",
        ),
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
    # It writes no servers.conf, but it fails where a runtime hands nobody a variable.
    assert after["spec"]["initContainers"][0]["resources"]["claims"] == [{"name": "bitfusion-0"}]
    assert isinstance(validate(after, NAMESPACE, _rules(), None), Allowed)


def test_addresses_that_a_pod_names_are_what_the_scheduler_chooses_from() -> None:
    annotations = {names.CLIENT_NAME: "lupine", names.CLIENT_SERVERS: "10.1.2.4:56001"}
    _, verdict = _admitted(pod(annotations=annotations))
    (request,) = verdict.claims[0].spec["devices"]["requests"]
    assert 'address == "10.1.2.4:56001"' in request["exactly"]["selectors"][0]["cel"]["expression"]


def _with_client(**fields: Any) -> Rules:
    """The rules of a pool, and the client ``other``."""
    rules = _rules()
    client = Client("other", **fields)
    return dataclasses.replace(rules, catalogue=dataclasses.replace(rules.catalogue, others=(client,)))


@pytest.mark.parametrize("name", ["NODE_SERVERS", "ALL_PROXY", "PYTHONGPUS", "OCL_ICD_{index}", "X" * 129])
def test_a_variable_that_no_node_would_set_is_refused_before_the_pod_waits_for_it(name: str) -> None:
    value = "{server}" if "{index}" in name else "{servers}"
    rules = _with_client(env=(Variable(name, value),))
    annotations = {names.CLIENT_NAME: "other"}
    (problem,) = _problems(pod(annotations=annotations), rules)
    assert problem.startswith(f"metadata.annotations[{names.CLIENT_NAME}]: the client other finds its servers by ")
    assert problem.endswith("which is the operator's, needs another variable, or Servers")
    # Neither without a pool, nor where nobody has to set it.
    named = {**annotations, names.CLIENT_SERVERS: "10.1.2.4:56001"}
    assert isinstance(mutate(pod(annotations=named), NAMESPACE, dataclasses.replace(rules, pool=None)), Patch)
    _admitted(pod(annotations=annotations), _with_client(env=(Variable(name, value),), servers=("h:1",)))
    _admitted(pod(annotations=annotations), _with_client(env=(Variable(name.replace("{index}", "0"), "{gpus}"),)))


def test_what_the_container_sets_itself_no_node_has_to_set() -> None:
    rules = _with_client(env=(Variable("NODE_SERVERS", "{servers}"),))
    own = container(env=[{"name": "NODE_SERVERS", "value": "mine"}])
    _admitted(pod(own, annotations={names.CLIENT_NAME: "other"}), rules)


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
    after, _ = _admitted(pod())
    for section in after["spec"]["containers"][0]["resources"].values():
        if names.GPU in section:
            section[names.GPU] = "600"
    refused = validate(after, NAMESPACE, _rules(), {names.GPU: 1000})
    assert isinstance(refused, Refusal)
    assert refused.problems == [
        f"Resource validation failed: the pod asks for 600 of {names.GPU}, the pool has 400: ask for less"
    ]


def test_a_webhook_that_names_the_node_afterwards_is_found() -> None:
    after, _ = _admitted(pod())
    after["spec"]["nodeName"] = "n"
    refused = validate(after, NAMESPACE, _rules(), None)
    assert isinstance(refused, Refusal)
    assert "spec.nodeName: goes past the scheduler" in refused.problems[0]
