"""The act with a real client: a program computes on a device of another process, over TCP, as on another machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import trio

from bitfusiond.core import names
from bitfusiond.core.objects import Pod
from tests.tools import remote
from tests.tools.demo import apiserver, runtime
from tests.tools.demo.admission import Webhook
from tests.tools.demo.examples import gpu_container, pod
from tests.tools.demo.processes import environment, executable, run
from tests.tools.demo.report import Step, require

TITLE = (
    "a real client",
    "All of the same with PoCL-Remote in place of the stand-in: an OpenCL program, and a server in another process.",
)
_EXAMPLE = "pod-pocl.yaml"


async def show(step: Step, webhook: Webhook, directory: Path, assets: Path) -> None:
    """A pod of manifests/examples, admitted, filled and run; its server ends with this call."""
    directory.mkdir()
    async with trio.open_nursery() as nursery:
        port = await _serve(nursery, assets / "server", directory)
        step.done(f"a server of PoCL-Remote listens on 127.0.0.1:{port}, its device is this machine's processor")
        admitted = await _admit(step, webhook, port)
        volumes = runtime.Volumes(admitted, directory / "volumes", {}, {})
        await _populate(step, admitted, volumes, directory, assets)
        main = runtime.Container(gpu_container(admitted), directory / "main", volumes)
        main.mount()
        process = await run("container", main.command(), main.root, main.environment(environment(), {}))
        step.leans_on(process)
        output = process.stdout.splitlines()
        require(process.status == 0 and bool(output), "the program computes on the server", [*output, *process.lines])
        step.done("the program found the server's device, computed there, and every result was right:")
        step.show(output)
        nursery.cancel_scope.cancel()


async def _admit(step: Step, webhook: Webhook, port: int) -> Pod:
    async with apiserver.connected(webhook.address, webhook.trusted) as api:
        admitted = apiserver.defaulted(await api.mutate(apiserver.defaulted(_pod(port))))
        answer = await api.ask("/validate", admitted)
    require(answer.get("allowed") is True, f"{_EXAMPLE}: /validate allows it", answer)
    step.done(f"{_EXAMPLE}: admitted; its command stays, its environment names the client and the server:")
    step.show([f"{each['name']}={each.get('value')}" for each in gpu_container(admitted)["env"]])
    return admitted


def _pod(port: int) -> Pod:
    """The example, with a program that needs nothing but Python."""
    given = pod(_EXAMPLE)
    given["metadata"]["annotations"][names.CLIENT_SERVERS] = f"127.0.0.1:{port}"
    gpu_container(given)["command"] = [sys.executable, str(remote.DOUBLE)]
    return given


async def _serve(nursery: trio.Nursery, server: Path, directory: Path) -> int:
    port = remote.free_port()
    command = remote.server_command(server, "127.0.0.1", port)
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    variables = remote.server_variables(server, directory / "server-cache")
    await nursery.start(partial(trio.run_process, command, env=variables, check=False, **quiet))
    listens = await trio.to_thread.run_sync(remote.wait_until_it_listens, port)
    require(listens, f"the server listens on port {port}", "it does not")
    return port


async def _populate(step: Step, admitted: Pod, volumes: runtime.Volumes, directory: Path, assets: Path) -> None:
    (init,) = admitted["spec"]["initContainers"]
    distros = directory / "image"
    shutil.copytree(assets / "client", distros / "pocl", symlinks=True)
    container = runtime.Container(init, directory / "populate", volumes)
    container.mount()
    target = container.source("/bitfusion-distro")
    options = ["--distros", str(distros), "--distro-target", str(target)]
    process = await run("init", [*executable(), *container.command()[1:], *options], directory, environment())
    step.leans_on(process)
    require(process.status == 0, "init copies the client", process.lines)
    size = sum(path.stat().st_size for path in runtime.files_in(target))
    step.done(f"init copied the client pocl ({size / 1e6:.1f} MB), and no token, as it needs none")
