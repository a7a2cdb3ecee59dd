"""``python -m bitfusiond.operate COMMAND``: what the recipes of the justfile run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TextIO

from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import yaml_documents
from bitfusiond.operate import deploy, overlays, poolfile, settings, tokens, uninstall
from bitfusiond.operate.chart import package
from bitfusiond.operate.kubectl import Kubectl
from bitfusiond.operate.settings import Settings
from bitfusiond.operate.verify import command as verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 = done, 1 = failed or something is wrong, 2 = wrong usage or variables."""
    words = sys.argv[1:] if arguments is None else arguments
    # `just deploy TIMEOUT=60` says the same as `just TIMEOUT=60 deploy` and a variable of the environment.
    given = [word for word in words if word.partition("=")[0] in _VARIABLES and "=" in word]
    os.environ.update({name: value for name, _, value in (word.partition("=") for word in given)})
    chosen = _parser().parse_args([word for word in words if word not in given])
    try:
        return _COMMANDS[chosen.command][1](settings.resolve(os.environ), chosen)
    except Failure as error:
        _say(f"{chosen.command}: {error}", sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        _say(f"{chosen.command}: stopped; it can be run again", sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bitfusiond.operate", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    parsers = {
        name: commands.add_parser(name, help=summary, description=summary) for name, (summary, _) in _COMMANDS.items()
    }
    parsers["tokens"].add_argument("directory", type=Path, help="where ca.crt, client.yaml and servers.conf are")
    parsers["pool"].add_argument("source", type=Path, help="a servers.conf")
    parsers["pool"].add_argument("target", type=Path, help="the file to write")
    parsers["chart"].add_argument("out", type=Path, help="the directory to write into")
    parsers["uninstall"].add_argument("--namespace", action="store_true", help="delete the namespace bwki too")
    parsers["verify"].add_argument("--namespace", help="look at the pods and tokens of this namespace alone")
    return parser


def _say(line: str, stream: TextIO | None = None) -> None:
    """At once: what follows may take minutes."""
    print(line, file=stream or sys.stdout, flush=True)


def _deploy(chosen: Settings, _: argparse.Namespace) -> int:
    deploy.run(chosen, _say)
    return 0


def _manifests(chosen: Settings, _: argparse.Namespace) -> int:
    sys.stdout.write(yaml_documents.dump(deploy.for_empty_cluster(chosen, partial(_say, stream=sys.stderr))))
    return 0


def _verify(chosen: Settings, arguments: argparse.Namespace) -> int:
    return 0 if verify.run(chosen, arguments.namespace, _say) else 1


def _uninstall(chosen: Settings, arguments: argparse.Namespace) -> int:
    # Only here: elsewhere people have variables of these names for something else.
    namespace = arguments.namespace or _is_yes("NAMESPACE")
    uninstall.run(chosen, namespace=namespace, force=_is_yes("FORCE"), say=_say)
    return 0


def _is_yes(name: str) -> bool:
    variable = os.environ.get(name) or "no"
    if variable not in {"yes", "no"}:
        raise ConfigurationError(f"{name}: {variable!r} is not yes or no")
    return variable == "yes"


def _tokens(chosen: Settings, arguments: argparse.Namespace) -> int:
    tokens.run(chosen, arguments.directory, _say)
    return 0


def _pool(_: Settings, arguments: argparse.Namespace) -> int:
    poolfile.run(arguments.source, arguments.target, _say)
    return 0


def _chart(chosen: Settings, arguments: argparse.Namespace) -> int:
    package.run(cache(partial(overlays.overlay, Kubectl(chosen.kubectl))), arguments.out, _say)
    return 0


_COMMANDS: dict[str, tuple[str, Callable[[Settings, argparse.Namespace], int]]] = {
    "deploy": ("install bitfusiond, or bring it up to date", _deploy),
    "manifests": ("print what deploy would apply", _manifests),
    "verify": ("look at every part of an installation; exit status 1 where something is wrong", _verify),
    "uninstall": ("take bitfusiond out of the cluster", _uninstall),
    "tokens": ("make the token Secrets from an unpacked token, or bring them up to date", _tokens),
    "chart": ("write the Helm chart, which installs what deploy does", _chart),
    "pool": ("write a first inventory of the pool from a servers.conf", _pool),
}

_VARIABLES = {"NAMESPACE", "FORCE", *(each.name for each in settings.VARIABLES.values())}

if __name__ == "__main__":
    sys.exit(main())
