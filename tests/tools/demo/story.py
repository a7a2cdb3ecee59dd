"""The demo from its first step to its last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from tests.fakes.kubelet import Kubelet
from tests.tools import remote
from tests.tools.demo import admission, plugin, realclient, shutdown, standins, workload
from tests.tools.demo.examples import EXAMPLES
from tests.tools.demo.report import Report

_TITLES = (
    (
        "device plugin",
        "It tells the kubelet, the agent of each node, how many GPU shares pods may ask for: 100 = one GPU.",
    ),
    ("webhook", "The API server asks it about every pod that is created, before it stores the pod."),
    ("admission", "The README's pods as users write them, and what becomes of each: - is taken away, + is added."),
    ("init", "On the node, the container that was added runs first, and brings the Bitfusion client into the pod."),
    (
        "workload",
        "Then the pod's own program starts, under the client, which asks the pool for what the pod asked for.",
    ),
    realclient.TITLE,
    ("stop", "SIGTERM, as Kubernetes sends it on every update: no request may be lost, nothing may be left behind."),
)


def titles() -> tuple[tuple[str, str], ...]:
    """Those of the steps that this machine can show."""
    assets, _ = remote.directory()
    return tuple(each for each in _TITLES if assets is not None or each is not realclient.TITLE)


async def tell(report: Report, directory: Path, echo: Callable[[str], None]) -> None:
    """Every step in turn, in ``directory``; ``echo`` gets each line that a daemon logs.

    Raises DemoStoppedError, perhaps in a group, at the first step that fails. No process outlives this call.
    """
    sockets = directory / "dp"
    sockets.mkdir()
    async with Kubelet(sockets) as kubelet, trio.open_nursery() as nursery:
        async with report.step(1) as step:
            device_plugin = await plugin.offer(step, nursery, kubelet, sockets, directory, echo)
        async with report.step(2) as step:
            webhook = await admission.start(step, nursery, directory, echo)
        async with report.step(3) as step:
            admitted = await admission.admit(step, webhook)
        async with report.step(4) as step:
            image = standins.Image(directory / "image")
            workloads = [
                workload.Workload(each, admitted[each.file], directory / "pods" / Path(each.file).stem, image)
                for each in EXAMPLES
                if each.runs
            ]
            await workload.fill(step, workloads)
        async with report.step(5) as step:
            await workload.run_all(step, workloads, kubelet)
        assets, how = remote.directory()
        if assets is None:
            report.line(f"   A real client is not shown: {how}.\n", "dim")
        else:
            async with report.step(6) as step:
                await realclient.show(step, webhook, directory / "real", assets)
        async with report.step(len(titles())) as step:
            await shutdown.stop(step, webhook, device_plugin, kubelet)
