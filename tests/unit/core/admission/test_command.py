"""The command table of the README, row by row, and what a real shell makes of the result."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitfusiond.core.admission import command
from bitfusiond.core.admission.demand import Demand
from tests.pods import argv, client_words

CLIENT = ["/B/bitfusion", "run", "-n", "1", "-p", "0.500000", "--"]
C = shlex.join(CLIENT)
PATH = 'export PATH=/B:"$PATH"; '  # the client's directory
HALF = Demand(1, 50, None, 50)


def _named(script: str) -> str:
    return script.replace("§", "bitfusion")


def _by_path(script: str) -> str:
    return script.replace("§", "/B/bitfusion")


# (what it is, command, args, the whole new command)
TABLE = [
    # one string with spaces
    ("one string", ["python /b/x.py --model=i"], [], ["/bin/bash", "-c", f"{C} python /b/x.py --model=i"]),
    ("one string, blanks around", ["  python x.py\n"], [], ["/bin/bash", "-c", f"{C} python x.py"]),
    ("one string and args", ["python x.py"], ["--a", "b c", "$(V)"], [*CLIENT, "python", "x.py", "--a", "b c", "$(V)"]),
    ("one string and args, a shell's own", ["echo 123"], ["a b"], [*CLIENT, "echo", "123", "a b"]),
    ("one string, two commands", ["cd /x && python y"], [], [*CLIENT, "/bin/bash", "-c", "cd /x && python y"]),
    ("one string, several lines", ["a b\nc d"], [], [*CLIENT, "/bin/bash", "-c", "a b\nc d"]),
    # shell form
    ("bash -c", ["/bin/bash", "-c", "python x.py"], [], ["/bin/bash", "-c", f"{C} python x.py"]),
    ("script in args", ["/bin/bash", "-c"], ["python x.py"], ["/bin/bash", "-c", f"{C} python x.py"]),
    ("-c and script in args", ["bash"], ["-c", "python x.py"], ["bash", "-c", f"{C} python x.py"]),
    ("any path", ["/usr/local/bin/bash", "-c", "python x.py"], [], ["/usr/local/bin/bash", "-c", f"{C} python x.py"]),
    ("sh -ec", ["sh", "-ec", "python x.py"], [], ["sh", "-ec", f"{C} python x.py"]),
    ("options apart", ["sh", "-e", "-c", "python x.py"], [], ["sh", "-e", "-c", f"{C} python x.py"]),
    ("option behind -c", ["sh", "-c", "-e", "python x.py"], [], ["sh", "-c", "-e", f"{C} python x.py"]),
    (
        "option with a value",
        ["bash", "-euo", "pipefail", "-c", "python x.py"],
        [],
        ["bash", "-euo", "pipefail", "-c", f"{C} python x.py"],
    ),
    ("long options", ["bash", "--rcfile", "/r", "-c", "a b"], [], ["bash", "--rcfile", "/r", "-c", f"{C} a b"]),
    ("ends of lines", ["bash", "-c"], ["python x.py\n"], ["bash", "-c", f"{C} python x.py"]),
    ("positional arguments", ["sh", "-c", "python x.py", "sh", "1"], [], ["sh", "-c", f"{C} python x.py", "sh", "1"]),
    # more than one plain command: unchanged, in its own shell
    *[
        (script, ["/bin/sh", "-c", script, "sh", "1"], [], [*CLIENT, "/bin/sh", "-c", script, "sh", "1"])
        for script in [
            "cd /x && python y",
            "python x; python y",
            "python x | tee log",
            "python x > log",
            "python x 2>&1",
            "python x &",
            "python $FILE",
            "python $(find)",
            "python $(EPOCHS)",
            "python `find`",
            "python *.py",
            "python ~/x.py",
            "python {a,b}",
            "python 'a b'",
            'python "a b"',
            r"python a\ b",
            "python x # why",
            "exec python x",
            "VAR=x python y",
            "VAR+=x python y",
            "python x\npython y",
            "python \\\n  x.py",
            "if true; then python x; fi",
            "time python x",
            "! python x",
            "source env.sh",
            ". env.sh",
            "cd /x",
            "python «x»",
            "",
        ]
    ],
    # argument list
    ("argument list", ["python", "x.py"], [], [*CLIENT, "python", "x.py"]),
    ("argument list and args", ["python"], ["x.py", "a b", "$(V)", ""], [*CLIENT, "python", "x.py", "a b", "$(V)", ""]),
    ("a -c that is python's", ["python", "-c", "print(1)"], [], [*CLIENT, "python", "-c", "print(1)"]),
    ("bash and a script's file", ["bash", "t.sh", "-c", "1"], [], [*CLIENT, "bash", "t.sh", "-c", "1"]),
    ("bash alone", ["bash"], [], [*CLIENT, "bash"]),
    ("one word", ["/entry.sh"], [], [*CLIENT, "/entry.sh"]),
    ("another shell", ["zsh", "-c", "python x"], [], [*CLIENT, "zsh", "-c", "python x"]),
    ("an argument like the client", ["python", "bitfusion_x.py"], [], [*CLIENT, "python", "bitfusion_x.py"]),
    ("the same in a shell", ["sh", "-c", "python bitfusion"], [], ["sh", "-c", f"{C} python bitfusion"]),
    # its program already is bitfusion
    ("bitfusion", ["bitfusion", "run", "-n", "2", "x"], [], ["/B/bitfusion", "run", "-n", "2", "x"]),
    ("bitfusion at a path", ["/usr/bin/bitfusion", "list_gpus"], [], ["/B/bitfusion", "list_gpus"]),
    ("bitfusion as one string", ["bitfusion run -n 2 x"], [], ["/bin/bash", "-c", "/B/bitfusion run -n 2 x"]),
    ("bitfusion as one string, and args", ["bitfusion run"], ["-n", "2"], ["/B/bitfusion", "run", "-n", "2"]),
    ("bitfusion in a shell", ["sh", "-c", "bitfusion run x > log"], [], ["sh", "-c", "/B/bitfusion run x > log"]),
    ("bitfusion after exec", ["sh", "-c", "exec bitfusion run x"], [], ["sh", "-c", "exec /B/bitfusion run x"]),
    ("bitfusion after a variable", ["sh", "-c", "A=1 bitfusion run x"], [], ["sh", "-c", "A=1 /B/bitfusion run x"]),
    ("one string, bitfusion, args", ["bitfusion run"], ["-n", "2"], ["/B/bitfusion", "run", "-n", "2"]),
    ("bitfusion over lines", ["sh", "-c", "bitfusion run x\ndate"], [], ["sh", "-c", "/B/bitfusion run x\ndate"]),
    ("one word and the end of a line", ["nvidia-smi\n"], [], ["/bin/bash", "-c", f"{C} nvidia-smi"]),
    # a shell takes it for a letter: the script is not plain, and keeps it
    ("no-break space", ["sh", "-c", "\u00a0python x"], [], [*CLIENT, "sh", "-c", "\u00a0python x"]),
    ("one string, a separator", [" \x1fpython x"], [], [*CLIENT, "/bin/bash", "-c", "\x1fpython x"]),
    # what only a shell can start: a file without `#!`, a function, an alias
    ("a file that may have no #!", ["sh", "-c", "./run.sh a"], [], [*CLIENT, "sh", "-c", "./run.sh a"]),
    ("a login shell", ["bash", "-lc", "train a"], [], [*CLIENT, "bash", "-lc", "train a"]),
    ("a long option", ["bash", "--login", "-c", "train"], [], [*CLIENT, "bash", "--login", "-c", "train"]),
    ("an interactive shell", ["bash", "-ic", "--", "train"], [], [*CLIENT, "bash", "-ic", "--", "train"]),
    ("a restricted shell", ["bash", "-rc", "train a"], [], [*CLIENT, "bash", "-rc", "train a"]),
    ("a shell in a script", ["sh", "-c", "bash -c ls"], [], [*CLIENT, "sh", "-c", "bash -c ls"]),
    ("one string, a path like ours", ["python /x/bitfusion"], [], ["/bin/bash", "-c", f"{C} python /x/bitfusion"]),
    ("the same with args", ["python /x/bitfusion"], ["y"], [*CLIENT, "python", "/x/bitfusion", "y"]),
    ("a program with a no-break space", ["my\u00a0tool"], ["x"], [*CLIENT, "my\u00a0tool", "x"]),
    ("a quoted path", ["sh", "-c", '"/usr/bin/bitfusion" run x'], [], ["sh", "-c", "/B/bitfusion run x"]),
    ("lines joined", ["sh", "-c", "bitfusion \\\n run x"], [], ["sh", "-c", "/B/bitfusion \\\n run x"]),
    ("a substitution", ["sh", "-c", "x=$(bitfusion run a)"], [], ["sh", "-c", "x=$(/B/bitfusion run a)"]),
    ("behind env", ["env", "A=1", "bitfusion", "run", "x"], [], ["env", "A=1", "/B/bitfusion", "run", "x"]),
    ("behind env, in args", ["env", "A=1"], ["bitfusion", "run"], ["env", "A=1", "/B/bitfusion", "run"]),
    ("timeout", ["sh", "-c", "timeout 5 bitfusion run x"], [], ["sh", "-c", "timeout 5 /B/bitfusion run x"]),
    # a call inside the client's own words
    (
        "bitfusion under bitfusion",
        ["bitfusion", "run", "-n", "1", "--", "bitfusion", "run", "x"],
        [],
        ["/B/bitfusion", "run", "-n", "1", "--", "/B/bitfusion", "run", "x"],
    ),
    (
        "the same in a shell",
        ["sh", "-c", "bitfusion run bitfusion run x"],
        [],
        ["sh", "-c", PATH + "/B/bitfusion run /B/bitfusion run x"],
    ),
    (
        "a script under bitfusion",
        ["bitfusion", "run"],
        ["bash", "-c", "bitfusion run x"],
        ["/B/bitfusion", "run", "bash", "-c", "/B/bitfusion run x"],
    ),
    (
        "a script without calls under bitfusion",
        ["bitfusion", "run"],
        ["bash", "-c", "cd /; x"],
        ["/B/bitfusion", "run", "bash", "-c", "cd /; x"],
    ),
    (
        "a longer script under bitfusion",
        ["bitfusion", "run", "bash", "-c", "cd /; bitfusion run x", "bash"],
        [],
        ["/B/bitfusion", "run", "bash", "-c", PATH + "cd /; /B/bitfusion run x", "bash"],
    ),
    ("a name in pieces", ["sh", "-c", "bit''fusion run x"], [], ["sh", "-c", "/B/bitfusion run x"]),
    # several calls, or one that is not first: the user calls the client. § is its name, then its path
    *[
        (script, ["sh", "-c", _named(script), "sh"], ["1"], ["sh", "-c", PATH + _by_path(script), "sh", "1"])
        for script in [
            "cd /x && § run 'y;z'",
            "§ run a && § run b",
            "§ run a || § run b",
            "§ run a\n§ run b",
            "§ run a; § list_gpus",
            "§ list_gpus; python x; § run a",
            "export PATH=/bin; § list_gpus; § run a",
            "cd / && env -i § run a",
            "for i in 1 2; do § run $i; done",
            "train() { § run \"$@\"; }; train a",
            "if true; then ( § run a 2>&1 | tee log ); fi",
            "§ run sh -c 'bitfusion run a'",
            "§ run a && echo \"$(bitfusion list_gpus)\"",
            "trap 'bitfusion release_gpus' EXIT; § request_gpus -n 1; python x",
        ]
    ],
    (
        "several calls, by name and by path",
        ["bitfusion run a; '/usr/bin/bitfusion' run b"],
        [],
        ["/bin/bash", "-c", PATH + "/B/bitfusion run a; /B/bitfusion run b"],
    ),
    (
        "a shell behind another program",
        ["tini", "--", "bash", "-c", "cd /x; bitfusion run y"],
        [],
        ["tini", "--", "bash", "-c", PATH + "cd /x; /B/bitfusion run y"],
    ),
    # calls that ask for no GPU: under the client as any script, and they find it too
    *[
        (script, ["sh", "-c", _named(script)], [], [*CLIENT, "sh", "-c", PATH + _by_path(script)])
        for script in [
            "§ list_gpus; python x",
            "§ list_gpus > log",
            "date; § list_gpus; python x",
            "GPUS=$(§ list_gpus) python x",
        ]
    ],
    # what may be a call, and is none that can be read: it finds the client on PATH
    *[
        (script, ["sh", "-c", script], [], [*CLIENT, "sh", "-c", PATH + script])
        for script in [
            'N="$(bitfusion list_gpus)"; python x',
            "N=`bitfusion list_gpus`; python x",
            "(( $(bitfusion list_gpus | wc -c) > 0 )) && python x",
            'python ${x:-"$(bitfusion list_gpus)"}',
            'trap "bitfusion release_gpus" EXIT; python x',
            "echo 'x; bitfusion run'; python x",
            "cat <<EOF\nbitfusion run is not run here\nEOF\npython x",
            "cat <<-'E O'\n\tbitfusion run x\n\tE O\npython x",
            "tools=(bitfusion run\nbitfusion run); python x",
            "case $1 in x|bitfusion) python x;; esac",
            "python x # && bitfusion run x",
            "echo bitfusion run; python x",
        ]
    ],
    # no calls: the script is the user's, byte for byte
    *[
        (script, ["sh", "-c", script], [], [*CLIENT, "sh", "-c", script])
        for script in ["python /x/bitfusion.py; y", "python x > /log/bitfusion", "rm -r ./bitfusion; python x"]
    ],
]  # fmt: skip


@pytest.mark.parametrize(("what", "words", "args", "expected"), TABLE, ids=[row[0] or "empty script" for row in TABLE])
def test_the_command_table(what: str, words: list[str], args: list[str], expected: list[str]) -> None:
    """Not as 0.4 did: `--` between all words, args lost, no quoting, any bitfusion* argument taken for the client."""
    program = command.program(words, args)
    assert program.wrapped(CLIENT) + (args if program.keeps_args else []) == expected, what


@pytest.mark.parametrize(
    ("words", "args", "field", "message"),
    [
        ([], [], "command", "must be set"),
        ([], ["--epochs"], "command", "must be set"),
        ([""], [], "command", "must be set"),
        (["  "], [], "command", "must be set"),
        (["bash", "-c"], [], "command", "has -c without a script"),
        (["bash", "-ec"], [], "command", "has -c without a script"),
        (["cd /x && python y"], ["--a"], "args", "cannot follow a command that is a shell script"),
        (["cd /x"], ["--a"], "args", "cannot follow a command that is a shell script"),
    ],
)
def test_a_command_that_cannot_run_is_refused(words: list[str], args: list[str], field: str, message: str) -> None:
    with pytest.raises(command.CommandError, match=message) as error:
        command.program(words, args)
    assert error.value.field == field


@pytest.mark.parametrize("variable", ["BASH_ENV", "BASH_FUNC_train%%"])
def test_a_function_from_the_environment_is_started_by_its_shell(variable: str) -> None:
    words = ["bash", "-c", "train a"]
    assert command.program(words, [], [variable]).wrapped(CLIENT) == [*CLIENT, *words]
    assert command.program(words, [], ["BASH"]).wrapped(CLIENT) == ["bash", "-c", f"{C} train a"]


@pytest.mark.parametrize(
    ("words", "hidden"),
    [
        (["sh", "-c", "mywrapper bitfusion run y"], True),
        (["mywrapper", "bitfusion", "run", "y"], True),
        (["sh", "-c", "echo bitfusion run"], True),
        (["bash", "-rc", "bitfusion run y"], True),
        (["sh", "-c", "python x; sh -c '/usr/bin/bitfusion run y'"], True),
        (["sh", "-c", "python x; bash -lc 'bitfusion run y'"], True),
        (["bitfusion", "run", "mywrapper", "bitfusion", "run", "y"], True),
        (["bitfusion", "--loglevel", "3", "run", "bitfusion", "run", "y"], True),
        (["bitfusion", "run", "bash", "-rc", "bitfusion run y"], True),
        (["bitfusion", "run", "bitfusion", "run", "y"], False),
        (["bitfusion", "run", "bash", "-c", "cd /x && bitfusion run y"], False),
        (["sh", "-c", "cd /x && bitfusion run y"], False),
        (["sh", "-c", "python x; sh -c ' bitfusion run y'"], False),
        (["sh", "-c", "timeout 5 /usr/bin/bitfusion run y"], False),
        (["env", "A=1", "bitfusion", "run", "y"], False),
        (["bitfusion", "run", "y"], False),
        (["bitfusion run y"], False),
        (["python", "bitfusion_train.py"], False),
        (["sh", "-c", "bitfusion list_gpus; python x"], False),
    ],
)
def test_what_may_be_a_call_and_is_not_known_to_be_one_is_noticed(words: list[str], hidden: bool) -> None:
    assert command.program(words, []).hidden_call is hidden


@pytest.mark.parametrize(
    ("demand", "filters", "words"),
    [
        (HALF, [], ["-n", "1", "-p", "0.500000"]),
        (Demand(2, 100, None, 200), [], ["-n", "2", "-p", "1.000000"]),
        (Demand(1, 1, None, 1), [], ["-n", "1", "-p", "0.010000"]),
        (Demand(1, 7, None, 7), [], ["-n", "1", "-p", "0.070000"]),
        (Demand(1, None, 8000 * 10**6, 50), [], ["-n", "1", "-m", "8000"]),
        (Demand(3, None, 8 * 2**30, 162), [], ["-n", "3", "-m", "8589"]),
        (HALF, ["a=1", "b=x y"], ["-n", "1", "-p", "0.500000", "--filter", "a=1", "--filter", "b=x y"]),
    ],
)
def test_the_client_is_asked_for_what_the_pod_asks(demand: Demand, filters: list[str], words: list[str]) -> None:
    assert client_words("/B/bitfusion", demand, filters) == ["/B/bitfusion", "run", *words, "--"]


# What runs must be what the user wrote. A stand-in client records its words and runs what is behind `--`.

_CLIENT_PROGRAM = f"""#!{sys.executable} -SE
import os, sys
words = sys.argv[1:]
at = 1
while words[at] != "--":
    at += 2  # an option and its value
