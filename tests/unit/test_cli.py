"""The command line as a user meets it: help, usage errors, the status, and what a role imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping

import pytest

from bitfusiond import __version__, cli, settings

ROLES = list(settings.ROLES)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    documented = {variable for role in settings.ROLES.values() for each in settings.options(role).values()
                  for variable in each.variables}  # fmt: skip
    for variable in {"BITFUSIOND_ROLE", *documented}:
        monkeypatch.delenv(variable, raising=False)


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command line that ends well prints."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The only line that a command line that cannot be used prints."""
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("bitfusiond: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err.removeprefix("bitfusiond: ").removesuffix("\n")


# What each role can be told, and nothing else.
OPTIONS: Mapping[str, str] = {
    "webhook": "--listen --tls-cert --tls-key --client-ca --clients --injection --pool --delivery --total-gpu-memory"
    " --kubeconfig --namespace --token-namespace --allow-namespaces --image-lookup --image-registries"
    " --insecure-registries --registry-ca --drain-seconds --observe",
    "plugin": "--device-plugin-dir --socket-name --resource-name --resource-nums --interval --servers-conf --dra-driver"
    " --plugins-dir --registry-dir --cdi-dir --kubeconfig --observe",
    "init": "--client-name --client-os --client-version --clients --distros --distro-target --opt-target --tokens"
    " --client-dir --delivery --claims",
    "render": "--file --diff --clients --injection --pool --delivery --total-gpu-memory",
}


@pytest.mark.parametrize("role", ROLES)
def test_help_of_a_role_shows_its_own_options_only(capsys: pytest.CaptureFixture[str], role: str) -> None:
    text = output(capsys, "--role", role, "--help")
    shown = re.findall(r"^  (?:-\w[ \w]*, )?(--[a-z-]+)", text, re.MULTILINE)
    assert sorted(shown) == sorted([*OPTIONS[role].split(), "--log-format", "--help"])


@pytest.mark.parametrize("role", ROLES)
def test_help_of_a_role_names_each_variable_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # argparse breaks lines at hyphens too
    text = " ".join(output(capsys, "--role", role, "--help").split())
    for each in settings.options(settings.ROLES[role]).values():
        for variable in each.variables:
            assert variable in text
        if each.default is not None and not each.switch:
            assert f"default: {each.default}" in text


def test_help_without_a_role_lists_the_roles(capsys: pytest.CaptureFixture[str]) -> None:
    text = output(capsys, "--help")
    assert re.findall(r"^  (\w+) +[a-z]", text, re.MULTILINE) == ROLES


@pytest.mark.parametrize("arguments", [["--version"], ["--role", "webhook", "--version"]], ids=" ".join)
def test_the_version_is_printed(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert output(capsys, *arguments) == f"bitfusiond {__version__}\n"


HELP = "; `bitfusiond --help` lists what is allowed"


def help_of(role: str) -> str:
    return f"; `bitfusiond --role {role} --help` lists what is allowed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--role is required: one of webhook, plugin, init, render"),
        (["--listen", "x"], "--role is required: one of webhook, plugin, init, render"),
        (["--role", "server"], "--role: 'server' is not one of webhook, plugin, init, render"),
        (["--role", "Webhook", "--help"], "--role: 'Webhook' is not one of webhook, plugin, init, render"),
        (["--role", "web\nhook"], "--role: 'web\\nhook' is not one of webhook, plugin, init, render"),
        (["--role"], f"argument --role: expected one argument{HELP}"),
        (["--role", "webhook", "--listne", "x"], f"unrecognized arguments: --listne x{help_of('webhook')}"),
        (["--role", "webhook", "--listen"], f"argument --listen: expected one argument{help_of('webhook')}"),
        (
            ["--role", "webhook", "--resource-nums", "5"],
            f"unrecognized arguments: --resource-nums 5{help_of('webhook')}",
        ),
        (["--role", "plugin", "--listen", "x:1"], f"unrecognized arguments: --listen x:1{help_of('plugin')}"),
        (["--role", "webhook", "--obs", "none"], f"unrecognized arguments: --obs none{help_of('webhook')}"),
        (["--role", "render", "file.yaml"], f"unrecognized arguments: file.yaml{help_of('render')}"),
        (["--role", "render", "a\nb"], f"unrecognized arguments: a b{help_of('render')}"),
        (["--role", "render", "--diff=yes"], f"argument --diff: ignored explicit argument 'yes'{help_of('render')}"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert refusal(capsys, *arguments) == message


def test_every_wrong_value_is_named_in_that_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOTAL_GPU_MEMORY", "16 GB")
    monkeypatch.setenv("BITFUSIOND_DRAIN_SECONDS", "-1")
    message = refusal(capsys, "--role", "webhook", "--listen", "8443", "--log-format", "xml")
    assert message.split("; ") == [
        "--listen: '8443' is not HOST:PORT with a port from 0 to 65535, for example 0.0.0.0:8443 or [::]:8443",
        "TOTAL_GPU_MEMORY: '16 GB' is not an integer of at least 0",
        "BITFUSIOND_DRAIN_SECONDS: '-1' is not a number of seconds from 0 to 3600",
        "--log-format: 'xml' is not one of json, text",
    ]


def test_the_role_can_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITFUSIOND_ROLE", "init")
    assert "--role init" in output(capsys, "--help")
    assert "--role plugin" in output(capsys, "--role", "plugin", "--help")
    monkeypatch.setenv("BITFUSIOND_ROLE", "")
    assert refusal(capsys).startswith("--role is required")


def test_init_needs_an_os_and_a_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "--role", "init") == (
        "--client-os is required: guest OS of the client, for example ubuntu18; "
        "--client-version is required: version of the client, for example 450"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tls-cert", "c"], "--tls-cert and --tls-key belong together: give both or neither"),
        (["--tls-key", "k"], "--tls-cert and --tls-key belong together: give both or neither"),
        ([], "--tls-cert and --tls-key are required with --kubeconfig none: give two PEM files"),
    ],
)
def test_a_certificate_and_its_key_belong_together(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert refusal(capsys, "--role", "webhook", "--kubeconfig", "none", *flags) == message


@pytest.mark.parametrize("role", ["init", "render", "webhook", "plugin"])
def test_help_imports_nothing_that_a_role_runs_on(role: str) -> None:
    """init stands between a pod and its start: what it does not need costs every pod."""
    heavy = {"trio", "kubernetes", "grpclib", "hypercorn", "cryptography", "yaml", "jsonpatch", "prometheus_client"}
    assert loaded(f"try: cli.main(['--role', '{role}', '--help'])\nexcept SystemExit: pass") & heavy == set()


@pytest.mark.parametrize(
    ("module", "others"),
    [
        (
            "bitfusiond.webhook.service",
            ("grpclib", "trio_asyncio", "google", "bitfusiond.plugin", "bitfusiond.plugin.grpc"),
        ),
        ("bitfusiond.plugin.service", ("kubernetes", "cryptography", "jsonpatch", "bitfusiond.webhook")),
        ("bitfusiond.render", ("trio", "kubernetes", "grpclib", "hypercorn", "cryptography", "prometheus_client")),
        ("bitfusiond.cli", ("trio", "yaml", "asyncio", "ssl", "bitfusiond.webhook", "bitfusiond.plugin")),
    ],
    ids=["webhook", "plugin", "render", "cli"],
)
def test_a_role_imports_nothing_of_another(module: str, others: tuple[str, ...]) -> None:
    assert loaded(f"import {module}") & set(others) == set()


def loaded(program: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after ``program``."""
    script = f"import sys\nfrom bitfusiond import cli\n{program}\nprint('\\n' + ' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=dict(os.environ)
    )
    return set(result.stdout.splitlines()[-1].split())


def test_an_error_of_ours_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """One clear line is for what a person can mend; a defect keeps its traceback."""

    def broken(*_: object) -> int:
        raise RuntimeError("boom")

    monkeypatch.setattr("bitfusiond.render.run", broken)
    with pytest.raises(RuntimeError, match="boom"):
        cli.main(["--role", "render"])
