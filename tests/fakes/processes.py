"""Real processes for tests: started, waited for, and never left behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trio


def free_port() -> int:
    """A TCP port of the loopback that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its output in ``log``; terminated, then killed, at the end."""
    with log.open("wb") as output, subprocess.Popen(arguments, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A process whose connections stand and which answers nothing."""
    process.send_signal(signal.SIGSTOP)
    # The signal stops one thread after the other: until the last one has stopped, an answer may still come.
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def logged(log: Path, event: str | None = None) -> list[dict[str, Any]]:
    """The whole lines of a daemon's log so far: all of them, or those of one event."""
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if event in {None, line["event"]}]


def get(address: str, path: str) -> tuple[int, str]:
    """The status and body of an answer over plain HTTP; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


@contextmanager
def repeating(action: Callable[[], object], pause: float) -> Iterator[None]:
    """``action()`` again and again in a thread, for as long as the block lasts."""
    over = threading.Event()

    def repeat() -> None:
        while not over.is_set():
            action()
            over.wait(pause)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def accepting(host: str, port: int = 0) -> Iterator[int]:
    """A server that accepts connections and closes them, which is all that a plugin asks of one; gives its port."""
    with socket.create_server((host, port), backlog=64) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    listener.accept()[0].close()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def run_quietly(command: str) -> None:
    """Run a command that starts programs which outlive it: they would keep pipes open. It must succeed."""
    subprocess.run(shlex.split(command), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_until(ready: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Ask ``ready()`` until it is true. Raises TimeoutError that names ``what`` was waited for."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


async def until(ready: Callable[[], object], seconds: float = 20) -> None:
    """Look until ``ready()`` is true. Raises trio.TooSlowError."""
    with trio.fail_after(seconds):
        while not ready():
            await trio.sleep(0.01)
