"""The driver's life: kubelets and drivers that come and go at any moment, sockets and directories that vanish."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest
import trio
from grpclib.exceptions import GRPCError, StreamTerminatedError

from bitfusiond.errors import Failure
from bitfusiond.kube import CLAIMS, RESOURCE_SLICES, UnavailableError
from bitfusiond.plugin import sockets
from bitfusiond.plugin.dra import driver, service
from tests.fakes.dra_kubelet import Claim, DraKubelet, running
from tests.fakes.pool import result
from tests.fakes.processes import until
from tests.unit.conftest import Events
from tests.unit.plugin.dra.conftest import RunDriver, World


async def prepares(kubelet: DraKubelet, claim: Claim) -> None:
    assert (await kubelet.prepare(claim)).claims[claim[2]].error == ""


def problem(world: World) -> str | None:
    assert world.registration is not None
    return world.registration.problem()


# --- a kubelet that comes and goes ------------------------------------------------------------------------------------


async def test_it_is_not_ready_before_a_kubelet_has_registered_it_and_says_why(
    world: World, run_driver: RunDriver, events: Events
) -> None:
    async with run_driver():
        await until(lambda: events("serving claims"))
        assert problem(world) == "the DRA driver is not registered with the kubelet yet"
        assert world.metric("registered") == 0
        async with running(world.registry) as kubelet:
            kubelet.refuse_with = "version not supported"
            await until(lambda: kubelet.infos)
            await until(lambda: problem(world) == "the kubelet did not register the DRA driver: version not supported")
            assert events("driver not registered")[0]["error"] == "version not supported"
            kubelet.refuse_with = None
            kubelet.restart()
            await kubelet.wait_registered()
            assert problem(world) is None
            assert world.metric("registered") == 1


async def test_a_kubelet_that_restarts_finds_it_again_on_the_same_sockets(world: World, run_driver: RunDriver) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        await prepares(kubelet, claim)
        before = sockets.identity(world.places.registry), sockets.identity(world.places.endpoint)
        for times in range(2, 5):
            kubelet.restart()
            await kubelet.wait_registered(times)
            await prepares(kubelet, claim)
        assert (sockets.identity(world.places.registry), sockets.identity(world.places.endpoint)) == before


async def test_a_call_that_its_kubelet_gave_up_leaves_nothing_and_the_next_one_is_answered(
    world: World, run_driver: RunDriver
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        release = world.cluster.hang(resource=CLAIMS)
        with pytest.raises((GRPCError, TimeoutError, StreamTerminatedError)):
            await kubelet.prepare(claim, seconds=0.3)
        release()
        assert not world.file(claim).exists()
        await prepares(kubelet, claim)
        assert (await kubelet.unprepare(claim)).claims[claim[2]].error == ""


# --- a driver that comes and goes -------------------------------------------------------------------------------------


async def test_what_was_prepared_outlives_the_driver_and_the_next_one_unprepares_it(
    world: World, run_driver: RunDriver
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet:
        async with run_driver():
            await prepares(kubelet, claim)
        assert not world.places.registry.exists()
        assert not world.places.endpoint.exists()
        before = world.env(claim)
        async with run_driver():
            await kubelet.wait_registered(2)
            with world.cluster.failing(UnavailableError("away")):
                await prepares(kubelet, claim)
            assert world.env(claim) == before
            assert (await kubelet.unprepare(claim)).claims[claim[2]].error == ""
        assert list(world.cdi.iterdir()) == []


async def test_when_it_is_stopped_a_call_under_way_is_finished_and_the_sockets_go_after_that(
    world: World, run_driver: RunDriver
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    answers = []

    async def ask(kubelet: DraKubelet) -> None:
        answers.append(await kubelet.prepare(claim))

    async with running(world.registry) as kubelet, trio.open_nursery() as nursery:
        async with run_driver() as running_driver:
            await kubelet.wait_registered()
            release = world.cluster.hang(resource=RESOURCE_SLICES)
            nursery.start_soon(ask, kubelet)
            await until(lambda: "resourceslices/bitfusion.io-gpu-a" in world.asked())
            running_driver.cancel()
            await trio.sleep(0.3)
            assert world.places.registry.exists()
            assert world.places.endpoint.exists()
            assert answers == []
            release()
            await until(lambda: answers)
        assert answers[0].claims[claim[2]].error == ""
        assert world.env(claim)
        assert not world.places.registry.exists()
        assert not world.places.endpoint.exists()


async def test_a_call_that_does_not_end_holds_the_end_up_no_longer_than_it_may(
    world: World, run_driver: RunDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DRAIN_SECONDS", 0.3)
    claim = world.put("train", result("gpu-a", "gpu-0"))

    async def ask(kubelet: DraKubelet) -> None:
        with pytest.raises((GRPCError, StreamTerminatedError)):
            await kubelet.prepare(claim)

    async with running(world.registry) as kubelet, trio.open_nursery() as nursery:
        async with run_driver():
            await kubelet.wait_registered()
            world.cluster.hang(resource=CLAIMS)
            nursery.start_soon(ask, kubelet)
            await until(world.asked)
            began = trio.current_time()
        assert trio.current_time() - began < 2
    assert not world.file(claim).exists()


async def test_the_sockets_of_a_run_that_was_killed_are_replaced(world: World, run_driver: RunDriver) -> None:
    world.places.endpoint.parent.mkdir()
    for path in world.places.endpoint, world.places.registry:
        with socket.socket(socket.AF_UNIX) as crashed:
            crashed.bind(str(path))
    async with running(world.registry) as kubelet, run_driver():
        await prepares(kubelet, world.put("train", result("gpu-a", "gpu-0")))
        assert stat.S_IMODE(world.places.endpoint.stat().st_mode) == 0o600


async def test_another_driver_of_the_name_that_lives_is_a_failure(world: World, run_driver: RunDriver) -> None:
    async with running(world.registry) as kubelet, run_driver():
        await kubelet.wait_registered()
        with pytest.RaisesGroup(
            pytest.RaisesExc(Failure, match="another DRA driver is running; stop it, or remove its pod"),
            flatten_subgroups=True,
        ):
            async with run_driver():
                await trio.sleep(10)
        await prepares(kubelet, world.put("train", result("gpu-a", "gpu-0")))


async def test_a_directory_that_permits_no_socket_is_a_failure_at_the_start(
    world: World, run_driver: RunDriver
) -> None:
    world.registry.rmdir()
    world.registry.write_text("a file")
    with pytest.RaisesGroup(
        pytest.RaisesExc(Failure, match="cannot make the sockets of the DRA driver: Not a directory"),
        flatten_subgroups=True,
    ):
        async with run_driver():
            await trio.sleep(10)
    assert not world.places.endpoint.exists()


# --- sockets and directories that vanish ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["endpoint", "registry"])
async def test_a_socket_that_vanishes_is_made_again_and_the_kubelet_finds_it(
    world: World, run_driver: RunDriver, events: Events, name: str
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    path: Path = getattr(world.places, name)
    async with running(world.registry) as kubelet, run_driver():
        await prepares(kubelet, claim)
        path.unlink()
        await kubelet.wait_registered(2)
        await prepares(kubelet, claim)
        assert problem(world) is None
    assert [line["socket"] for line in events("own socket vanished")] == [str(path)]


async def test_directories_that_are_removed_and_made_anew_are_used_again(
    world: World, run_driver: RunDriver, events: Events
) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0"))
    async with running(world.registry) as kubelet, run_driver():
        await prepares(kubelet, claim)
        for directory in world.registry, world.plugins, world.cdi:
            shutil.rmtree(directory)
        await until(lambda: events("cannot serve"))
        assert problem(world) == "the DRA driver is not registered: its socket is gone"
        world.plugins.mkdir()
        world.registry.mkdir()
        await kubelet.wait_registered(2)
        await prepares(kubelet, claim)
        assert world.env(claim)


@pytest.mark.parametrize("name", ["plugins", "registry", "cdi"])
async def test_a_directory_that_was_deleted_under_its_mount_ends_the_plugin(
    world: World, run_driver: RunDriver, name: str
) -> None:
    """An open directory stands in for the mount of a container: it too outlives its name."""
    directory: Path = getattr(world, name)
    directory.mkdir(exist_ok=True)
    opened = os.open(directory, os.O_PATH)
    try:
        setattr(world, name, Path(f"/proc/self/fd/{opened}"))
        with pytest.RaisesGroup(pytest.RaisesExc(Failure, match="deleted under its mount"), flatten_subgroups=True):
            async with run_driver():
                await until(world.places.endpoint.exists)
                shutil.rmtree(directory)
                await trio.sleep(10)
    finally:
        os.close(opened)


async def test_the_drivers_own_directory_may_be_the_mount_that_was_deleted(
    world: World, run_driver: RunDriver, directory: Path
) -> None:
    own = directory / "own"
    own.mkdir()
    opened = os.open(own, os.O_PATH)
    try:
        world.places.endpoint.parent.symlink_to(f"/proc/self/fd/{opened}")
        with pytest.RaisesGroup(pytest.RaisesExc(Failure, match="deleted under its mount"), flatten_subgroups=True):
            async with run_driver():
                await until(world.places.endpoint.exists)
                shutil.rmtree(own)
                await trio.sleep(10)
    finally:
        os.close(opened)


async def test_an_error_inside_a_session_begins_a_new_one(
    world: World, run_driver: RunDriver, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = service._Session._until_one_is_gone
    failures = iter([RuntimeError("a defect")])

    async def fail_first(self: service._Session, known: dict[Path, sockets.Identity | None]) -> None:
        for failure in failures:
            raise failure
        await waits(self, known)

    monkeypatch.setattr(service._Session, "_until_one_is_gone", fail_first)
    async with running(world.registry) as kubelet, run_driver():
        await prepares(kubelet, world.put("train", result("gpu-a", "gpu-0")))
    assert len(events("session failed")) == 1


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b""], ids=["HTTP/1.1", "nothing"])
async def test_a_client_that_talks_nonsense_disturbs_nobody(
    world: World, run_driver: RunDriver, events: Events, sent: bytes
) -> None:
    async with running(world.registry) as kubelet, run_driver():
        await kubelet.wait_registered()
        for path in world.places.endpoint, world.places.registry:
            with socket.socket(socket.AF_UNIX) as strange:
                strange.connect(str(path))
                strange.sendall(sent)
                await trio.sleep(0.1)
        await prepares(kubelet, world.put("train", result("gpu-a", "gpu-0")))
    assert not events("session failed")


# --- what is left from before -----------------------------------------------------------------------------------------


async def leave(world: World, run_driver: RunDriver, *names: str) -> list[Claim]:
    """Claims that an earlier driver prepared."""
    claims = [world.put(name, result("gpu-a", "gpu-0")) for name in names]
    async with running(world.registry) as kubelet, run_driver():
        for claim in claims:
            await prepares(kubelet, claim)
    return claims


async def test_files_of_claims_that_ended_meanwhile_go_and_all_others_stay(
    world: World, run_driver: RunDriver, events: Events
) -> None:
    gone, anew, kept = await leave(world, run_driver, "gone", "anew", "kept")
    world.cluster.remove(CLAIMS, "team", "gone")
    body = world.cluster.find(CLAIMS, "team", "anew")
    assert body is not None
    world.cluster.remove(CLAIMS, "team", "anew")
    world.cluster.put(CLAIMS, body)  # under another UID
    others = [world.cdi / name for name in ("nvidia.json", "bitfusion.io-claim_x.yaml", world.file(gone).stem)]
    broken = world.cdi / "bitfusion.io-claim_broken.json"
    for path in (*others, broken):
        path.write_text("{}")
    (world.cdi / ".bitfusion.io-half").write_text("{")
    async with run_driver():
        await until(lambda: not world.file(gone).exists() and not world.file(anew).exists())
    assert {*world.cdi.iterdir()} == {world.file(kept), broken, *others}
    assert {line["claim"] for line in events("file of a claim that is gone removed")} == {"gone", "anew"}


async def test_nothing_is_removed_before_the_api_server_says_so(
    world: World, run_driver: RunDriver, events: Events
) -> None:
    gone, kept = await leave(world, run_driver, "gone", "kept")
    world.cluster.remove(CLAIMS, "team", "gone")
    world.cluster.fail_with(UnavailableError("away"), 3)
    async with run_driver():
        await until(lambda: events("cannot look for claims that are gone"))
        assert world.file(gone).exists()
        await until(lambda: not world.file(gone).exists())
    assert world.file(kept).exists()
    assert len(events("cannot look for claims that are gone")) == 1


async def test_of_very_many_files_a_bounded_number_is_looked_at(
    world: World, run_driver: RunDriver, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "MOST_FILES", 2)
    claims = await leave(world, run_driver, "a", "b", "c")
    for _, name, _ in claims:
        world.cluster.remove(CLAIMS, "team", name)
    async with run_driver():
        await until(lambda: len(list(world.cdi.iterdir())) == 1)
        await trio.sleep(0.1)
    assert len(list(world.cdi.iterdir())) == 1
    assert (events("more files of claims than are looked at")[0]["files"]) == 3
    async with run_driver():
        await until(lambda: not list(world.cdi.iterdir()))


async def test_a_claim_is_looked_for_and_prepared_one_after_the_other(world: World, run_driver: RunDriver) -> None:
    (claim,) = await leave(world, run_driver, "train")
    errors: list[str] = []

    async def ask(kubelet: DraKubelet) -> None:
        errors.append((await kubelet.prepare(claim)).claims[claim[2]].error)

    world.cluster.remove(CLAIMS, "team", "train")
    release = world.cluster.hang(resource=CLAIMS)
    async with running(world.registry) as kubelet, run_driver(), trio.open_nursery() as nursery:
        await until(lambda: world.asked().count("resourceclaims/train") == 2)  # whether it is gone
        nursery.start_soon(ask, kubelet)
        await trio.sleep(0.3)
        assert errors == []  # the file is there: without the other's turn this would be the answer
        release()
        await until(lambda: errors)
        assert errors[0].startswith("it is gone from the API server")
        assert not world.file(claim).exists()


async def test_log_lines_tell_what_happened_once_each(world: World, run_driver: RunDriver, events: Events) -> None:
    claim = world.put("train", result("gpu-a", "gpu-0", 60))
    async with running(world.registry) as kubelet, run_driver():
        await prepares(kubelet, claim)
        await prepares(kubelet, claim)
        await kubelet.unprepare(claim)
    assert [line["event"] for line in events()] == [
        *("serving claims", "driver registered"),
        *("claim prepared", "claim is prepared already", "claim unprepared"),
    ]
    (line,) = events("claim prepared")
    assert (line["namespace"], line["claim"], line["uid"], line["shares"]) == (*claim, ["gpu-a/gpu-0: 60"])
