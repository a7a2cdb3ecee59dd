"""Which calls of the client are found in a command, and what they ask for."""

from __future__ import annotations

import gc
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core import names
from bitfusiond.core.admission import calls, command
from bitfusiond.core.admission.decision import Patch, Refusal, Untouched
from bitfusiond.core.admission.validate import validate
from tests.pods import NAMESPACE, container, pod, problems, rules, verdict

HALF = {names.GPU_AMOUNT: "1", names.GPU_PERCENT: "50"}
TOTAL = 16000


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        ("run -n 1 -p 0.5 -- python x", 50),
        ("run -n 8 -p 1.0 python x", 800),
        ("run -n8 -p.5 python x", 400),
        ("run -n=2 -p=0.505 python x", 101),
        ("run --num_gpus=2 --partial 0.1 python x", 20),
        ("run -n 1 -m 8000 -- x", 50),
        ("run --memory=8001 -n 2 -- x", 101),
        ("run -n 2 python x", 200),
        ("run python -n 9", 100),
        ("run --filter -n -n 2 -p 0.5 -- x", 100),
        ("run -f server.addr=a -p 0.5 -- python -p 1", 50),
        ("run -p 0.1 -p 0.9 -- x", 90),
        ("run -p 0.1 -m 16000 -- x", 100),
        ("list_gpus -n 9", 0),
        ("run -n $N -p 0.5 -- x", None),
        ("run $OPTIONS -- x", None),
        ("run -n `cat n` x", None),
        ("run -n 1e3 -- x", None),
        ("run -n +4 x", None),
        ("run --cuda 11 -n 1 -p 0.5 x", None),
        ("-v run -n 4 x", 400),
        ("--loglevel 3 run -n 4 x", None),
        ("request_gpus -n 4", 400),
        ("request_gpus 4", 400),
        ("run -n 1 {-n,8} x", None),
        ("--verbose run -p 0.5 -- x", 50),
        ("run -n -- x", None),
        ("run -n", None),
        ("run -n 99999999999999999999 x", None),
    ],
)
def test_what_a_call_asks_for(words: str, shares: int | None) -> None:
    (call,) = calls.in_script(f"cd /x && bitfusion {words}")
    assert calls.shares(call, {TOTAL: 1000}) == shares


@pytest.mark.parametrize(
    "script",
    [
        "x=$((1<<2))\nbitfusion run -n 4 x",
        "((x<<=2))\nbitfusion run -n 4 x",
        "((a)+(b)); bitfusion run -n 4 x",
        "let x=1<<2\nbitfusion run -n 4 x",
        "echo $(( (1+(2*(3+1))) << 2 ))\nbitfusion run -n 4 x",
        "A=$(date) bitfusion run -n 4 x",
        "A=$(date)$(date)b bitfusion run -n 4 x",
        "A[1]=2 bitfusion run -n 4 x",
        "< <(date) bitfusion run -n 4 x",
        "bitfusion run < <(date) -n 4 x",
        "{fd}>log bitfusion run -n 4 x",
        "2>&1 bitfusion run -n 4 x",
        "function f { bitfusion run -n 4 x; }",
        "function f() { bitfusion run -n 4 x; }",
        "time -p bitfusion run -n 4 x",
        "coproc C { bitfusion run -n 4 x; }",
        "coproc bitfusion run -n 4 x",
        "x=${x:-'}'}; bitfusion run -n 4 x",
        "cat <<$'EOF'\nbitfusion run -n 9 x\nEOF\nbitfusion run -n 4 x",
        "$(pwd)/bin/x; ! bitfusion run -n 4 x",
        "sudo -u bash env -u A B=/bin/bash timeout -k 5 10 bitfusion run -n 4 x",
        "mpirun -np 4 -host a,b bitfusion run -n 4 x",
    ],
)
def test_a_call_is_found_wherever_a_shell_would_make_it(script: str) -> None:
    (call,) = calls.in_script(script)
    assert calls.shares(call, {TOTAL: 1000}) == 400


