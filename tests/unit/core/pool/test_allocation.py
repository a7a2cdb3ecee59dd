"""What a claim was given: out of the claim and the slices, told to containers, and read back there."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core.admission.decision import Patch
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.clients.client import Client, Variable
from bitfusiond.core.fields import Json
from bitfusiond.core.pool import allocation, cdi, parameters, slices
from bitfusiond.core.pool.allocation import Allocation, AllocationError, Part, Result
from bitfusiond.core.pool.cdi import ClaimRef
from bitfusiond.core.pool.inventory import Gpu, Pool, Server
from tests import pods
from tests.fakes import pool
from tests.fakes.pool import result

REF = ClaimRef("team", "train", pool.UID)
A, B = "10.1.2.3:56001", "[2001:db8::2]:56001"


def prepared(claim: Json, slices: dict[str, Json] | None = None) -> dict[str, str]:
    """The environment of a claim's containers."""
    return dict(cdi.prepared(REF, claim, slices or pool.slices()).environment)


# --- what was given ---------------------------------------------------------------------------------------------------


def test_the_allocation_is_told_in_its_own_order_by_address_id_and_shares() -> None:
    claim = pool.claim("train", result("gpu-b", "gpu-1", 60), result("gpu-a", "gpu-0", 25), result("gpu-b", "gpu-0", 1))
    found = allocation.allocation(claim, pool.slices())
    assert found == Allocation(
        "train", (Part("gpu-b", B, "1", 60), Part("gpu-a", A, "0", 25), Part("gpu-b", B, "0", 1))
    )
    assert found.addresses == (B, A)
    assert allocation.parse(found.text) == found


def test_devices_of_other_drivers_are_not_ours_to_tell_of() -> None:
    other = result("gpu-a", "gpu-0", driver="gpu.example")
    assert allocation.results(pool.claim("train", other, result("gpu-a", "gpu-1"))) == (
        Result("gpu", "gpu-a", "gpu-1", 60, "11111111-2222-3333-4444-555555555555"),
    )
    with pytest.raises(AllocationError, match=r"^nothing of the driver bitfusion\.io is allocated to it$"):
        allocation.results(pool.claim("train", other))


def test_a_device_that_nobody_shares_is_given_as_a_whole() -> None:
    (found,) = allocation.results(pool.claim("train", result("gpu-a", "gpu-0", consumedCapacity=None, shareID=None)))
    assert (found.shares, found.share_id) == (100, None)


def test_names_with_the_domain_of_the_driver_are_the_same_names() -> None:
    claim = pool.claim("train", result("gpu-a", "gpu-0", consumedCapacity={"bitfusion.io/shares": "40"}))
    slices = {"gpu-a": pool.resource_slice("gpu-a", "0")}
    (device,) = slices["gpu-a"]["spec"]["devices"]
    device["attributes"] = {"bitfusion.io/address": device["attributes"]["address"]}
    assert allocation.allocation(claim, slices).gpus == (Part("gpu-a", A, "0", 40),)


WRONG_RESULTS: list[tuple[Json, str]] = [
    (result("", "gpu-0"), "its allocation is malformed: {"),
    (result("gpu-a", "../gpu"), "its allocation is malformed: {"),
    (result("gpu-a", "gpu-0", request=None), "its allocation is malformed: {"),
    (result("gpu-a", "g" * 254), "its allocation is malformed: {"),
    (result("gpu-a", "gpu-0", shareID=7), "its allocation is malformed: {"),
    (result("gpu-a", "gpu-0", 0), "0 shares of one GPU are allocated to it: 1 to 100 there can be"),
    (result("gpu-a", "gpu-0", 101), "101 shares of one GPU"),
    (result("gpu-a", "gpu-0", "1.5"), "1.5 shares of one GPU"),
    (result("gpu-a", "gpu-0", "many"), "many shares of one GPU"),
]


