"""The real client against a real API server that stops, freezes and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from bitfusiond.kube import NODES, SECRETS, Change, Object, UnavailableError
from bitfusiond.kube.apiserver import connect
from bitfusiond.kube.follow import WatchState, follow
from tests.real.harness.apiserver import APIServer

SECRET_PATH = "/api/v1/namespaces/default/secrets"


class View:
    """What a follower was told."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.state = WatchState()

    def listed(self, objects: list[Object]) -> None:
        self.names = {each["metadata"]["name"] for each in objects}

    def changed(self, change: Change) -> None:
        (self.names.discard if change.type == "DELETED" else self.names.add)(change.object["metadata"]["name"])

    async def until(self, ready: Callable[[], bool]) -> None:
        with trio.fail_after(60):
            while not ready():
                await trio.sleep(0.02)


async def test_a_follower_survives_the_restart_of_the_api_server(api: APIServer, tmp_path: Path) -> None:
    cluster = connect(str(api.write_kubeconfig(tmp_path / "kubeconfig")))
    view = View()
    run = partial(follow, cluster, SECRETS, namespace="default", state=view.state)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(run, listed=view.listed, changed=view.changed))
        api.create(SECRET_PATH, {"metadata": {"name": "before-restart"}})
        await view.until(lambda: "before-restart" in view.names)
        with api.stopped():
            await view.until(lambda: view.state.failures >= 2)
            assert not view.state.connected
        api.create(SECRET_PATH, {"metadata": {"name": "after-restart"}})
        await view.until(lambda: {"before-restart", "after-restart"} <= view.names)
        await view.until(lambda: view.state.connected)
        nursery.cancel_scope.cancel()


async def test_a_watch_that_is_cancelled_ends_at_once_and_its_thread_too(api: APIServer, tmp_path: Path) -> None:
    cluster = connect(str(api.write_kubeconfig(tmp_path / "kubeconfig")))
    version = (await cluster.list(NODES)).resource_version
    before = threading.active_count()
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            async with cluster.watch(NODES, version) as changes:
                async for _ in changes:
                    pass

        for _ in range(10):
            nursery.start_soon(watch)
        await trio.sleep(1)
        began = time.monotonic()
        nursery.cancel_scope.cancel()
    assert time.monotonic() - began < 0.5
    # trio keeps idle threads for a while; what counts is that they are idle.
    with trio.fail_after(5):
        while cluster._watches.borrowed_tokens:
            await trio.sleep(0.01)
    assert threading.active_count() <= before + 10


async def test_an_api_server_that_answers_nothing_costs_a_request_its_deadline(api: APIServer, tmp_path: Path) -> None:
    cluster = connect(str(api.write_kubeconfig(tmp_path / "kubeconfig")))
    await cluster.list(NODES)
    with api.frozen():
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"within 5 s|timed out"):
            await cluster.get(SECRETS, "default", "any")
        assert 4 < time.monotonic() - began < 6
    with trio.fail_after(30):
        while True:
            try:
                await cluster.list(NODES)
                break
            except UnavailableError:
                await trio.sleep(0.1)


async def test_an_api_server_that_is_away_is_named_with_the_reason(api: APIServer, tmp_path: Path) -> None:
    path = api.write_kubeconfig(tmp_path / "kubeconfig")
    path.write_text(path.read_text().replace(api.url, "https://127.0.0.1:1"))
    with pytest.raises(UnavailableError, match=r"^the API server at https://127.0.0.1:1: Connection refused$"):
        await connect(str(path)).list(NODES)


async def test_a_long_list_comes_in_pages(api: APIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitfusiond.kube.apiserver.PAGE_ITEMS", 2)
    for index in range(5):
        api.create("/api/v1/nodes", {"metadata": {"name": f"page-{index}"}})
    listing = await connect(str(api.write_kubeconfig(tmp_path / "kubeconfig"))).list(NODES)
    assert [item["metadata"]["name"] for item in listing.items] == [f"page-{index}" for index in range(5)]
    for index in range(5):
        api.request("DELETE", f"/api/v1/nodes/page-{index}")