@pytest.mark.parametrize(
    "words",
    [
        ["env", "SHELL=/bin/bash", "bitfusion", "run", "-n", "4", "x"],
        ["sudo", "-u", "bash", "bitfusion", "run", "-n", "4", "x"],
        ["timeout", "-s", "KILL", "5m", "/usr/bin/bitfusion", "run", "-n", "4", "x"],
        ["nice", "-n", "5", "--", "bitfusion", "run", "-n", "4", "x"],
        ["sh", "-c", '. /s; exec "$@"', "sh", "/x/bitfusion", "run", "-n", "4", "x"],
        ["sh", "-c", '. /s; exec "$0" "$@"', "bash", "-c", "cd /x && bitfusion run -n 4 x"],
        ["sh", "-c", "cd /x && env A=1 bash -c 'bitfusion run -n 4 x'"],
        ["dash", "-c", "exec bitfusion run -n 4 x"],
        ["tini", "--", "bash", "-o", "pipefail", "-c", "cd /x && bitfusion run -n 4 x"],
    ],
)
def test_a_call_is_found_behind_programs_that_start_another(words: list[str]) -> None:
    (call,) = calls.anywhere(words)
    assert calls.shares(call, {TOTAL: 1000}) == 400


@pytest.mark.parametrize(
    "words",
    [
        ["nice", "python", "t.py", "--out", "/results/bitfusion"],
        ["env", "LOG_DIR=/var/log/bitfusion", "python", "t.py"],
        ["bash", "-c", "sudo rm -rf /tmp/bitfusion; python x"],
        ["bash", "-c", "xargs rm bitfusion; python x"],
        ["bash", "-c", "env A=/x/bitfusion python x; y"],
    ],
)
def test_a_word_that_only_ends_like_the_client_stays_as_it_is(words: list[str]) -> None:
    client = ["/B/bitfusion", "run", "--"]
    *same, last = command.program(words, []).wrapped(client)[-len(words) :]
    assert same == words[:-1]
    assert last.removeprefix('export PATH=/B:"$PATH"; ') == words[-1]


def test_memory_cannot_be_compared_where_nobody_said_how_much_a_gpu_has() -> None:
    (call,) = calls.in_script("bitfusion run -m 1 x")
    assert calls.shares(call, {}) is None


EXCESS = (
    "spec.containers[0].command: bitfusion run -n 8 -p 1.0 asks for 800 shares of bitfusion.io/gpu, the container for"
    " 50: ask for less there, or for more in resources.limits; 100 shares are one GPU"
)
MORE = [
    (["bitfusion", "run", "-n", "8", "-p", "1.0", "--", "python", "x"], []),
    (["bitfusion"], ["run", "-n", "8", "-p", "1.0", "--", "python", "x"]),
    (["env", "A=1", "bitfusion", "run", "-n", "8", "-p", "1.0", "python"], []),
    (["bash", "-c", "bitfusion run -n 8 -p 1.0 -- python x"], []),
    (["bash", "-c"], ["cd /x && exec /usr/bin/bitfusion run -n 8 -p 1.0 -- python x"]),
    (["bash", "-c", "bitfusion run -n 1 -p 0.5 -- a; bitfusion run -n 8 -p 1.0 -- b"], []),
    # inside the client's own words
    (["bitfusion", "run", "-p", "0.5", "--", "bitfusion", "run", "-n", "8", "-p", "1.0", "x"], []),
    (["bitfusion", "run", "-p", "0.5", "env", "A=1", "/x/bitfusion"], ["run", "-n", "8", "-p", "1.0", "x"]),
    (["bitfusion", "run", "-p.5", "bitfusion", "run", "-p.5", "bitfusion", "run", "-n", "8", "-p", "1.0"], []),
    (["bitfusion", "run", "-p", "0.5", "--", "bash", "-c", "cd /x; bitfusion run -n 8 -p 1.0 x"], []),
    (["bash", "-c", "bitfusion run -p 0.5 -- bitfusion run -n 8 -p 1.0 x"], []),
    (["bash", "-c", "cd /x; bitfusion run -p 0.5 -- bash -c 'bitfusion run -n 8 -p 1.0 x'"], []),
    # names that only a shell puts together
    (["bash", "-c", "bit''fusion run -n 8 -p 1.0 -- python x"], []),
    (["bash", "-c", 'cd /x && "bit"fusion run -n 8 -p 1.0 -- python x'], []),
    (["bash", "-c", "bitf\\usion run -n 8 -p 1.0 -- python x"], []),
    (["bash", "-c", "bit\\\nfusion run -n 8 -p 1.0 -- python x"], []),
]
# What no container runtime could start, before it is mutated.
LINES = [
    (["bitfusion run -n 8 -p 1.0 -- python x"], []),
    (["bitfusion run"], ["-n", "8", "-p", "1.0", "python"]),
]
# In mode all it goes under a call of ours, and is warned about.
BEHIND_ANOTHER = [
    (["/vault/vault-env"], ["/x/bitfusion", "run", "-n", "8", "-p", "1.0", "python"]),
    (["/vault/vault-env", "/x/bitfusion"], ["run", "-p", "0.5", "--", "bitfusion", "run", "-n", "8", "-p", "1.0", "x"]),
]