@pytest.mark.parametrize(("wrong", "problem"), WRONG_RESULTS)
def test_a_result_that_no_scheduler_writes_is_refused(wrong: Json, problem: str) -> None:
    with pytest.raises(AllocationError) as refused:
        allocation.results(pool.claim("train", result("gpu-a", "gpu-1"), wrong))
    assert str(refused.value).startswith(problem)


def test_more_devices_than_a_claim_can_have_are_refused() -> None:
    assert len(allocation.results(pool.claim("train", *[result("gpu-a", "gpu-0")] * 32))) == 32
    with pytest.raises(AllocationError, match="33 devices are allocated to it: bitfusiond takes at most 32"):
        allocation.results(pool.claim("train", *[result("gpu-a", "gpu-0")] * 33))


@pytest.mark.parametrize(
    "change",
    [{"driver": "gpu.example"}, {"pool": {"name": "gpu-b"}}, {"devices": []}, {"devices": None}],
    ids=["driver", "pool", "device", "devices"],
)
def test_a_slice_that_has_not_the_device_any_more_is_said(change: Json) -> None:
    slices = pool.slices()
    slices["gpu-a"]["spec"] |= change
    with pytest.raises(AllocationError) as refused:
        allocation.allocation(pool.claim("train", result("gpu-a", "gpu-0")), slices)
    assert str(refused.value).startswith(
        "the GPU gpu-0 of the server gpu-a is not in the pool any more: delete the pod"
    )


@pytest.mark.parametrize("address", [None, {"int": 3}, {"string": "10.1.2.3"}, {"string": "a b:1"}, "10.1.2.3:1"])
def test_a_slice_without_an_address_is_named(address: Any) -> None:
    slices = pool.slices()
    slices["gpu-a"]["spec"]["devices"][0]["attributes"]["address"] = address
    with pytest.raises(AllocationError, match=r"^ResourceSlice bitfusion\.io-gpu-a: address: .* is not HOST:PORT"):
        allocation.allocation(pool.claim("train", result("gpu-a", "gpu-0")), slices)


# --- the variables ----------------------------------------------------------------------------------------------------


def test_the_variable_of_a_claim_has_the_pods_name_for_it() -> None:
    found = prepared(pool.claim("train", result("gpu-a", "gpu-0"), pod_claim="my-gpu-3"))
    assert found.keys() == {"BITFUSIOND_ALLOCATION", "BITFUSIOND_ALLOCATION_MY_GPU_3"}
    assert len({*found.values()}) == 1
    assert allocation.of_claims(["my-gpu-3"], found)["my-gpu-3"].addresses == (A,)


@pytest.mark.parametrize("pod_claim", [None, "", "A", "a_b", "x" * 64, "a=b", "a\nb"])
def test_a_claim_of_no_template_has_the_one_variable_alone(pod_claim: str | None) -> None:
    assert prepared(pool.claim("train", result("gpu-a", "gpu-0"), pod_claim=pod_claim)).keys() == {
        "BITFUSIOND_ALLOCATION"
    }


def test_a_later_configuration_wins_and_each_is_for_its_requests() -> None:
    of_class = pool.parameters({"name": "X", "value": "class"}, {"name": "ALL", "value": "{servers}"}, requests=[])
    of_gpu = pool.parameters({"name": "X", "value": "{servers}"}, requests=["gpu"])
    of_choice = pool.parameters({"name": "Y", "value": "{servers}"}, requests=["gpu/m16000"])
    of_other = pool.parameters({"name": "Z", "value": "{servers}"}, requests=["other"])
    given = [result("gpu-a", "gpu-0", request="gpu/m16000"), result("gpu-b", "gpu-0", request="second")]
    found = prepared(pool.claim("train", *given, config=[of_class, of_gpu, of_choice, of_other]))
    assert {name: found.get(name) for name in ("X", "ALL", "Y", "Z")} == {"X": A, "ALL": f"{A},{B}", "Y": A, "Z": None}


