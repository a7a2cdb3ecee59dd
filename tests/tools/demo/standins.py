"""What a container of the demo finds: an image with a client in it, a benchmark on the host, Secrets with tokens."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from bitfusiond.core import names
from tests.fakes.distro import make_distro
from tests.tools.demo.runtime import Container

BENCHMARK = "/benchmark/scripts/tf_cnn_benchmarks/tf_cnn_benchmarks.py"
HOST_DIRECTORY = "/home/benchmarks"  # of the node, mounted at /benchmark
DISTRO = "bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb"
OTHER_DISTRO = "bitfusion-client-ubuntu2004_4.5.0-4_amd64.deb"
SECRETS = {
    names.CA_CRT: "bitfusion-client-secret-ca.crt",
    names.CLIENT_YAML: "bitfusion-client-secret-client.yml",
    names.SERVERS_CONF: "bitfusion-client-secret-servers.conf",
}
_PROGRAMS = Path(__file__).parent / "programs"


class Image:
    """Made below ``directory``: it is the bitfusion-client image, the workload's image and the node in one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.distros = directory / "bitfusion"
        self.distro = self.distros / DISTRO
        for package in (DISTRO, OTHER_DISTRO):
            make_distro(self.distros, package, (_PROGRAMS / "bitfusion.py").read_text("utf-8"))

        self._bin = directory / "bin"
        self._bin.mkdir()
        for name in ("python", "python3"):
            (self._bin / name).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
            (self._bin / name).chmod(0o755)

        benchmarks = directory / "benchmarks"
        program = benchmarks / Path(BENCHMARK).relative_to("/benchmark")
        program.parent.mkdir(parents=True)
        shutil.copy(_PROGRAMS / "benchmark.py", program)
        self.host = {HOST_DIRECTORY: benchmarks}

        self.tokens = {
            names.CA_CRT: "-----BEGIN CERTIFICATE-----\nof the demo\n-----END CERTIFICATE-----\n",
            names.CLIENT_YAML: "token: of-the-demo\n",
            names.SERVERS_CONF: "servers:\n- addresses:\n  - 192.168.1.1:56001\n",
        }
        self.secrets = {SECRETS[name]: {name: content} for name, content in self.tokens.items()}

    def variables(self, container: Container) -> Mapping[str, str]:
        """The environment that the workload's image sets, in ``container``."""
        return {"PATH": f"{self._bin}:/usr/bin:/bin", "DEMO_ROOT": str(container.root)}
