"""``just pool SERVERS.CONF``: a first inventory of the pool, for its operator to complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bitfusiond.core.clients import servers_conf
from bitfusiond.core.pool.inventory import FILL_IN
from bitfusiond.errors import ConfigurationError
from bitfusiond.files.read import load_yaml
from bitfusiond.operate.report import Say

_HEAD = """\
# The pool's inventory: what Kubernetes counts once for the whole cluster. `POOL=FILE just deploy` takes it when all is
# filled in. Look at each server (`nvidia-smi`): gpus has an entry for each GPU, with its id there, its name, and its
# memory in bytes. Under attributes stands what the annotation bitfusion-client/filter can ask for; texts such as "12.4"
# are put in quotation marks.
servers:
"""


def run(source: Path, target: Path, say: Say) -> None:
    """Write ``target`` from the servers.conf ``source``. Raises ConfigurationError; never writes over a file."""
    try:
        document = load_yaml(servers_conf.repaired(source.read_text("utf-8")))
        addresses = servers_conf.one_each(document)
    except OSError as error:
        raise ConfigurationError(f"cannot read {source}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"{source}: {error}") from None
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(_HEAD + "".join(_entries(addresses)))
    except FileExistsError:
        raise ConfigurationError(f"{target} is there already: give another name, or move it away") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {target}: {error.strerror}") from None
    say(f"{target}: servers: {len(addresses)}; fill in what is {FILL_IN}, then: POOL={target} just deploy")


def _entries(addresses: list[str]) -> Iterator[str]:
    for address in addresses:
        yield f"""\
- name: {FILL_IN} # its hostname, as the filter server.hostname asks for it; lower-case letters, digits and -
  address: "{address}"
  # attributes: {{hostname: gpu-a, cuda-version: "12.4", driver-version: "550", has-rdma: true}}
  gpus:
  - {{id: "0", name: {FILL_IN}, memory: {FILL_IN}}} # for example {{id: "0", name: Tesla V100, memory: 16000M}}
"""