V = {"name": "X", "value": "{servers}"}
FORM = "must be {name, value, between}, between where it is wanted, each a text of at most 10240 characters"
TEXTS = (
    "values must be an object with no keys but binary, filters, fraction, gpus, megabytes, each a text of at most 1024"
)
ALL_OR_ONE = "{servers} are all, {server} is one each, by {index} in the name or between"
WRONG_PARAMETERS: list[tuple[Any, str]] = [
    (None, "they must be an object, not null"),
    ([V], "they must be an object, not [{"),
    ({"variables": [V], "env": []}, "env is unknown: variables and values are allowed"),
    ({"variables": V}, "variables must be a list of at most 128"),
    ({"variables": [V] * 129}, "variables must be a list of at most 128"),
    ({"variables": [V, "X=1"]}, f"variables[1] {FORM}"),
    ({"variables": [{"name": "X"}]}, f"variables[0] {FORM}"),
    ({"variables": [V | {"prepends": ":"}]}, f"variables[0] {FORM}"),
    ({"variables": [V | {"between": None}]}, f"variables[0] {FORM}"),
    ({"variables": [V | {"value": 3}]}, f"variables[0] {FORM}"),
    ({"variables": [V | {"value": "x" * 10241}]}, f"variables[0] {FORM}"),
    ({"variables": [V | {"value": "a\0b"}]}, f"variables[0] {FORM}"),
    ({"variables": [V], "values": []}, TEXTS),
    ({"variables": [V], "values": {"servers": "x"}}, TEXTS),
    ({"variables": [V], "values": {"gpus": 1}}, TEXTS),
    ({"variables": [V], "values": {"gpus": "1" * 1025}}, TEXTS),
    ({"variables": [V | {"value": "{"}]}, "X: a placeholder is a name in braces, such as {servers}"),
    ({"variables": [V | {"value": "{0}"}]}, "X: a placeholder is a name in braces"),
    ({"variables": [V | {"value": "{gpus!r}"}]}, "X: a placeholder is a name in braces"),
    ({"variables": [V | {"value": "{gpus:9999999999}"}]}, "X: a placeholder is a name in braces"),
    ({"variables": [V | {"value": "{gpus.__class__}"}]}, "X: a placeholder is a name in braces"),
    ({"variables": [V | {"value": "{binary}"}]}, "variables[0]: {binary} is unknown"),
    ({"variables": [V | {"value": "{server}"}]}, f"X: {ALL_OR_ONE}"),
    ({"variables": [V | {"value": "{index}"}]}, f"X: {ALL_OR_ONE}"),
    ({"variables": [V | {"between": ","}]}, f"X: {ALL_OR_ONE}"),
    ({"variables": [V | {"name": "X{index}"}]}, f"X{{index}}: {ALL_OR_ONE}"),
    ({"variables": [V | {"name": "X{server}"}]}, "X{server}: a name may have {index} in it"),
    ({"variables": [{"name": "X{index}", "value": "", "between": ","}]}, "X{index}: a name may have {index} in it"),
    ({"variables": [V | {"name": "A=B"}]}, "variables[0]: A=B is not the name of a variable"),
    ({"variables": [V | {"name": ""}]}, 'variables[0]: "" is not the name of a variable'),
    ({"variables": [V | {"name": "1X"}]}, "variables[0]: 1X is not the name of a variable"),
    ({"variables": [V | {"name": "Ä"}]}, "variables[0]: Ä is not the name of a variable"),
    ({"variables": [V | {"name": "X" * 129}]}, "variables[0]: XXX"),
    ({"variables": [V | {"name": "{{X}}"}]}, "variables[0]: {{X}} is not the name of a variable"),
    *(
        ({"variables": [V | {"name": name}]}, f"variables[0]: {name} is not for a claim to set")
        for name in ("PATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "BITFUSIOND_ALLOCATION", "BITFUSIOND_ALLOCATION_X",
                     "BITFUSIOND_CLAIMS")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "problem"), WRONG_PARAMETERS, ids=range(len(WRONG_PARAMETERS)))
