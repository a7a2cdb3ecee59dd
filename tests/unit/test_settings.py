"""Every option of every role: default, flag, variables, precedence, and what is not taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bitfusiond import settings
from bitfusiond.core.images.registries import Origin
from bitfusiond.errors import ConfigurationError
from bitfusiond.settings import values
from bitfusiond.settings.values import Address

CATALOGUE = ("clients", None, "c.yaml", Path("c.yaml"))
DELIVERY = ("delivery", "init", "image", "image")
POOL = ("pool", None, "pool.yaml", Path("pool.yaml"))
TEMPLATE = ("injection", None, "t.yaml", Path("t.yaml"))
MEMORY = ("total_gpu_memory", 0, "16000", 16000, "TOTAL_GPU_MEMORY")
OBSERVE = ("observe", Address("0.0.0.0", 9090), "127.0.0.1:1", Address("127.0.0.1", 1))
LOG_FORMAT = ("log_format", "json", "text", "text")


class Row(NamedTuple):
    """An option: its default, a value as a user gives it, that value as the role sees it, its documented variable."""

    name: str
    default: Any
    given: str
    value: Any
    documented: str | None = None

    @property
    def ours(self) -> str:
        return f"BITFUSIOND_{self.name.upper()}"


def rows(*table: tuple[Any, ...]) -> dict[str, Row]:
    return {row[0]: Row(*row) for row in table}


# As users know them.
ROLES: dict[str, dict[str, Row]] = {
    "webhook": rows(
        ("listen", Address("0.0.0.0", 8443), "[::1]:0", Address("::1", 0)),
        ("tls_cert", None, "tls.crt", Path("tls.crt")),
        ("client_ca", None, "clients.crt", Path("clients.crt")),
        ("tls_key", None, "tls.key", Path("tls.key")),
        CATALOGUE,
        TEMPLATE,
        POOL,
        DELIVERY,
        MEMORY,
        ("kubeconfig", None, "none", "none"),
        ("namespace", "bwki", "gpu", "gpu", "POD_NAMESPACE"),
        ("token_namespace", "kube-system", "tokens", "tokens"),
        ("allow_namespaces", ("*",), "team-*, research", ("team-*", "research")),
        ("allow_namespaces", ("*",), "[a-c]?,[!ab]*,0-9", ("[a-c]?", "[!ab]*", "0-9")),
        ("image_lookup", False, "true", True),
        ("image_registries", ("*",), "*.example, r:5000", ("*.example", "r:5000")),
        ("insecure_registries", frozenset(), "http://r:5000", frozenset({Origin("http", "r", 5000)})),
        ("registry_ca", None, "registries.crt", Path("registries.crt")),
        ("drain_seconds", 15.0, "0.5", 0.5),
        OBSERVE,
        LOG_FORMAT,
    ),
    "plugin": rows(
        ("device_plugin_dir", Path("/var/lib/kubelet/device-plugins"), "/tmp/x", Path("/tmp/x")),
        ("socket_name", "bitfusion.io", "mine.sock", "mine.sock", "SOCKET_NAME"),
        ("resource_name", "bitfusion.io/gpu", "example.org/gpu", "example.org/gpu", "RESOURCE_NAME"),
        ("resource_nums", 1000, "200", 200, "RESOURCE_NUMS"),
        ("interval", 10.0, "2.5", 2.5, "INTERVAL"),
        ("servers_conf", None, "servers.conf", Path("servers.conf")),
        ("dra_driver", None, "bitfusion.io", "bitfusion.io"),
        ("plugins_dir", Path("/var/lib/kubelet/plugins"), "/p", Path("/p")),
        ("registry_dir", Path("/var/lib/kubelet/plugins_registry"), "/r", Path("/r")),
        ("cdi_dir", Path("/var/run/cdi"), "/etc/cdi", Path("/etc/cdi")),
        ("kubeconfig", None, "admin.conf", "admin.conf"),
        OBSERVE,
        LOG_FORMAT,
    ),
    "init": rows(
        ("client_name", None, "lupine", "lupine"),
        CATALOGUE,
        ("distros", Path("/bitfusion"), "/d", Path("/d")),
        ("distro_target", Path("/bitfusion-distro"), "/t", Path("/t")),
        ("opt_target", Path("/workload-container-opt"), "/o", Path("/o")),
        ("tokens", Path("/root/.bitfusion"), "/k", Path("/k")),
        ("client_dir", Path("/client"), "/c", Path("/c")),
        DELIVERY,
        ("claims", None, "bitfusion-0, bitfusion-1,bitfusion-0", ("bitfusion-0", "bitfusion-1")),
        LOG_FORMAT,
    ),
    "render": rows(
        ("file", "-", "pod.yaml", "pod.yaml"),
        ("diff", False, "true", True),
        CATALOGUE,
        TEMPLATE,
        POOL,
        DELIVERY,
        MEMORY,
        LOG_FORMAT,
    ),
}
OPTIONS = [pytest.param(role, row, id=f"{role} {row.name}") for role, table in ROLES.items() for row in table.values()]
REQUIRED = {"init": {"client_os": "ubuntu18", "client_version": "450"}}
# What must come along, so that one option alone can be looked at.
PARTNERS = {"tls_cert": {"tls_key": "k"}, "tls_key": {"tls_cert": "c"}}


def resolved(role: str, name: str, flags: dict[str, str | None], environment: dict[str, str]) -> Any:
    given = {**REQUIRED.get(role, {}), **PARTNERS.get(name, {}), **flags}
    return getattr(settings.resolve(settings.ROLES[role], given, environment), name)


@pytest.mark.parametrize("role", settings.ROLES)
def test_the_table_knows_every_option(role: str) -> None:
    assert set(settings.options(settings.ROLES[role])) == {*ROLES[role], *REQUIRED.get(role, {})}


@pytest.mark.parametrize(("role", "row"), OPTIONS)
def test_an_option_has_its_default(role: str, row: Row) -> None:
    chosen = settings.resolve(settings.ROLES[role], REQUIRED.get(role, {}), {})
    assert getattr(chosen, row.name) == row.default


@pytest.mark.parametrize(("role", "row"), OPTIONS)
def test_an_option_is_given_by_its_flag_or_its_variable(role: str, row: Row) -> None:
    assert resolved(role, row.name, {row.name: row.given}, {}) == row.value
    assert resolved(role, row.name, {}, {row.ours: row.given}) == row.value
    if row.documented:
        assert resolved(role, row.name, {}, {row.documented: row.given}) == row.value


@pytest.mark.parametrize(("role", "row"), OPTIONS)
def test_a_flag_wins_over_our_variable_and_that_over_the_documented_one(role: str, row: Row) -> None:
    """A wrong value that loses is not looked at: a user can overrule what a manifest sets."""
    losing = {"": ""} if row.documented is None else {row.documented: "\0"}
    assert resolved(role, row.name, {row.name: row.given}, {row.ours: "\0", **losing}) == row.value
    assert resolved(role, row.name, {}, {row.ours: row.given, **losing}) == row.value


@pytest.mark.parametrize(("role", "row"), OPTIONS)
def test_an_empty_variable_counts_as_not_given(role: str, row: Row) -> None:
    """Manifests often leave one so."""
    empty = {row.ours: "", **({row.documented: ""} if row.documented else {})}
    chosen = settings.resolve(settings.ROLES[role], REQUIRED.get(role, {}), empty)
    assert getattr(chosen, row.name) == row.default


def test_a_variable_of_another_role_is_not_read() -> None:
    chosen = settings.resolve(settings.Plugin, {}, {"BITFUSIOND_LISTEN": "nonsense", "TOTAL_GPU_MEMORY": "nonsense"})
    assert chosen == settings.resolve(settings.Plugin, {}, {})


ADDRESS = "HOST:PORT with a port from 0 to 65535, for example 0.0.0.0:8443 or [::]:8443"
DEVICES = "an integer from 1 to "
SOCKET = "a file name without a slash, other than kubelet.sock"
RESOURCE = "an extended resource name such as bitfusion.io/gpu (DOMAIN/NAME, not of kubernetes.io)"
WRONG: dict[str, tuple[type[settings.Common], str, list[str], str]] = {
    "listen": (
        settings.Webhook,
        "--listen",
        ["", "8443", "x", "x:", "x:y", "x:65536", "x:-1", "x:８４４３", "::1:80", "x:080808", "none"],
        ADDRESS,
    ),
    "observe": (settings.Plugin, "--observe", ["None", "off", "9090"], ADDRESS),
    "total_gpu_memory": (
        settings.Render,
        "--total-gpu-memory",
        ["-1", "16G", "1.5", "１６", "9" * 19, " 1", "1_000", "+1"],
        "an integer of at least 0",
    ),
    "drain_seconds": (
        settings.Webhook,
        "--drain-seconds",
        ["-1", "3601", "nan", "inf", "15s"],
        "a number of seconds from 0 to 3600",
    ),
    "interval": (settings.Plugin, "--interval", ["0", "0.01", "1e9", "ten"], "a number of seconds from 0.1 to 86400"),
    "resource_nums": (settings.Plugin, "--resource-nums", ["0", "-5", "9999999", "10.0", "many"], DEVICES),
    "socket_name": (settings.Plugin, "--socket-name", ["", ".", "..", "a/b", "kubelet.sock", "a\0b"], SOCKET),
    "resource_name": (
        settings.Plugin,
        "--resource-name",
        ["gpu", "bitfusion.io/", "/gpu", "kubernetes.io/gpu", "x.kubernetes.io/gpu", "Bitfusion.io/gpu", "a.b/c/d", ""],
        RESOURCE,
    ),
    "allow_namespaces": (
        settings.Webhook,
        "--allow-namespaces",
        ["", " , ,", "[a-", "team-*,[a", "a]", "[]", "[!]", "[z-a]*", "[ab-a0-9]", "Team", "a.b", "-a", "a" * 64],
        "comma-separated namespace names or globs, for example team-*,research",
    ),
    "dra_driver": (settings.Plugin, "--dra-driver", ["", "true", "gpu.example"], "one of none, bitfusion.io"),
    "namespace": (settings.Webhook, "--namespace", ["", "  "], "a value: it must not be blank"),
    "clients": (settings.Render, "--clients", ["", " "], "a value: it must not be blank"),
    "diff": (settings.Render, "--diff", ["yes", "1", ""], "true or false"),
    "log_format": (settings.Render, "--log-format", ["xml", "JSON", ""], "one of json, text"),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, _, values, _) in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name: str, value: str) -> None:
    role, flag, _, allowed = WRONG[name]
    with pytest.raises(ConfigurationError) as by_flag:
        settings.resolve(role, {name: value}, {})
    assert str(by_flag.value).startswith(f"{flag}: {value!r} is not {allowed}")
    if value:
        with pytest.raises(ConfigurationError) as by_variable:
            settings.resolve(role, {}, {f"BITFUSIOND_{name.upper()}": value})
        assert str(by_variable.value).startswith(f"BITFUSIOND_{name.upper()}: {value!r} is not {allowed}")


@pytest.mark.parametrize(
    ("value", "address", "written"),
    [
        (":8443", Address("0.0.0.0", 8443), "0.0.0.0:8443"),
        ("localhost:0", Address("localhost", 0), "localhost:0"),
        ("[::]:65535", Address("::", 65535), "[::]:65535"),
        ("127.0.0.1:00080", Address("127.0.0.1", 80), "127.0.0.1:80"),
    ],
)
def test_an_address_is_read_and_written(value: str, address: Address, written: str) -> None:
    assert values.address(value) == address
    assert str(address) == written


def test_observe_none_is_off() -> None:
    chosen = settings.resolve(settings.Webhook, {"observe": "none"}, {})
    assert isinstance(chosen, settings.Webhook)
    assert chosen.observe is None


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.resolve(
            settings.Populate, {"client_os": "", "log_format": "x", "distros": " "}, {"BITFUSIOND_TOKENS": "\t"}
        )
    assert str(caught.value).split("; ") == [
        "--client-os: '' is not a value: it must not be blank",
        "--client-version is required: version of the client, for example 450",
        "--distros: ' ' is not a value: it must not be blank",
        "BITFUSIOND_TOKENS: '\\t' is not a value: it must not be blank",
        "--log-format: 'x' is not one of json, text",
    ]


def test_a_client_with_a_name_needs_no_os_and_no_version() -> None:
    chosen = settings.resolve(settings.Populate, {"client_name": "lupine"}, {})
    assert isinstance(chosen, settings.Populate)
    assert (chosen.client_name, chosen.client_os, chosen.client_version) == ("lupine", None, None)


def test_the_problem_of_a_certificate_without_its_key_is_told_with_the_others() -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.resolve(settings.Webhook, {"tls_cert": "c", "listen": "x"}, {})
    assert str(caught.value).split("; ") == [
        f"--listen: 'x' is not {ADDRESS}",
        "--tls-cert and --tls-key belong together: give both or neither",
    ]


@pytest.mark.parametrize(
    "value", ["", ",", "a/b", "../x", "Bitfusion", "a_b", "a" * 64, ",".join(map(str, range(257)))]
)
def test_names_that_no_claim_of_a_pod_can_have_are_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^--claims: .* is not comma-separated names of spec.resourceClaims"):
        settings.resolve(settings.Populate, {"client_name": "x", "claims": value}, {})


def test_the_largest_number_of_devices_still_fits_the_kubelets_message() -> None:
    with pytest.raises(ConfigurationError, match="would not fit into the 4 MiB that a kubelet receives"):
        settings.resolve(settings.Plugin, {"resource_nums": "100000000"}, {})


def test_settings_cannot_be_changed() -> None:
    chosen = settings.resolve(settings.Render, {}, {})
    assert isinstance(chosen, settings.Render)
    with pytest.raises(AttributeError):
        chosen.diff = True  # type: ignore[misc]
