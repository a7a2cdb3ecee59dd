"""The command line: ``bitfusiond --role ROLE [options]`` to settings, the one role it names imported and run.

Imports stay inside the functions that need them, so that a role loads only what it runs: ``init`` stands between a
pod and its start, the plugin runs on every node.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from bitfusiond import __version__, logs, settings
from bitfusiond.core.text import one_line
from bitfusiond.errors import ConfigurationError, Failure

SUMMARIES = {
    "webhook": "the admission webhook: puts annotated pods under `bitfusion run` and counts their GPU shares",
    "plugin": "the device plugin: advertises GPU shares to this node's kubelet",
    "init": "copies one client distro and the token files into a pod's volumes",
    "render": "prints a YAML file as the webhook would admit it; needs no cluster",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message}; `{self.prog} --help` lists what is allowed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the role that the command line names; return the exit status.

    0 = done, or stopped by SIGTERM or SIGINT; 1 = failed at run time; 2 = wrong usage or configuration.
    """
    try:
        role, chosen = _parse(sys.argv[1:] if arguments is None else arguments)
        logs.configure(chosen.log_format)
        return _run(role, chosen)
    except ConfigurationError as error:
        print(f"bitfusiond: {one_line(str(error))}", file=sys.stderr)  # noqa: T201
        return error.exit_status
    except Failure as error:
        logs.Log("cli").error("failed", message=str(error))
        return error.exit_status
    except BrokenPipeError:
        # Whoever reads us has enough (`| head`). Python would stumble over it once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parse(arguments: Sequence[str]) -> tuple[str, settings.Common]:
    """The role, and its settings from flags and environment. Prints and exits for --help and --version."""
    first = _Parser(prog="bitfusiond", add_help=False, allow_abbrev=False)
    first.add_argument("--role")
    first.add_argument("-h", "--help", action="store_true")
    first.add_argument("--version", action="store_true")
    known, _ = first.parse_known_args(arguments)
    if known.version:
        print(f"bitfusiond {__version__}")  # noqa: T201
        raise SystemExit(0)
    role = known.role or os.environ.get("BITFUSIOND_ROLE") or None
    if role is None and known.help:
        print(_overview())  # noqa: T201
        raise SystemExit(0)
    if role is None:
        raise ConfigurationError(f"--role is required: one of {', '.join(settings.ROLES)}")
    if role not in settings.ROLES:
        raise ConfigurationError(f"--role: {role!r} is not one of {', '.join(settings.ROLES)}")
    parser = _parser(role)
    flags = vars(parser.parse_args(arguments))
    return role, settings.resolve(settings.ROLES[role], flags, os.environ)


def _parser(role: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"bitfusiond --role {role}",
        usage=f"bitfusiond --role {role} [options]",
        description=SUMMARIES[role],
        epilog="Each option can be given as an environment variable too; a flag wins.",
        allow_abbrev=False,
    )
    parser.add_argument("--role", help=argparse.SUPPRESS)
    for name, each in settings.options(settings.ROLES[role]).items():
        flags = [each.short_flag, each.flag] if each.short_flag else [each.flag]
        default = "required" if each.required else f"default: {each.default}" if each.default is not None else ""
        notes = ", ".join(note for note in (*each.variables, default) if note)
        help_text = f"{each.help} [{notes}]".replace("%", "%%")
        if each.switch:
            parser.add_argument(*flags, dest=name, action="store_const", const="true", help=help_text)
        else:
            metavar = each.flag.removeprefix("--").replace("-", "_").upper()
            parser.add_argument(*flags, dest=name, metavar=metavar, help=help_text)
    return parser


def _overview() -> str:
    lines = ["usage: bitfusiond --role ROLE [options]", "       bitfusiond --role ROLE --help", "", "roles:"]
    lines += [f"  {role:8} {summary}" for role, summary in SUMMARIES.items()]
    return "\n".join([*lines, "", "  --version  print the version and exit"])


def _run(role: str, chosen: settings.Common) -> int:
    """Import the role that the settings are of, and run it; return the exit status."""
    match chosen:
        case settings.Webhook():
            from bitfusiond import supervise  # noqa: PLC0415
            from bitfusiond.webhook import service  # noqa: PLC0415

            return supervise.run(service.serve, chosen)
        case settings.Plugin():
            from bitfusiond import supervise  # noqa: PLC0415
            from bitfusiond.plugin import service as plugin_service  # noqa: PLC0415

            return supervise.run(plugin_service.serve, chosen)
        case settings.Populate():
            from bitfusiond import populate  # noqa: PLC0415

            return populate.run(chosen)
        case settings.Render():
            from bitfusiond import render  # noqa: PLC0415

            return render.run(chosen, sys.stdin.buffer, sys.stdout.buffer, sys.stderr)
    raise AssertionError(role)
