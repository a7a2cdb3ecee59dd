"""Steps 4 and 5: the pod's volumes are filled, and its command runs."""

from __future__ import annotations

import json
import shlex
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.objects import Pod
from tests.fakes.kubelet import Kubelet
from tests.tools.demo import runtime, standins
from tests.tools.demo.examples import CLIENT_OS, CLIENT_VERSION, Example, gpu_container, pod
from tests.tools.demo.processes import environment, executable, run
from tests.tools.demo.report import Step, StepFailed, expect, require


class Workload:
    """One admitted pod on this node, below ``directory``."""

    def __init__(self, example: Example, admitted: Pod, directory: Path, image: standins.Image) -> None:
        self.example = example
        self._pod = admitted
        self._image = image
        self._volumes = runtime.Volumes(admitted, directory / "volumes", image.host, image.secrets)
        populate = next(each for each in admitted["spec"]["initContainers"] if each["name"] == "populate")
        self._populate = runtime.Container(populate, directory / "populate", self._volumes)
        self._gpu = runtime.Container(gpu_container(admitted), directory / "main", self._volumes)

    async def populate(self, step: Step) -> None:
        """Run the init container with the args that the webhook gave it, its mounts said by options."""
        self._populate.mount()
        role = self._populate.command()
        expect(role[:3], ["bitfusiond", "--role", "init"], "the command of populate")
        options = {
            "--distros": self._image.distros,
            "--distro-target": self._populate.source("/bitfusion-distro"),
            "--tokens": self._populate.path("/bitfusion-tokens"),
            "--client-dir": self._populate.source("/client"),
        }
        mapped = [word for option, path in options.items() for word in (option, str(path))]
        began = time.perf_counter()
        init = await run("init", [*executable(), *role[1:], *mapped], self._image.directory, environment())
        took = time.perf_counter() - began
        step.leans_on(init)
        expect(init.status, 0, "the exit status of init")
        self._check_volumes()
        distro = self._populate.source("/bitfusion-distro")
        copied = runtime.files_in(distro)
        size = sum(path.stat().st_size for path in copied)
        step.done(
            f"{self.example.file}: init copied the client {CLIENT_OS}/{CLIENT_VERSION} ({len(copied)} files,"
            f" {size / 1e6:.1f} MB) and {len(names.TOKEN_FILES)} token files in {took:.2f} s"
        )

    def _check_volumes(self) -> None:
        """One distro of those in the image, its opt/bitfusion once more, and tokens that only their owner reads."""
        distros = sorted(path.name for path in self._populate.source("/bitfusion-distro").iterdir())
        expect(distros, [self._image.distro.name, "opt"], "what is in the volume of the distro")
        ours, theirs = self._gpu.source("/opt/bitfusion"), self._image.distro / "opt/bitfusion"
        expect(_tree(ours), _tree(theirs), "the volume that the workload sees as /opt/bitfusion")
        tokens = {path.name: path.read_text() for path in self._populate.source("/client").iterdir()}
        expect(tokens, self._image.tokens, "the token files for the workload")
        mode = stat.S_IMODE((self._populate.source("/client") / names.CLIENT_YAML).stat().st_mode)
        expect(f"{mode:04o}", "0600", "the mode of client.yaml")

    async def run(self, step: Step, allocated: dict[str, str]) -> None:
        """Start the container's command as a runtime would, and read what it says."""
        self._gpu.mount()
        image = self._image.variables(self._gpu)
        variables = self._gpu.environment(image, allocated)
        process = await run("container", self._gpu.command(), self._gpu.root, variables)
        step.leans_on(process)
        output = [self._gpu.inwards(line) for line in process.stdout.splitlines()]
        if process.status != 0:
            raise StepFailed("exit status 0 of the container", "\n".join([str(process.status), *output]))
        expect(_line(output, "bitfusion: "), self.example.asked, "what the client is asked for")
        arguments = json.loads(_line(output, "arguments: "))
        expect(arguments, _own_arguments(self.example), "the program's own arguments")
        rates = [line for line in output if "images/sec: " in line]
        require(bool(rates), "lines with images/sec", "\n".join(output))
        step.done(f"{self.example.file}: the program ran under the client and got its own arguments unchanged")
        step.show(["$ " + self._gpu.inwards(runtime.described(self._gpu.words())), *output])


def _line(output: Iterable[str], start: str) -> str:
    """The rest of the first line that begins with ``start``."""
    for line in output:
        if line.startswith(start):
            return line.removeprefix(start)
    raise StepFailed(f"a line {start!r}", "\n".join(output) or "no output")


def _own_arguments(example: Example) -> list[str]:
    """What the user wrote behind the name of the program, in the file itself."""
    words = shlex.split(gpu_container(pod(example.file))["command"][-1])
    return words[words.index(standins.BENCHMARK) + 1 :]


def _tree(directory: Path) -> dict[str, Any]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in runtime.files_in(directory)}


async def fill(step: Step, workloads: list[Workload]) -> None:
    """Step 4."""
    for each in workloads:
        await each.populate(step)


async def run_all(step: Step, workloads: list[Workload], kubelet: Kubelet) -> None:
    """Step 5. The kubelet takes the shares of each pod from those that the plugin offers."""
    free = list(await kubelet.devices())
    for each in workloads:
        count = each.example.shares
        ids, free = free[:count], free[count:]
        response = await kubelet.allocate(ids)
        await each.run(step, dict(response.container_responses[0].envs))
