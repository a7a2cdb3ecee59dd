"""Step 1: the device plugin offers the node's GPU shares to the kubelet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from bitfusiond.core import names
from tests.fakes.kubelet import Kubelet
from tests.tools.demo.processes import Daemon
from tests.tools.demo.report import Step, expect

SOCKET = "demo.sock"
DEVICES = 1000
SHARES = 50


async def offer(
    step: Step, nursery: trio.Nursery, kubelet: Kubelet, directory: Path, logs: Path, echo: Callable[[str], None]
) -> Daemon:
    """Start the plugin in ``nursery``; return when the kubelet in ``directory`` has its devices."""
    arguments = ["--device-plugin-dir", str(directory), "--socket-name", SOCKET, "--observe", "none"]
    plugin = await Daemon.start(nursery, "plugin", arguments, logs, echo)
    step.leans_on(plugin)
    await plugin.event("registered")
    told, options = await kubelet.wait_registered()
    expect(told.resource_name, names.GPU, "the resource that the plugin registers")
    expect(told.endpoint, SOCKET, "the socket that the plugin registers")
    devices = await kubelet.devices()
    expect(len(devices), DEVICES, "the number of devices")
    expect(set(devices.values()), {"Healthy"}, "their health")
    step.done(
        f"plugin registered {told.resource_name} with the kubelet: {len(devices)} devices on {told.endpoint}"
        f" (API {told.version})"
    )
    ids: list[str] = list(devices)
    if options.get_preferred_allocation_available:
        ids = list(await kubelet.preferred(ids, SHARES))
    response = await kubelet.allocate(ids[:SHARES])
    envs = dict(response.container_responses[0].envs)
    expect(envs, {names.SHARES_VARIABLE: str(SHARES)}, "what the plugin answers to the allocation of a container")
    step.done(
        f"kubelet allocated {SHARES} shares, half of one GPU, to a container; the plugin's answer for its environment:"
        f" {names.SHARES_VARIABLE}={envs[names.SHARES_VARIABLE]}"
    )
    return plugin
