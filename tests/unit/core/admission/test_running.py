"""Admitted commands as they run: the same output, arguments, environment and status as without the client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from bitfusiond.core.admission import command

# Starts the words behind `--`, found as exec finds them: what has no `#!` is no program to it.
_CLIENT = f"""#!{sys.executable} -SE
import os, sys
print("client", *sys.argv[1:sys.argv.index("--")], file=sys.stderr, flush=True)
words = sys.argv[sys.argv.index("--") + 1:]
places = [words[0]] if "/" in words[0] else [f"{{each}}/{{words[0]}}" for each in os.environ["PATH"].split(":")]
for place in places:
    if os.access(place, os.X_OK):
        os.execv(place, words)
sys.exit(127)
"""
_SHOW = f"""#!{sys.executable} -SE
import os, sys
print(sys.argv[1:], sorted(f"{{key}}={{value}}" for key, value in os.environ.items() if key.startswith("USERS_")))
sys.exit(len(sys.argv) - 1)
"""


class Ended(NamedTuple):
    out: str
    status: int


class Machine:
    """A directory with programs, and what a container of it prints and ends with."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.client = root / "client" / "usr" / "bin" / "bitfusion"
        self.client.parent.mkdir(parents=True)
        self.write("client/usr/bin/bitfusion", _CLIENT)
        self.write("bin/show", _SHOW)

    def write(self, name: str, text: str) -> None:
        file = self.root / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        return {"PATH": f"{self.root / 'bin'}:/usr/bin:/bin", "HOME": str(self.root), "USERS_OWN": "a b", **variables}

    def wrapped(self, words: list[str], variables: dict[str, str]) -> list[str]:
        asked = [str(self.client), "run", "-n", "1", "-p", "0.500000", "--"]
        return command.program(words, [], variables).wrapped(asked)

    def run(self, words: list[str], variables: dict[str, str]) -> Ended:
        done = subprocess.run(
            words,
            env=self.environment(variables),
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        return Ended(done.stdout, done.returncode)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["show", "a b", "$HOME", "*"], {}),
        (["show"], {}),
        (["sh", "-c", "show a b"], {}),
        (["bash", "-c", "show 'a b' \"$USERS_OWN\" $0 $1", "name", "one"], {}),
        (["bash", "-c", "show a; exit 7"], {}),
        (["bash", "-c", "USERS_NEW=1 show a"], {}),
        (["bash", "-ec", "false; show a"], {}),
        (["bash", "-c", "show a | tr a b"], {}),
        (["bash", "-c", "kill -9 $$"], {}),
        (["bash", "-c", "no-such-program a"], {}),
        # what only a shell can start
        (["sh", "-c", "./no-shebang a b"], {}),
        (["bash", "-c", "train a b"], {"BASH_ENV": "env.sh"}),
        (["bash", "-lc", "train a b"], {}),
        (["bash", "-c", "train a b"], {"BASH_FUNC_train%%": '() { show function "$@"; }'}),
        (["bash", "-O", "expand_aliases", "-ic", "al a b"], {}),
        (["bash", "-rc", "show a"], {}),
        (["bash", "-rc", "./no-shebang a"], {}),
    ],
    ids=" ".join,
)
def test_a_command_does_what_it_does_without_the_client(
    machine: Machine, words: list[str], variables: dict[str, str]
) -> None:
    machine.write("no-shebang", 'show file "$@"\n')
    machine.write("env.sh", 'train() { show function "$@"; }\n')
    machine.write(".bash_profile", 'train() { show profile "$@"; }\n')
    machine.write(".bashrc", "alias al='show alias'\n")
    ended = machine.run(machine.wrapped(words, variables), variables)
    assert ended == machine.run(words, variables)


@pytest.mark.parametrize("words", [["waits"], ["sh", "-c", "waits"], ["bash", "-c", "exec waits"]], ids=" ".join)
def test_the_program_of_process_1_gets_the_signal(machine: Machine, words: list[str]) -> None:
    """The kubelet sends SIGTERM to process 1 of the container, which has no default action for it."""
    if os.geteuid() != 0:
        pytest.skip("run this as root to make a process 1")
    machine.write(
        "bin/waits",
        f"#!{sys.executable} -SE\n"
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        "time.sleep(20)\n",
    )
    alone = _terminated(machine, words)
    assert alone == 5 or words[0] == "sh"  # a shell that stays between passes no signal on, without the client too
    assert _terminated(machine, machine.wrapped(words, {})) == alone


def _terminated(machine: Machine, words: list[str]) -> int:
    process = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", *words],
        env=machine.environment({}),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGTERM)
        deadline = time.monotonic() + 3
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None:
            os.kill(int(child), signal.SIGKILL)
            process.wait()
            return -signal.SIGKILL
        return process.returncode
    finally:
        process.kill()
        process.communicate()
