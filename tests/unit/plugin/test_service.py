"""The plugin's life, in this process, against a stand-in kubelet on real sockets."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
import trio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.plugin import session, sockets
from bitfusiond.plugin.servicer import Servicer
from bitfusiond.plugin.session import Session
from bitfusiond.settings import Plugin
from tests.fakes.kubelet import Kubelet
from tests.fakes.processes import until
from tests.unit.conftest import Events
from tests.unit.plugin.conftest import RunPlugin


async def test_it_serves_then_registers_and_gives_its_options_both_ways(directory: Path, run_plugin: RunPlugin) -> None:
    async with Kubelet(directory) as kubelet, run_plugin():
        registration = await kubelet.wait_registered()
    request = registration.request
    assert (request.version, request.endpoint, request.resource_name) == ("v1beta1", "bitfusion.io", "bitfusion.io/gpu")
    assert request.options == registration.options
    assert registration.options.get_preferred_allocation_available
    assert not registration.options.pre_start_required


async def test_resource_and_socket_have_the_names_that_were_chosen(directory: Path, run_plugin: RunPlugin) -> None:
    chosen = {"socket_name": "other.sock", "resource_name": "example.com/thing", "resource_nums": "7"}
    async with Kubelet(directory) as kubelet, run_plugin(**chosen):
        registration = await kubelet.wait_registered()
        assert registration.request.endpoint == "other.sock"
        assert registration.request.resource_name == "example.com/thing"
        assert list(await kubelet.devices()) == ["0", "1", "2", "3", "4", "5", "6"]


async def test_only_root_may_connect_to_the_socket(directory: Path, run_plugin: RunPlugin) -> None:
    async with Kubelet(directory) as kubelet, run_plugin():
        await kubelet.wait_registered()
        assert (directory / "bitfusion.io").stat().st_mode & 0o777 == 0o600


async def test_log_lines_tell_what_happened_once_each(directory: Path, run_plugin: RunPlugin, events: Events) -> None:
    ours = str(directory / "bitfusion.io")
    async with Kubelet(directory) as kubelet, run_plugin():
        await kubelet.wait_registered()
        await until(lambda: events("registered"))
        await trio.sleep(3 * sockets.POLL_SECONDS)
    assert [line["event"] for line in events()] == ["serving", "registered"]
    registered = events("registered")[0]
    assert (registered["resource"], registered["devices"], registered["socket"]) == ("bitfusion.io/gpu", 1000, ours)


# --- a kubelet that comes and goes ------------------------------------------------------------------------------------


async def test_it_registers_again_each_time_the_kubelet_restarts(
    directory: Path, run_plugin: RunPlugin, events: Events
) -> None:
    """No new registration after kubelet.sock was made anew."""
    async with Kubelet(directory) as kubelet, run_plugin():
        await kubelet.wait_registered()
        before = await kubelet.devices()
        for _ in range(3):
            await kubelet.restart()
            await kubelet.wait_registered()
            assert await kubelet.devices() == before
        await until(lambda: len(events("registered")) == 4)
    assert len(events("own socket vanished")) == len(events("kubelet socket changed")) == 3


async def test_it_registers_again_when_only_kubelet_sock_is_made_anew(directory: Path, run_plugin: RunPlugin) -> None:
    """Its own socket stays the same one."""
    async with Kubelet(directory) as kubelet, run_plugin():
        await kubelet.wait_registered()
        ours = sockets.identity(directory / "bitfusion.io")
        await kubelet.stop()
        await kubelet.listen()
        await kubelet.wait_registered()
        assert len(await kubelet.devices()) == 1000
        assert sockets.identity(directory / "bitfusion.io") == ours


async def test_it_serves_and_registers_again_when_its_own_socket_vanishes(
    directory: Path, run_plugin: RunPlugin, events: Events
) -> None:
    async with Kubelet(directory) as kubelet, run_plugin():
        await kubelet.wait_registered()
        (directory / "bitfusion.io").unlink()
        await kubelet.wait_registered()
        assert len(await kubelet.devices()) == 1000
    assert len(events("own socket vanished")) == 1


async def test_it_waits_for_a_kubelet_that_is_not_there_yet_and_says_so_once(
    directory: Path, run_plugin: RunPlugin, events: Events
) -> None:
    async with run_plugin():
        await until(lambda: events("waiting for the kubelet"))
        await trio.sleep(5 * sockets.POLL_SECONDS)
        assert [line["event"] for line in events()] == ["serving", "waiting for the kubelet"]
        async with Kubelet(directory) as kubelet:
            await kubelet.wait_registered()


@pytest.mark.slow
async def test_a_dead_kubelet_that_left_its_socket_is_one_log_line_and_no_end(
    directory: Path, run_plugin: RunPlugin, events: Events
) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(directory / "kubelet.sock"))
    async with run_plugin():
        await until(lambda: events("registration failed"))
        await trio.sleep(1)
        assert [line["error"] for line in events("registration failed")] == ["Connection refused"]
        async with Kubelet(directory) as kubelet:
            await kubelet.wait_registered()


async def test_a_kubelet_that_refuses_is_quoted_once_and_asked_again(
    directory: Path, run_plugin: RunPlugin, events: Events
) -> None:
    async with Kubelet(directory) as kubelet:
        kubelet.refuse_with = "not today"
        async with run_plugin():
            await until(lambda: kubelet.register_calls >= 3)
            assert [line["error"] for line in events("registration failed")] == ["UNKNOWN: not today"]
            kubelet.refuse_with = None
            await kubelet.wait_registered()


async def test_a_kubelet_that_does_not_answer_is_given_up_after_the_deadline(
    directory: Path, run_plugin: RunPlugin, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "REGISTER_SECONDS", 0.2)
    async with Kubelet(directory) as kubelet:
        kubelet.hang = True
        async with run_plugin():
            await until(lambda: kubelet.register_calls >= 2)
            assert [line["error"] for line in events("registration failed")] == ["no answer in time"]
            kubelet.hang = False
            await kubelet.wait_registered()


async def test_a_kubelet_that_hangs_does_not_hold_up_the_registration_with_the_next_one(
    directory: Path, run_plugin: RunPlugin
) -> None:
    async with Kubelet(directory) as kubelet:
        kubelet.hang = True
        async with run_plugin():
            await until(lambda: kubelet.register_calls)
            kubelet.hang = False
            await kubelet.listen()
            with trio.fail_after(session.REGISTER_SECONDS / 2):
                await kubelet.wait_registered()


async def test_a_kubelet_that_stops_watching_is_registered_with_again(
    directory: Path, run_plugin: RunPlugin, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "UNWATCHED_SECONDS", 0.5)
    async with Kubelet(directory) as kubelet, run_plugin():
        await kubelet.wait_registered()
        await kubelet.devices()
        kubelet.forget()
        await kubelet.wait_registered()
        assert len(await kubelet.devices()) == 1000
    assert len(events("kubelet does not watch the devices")) == 1


async def test_it_survives_the_directory_being_removed_and_made_anew(
    directory: Path, run_plugin: RunPlugin, events: Events
) -> None:
    async with run_plugin():
        async with Kubelet(directory) as kubelet:
            await kubelet.wait_registered()
        shutil.rmtree(directory)
        await until(lambda: events("waiting for the device plugin directory"))
        await trio.sleep(3 * sockets.POLL_SECONDS)
        assert len(events("waiting for the device plugin directory")) == 1
        directory.mkdir()
        async with Kubelet(directory) as kubelet:
            await kubelet.wait_registered()
            assert len(await kubelet.devices()) == 1000


async def test_a_directory_that_was_deleted_under_its_mount_ends_the_plugin(
    directory: Path, run_plugin: RunPlugin
) -> None:
    """An open directory stands in for the mount of a container: it too outlives its name."""
    opened = os.open(directory, os.O_PATH)
    try:
        with pytest.RaisesGroup(pytest.RaisesExc(Failure, match="deleted under its mount"), flatten_subgroups=True):
            async with run_plugin(device_plugin_dir=f"/proc/self/fd/{opened}"):
                await until((directory / "bitfusion.io").exists)
                shutil.rmtree(directory)
                await trio.sleep(10)
    finally:
        os.close(opened)


async def test_an_error_inside_a_session_begins_a_new_one(
    directory: Path, run_plugin: RunPlugin, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = Session._answers_ourselves
    failures = iter([RuntimeError("a defect"), RuntimeError("a defect")])

    async def fail_first(self: Session) -> bool:
        for failure in failures:
            raise failure
        return await answers(self)

    monkeypatch.setattr(Session, "_answers_ourselves", fail_first)
    async with Kubelet(directory) as kubelet, run_plugin():
        await kubelet.wait_registered()
    assert len(events("session failed")) == 2


async def test_it_does_not_register_a_socket_that_does_not_answer_itself(
    directory: Path, run_plugin: RunPlugin, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Servicer, "GetDevicePluginOptions", None)
    async with Kubelet(directory) as kubelet, run_plugin():
        await until(lambda: events("own socket does not answer"))
        await trio.sleep(2 * sockets.POLL_SECONDS)
        assert kubelet.register_calls == 0


# --- the socket's name --------------------------------------------------------------------------------------------


async def test_the_socket_of_a_crashed_run_is_replaced(directory: Path, run_plugin: RunPlugin) -> None:
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(directory / "bitfusion.io"))
    async with run_plugin():
        await until(lambda: sockets.identity(directory / "bitfusion.io"))
        async with Kubelet(directory) as kubelet:
            await kubelet.wait_registered()


async def test_a_socket_that_answers_is_another_plugin_and_refused(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(directory / "bitfusion.io"))
        alive.listen()
        with pytest.raises(Failure, match=r"bitfusion\.io answers: another device plugin is running; stop it, or"):
            await sockets.listen(directory / "bitfusion.io")
    assert (directory / "bitfusion.io").exists()


async def test_a_socket_with_a_full_queue_is_alive_too(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as client:
        busy.bind(str(directory / "bitfusion.io"))
        busy.listen(0)
        client.connect(str(directory / "bitfusion.io"))
        with pytest.raises(Failure, match="another device plugin"):
            await sockets.listen(directory / "bitfusion.io")
    assert (directory / "bitfusion.io").exists()


async def test_another_kind_of_file_is_not_touched(directory: Path) -> None:
    (directory / "bitfusion.io").write_text("mine")
    with pytest.raises(Failure, match="exists and is not a socket"):
        await sockets.listen(directory / "bitfusion.io")
    assert (directory / "bitfusion.io").read_text() == "mine"


async def test_a_second_plugin_on_the_same_socket_ends_with_a_failure(directory: Path, run_plugin: RunPlugin) -> None:
    async with run_plugin():
        await until(lambda: sockets.identity(directory / "bitfusion.io"))
        with pytest.RaisesGroup(pytest.RaisesExc(Failure, match="another device plugin"), flatten_subgroups=True):
            async with run_plugin():
                await trio.sleep(10)


def test_a_socket_made_anew_is_told_from_the_old_one_even_with_the_same_inode(directory: Path) -> None:
    path = directory / "kubelet.sock"
    seen = set()
    for _ in range(50):
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
        seen.add(sockets.identity(path))
    assert len(seen) > len({identity.inode for identity in seen if identity})


@pytest.mark.parametrize(("room", "fits"), [(107, True), (108, False)])
def test_the_longest_path_of_a_unix_socket_is_known_exactly(directory: Path, room: int, fits: bool) -> None:
    path = directory / ("x" * (room - len(os.fsencode(directory)) - 1))
    chosen = Plugin(
        device_plugin_dir=directory, socket_name=path.name, resource_name="a.b/c", resource_nums=1,
        interval=1, servers_conf=None, dra_driver=None, plugins_dir=directory, registry_dir=directory,
        cdi_dir=directory, kubeconfig=None, observe=None, log_format="json",
    )  # fmt: skip
    with socket.socket(socket.AF_UNIX) as sock:
        if fits:
            sock.bind(str(path))
            assert sockets.paths(chosen)[0] == path
        else:
            with pytest.raises(OSError, match="too long"):
                sock.bind(str(path))
            with pytest.raises(ConfigurationError, match="has 108 bytes; a unix socket allows 107"):
                sockets.paths(chosen)


# --- the end --------------------------------------------------------------------------------------------------------


async def test_on_stop_streams_end_the_socket_goes_and_it_takes_no_time(directory: Path, run_plugin: RunPlugin) -> None:
    """Though the kubelet stays connected, as it does."""
    async with Kubelet(directory) as kubelet:
        async with run_plugin() as stop:
            await kubelet.wait_registered()
            await kubelet.devices()
            started = trio.current_time()
            stop.set()
            await kubelet.wait_stream_ended()
        assert trio.current_time() - started < 1
        assert not (directory / "bitfusion.io").exists()
        assert (directory / "kubelet.sock").exists()


async def test_on_stop_a_socket_that_is_not_ours_any_more_stays(directory: Path, run_plugin: RunPlugin) -> None:
    path = directory / "bitfusion.io"
    async with run_plugin() as stop:
        await until(lambda: sockets.identity(path))
        with socket.socket(socket.AF_UNIX) as other:
            path.unlink()
            other.bind(str(path))
            stop.set()
    assert path.exists()


async def test_it_stops_at_once_while_it_waits_for_the_kubelet(directory: Path, run_plugin: RunPlugin) -> None:
    async with Kubelet(directory) as kubelet:
        kubelet.hang = True
        async with run_plugin() as stop:
            await until(lambda: kubelet.register_calls)
            started = trio.current_time()
            stop.set()
        assert trio.current_time() - started < 1


# --- what a kubelet asks ----------------------------------------------------------------------------------------------


async def test_allocate_tells_each_container_its_shares_and_may_be_repeated(
    directory: Path, run_plugin: RunPlugin
) -> None:
    async with Kubelet(directory) as kubelet, run_plugin():
        first = await kubelet.allocate(["1", "2", "999"], [str(each) for each in range(50)])
        assert [dict(each.envs) for each in first.container_responses] == [
            {"BITFUSION_GPU_SHARES": "3"},
            {"BITFUSION_GPU_SHARES": "50"},
        ]
        assert await kubelet.allocate(["1", "2", "999"], [str(each) for each in range(50)]) == first


async def test_allocate_of_an_unknown_id_is_an_error_that_names_it(directory: Path, run_plugin: RunPlugin) -> None:
    """Allocate accepted ids that the plugin had never advertised."""
    async with Kubelet(directory) as kubelet, run_plugin():
        with pytest.raises(GRPCError) as refused:
            await kubelet.allocate(["1"], ["2", "1000", "007"])
        assert refused.value.status is Status.INVALID_ARGUMENT
        assert refused.value.message == "unknown device ids: '1000', '007'; this node has 0 to 999"


async def test_preferred_allocation_is_packed_and_refuses_the_impossible(
    directory: Path, run_plugin: RunPlugin
) -> None:
    async with Kubelet(directory) as kubelet, run_plugin():
        assert await kubelet.preferred(["900", "150", "120", "0"], 2, ["900"]) == ["900", "0"]
        with pytest.raises(GRPCError) as refused:
            await kubelet.preferred(["1"], 2)
        assert refused.value.status is Status.INVALID_ARGUMENT
        assert refused.value.message == "allocation_size 2 is more than the 1 ids available"
