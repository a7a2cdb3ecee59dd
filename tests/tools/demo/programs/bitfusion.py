#!/usr/bin/env python3
"""A stand-in for the Bitfusion client: says what it was asked for, checks what it was given, runs the program.

The real one would now take the GPUs from a server of the pool and lend them to the program.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

# Stands for the container's "/"; a real container has its own.
ROOT = Path(os.environ["DEMO_ROOT"])
TOKEN_FILES = ("/root/.bitfusion/client.yaml", "/etc/bitfusion/servers.conf", "/etc/bitfusion/tls/ca.crt")


def main() -> NoReturn:
    words = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    program = sys.argv[len(words) + 2 :]
    say(shlex.join(words))
    parser = argparse.ArgumentParser(prog="bitfusion", allow_abbrev=False)
    parser.add_argument("verb", choices=["run"])
    parser.add_argument("-n", type=int, required=True, dest="gpus")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("-p", type=float, dest="fraction")
    size.add_argument("-m", type=int, dest="megabytes")
    parser.add_argument("--filter", action="append", default=[], dest="filters")
    asked = parser.parse_args(words)
    if not program:
        parser.error("no program after --")

    amount = f"{asked.megabytes} MB" if asked.fraction is None else f"{asked.fraction:.0%}"
    where = f"a server where {' and '.join(asked.filters)}" if asked.filters else "any server"
    say(f"{asked.gpus} GPU(s) with {amount} of the memory of each, from {where}")
    for path in (*TOKEN_FILES, "/opt/bitfusion", os.environ["LD_LIBRARY_PATH"].split(":")[0]):
        check(path)
    say(f"token files and libraries are in place; the pod holds {os.environ['BITFUSION_GPU_SHARES']} shares")
    sys.stdout.flush()
    os.execvp(program[0], program)


def check(path: str) -> None:
    """End with status 1 unless ``path`` is there and holds something."""
    outside = Path(path) if path.startswith(f"{ROOT}/") else ROOT / path.lstrip("/")
    there = any(outside.iterdir()) if outside.is_dir() else outside.is_file() and outside.stat().st_size > 0
    if not there:
        say(f"{path} is missing or empty")
        raise SystemExit(1)


def say(line: str) -> None:
    print(f"bitfusion: {line}")


if __name__ == "__main__":
    main()
