"""Several processes that copy: each batch once, none left behind, every end told in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from bitfusiond.errors import Failure
from bitfusiond.populate import crew, processors
from bitfusiond.populate.crew import Tally
from bitfusiond.populate.stopping import Stop
from tests.populate.pod import Pod, shape, shown

PROCESSES = 3
# Runs the executable with as many processes, whatever this machine has, and with a hook that does something when one
# of them (`forked`) or the first (not `forked`) opens a file of the copy for the Nth time.
_IN_PARALLEL = f"""
import os, signal, sys, time
from bitfusiond.populate import processors
processors.allowed = lambda: {PROCESSES}
action, forked, count = sys.argv[1], sys.argv[2] == "forked", int(sys.argv[3])
first = os.getpid()
def hook(name, arguments):
    global count
    if name == "open" and str(arguments[0]).startswith("many") and forked == (os.getpid() != first):
        count -= 1
        if count == 0:
            exec(action)
sys.addaudithook(hook)
from bitfusiond.cli import main
sys.exit(main(sys.argv[4:]))
"""


@pytest.fixture
def large_pod(pod: Pod) -> Pod:
    """With files enough for several processes."""
    for directory in range(30):
        where = pod.source / f"opt/bitfusion/many/{directory}"
        where.mkdir(parents=True)
        for number in range(30):
            (where / f"many {number}").write_bytes(b"x" * number)
    return pod


def command(pod: Pod, action: str, who: str, count: int) -> list[str]:
    return [sys.executable, "-c", _IN_PARALLEL, action, who, str(count), *pod.arguments()]


def test_each_batch_is_done_once_by_one_of_the_processes(tmp_path: Path) -> None:
    def work(batch: int, tally: Tally) -> None:
        # Fails for a batch that was done already.
        os.close(os.open(tmp_path / str(batch), os.O_CREAT | os.O_EXCL))
        tally.bytes += batch
        tally.ways[str(os.getpid())] += 1
        time.sleep(0.001)

    reported: list[int] = []
    with Stop() as stop:
        ways = crew.share(range(300), work, PROCESSES, stop, reported.append)

    assert len(list(tmp_path.iterdir())) == 300
    assert len(ways) == PROCESSES
    assert ways.total() == 300
    assert reported == sorted(reported)
    assert reported[-1] <= sum(range(300))


def test_processes_in_a_hurry_never_take_the_same_batch() -> None:
    def work(batch: int, tally: Tally) -> None:
        tally.ways["done"] += 1

    with Stop() as stop:
        assert crew.share(range(20_000), work, 4, stop) == Counter(done=20_000)


def test_no_process_is_made_where_one_is_enough() -> None:
    def work(batch: int, tally: Tally) -> None:
        tally.ways[str(os.getpid())] += 1

    with Stop() as stop:
        assert crew.share(range(5), work, 1, stop) == Counter({str(os.getpid()): 5})


def _children() -> str:
    """The processes that this thread made and that are still there, ended ones that nobody waited for among them."""
    return Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text()


@pytest.mark.parametrize("forked", [True, False])
def test_an_error_of_one_process_ends_all(forked: bool) -> None:
    first = os.getpid()

    def work(batch: int, tally: Tally) -> None:
        if forked == (os.getpid() != first):
            raise Failure("this cannot be copied")
        time.sleep(0.01)

    before = _children()  # of other tests, in one process with this one
    began = time.monotonic()
    with Stop() as stop, pytest.raises(Failure, match=r"^this cannot be copied$"):
        crew.share(range(3000), work, PROCESSES, stop)

    assert time.monotonic() - began < 5
    assert _children() == before


def test_where_no_more_processes_are_allowed_those_that_are_there_do_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    forks = iter([os.fork])

    def fork() -> int:
        for each in forks:
            return each()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    def work(batch: int, tally: Tally) -> None:
        tally.ways["done"] += 1
        time.sleep(0.001)

    monkeypatch.setattr(os, "fork", fork)
    with Stop() as stop:
        assert crew.share(range(100), work, PROCESSES, stop) == {"done": 100}


def test_several_processes_make_the_same_tree_as_one(large_pod: Pod) -> None:
    done = subprocess.run(command(large_pod, "pass", "forked", 0), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert shape(large_pod.distro) == shape(large_pod.source)
    assert shape(large_pod.opt_target / "many") == shape(large_pod.source / "opt/bitfusion/many")


@pytest.mark.parametrize("who", ["forked", "first"])
@pytest.mark.parametrize("count", [1, 40, 200])
def test_killed_in_the_middle_and_run_again_it_ends_right(large_pod: Pod, who: str, count: int) -> None:
    killed = subprocess.run(
        command(large_pod, "os.kill(os.getpid(), signal.SIGKILL)", who, count),
        capture_output=True,
        text=True,
        check=False,
    )

    if who == "first":
        assert killed.returncode == -signal.SIGKILL
    else:
        assert killed.returncode == 1
        assert "a process of the copy ended with signal 9" in killed.stderr
    assert shown(large_pod.distro_target) == set()
    # Reading to the end of stderr has waited for the forked ones, which hold it too.
    again = large_pod.run()
    assert again.status == 0, again.stderr
    assert again.event("copied distro")["kept"] > 0 or count == 1
    assert shape(large_pod.distro) == shape(large_pod.source)


def test_sigterm_ends_them_all_as_one_failure(large_pod: Pod) -> None:
    stopped = subprocess.run(
        command(large_pod, "os.kill(first, signal.SIGTERM)", "forked", 20), capture_output=True, text=True, check=False
    )

    assert stopped.returncode == 1
    (line,) = stopped.stderr.splitlines()
    assert "stopped by SIGTERM before the copy was whole" in line
    assert shown(large_pod.distro_target) == set()
    assert large_pod.run().status == 0
    assert shape(large_pod.distro) == shape(large_pod.source)


def test_what_one_of_them_cannot_copy_is_one_clear_line(large_pod: Pod) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5, 5))"

    failed = subprocess.run(command(large_pod, limit, "forked", 1), capture_output=True, text=True, check=False)

    assert failed.returncode == 1
    (line,) = failed.stderr.splitlines()
    assert f"cannot copy {large_pod.source}/" in line
    assert "File too large" in line


@pytest.mark.parametrize(
    ("files", "highest"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_no_more_processors_than_the_limit_of_the_container_pays_for(
    tmp_path: Path, files: dict[str, str], highest: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    assert processors.allowed(tmp_path) == min(highest, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000\n"},
        {"cpu.max": "strange"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_without_a_limit_all_processors_may_be_used(tmp_path: Path, files: dict[str, str]) -> None:
    test_no_more_processors_than_the_limit_of_the_container_pays_for(tmp_path, files, 1 << 20)
