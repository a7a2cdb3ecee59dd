"""``python -m bitfusiond.operate deploy|manifests``: what the recipes of the justfile run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from bitfusiond import manifest
from bitfusiond.errors import Failure
from bitfusiond.operate import deploy, settings
from bitfusiond.operate.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 = done, 1 = failed or something is wrong, 2 = wrong usage or variables."""
    parser = argparse.ArgumentParser(prog="python -m bitfusiond.operate", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (summary, _) in _COMMANDS.items():
        commands.add_parser(name, help=summary, description=summary)
    chosen = parser.parse_args(arguments)
    try:
        return _COMMANDS[chosen.command][1](settings.resolve(os.environ), chosen)
    except Failure as error:
        _say(f"{chosen.command}: {' '.join(str(error).split())}", sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        _say(f"{chosen.command}: stopped; it can be run again", sys.stderr)
        return 130


def _say(line: str, stream: TextIO | None = None) -> None:
    """At once: what follows may take minutes."""
    print(line, file=stream or sys.stdout, flush=True)


def _deploy(chosen: Settings, _: argparse.Namespace) -> int:
    deploy.run(chosen, _say)
    return 0


def _manifests(chosen: Settings, _: argparse.Namespace) -> int:
    sys.stdout.write(manifest.dump(deploy.manifests(chosen)))
    return 0


_COMMANDS: dict[str, tuple[str, Callable[[Settings, argparse.Namespace], int]]] = {
    "deploy": ("install bitfusiond, or bring it up to date", _deploy),
    "manifests": ("print what deploy would apply", _manifests),
}

if __name__ == "__main__":
    sys.exit(main())
