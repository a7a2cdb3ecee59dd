"""The driver over real sockets, with a stand-in kubelet and a cluster in memory."""

from __future__ import annotations

import json
import stat

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from bitfusiond.core.pool import allocation
from bitfusiond.kube import CLAIMS, RESOURCE_SLICES, ForbiddenError, UnavailableError
from bitfusiond.plugin.dra import servicers
from tests.fakes import pool
from tests.fakes.dra_kubelet import Claim, running
from tests.fakes.pool import result
from tests.fakes.processes import until
from tests.unit.conftest import Events
from tests.unit.plugin.dra.conftest import RunDriver, World

# --- a claim's way ----------------------------------------------------------------------------------------------------


async def test_it_is_found_asked_and_told_that_it_is_registered(world: World, run_driver: RunDriver) -> None:
    async with running(world.registry) as kubelet, run_driver():
        await kubelet.wait_registered()
        (info,) = kubelet.infos
        assert (info.type, info.name, info.endpoint) == ("DRAPlugin", "bitfusion.io", str(world.places.endpoint))
        assert list(info.supported_versions) == ["v1.DRAPlugin", "v1beta1.DRAPlugin"]
        assert world.registration is not None
        assert world.registration.problem() is None
        assert world.metric("registered") == 1


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_a_claim_becomes_a_device_of_cdi_and_goes_again(
    world: World, run_driver: RunDriver, version: str
) -> None:
    claim = world.put("train-abc", result("gpu-b", "gpu-1", 60), result("gpu-a", "gpu-0", 25, request="gpu/m16000"))
    async with running(world.registry, f"{version}.DRAPlugin") as kubelet, run_driver():
        response = await kubelet.prepare(claim)
        answer = response.claims[claim[2]]
        assert answer.error == ""
        assert [(each.pool_name, each.device_name, list(each.request_names)) for each in answer.devices] == [
            ("gpu-b", "gpu-1", ["gpu"]),
            ("gpu-a", "gpu-0", ["gpu"]),
        ]
        assert {each for device in answer.devices for each in device.cdi_device_ids} == {
            f"bitfusion.io/claim={claim[2]}"
        }
        if version == "v1":
            assert {device.share_id for device in answer.devices} == {"11111111-2222-3333-4444-555555555555"}
        text = (
            '{"claim":"train-abc","gpus":['
            '{"server":"gpu-b","address":"[2001:db8::2]:56001","id":"1","shares":60},'
            '{"server":"gpu-a","address":"10.1.2.3:56001","id":"0","shares":25}]}'
        )
        assert world.env(claim) == {"BITFUSIOND_ALLOCATION": text, "BITFUSIOND_ALLOCATION_BITFUSION_0": text}
        assert stat.S_IMODE(world.file(claim).stat().st_mode) & 0o444 == 0o444
        assert [each.name for each in world.cdi.iterdir()] == [world.file(claim).name]
        response = await kubelet.unprepare(claim)
        assert {uid: each.error for uid, each in response.claims.items()} == {claim[2]: ""}
        assert list(world.cdi.iterdir()) == []
        assert (world.metric("prepared_total"), world.metric("unprepared_total")) == (1, 1)
        assert world.metric("prepare_seconds_count") == 1


async def test_the_clients_variables_name_the_servers_that_were_allocated(world: World, run_driver: RunDriver) -> None:
    config = pool.parameters(
        {"name": "LUPINE_SERVER", "value": "{servers}"},
        {"name": "POCL_DEVICES", "value": "remote", "between": " "},
        {"name": "POCL_REMOTE{index}_PARAMETERS", "value": "{server}/{gpus}"},
        {"name": "LEFT_OUT", "value": "{fraction}"},
        gpus="2",
    )
    other = {"source": "FromClass", "requests": [], "opaque": {"driver": "other.example", "parameters": {"a": 1}}}
    given = [result("gpu-a", "gpu-0"), result("gpu-a", "gpu-1"), result("gpu-b", "gpu-0")]
    claim = world.put("train", *given, config=[other, config])
    async with running(world.registry) as kubelet, run_driver():
        assert (await kubelet.prepare(claim)).claims[claim[2]].error == ""
    found = {name: value for name, value in world.env(claim).items() if "ALLOCATION" not in name}
    assert found == {
        "LUPINE_SERVER": "10.1.2.3:56001,[2001:db8::2]:56001",
        "POCL_DEVICES": "remote remote",
        "POCL_REMOTE0_PARAMETERS": "10.1.2.3:56001/2",
        "POCL_REMOTE1_PARAMETERS": "[2001:db8::2]:56001/2",
    }


