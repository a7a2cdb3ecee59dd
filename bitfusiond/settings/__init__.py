"""What each role can be told: frozen dataclasses, one a role.

A field is an option: ``--total-gpu-memory`` is ``BITFUSIOND_TOTAL_GPU_MEMORY`` in the environment and, where the 0.4
integration documented a variable of its own (``TOTAL_GPU_MEMORY``), that name too. A flag wins over
``BITFUSIOND_*``, which wins over the documented name, which wins over the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bitfusiond.core import names
from bitfusiond.errors import ConfigurationError
from bitfusiond.settings.values import (
    Address,
    Parser,
    address,
    address_or_none,
    choice,
    device_count,
    dra_driver,
    globs,
    insecure_registries,
    integer,
    path,
    pod_claims,
    registry_globs,
    resource_name,
    seconds,
    socket_name,
    switch,
    text,
)

if TYPE_CHECKING:
    from bitfusiond.core.images.registries import Origin


class Option(NamedTuple):
    """How one field of a settings class is given on the command line and in the environment."""

    flag: str
    parse: Parser
    default: str | None
    help: str
    documented_variable: str | None = None
    short_flag: str | None = None
    required: bool = False
    instead: str = ""  # the field that makes it superfluous
    switch: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        ours = "BITFUSIOND_" + self.flag.removeprefix("--").replace("-", "_").upper()
        return (ours, self.documented_variable) if self.documented_variable else (ours,)


def given_by(option: Option) -> Any:
    """A dataclass field that carries its ``option``."""
    return dataclasses.field(metadata={"option": option})


def option(flag: str, parse: Parser, default: str | None, help: str, **more: Any) -> Any:  # noqa: A002
    """A dataclass field with an option of its own; the parameters are those of :class:`Option`."""
    return given_by(Option(flag, parse, default, help, **more))


# Options of several roles
_CLIENTS = Option(
    "--clients", path, None, "the client catalogue (bitfusion-client-config.yaml); default: the packaged file"
)
_INJECTION = Option(
    "--injection", path, None, "the injection template (sidecarconfig.yaml); default: the packaged file"
)
_TOTAL_GPU_MEMORY = Option(
    "--total-gpu-memory",
    integer(0),
    "0",
    "MB (10^6 bytes) that the Bitfusion servers manage for one GPU; 0 = gpu-memory requests are refused",
    "TOTAL_GPU_MEMORY",
)
_POOL = Option(
    "--pool",
    path,
    None,
    "the pool's inventory (pool.yaml): the scheduler gives out its GPUs by claims, from Kubernetes 1.36 on",
)
_DELIVERY = Option(
    "--delivery",
    choice("init", "image"),
    "init",
    "how a client comes into a pod: init, copied by an init container; image, mounted by the container runtime"
    " (Kubernetes 1.36 and later)",
)
_OBSERVE = Option(
    "--observe", address_or_none, "0.0.0.0:9090", "plain HTTP for /healthz, /readyz, /metrics; none = off"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What every role takes."""

    log_format: str = option("--log-format", choice("json", "text"), "json", "json (one object a line) or text")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Webhook(Common):
    """``--role webhook``"""

    listen: Address = option("--listen", address, "0.0.0.0:8443", "HTTPS address; port 0 picks one")
    tls_cert: Path | None = option("--tls-cert", path, None, "PEM certificate chain, taken up when it changes")
    tls_key: Path | None = option("--tls-key", path, None, "PEM private key of --tls-cert")
    client_ca: Path | None = option(
        "--client-ca",
        path,
        None,
        "PEM, taken up when it changes: only clients with a certificate of this CA may ask /mutate and /validate",
    )
    clients: Path | None = given_by(_CLIENTS)
    injection: Path | None = given_by(_INJECTION)
    pool: Path | None = given_by(_POOL)
    delivery: str = given_by(_DELIVERY)
    total_gpu_memory: int = given_by(_TOTAL_GPU_MEMORY)
    kubeconfig: str | None = option(
        "--kubeconfig", text, None, "how to reach the API server; none = no cluster: tokens and nodes are left alone"
    )
    namespace: str = option(
        "--namespace", text, names.NAMESPACE, "where the webhook lives", documented_variable="POD_NAMESPACE"
    )
    token_namespace: str = option("--token-namespace", text, names.KUBE_SYSTEM, "where the token Secrets are")
    allow_namespaces: tuple[str, ...] = option(
        "--allow-namespaces", globs, "*", "comma-separated names or globs: only their pods may receive tokens"
    )
    image_lookup: bool = option(
        "--image-lookup",
        switch,
        "false",
        "take ENTRYPOINT, CMD and LD_LIBRARY_PATH that a pod leaves to its image from the image's registry",
        switch=True,
    )
    image_registries: tuple[str, ...] = option(
        "--image-registries",
        registry_globs,
        "*",
        "comma-separated HOST[:PORT] or globs: only these registries are asked",
    )
    insecure_registries: frozenset[Origin] = option(
        "--insecure-registries",
        insecure_registries,
        "none",
        "http://HOST:PORT (no TLS) or https://HOST:PORT (a certificate that nobody checks), comma-separated, or none",
    )
    registry_ca: Path | None = option(
        "--registry-ca", path, None, "PEM, taken up when it changes: CAs of registries, besides the system's"
    )
    drain_seconds: float = option(
        "--drain-seconds", seconds(0, 3600), "15", "after SIGTERM: serve on for so long while endpoints catch up"
    )
    observe: Address | None = given_by(_OBSERVE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plugin(Common):
    """``--role plugin``"""

    device_plugin_dir: Path = option(
        "--device-plugin-dir", path, "/var/lib/kubelet/device-plugins", "holds kubelet.sock and our socket"
    )
    socket_name: str = option(
        "--socket-name", socket_name, "bitfusion.io", "our socket's file name", documented_variable="SOCKET_NAME"
    )
    resource_name: str = option(
        "--resource-name", resource_name, names.GPU, "extended resource", documented_variable="RESOURCE_NAME"
    )
    resource_nums: int = option(
        "--resource-nums",
        device_count,
        "1000",
        "devices on this node; 100 = one GPU",
        documented_variable="RESOURCE_NUMS",
    )
    interval: float = option(
        "--interval", seconds(0.1, 86400), "10", "seconds between two health probes", documented_variable="INTERVAL"
    )
    servers_conf: Path | None = option(
        "--servers-conf", path, None, "a servers.conf to probe; without it devices are always Healthy"
    )
    dra_driver: str | None = option(
        "--dra-driver",
        dra_driver,
        "none",
        f"{names.DRIVER} = tell containers which GPUs of the pool their claims were given (DRA); none = off",
    )
    plugins_dir: Path = option(
        "--plugins-dir", path, "/var/lib/kubelet/plugins", "for --dra-driver: holds the directory of its socket"
    )
    registry_dir: Path = option(
        "--registry-dir",
        path,
        "/var/lib/kubelet/plugins_registry",
        "for --dra-driver: where the kubelet looks for sockets of drivers",
    )
    cdi_dir: Path = option(
        "--cdi-dir", path, "/var/run/cdi", "for --dra-driver: where the container runtime looks for devices (CDI)"
    )
    kubeconfig: str | None = option(
        "--kubeconfig", text, None, "for --dra-driver: how to reach the API server, which is asked for claims"
    )
    observe: Address | None = given_by(_OBSERVE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Populate(Common):
    """``--role init``"""

    client_name: str | None = option(
        "--client-name", text, None, "one of the catalogue's Clients, for example lupine; default: Bitfusion's"
    )
    client_os: str | None = option(
        "--client-os",
        text,
        None,
        "guest OS of the client, for example ubuntu18",
        required=True,
        instead="client_name",
    )
    client_version: str | None = option(
        "--client-version",
        text,
        None,
        "version of the client, for example 450",
        required=True,
        instead="client_name",
    )
    clients: Path | None = option(
        "--clients",
        path,
        None,
        "the client catalogue; default: bitfusion-client-config.yaml beside the distros, else the packaged file",
    )
    distros: Path = option("--distros", path, "/bitfusion", "where the image keeps the distros")
    distro_target: Path = option(
        "--distro-target", path, "/bitfusion-distro", "the volume that the workload sees as /bitfusion"
    )
    opt_target: Path = option(
        "--opt-target", path, "/workload-container-opt", "the volume that the workload sees as /opt/bitfusion"
    )
    tokens: Path = option("--tokens", path, "/root/.bitfusion", "token files in")
    delivery: str = option(
        "--delivery",
        choice("init", "image"),
        "init",
        "image: the pod has the client mounted from its image, so that only token files are put in place",
    )
    client_dir: Path = option("--client-dir", path, "/client", "writable copies of the token files out")
    claims: tuple[str, ...] | None = option(
        "--claims",
        pod_claims,
        None,
        "comma-separated names of the pod's claims: servers.conf has the servers that they were given, and no others",
    )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Render(Common):
    """``--role render``"""

    file: str = option("--file", text, "-", "YAML or JSON, many documents; - reads standard input", short_flag="-f")
    diff: bool = option("--diff", switch, "false", "print a unified diff instead of the result", switch=True)
    clients: Path | None = given_by(_CLIENTS)
    injection: Path | None = given_by(_INJECTION)
    pool: Path | None = given_by(_POOL)
    delivery: str = given_by(_DELIVERY)
    total_gpu_memory: int = given_by(_TOTAL_GPU_MEMORY)


ROLES: dict[str, type[Common]] = {"webhook": Webhook, "plugin": Plugin, "init": Populate, "render": Render}


def options(role: type[Common]) -> dict[str, Option]:
    """Every option of a role, by the name of its field; the role's own first."""
    declared = {field.name: field.metadata["option"] for field in dataclasses.fields(role)}
    common = {name: declared.pop(name) for name in [field.name for field in dataclasses.fields(Common)]}
    return declared | common


def resolve(role: type[Common], flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Common:
    """The settings of ``role``.

    ``flags`` maps field names to what the command line gave (None = not given). An environment variable that is empty
    counts as not given, as manifests often leave one so.

    Raises ConfigurationError that names every wrong option or variable, its value and what is allowed.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, each in options(role).items():
        given = [(each.flag, flags.get(name))] + [(v, environment.get(v) or None) for v in each.variables]
        source, raw = next(((s, r) for s, r in given if r is not None), ("", each.default))
        if raw is None:
            if each.required and values.get(each.instead) is None:
                problems.append(f"{each.flag} is required: {each.help}")
            values[name] = None
            continue
        try:
            values[name] = each.parse(raw)
        except ValueError as error:
            problems.append(f"{source}: {raw!r} is not {error}")
    if len([name for name in ("tls_cert", "tls_key") if values.get(name) is not None]) == 1:
        problems.append("--tls-cert and --tls-key belong together: give both or neither")
    if problems:
        raise ConfigurationError("; ".join(problems))
    return role(**values)