def test_parameters_of_another_form_are_refused(wrong: Any, problem: str) -> None:
    config = [{"requests": [], "opaque": {"driver": "bitfusion.io", "parameters": wrong}}]
    with pytest.raises(AllocationError) as refused:
        prepared(pool.claim("train", result("gpu-a", "gpu-0"), config=config))
    assert str(refused.value).startswith(f"the parameters for bitfusion.io in its devices.config: {problem}")
    assert "\n" not in str(refused.value)


def test_an_environment_that_no_program_could_be_given_is_refused() -> None:
    config = [pool.parameters(*({"name": f"X{index}", "value": "{servers}" * 100} for index in range(64)))]
    with pytest.raises(AllocationError, match="the variables have more than 65536 characters together"):
        prepared(pool.claim("train", *[result("gpu-a", "gpu-0"), result("gpu-b", "gpu-0")] * 16, config=config))


def test_more_configurations_than_a_claim_can_have_are_refused() -> None:
    config = [pool.parameters() for _ in range(parameters.MOST_CONFIGS + 1)]
    with pytest.raises(AllocationError, match="it has 65 configurations: bitfusiond takes at most 64"):
        prepared(pool.claim("train", result("gpu-a", "gpu-0"), config=config))


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["{server}", "{servers}", "X{index}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "value", "between", "variables", "values", "gpus"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)
variables = st.fixed_dictionaries(
    {"name": st.text(max_size=5) | st.sampled_from(["A{index}", "LD_X"]), "value": st.text(max_size=20) | json},
    optional={"between": st.text(max_size=2)},
)


@given(json | st.fixed_dictionaries({"variables": st.lists(variables, max_size=4)}))
def test_whatever_somebody_writes_into_a_claim_is_an_error_in_one_line_or_a_sound_environment(wrong: Any) -> None:
    config = [{"requests": [], "opaque": {"driver": "bitfusion.io", "parameters": wrong}}]
    claim = pool.claim("train", result("gpu-a", "gpu-0"), config=config)
    found, problem = None, "one line"
    try:
        found = cdi.prepared(REF, claim, pool.slices())
    except AllocationError as error:
        problem = str(error)
    assert len(problem.splitlines()) == 1
    if found is None:
        return
    for name, value in found.environment.items():
        assert name.isidentifier()
        assert name.isascii()
        assert "\0" not in value
    assert cdi.read(cdi.write(found), REF.uid) == found


@given(st.dictionaries(st.sampled_from(["metadata", "status"]), json), json)
def test_whatever_claim_and_slice_an_api_server_has_is_an_error_or_an_allocation(claim: Json, devices: Any) -> None:
    whole = pool.claim("train", result("gpu-a", "gpu-0"))
    whole["status"]["allocation"]["devices"] = {"results": devices, "config": devices}
    for each in claim, whole:
        with pytest.raises(AllocationError):
            cdi.prepared(REF, each, pool.slices())


names = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?\Z")
parts = st.builds(Part, names, st.sampled_from([A, B]), names, st.integers(1, 100))


@given(st.builds(Allocation, names, st.lists(parts, min_size=1, max_size=32).map(tuple)))
def test_what_is_told_is_read_back(found: Allocation) -> None:
    assert allocation.parse(found.text) == found
    assert allocation.of_claims(["a-b"], {"BITFUSIOND_ALLOCATION_A_B": found.text}) == {"a-b": found}


@given(st.text() | json.map(str))
def test_any_text_of_a_variable_is_an_allocation_or_an_error_in_one_line(text: str) -> None:
    with pytest.raises(AllocationError) as refused:
        allocation.parse(text)
    assert len(str(refused.value).splitlines()) == 1


# --- what the webhook writes ------------------------------------------------------------------------------------------

_SERVERS = (
    Server("gpu-a", A, (Gpu("0", "V100", 16000), Gpu("1", "V100", 16000)), "gpu-a", cuda_version="11.2"),
    Server("gpu-b", B, (Gpu("0", "V100", 16000),), "gpu-b"),
)
_OWN = {"name": "OWN", "value": "mine {gpus}\nand more"}


def _told(client: Client | str, *given: tuple[str, str], env: list[Json] | None = None) -> dict[str, str]:
    """The environment of a pod's only claim, as the webhook admits it, where these GPUs are allocated to it."""
    rules = dataclasses.replace(pods.rules(), pool=Pool(_SERVERS))
    name = client
    if isinstance(client, Client):
        name = client.name
        rules = dataclasses.replace(rules, catalogue=dataclasses.replace(rules.catalogue, others=(client,)))
    asked = pods.container({"bitfusion.io/gpu-amount": len(given), "bitfusion.io/gpu-percent": 60}, env=env or [])
    verdict = mutate(pods.pod(asked, annotations={"bitfusion-client/name": name}), pods.NAMESPACE, rules)
    assert isinstance(verdict, Patch)
    (template,) = verdict.claims
    config = [{"source": "FromClaim", **each} for each in template.spec["devices"].get("config", [])]
    claim = pool.claim("train", *(result(server, gpu) for server, gpu in given), config=config)
    servers = {each.name: slices.resource_slice(each, 1) for each in _SERVERS}
    found = cdi.prepared(REF, claim, servers).environment
    return {name: value for name, value in found.items() if "ALLOCATION" not in name}


def test_a_node_fills_in_what_the_webhook_left_to_it() -> None:
    both = (("gpu-b", "gpu-0"), ("gpu-a", "gpu-1"))
    assert _told("bitfusion", *both) == {}
    assert _told("lupine", *both) == {"LUPINE_SERVER": f"{B},{A}"}
    assert _told("pocl", *both) == {
        "POCL_DEVICES": "remote remote",
        "POCL_REMOTE0_PARAMETERS": f"{B}/0",
        "POCL_REMOTE1_PARAMETERS": f"{A}/0",
    }


def test_whatever_a_catalogue_may_say_a_node_understands() -> None:
    variables = (
        Variable("ALL", "{servers} {gpus} {fraction} {{}}"),
        Variable("EACH", "{server}:{index}", "; "),
        Variable("N{index}", "{gpus}/{server}"),
        Variable("OWN", "{servers}", None, ":"),
        Variable("LEFT_OUT", "{servers}{megabytes}"),
    )
    client = Client("any", binary_path="/bitfusion/any/bin/any", wrap=(("{binary}", "{fraction}"),), env=variables)
    assert _told(client, ("gpu-a", "gpu-0"), ("gpu-b", "gpu-0"), env=[_OWN]) == {
        "ALL": f"{A},{B} 2 0.600000 {{}}",
        "EACH": f"{A}:0; {B}:1",
        "N0": f"2/{A}",
        "N1": f"2/{B}",
        "OWN": f"{A},{B}:mine {{gpus}}\nand more",
    }


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_names_its_claim_and_is_read_back_by_its_uid_alone() -> None:
    found = cdi.prepared(REF, pool.claim("train", result("gpu-a", "gpu-0")), pool.slices())
    content = cdi.write(found)
    assert cdi.read(content, REF.uid) == found
    assert cdi.read(content, "another") is None
    assert cdi.read(content.replace(b"0.6.0", b"0.7.0"), REF.uid) is None


@given(st.binary() | json.map(lambda value: repr(value).encode()))
def test_a_file_of_anything_else_is_no_claims(content: bytes) -> None:
    assert cdi.read(content, REF.uid) is None


@pytest.mark.parametrize(
    "name",
    [
        *("bitfusion.io-claim_.json", "bitfusion.io-claim_a/b.json", "bitfusion.io-claim_a.yaml"),
        *("bitfusion.io-claim_-.json", ".bitfusion.io-a", "nvidia.yaml", "x.json"),
    ],
)
def test_a_file_of_another_name_is_not_ours(name: str) -> None:
    assert cdi.uid_of(name) is None


def test_the_name_of_a_file_is_that_of_its_claim() -> None:
    assert cdi.file_name(REF.uid) == f"bitfusion.io-claim_{REF.uid}.json"
    assert cdi.uid_of(cdi.file_name(REF.uid)) == REF.uid
    assert cdi.device_id(REF.uid) == f"bitfusion.io/claim={REF.uid}"