async def test_what_is_prepared_stays_so_while_the_api_server_is_away_and_each_server_is_asked_for_once(
    world: World, run_driver: RunDriver
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"), result("gpu-a", "gpu-1"))
    async with running(world.registry) as kubelet, run_driver():
        first = await kubelet.prepare(claim)
        assert world.asked() == ["resourceclaims/train", "resourceslices/bitfusion.io-gpu-a"]
        before = world.file(claim).stat()
        with world.cluster.failing(UnavailableError("away")):
            assert await kubelet.prepare(claim) == first
        assert await kubelet.prepare(claim) == first
        assert world.file(claim).stat() == before
        assert [each for each in world.asked() if each.startswith("resourceslices")] == world.asked()[1:2]


async def test_a_claim_that_was_allocated_anew_is_prepared_anew(world: World, run_driver: RunDriver) -> None:
    """One that a user made outlives its pods; its file of a node that was away does too."""
    claim = world.put("mine", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        await kubelet.prepare(claim)
        stored = await world.cluster.get(CLAIMS, "team", "mine")
        stored["status"]["allocation"]["devices"]["results"] = [result("gpu-b", "gpu-0")]
        world.cluster.put(CLAIMS, stored)
        assert (await kubelet.prepare(claim)).claims[claim[2]].error == ""
        (gpu,) = json.loads(world.env(claim)["BITFUSIOND_ALLOCATION"])["gpus"]
        assert gpu["server"] == "gpu-b"


async def test_unprepare_of_what_was_never_prepared_is_no_error(world: World, run_driver: RunDriver) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        for _ in range(2):
            assert (await kubelet.unprepare(claim)).claims[claim[2]].error == ""
    assert world.asked() == []


# --- several claims, several calls ------------------------------------------------------------------------------------


async def test_of_several_claims_each_has_its_own_answer(world: World, run_driver: RunDriver) -> None:
    claims = [
        world.put(f"train-{index}", result("gpu-a", f"gpu-{index % 2}"), pod_claim=f"bitfusion-{index}")
        for index in range(10)
    ]
    gone = ("team", "gone", "99999999-0000-0000-0000-000000000000")
    async with running(world.registry) as kubelet, run_driver():
        response = await kubelet.prepare(*claims, gone)
        errors = {uid: each.error for uid, each in response.claims.items()}
        assert errors.pop(gone[2]).startswith("it is gone from the API server; delete the pod")
        assert errors == {claim[2]: "" for claim in claims}
        for index, claim in enumerate(claims):
            text = world.env(claim)[f"BITFUSIOND_ALLOCATION_BITFUSION_{index}"]
            assert allocation.parse(text).gpus[0].id == str(index % 2)
        assert world.metric("failures_total", call="prepare") == 1
        assert set((await kubelet.unprepare(*claims, gone)).claims) == {*errors, gone[2]}
        assert list(world.cdi.iterdir()) == []


async def test_calls_for_the_same_claim_wait_for_each_other_and_for_no_others(
    world: World, run_driver: RunDriver
) -> None:
    slow, quick = world.put("slow", result("gpu-b", "gpu-0")), world.put("quick", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        assert (await kubelet.prepare(quick)).claims[quick[2]].error == ""
        release = world.cluster.hang(resource=RESOURCE_SLICES)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kubelet.prepare, slow)
            await until(lambda: "resourceslices/bitfusion.io-gpu-b" in world.asked())
            nursery.start_soon(kubelet.prepare, slow)
            nursery.start_soon(kubelet.unprepare, slow)
            with trio.fail_after(3):
                assert (await kubelet.unprepare(quick)).claims[quick[2]].error == ""
            release()
        assert world.asked().count("resourceclaims/slow") <= 2
        # The last of them was the unprepare, or the prepare after it: either way the file is whole or gone.
        assert not world.file(slow).exists() or world.env(slow)
        assert not [each for each in world.cdi.iterdir() if each != world.file(slow)]


# --- what can go wrong ------------------------------------------------------------------------------------------------


async def error_of(world: World, run_driver: RunDriver, claim: Claim) -> str:
    """Why the claim is not prepared. Nothing is left of the attempt."""
    async with running(world.registry) as kubelet, run_driver():
        response = await kubelet.prepare(claim)
        assert not list(response.claims[claim[2]].devices)
        assert not world.file(claim).exists()
        assert world.metric("failures_total", call="prepare") == 1
        error: str = response.claims[claim[2]].error
        return error


async def test_an_api_server_that_is_away_is_an_error_in_its_words_until_it_is_back(
    world: World, run_driver: RunDriver, events: Events
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        with world.cluster.failing(UnavailableError("the API server at https://x: Connection refused")):
            error = (await kubelet.prepare(claim)).claims[claim[2]].error
        assert error == "the API server at https://x: Connection refused"
        assert [line["error"] for line in events("claim not prepared")] == [error]
        assert (await kubelet.prepare(claim)).claims[claim[2]].error == ""
        assert world.file(claim).exists()


async def test_a_claim_made_anew_under_the_same_name_is_not_the_one_that_was_meant(
    world: World, run_driver: RunDriver
) -> None:
    _, name, uid = world.put("train", result("gpu-a", "gpu-0"))
    error = await error_of(world, run_driver, ("team", name, "99999999-0000-0000-0000-000000000000"))
    assert error == (
        f"another claim has its name by now, with the UID {uid}; delete the pod: one that is made in its place gets a "
        "claim of its own"
    )


async def test_a_plugin_without_the_permission_says_so(world: World, run_driver: RunDriver) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    world.cluster.fail_with(ForbiddenError("resourceclaims is forbidden"), resource=CLAIMS)
    assert await error_of(world, run_driver, claim) == (
        "the plugin of this node may not read it (RBAC): resourceclaims is forbidden"
    )


async def test_a_server_that_left_the_pool_is_named(world: World, run_driver: RunDriver) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"), result("gpu-c", "gpu-0"))
    assert (await error_of(world, run_driver, claim)).startswith(
        "the server gpu-c is not in the pool any more (no ResourceSlice bitfusion.io-gpu-c); delete the pod"
    )


async def test_a_gpu_that_left_its_server_is_named(world: World, run_driver: RunDriver) -> None:
    claim = world.put("train", result("gpu-a", "gpu-7"))
    assert (await error_of(world, run_driver, claim)).startswith(
        "the GPU gpu-7 of the server gpu-a is not in the pool any more"
    )


async def test_parameters_that_somebody_made_up_are_an_error_of_that_claim(world: World, run_driver: RunDriver) -> None:
    config = pool.parameters({"name": "LD_PRELOAD", "value": "/tmp/x.so"})
    claim = world.put("train", result("gpu-a", "gpu-0"), config=[config])
    assert await error_of(world, run_driver, claim) == (
        "the parameters for bitfusion.io in its devices.config: variables[0]: LD_PRELOAD is not for a claim to set"
    )


async def test_a_directory_that_cannot_be_written_is_an_error_with_its_path(
    world: World, run_driver: RunDriver
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    world.cdi.write_text("in the way")
    async with running(world.registry) as kubelet, run_driver():
        error = (await kubelet.prepare(claim)).claims[claim[2]].error
        assert error == f"cannot write {world.file(claim)}: Not a directory"
        assert (await kubelet.unprepare(claim)).claims[claim[2]].error == (
            f"cannot remove {world.file(claim)}: Not a directory"
        )
        world.cdi.unlink()
        assert (await kubelet.prepare(claim)).claims[claim[2]].error == ""


async def test_a_defect_is_an_error_of_its_claim_and_of_no_other(
    world: World, run_driver: RunDriver, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    good, bad = world.put("good", result("gpu-a", "gpu-0")), world.put("bad", result("gpu-b", "gpu-0"))
    results = allocation.results
    monkeypatch.setattr(
        allocation, "results", lambda claim: 1 / 0 if claim["metadata"]["name"] == "bad" else results(claim)
    )
    async with running(world.registry) as kubelet, run_driver():
        claims = (await kubelet.prepare(good, bad)).claims
        assert (claims[good[2]].error, claims[bad[2]].error) == ("", "a defect of bitfusiond: ZeroDivisionError")
    assert "ZeroDivisionError" in events("claim not prepared")[0]["traceback"]


@pytest.mark.parametrize(
    "claim",
    [
        ("team", "train", "../../etc/passwd"),
        ("team", "train", ""),
        ("team", "train", "a" * 65),
        ("team", "", "a"),
        ("", "train", "a"),
        ("team", "a/b", "a"),
        ("t" * 254, "train", "a"),
    ],
)
async def test_what_no_kubelet_asks_is_refused_as_a_whole(world: World, run_driver: RunDriver, claim: Claim) -> None:
    good = world.put("good", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        for call in kubelet.prepare, kubelet.unprepare:
            with pytest.raises(GRPCError) as refused:
                await call(good, claim)
            assert refused.value.status is Status.INVALID_ARGUMENT
            assert str(refused.value.message).startswith("no claim: [")
    assert world.asked() == []


async def test_more_claims_than_a_pod_can_have_are_refused(world: World, run_driver: RunDriver) -> None:
    many = [("team", "train", f"uid-{index}") for index in range(servicers.MOST_CLAIMS + 1)]
    async with running(world.registry) as kubelet, run_driver():
        with pytest.raises(GRPCError) as refused:
            await kubelet.prepare(*many)
        assert refused.value.message == "the call is about 257 claims: at most 256 are taken"
        assert len((await kubelet.prepare(*many[1:])).claims) == servicers.MOST_CLAIMS


@pytest.mark.parametrize(
    "spoil", [b"", b"{", b'{"cdiVersion": "0.6.0"}', b"[[[["], ids=["empty", "cut", "other", "deep"]
)
async def test_a_file_that_is_not_as_we_wrote_it_is_made_anew(
    world: World, run_driver: RunDriver, spoil: bytes
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        first = await kubelet.prepare(claim)
        whole = world.file(claim).read_bytes()
        world.file(claim).write_bytes(spoil)
        assert await kubelet.prepare(claim) == first
        assert world.file(claim).read_bytes() == whole
