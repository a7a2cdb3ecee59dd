"""Batches of work, shared out among forked processes: threads would wait for the interpreter, not for the disk.

Measured on two processors with files of 4 kB: two threads take twice as long as one, two processes about 0.6 of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

from bitfusiond.errors import Failure
from bitfusiond.populate.stopping import Stop

T = TypeVar("T")
Board = list[int] | memoryview
Report = Callable[[int], None]
_NUMBER = struct.Struct("=Q")
_OVER = 0  # on the board: not 0 once no more work is wanted
_LOOK_SECONDS = 0.1  # how often a process that waits for the others looks for a signal


class Tally:
    """What one process has done so far. ``step`` is called between two pieces of work; it may raise to end it."""

    def __init__(self, step: Callable[[int], None] = lambda _: None) -> None:
        self.bytes = 0
        self.ways: Counter[str] = Counter()
        self._step = step

    def step(self) -> None:
        self._step(self.bytes)


def share(
    batches: Sequence[T],
    work: Callable[[T, Tally], None],
    processes: int,
    stop: Stop,
    report: Report = lambda _: None,
) -> Counter[str]:
    """Do ``work`` on each of ``batches`` once, in this process and ``processes - 1`` forked ones; return all ways.

    Batches are begun in their order. ``report`` hears how many bytes all have done, in this process. An error or a
    signal to stop in one process ends all at their next step; of a forked one that is killed this process hears when it
    has no work left itself, and fails then. No process is left when this returns or raises. Raises Failure or OSError
    of this process, the Failure of another, and Failure when ``stop`` was asked for.
    """
    board = _board(processes)
    queue = _Queue(len(batches))
    crew: list[_Process] = []

    def step(done: int) -> None:
        stop.check()
        board[1] = done
        if board[_OVER]:
            raise _OverError
        report(sum(board[1:]))

    tally = Tally(step)
    try:
        for number in range(2, processes + 1):
            try:
                crew.append(_Process(batches, work, queue, board, number, stop))
            except OSError:
                break  # the container may have no more processes: those that are there do it all
        _work(batches, work, queue, tally)
        while any(not each.has_ended(_LOOK_SECONDS) for each in crew):
            tally.step()
    except _OverError:
        pass  # the process that ended it says why
    finally:
        board[_OVER] = 1
        ways = [each.result() for each in crew]
        queue.close()
    failed = next((each.error for each in crew if each.error), None)
    if failed:
        raise Failure(failed)
    return sum(ways, tally.ways)


class _OverError(Exception):
    """Another process ended the work."""


class _Queue:
    """The numbers below ``count``, each for one process only.

    They are in a file without a name: processes share a file's position after a fork, and a read moves it on. A process
    that dies takes nothing away but the number that it has: its lock ends with it.
    """

    def __init__(self, count: int) -> None:
        self._file = os.memfd_create("bitfusiond")
        with open(self._file, "wb", closefd=False) as file:
            file.writelines(_NUMBER.pack(number) for number in range(count))
        os.lseek(self._file, 0, os.SEEK_SET)

    def next(self) -> int | None:
        # To read and to move on are one step for files of a filesystem, but not for this kind: two processes may read
        # the same number.
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            number = os.read(self._file, _NUMBER.size)
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        return _NUMBER.unpack(number)[0] if number else None

    def close(self) -> None:
        os.close(self._file)


def _work(batches: Sequence[T], work: Callable[[T, Tally], None], queue: _Queue, tally: Tally) -> None:
    while (number := queue.next()) is not None:
        work(batches[number], tally)
        tally.step()


class _Process:
    """A forked process. Its owner is the one that made it, which must ask for its ``result``."""

    def __init__(
        self,
        batches: Sequence[T],
        work: Callable[[T, Tally], None],
        queue: _Queue,
        board: Board,
        number: int,
        stop: Stop,
    ) -> None:
        self.error = ""
        owner = os.getpid()
        self._reader, writer = os.pipe()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._reader)
            os.close(writer)
            raise
        if self._pid == 0:
            _live(lambda: _ways(batches, work, queue, board, number, stop, owner), board, writer)
        os.close(writer)

    def has_ended(self, seconds: float) -> bool:
        """Whether it has, after at most ``seconds``."""
        return bool(select.select([self._reader], [], [], seconds)[0])

    def result(self) -> Counter[str]:
        """Wait for its end, which is at its next step when the board says so; return its ways."""
        with open(self._reader, "rb") as reader:
            said = reader.read()
        _, status = os.waitpid(self._pid, 0)
        answer = json.loads(said or b"{}")
        if status:
            self.error = answer.get("error") or f"a process of the copy ended with {_how(status)}"
        return Counter(answer.get("ways", {}))


def _live(ways: Callable[[], Counter[str]], board: Board, writer: int) -> NoReturn:
    """The life of a forked process: nothing of its owner's, such as what stands after the fork, happens in it."""
    status = 1
    try:
        try:
            answer: dict[str, object] = {"ways": ways()}
            status = 0
        except (Failure, OSError) as error:
            answer = {"error": str(error)}
        os.write(writer, json.dumps(answer).encode())
    except BaseException:  # noqa: BLE001 - a defect: as without a fork, its traceback is shown
        sys.excepthook(*sys.exc_info())
    finally:
        if status:
            board[_OVER] = 1
        os._exit(status)


def _ways(
    batches: Sequence[T],
    work: Callable[[T, Tally], None],
    queue: _Queue,
    board: Board,
    number: int,
    stop: Stop,
    owner: int,
) -> Counter[str]:
    def step(done: int) -> None:
        stop.check()
        board[number] = done
        # A container's processes all end with its first one; elsewhere an owner that was killed leaves us behind.
        if board[_OVER] or os.getppid() != owner:
            raise _OverError

    tally = Tally(step)
    with contextlib.suppress(_OverError):
        _work(batches, work, queue, tally)
    return tally.ways


def _board(processes: int) -> Board:
    """Numbers that all processes see: whether it is over, then how many bytes each has done."""
    if processes == 1:
        return [0, 0]
    import mmap  # noqa: PLC0415 - a small tree does without

    return memoryview(mmap.mmap(-1, _NUMBER.size * (1 + processes))).cast("Q")


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}: when it is 9, the container's memory limit may be too low"
    return f"status {os.WEXITSTATUS(status)}"