@pytest.mark.parametrize(("words", "args"), [*MORE, *LINES])
def test_words_that_ask_for_more_than_the_container_are_refused(words: list[str], args: list[str]) -> None:
    given_pod = pod(container(HALF, command=words, args=args))
    assert problems(given_pod) == [EXCESS]


@pytest.mark.parametrize(("words", "args"), [*MORE, *BEHIND_ANOTHER])
def test_they_are_refused_in_mode_injection_too(words: list[str], args: list[str]) -> None:
    given_pod = pod(container(HALF, command=words, args=args), mode="injection")
    assert problems(given_pod) == [EXCESS]


@pytest.mark.parametrize(("words", "args"), [*MORE, *BEHIND_ANOTHER])
def test_they_are_refused_in_a_pod_that_came_as_injected_too(words: list[str], args: list[str]) -> None:
    given_pod = pod(container({names.GPU: "50"}, command=words, args=args))
    given_pod["metadata"]["annotations"] = {names.STATUS: names.STATUS_INJECTED}
    assert verdict(given_pod) == Untouched("already injected")
    assert validate(given_pod, NAMESPACE, rules(), None) == Refusal([EXCESS])


@pytest.mark.parametrize("mode", ["all", "injection"])
def test_words_that_ask_for_as_much_are_taken(mode: str) -> None:
    words = ["bitfusion", "run", "-n", "1", "-p", "0.5", "--", "python"]
    assert isinstance(verdict(pod(container(HALF, command=words), mode=mode)), Patch)


def test_what_is_known_at_run_time_only_is_warned_about() -> None:
    decision = verdict(pod(container(HALF, command=["bash", "-c", "bitfusion run -n $N x"])))
    assert isinstance(decision, Patch)
    assert decision.warnings == [
        "spec.containers[0].command: bitfusion run gets words of the shell: whatever they say, 50 shares are counted"
    ]


def test_commands_too_long_to_be_read_are_refused() -> None:
    script = "bitfusion run -p .5 x; " * 10_000
    given_pod = pod(container(HALF, command=["bash", "-c", script]))
    message = (
        "spec.containers: the commands that call bitfusion have 230000 characters: bitfusiond reads at most 131072; put"
        " the script into a file"
    )
    assert problems(given_pod) == [message]
    given_pod["spec"]["containers"][0]["command"][2] = script.replace("bitfusion", "bit_fusion")
    assert isinstance(verdict(given_pod), Patch)