with open(os.environ["RECORD"], "w", encoding="utf-8") as record:
    record.write("\\0".join(words[1:at]) + "\\1")
os.execvp(words[at + 1], words[at + 1:])
"""
_PROGRAM = f"""#!{sys.executable} -SE
import os, sys
with open(os.environ["RECORD"], "a", encoding="utf-8") as record:
    record.write("".join(word + "\\0" for word in sys.argv[1:]))
"""

words_of_users = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=12)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("machine")
    for name, text in (("bitfusion", _CLIENT_PROGRAM), ("program", _PROGRAM)):
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    return root


def _recorded(machine: Path, words: list[str]) -> tuple[list[str], list[str]]:
    """What the client was asked for, and the arguments that the program got."""
    record = machine / "record"
    environment = {"RECORD": str(record), "PATH": f"{machine}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    subprocess.run(words, env=environment, check=True, timeout=10)
    client, program = record.read_text("utf-8").split("\1")
    return client.split("\0"), program.split("\0")[:-1]


def _asked(filters: list[str]) -> list[str]:
    return ["-n", "1", "-p", "0.500000", *(word for each in filters for word in ("--filter", each))]


def _ran(machine: Path, words: list[str], args: list[str], filters: list[str]) -> tuple[list[str], list[str]]:
    client = client_words(str(machine / "bitfusion"), HALF, filters)
    program = command.program(words, args)
    container = {"command": program.wrapped(client), "args": args if program.keeps_args else []}
    return _recorded(machine, argv(container))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_argument_list_reaches_the_program_word_for_word(machine: Path, data: st.DataObject) -> None:
    args = data.draw(st.lists(words_of_users.map(lambda word: word.replace("$", "")), max_size=4))
    filters = data.draw(st.lists(words_of_users, max_size=2))
    client, program = _ran(machine, ["program"], args, filters)
    assert program == args
    assert client == _asked(filters)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("abz019_./,:@%+=-", min_size=1, max_size=8), max_size=4),
    st.lists(words_of_users, max_size=2),
    st.sampled_from([[], ["sh", "-c"], ["/bin/bash", "-ec"]]),
)
def test_a_plain_script_reaches_the_program_word_for_word(
    machine: Path, words: list[str], filters: list[str], shell: list[str]
) -> None:
    script = " ".join(["program", *words])
    if not shell and not words:
        return  # one word is an argument list
    client, program = _ran(machine, [*shell, script], [], filters)
    assert program == words
    assert client == _asked(filters)


@given(st.lists(words_of_users, max_size=4), words_of_users)
def test_what_a_shell_reads_from_a_written_script_is_the_users_words(words: list[str], value: str) -> None:
    """By ``shlex``, for any script: either it is left whole, or its words are still the user's."""
    script = shlex.join(["program", *words])
    client = client_words("/B/bitfusion", HALF, [f"device.name={value}"])
    written = argv({"command": command.program(["/bin/sh", "-c", script], []).wrapped(client)})
    assert script.replace("$$", "$") in (written[-1], " ".join(shlex.split(written[-1])[-1 - len(words) :]))
    if written[0] == "/bin/sh":
        assert shlex.split(written[-1]) == client + shlex.split(script)


def test_quotes_pipes_and_expansions_do_what_the_user_meant(machine: Path) -> None:
    script = "X='a b'; program \"$X\" 'c;d' $1 | cat"
    client, program = _ran(machine, ["/bin/bash", "-c", script, "bash", "pos"], [], [])
    assert program == ["a b", "c;d", "pos"]
    assert client == _asked([])


def test_a_kubelet_variable_reaches_the_program_whole(machine: Path) -> None:
    client = client_words(str(machine / "bitfusion"), HALF, [])
    words = command.program(["program x"], ["--name=$(NAME)", "$$(NAME)"]).wrapped(client)
    _, program = _recorded(machine, argv({"command": words}, {"NAME": 'it\'s; a "test"'}))
    assert program == ["x", '--name=it\'s; a "test"', "$(NAME)"]