def test_what_is_admitted_is_short_enough_for_the_second_look() -> None:
    given_pod = pod(*(container(HALF, name=f"c{each}", command=["bash", "-c", "x y"]) for each in range(64)))
    given_pod["metadata"]["annotations"][names.CLIENT_FILTER] = "device.id=" + "1" * 4000
    (problem,) = problems(given_pod)
    assert problem.startswith("spec.containers: the commands that call bitfusion have ")
    assert problem.endswith("reads at most 131072; give fewer filters, or put a script into a file")


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [
        "a $(a ",
        "((a",
        "$((a",
        "a$(b)",
        ";a",
        "bitfusion;",
        "<<a;\n",
        "$(a ",
        "a=(",
        "'a' ",
        "\\\n",
        "x",
        '"',
        "$'",
        "`a` ",
        "bitfusion run ",
        "bitfusion run bash -c 'bitfusion;';",
        "bit''fusion;",
        "(",
        ")",
        "${",
        "#",
    ],
)
def test_to_read_a_script_takes_time_in_proportion_to_its_length(part: str) -> None:
    def seconds(length: int) -> float:
        script = "bitfusion " + (part * length)[: length - 20] + " bitfusion"
        gc.disable()  # its rounds over many words would be measured too
        began = time.process_time()
        calls.in_script(script)
        spent = time.process_time() - began
        gc.enable()
        return spent

    half, whole = (min(seconds(calls.MOST_CHARACTERS // each) for _ in range(3)) for each in (2, 1))
    assert whole < 0.02 + 3 * half
    assert whole < 1


def test_to_look_for_a_shell_among_many_words_takes_time_in_proportion_to_them() -> None:
    words = ["mywrapper", *["sh", "-x"] * 200_000, "bitfusion"]
    began = time.process_time()
    calls.anywhere(words)
    command.program(words, [])
    assert time.process_time() - began < 2


@given(st.text("bitfusion run ab '\"\\`$(){};&|<>#\n=!-", max_size=60))
def test_a_call_in_any_text_is_inside_it(script: str) -> None:
    for call in calls.in_script(f"{script};bitfusion"):
        assert 0 <= call.start < call.end <= len(script) + 10


# Records its own words, and runs those behind `--`.
RECORD = """#!/bin/sh
own=
while [ $# -gt 0 ] && [ "$1" != -- ]; do own="$own $1"; shift; done
echo "$own" >>"$RECORD"
[ $# -lt 2 ] || { shift; exec "$@"; }
"""


@pytest.mark.parametrize("shell", ["bash", "sh"])
@pytest.mark.parametrize(
    "script",
    [
        "bitfusion run a && bitfusion run b",
        "false || bitfusion run a; bitfusion list_gpus >/dev/null",
        "if bitfusion health; then (bitfusion run a 2>&1 | cat); fi",
        "f() { bitfusion run \"$@\"; }; f a; f 'b c'",
        "for i in 1 2; do bitfusion run $i; done",
        "x=$(bitfusion run a) bitfusion run b",
        "cat <<E >/dev/null\nbitfusion run a\nE\nbitfusion run b",
        "bitfusion \\\n run a\n# bitfusion run b\nenv A=1 bitfusion run c",
        "case a in a) bitfusion run a;; bitfusion) bitfusion run b;; esac",
        "echo 'bitfusion run x' \"bitfusion run y\" >/dev/null; bitfusion run z",
        "bit''fusion run a; \"bit\"fusion run b && bitf\\usion run c",
        "bitfusion run -- bitfusion run -- env A=1 bitfusion run a",
        "bitfusion run -- sh -c 'bitfusion run \"a b\"; bitfusion list_gpus'",
        "date >/dev/null; bash -c 'bitfusion run a; bitfusion run b' && sh -ec \"bitfusion run 'c d'\"",
        "date >/dev/null; bitfusion run -- sh -c \"x=1; bit''fusion run $x\"",
    ],
)
def test_every_call_reaches_the_client_in_a_real_shell(tmp_path: Path, shell: str, script: str) -> None:
    """The same calls with the same words as where a client of that name is on the PATH of the image."""
    _compare(tmp_path, [shell, "-c", script])


@pytest.mark.parametrize(
    "words",
    [
        ["bitfusion", "run", "--", "bitfusion", "run", "a b"],
        ["bitfusion", "run", "--", "timeout", "5", "bitfusion", "run", "--", "bitfusion", "run", "$HOME"],
        ["bitfusion", "run", "--", "sh", "-c", "bitfusion run a"],
        ["bitfusion", "run", "--", "sh", "-c", "cd / && bitfusion run $1; bitfusion list_gpus", "sh", "a b"],
        ["bitfusion", "run", "--", "sh", "-c", 'N="$(bitfusion list_gpus)"'],
        ["env", "A=1", "bitfusion", "run", "--", "bash", "-ec", "bitfusion run -- sh -c 'bitfusion run a'"],
    ],
    ids=" ".join,
)
def test_every_call_inside_the_clients_own_words_reaches_it(tmp_path: Path, words: list[str]) -> None:
    _compare(tmp_path, words)


def _compare(root: Path, words: list[str]) -> None:
    client, record = root / "usr" / "bin" / "bitfusion", root / "record"
    client.parent.mkdir(parents=True)
    client.write_text(RECORD)
    client.chmod(0o755)

    def called(argv: list[str], path: str) -> str:
        record.unlink(missing_ok=True)
        subprocess.run(argv, env={"RECORD": str(record), "PATH": path}, check=True, timeout=10)
        return record.read_text()

    plain = "/usr/bin:/bin"
    wanted = called(words, f"{client.parent}:{plain}")
    under = command.program(words, []).wrapped([str(client), "run", "-n", "1", "--"])
    assert called(under, plain) == wanted
