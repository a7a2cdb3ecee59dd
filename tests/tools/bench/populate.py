"""``--role init`` against ``cp -a`` of the same tree and against writing as many bytes to the same disk.

The trees are made below TMPDIR, or /var/tmp, which is usually on a disk; give it what the volumes of a pod are on. A
time ends when the command does, as a pod sees it: the kernel writes to the disk after that, for all three alike. What
is left to write from earlier rounds is written before each.

Each round has directories of its own, which are emptied after all rounds of a figure and deleted at the very end. That
takes up to 9 GB and 900,000 inodes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tools.bench import trees
from tests.tools.bench.measure import Figure, compare, paired, process_milliseconds

ROUNDS = 5
_REST_SECONDS = 2.0
OLD_DISTROS = 8  # the old integration copied all of them into every pod
_STEP = 1 << 20  # bytes
_RATIO_AIM = 0.83  # of the rate of `cp -a`: 1.2 of its time
_TINY_AIM = 60.0  # ms
_SERVERS = "servers:\n- addresses:\n  - 10.202.122.248:56001\n"
# As on volumes that are two mounts: no link leads from one to the other.
_SEPARATE = """
import errno, os, sys
def link(*_, **__):
    raise OSError(errno.EXDEV, "Invalid cross-device link")
os.link = link
from bitfusiond.cli import main
sys.exit(main(sys.argv[1:]))
"""


def figures() -> Iterator[Figure]:
    """A tree like the client's, one of many small files, a tiny one."""
    with _bench() as bench:
        yield from bench.tree("350 MB, 3,000 files", trees.like_the_client)
        yield from bench.tree("81 MB, 20,000 files", trees.many_small)
        yield from bench.tiny()


class _Bench:
    """Directories below ``root``, each new."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._rounds = root / "rounds"
        self._rounds.mkdir()
        self._tokens = root / "tokens"
        self._tokens.mkdir()
        for name, text in {"ca.crt": "x\n", "client.yaml": "x\n", "servers.conf": _SERVERS}.items():
            (self._tokens / name).write_text(text)

    def tree(self, name: str, make: Callable[[Path], int]) -> Iterator[Figure]:
        image = Path(tempfile.mkdtemp(dir=self._root))
        size = make(image)

        def against(
            what: str, baseline: str, other: Callable[[], float], aim: float | None, *, separate: bool = False
        ) -> Figure:
            """Rates, so that more is better."""
            seconds = [(self._init(image, separate=separate), other()) for _ in range(ROUNDS + 1)][1:]
            self._clear()
            pairs = [(size / 1e6 / ours, size / 1e6 / theirs) for ours, theirs in seconds]
            return paired(f"{what}{name}", "MB/s", pairs, baseline, ratio_aim=aim)

        yield against("init, ", "cp -a of the distro", lambda: self._cp(image), _RATIO_AIM)
        both = "cp -a of the distro and of its opt"
        yield against("opt in another volume, ", both, lambda: self._cp_both(image), _RATIO_AIM, separate=True)
        yield against("init, ", "writing the bytes", lambda: self._write(size), None)
        volumes = self._volumes()
        self._init(image, volumes=volumes)
        yield compare(
            f"second run, {name}",
            "ms",
            lambda: self._init(image, volumes=volumes) * 1e3,
            "python -c pass",
            lambda: process_milliseconds("-c", "pass"),
            ROUNDS,
        )

    def tiny(self) -> Iterator[Figure]:
        image = Path(tempfile.mkdtemp(dir=self._root))
        trees.tiny(image)
        pairs = [(self._init(image) * 1e3, process_milliseconds("-c", "pass")) for _ in range(22)][1:]
        yield paired("init of three files, exec to exit", "ms", pairs, "python -c pass", aim=_TINY_AIM)
        yield self._bytes(image)

    def _bytes(self, image: Path) -> Figure:
        """What a pod's volumes hold afterwards, against what the old integration put there: `cp -a` of it all."""
        for package in trees.PACKAGES[1:]:
            shutil.copytree(image / trees.PACKAGE, image / package)
        volumes = self._volumes()
        self._init(image, volumes=volumes)
        old = self._new()
        subprocess.run(["cp", "-a", f"{image}/.", old / "distro"], check=True)
        subprocess.run(["cp", "-a", image / trees.PACKAGE / "opt/bitfusion", old / "opt"], check=True)
        ours = _allocated(volumes / "distro", volumes / "opt")
        return Figure(
            f"kB on the disk, one distro of {OLD_DISTROS}",
            "kB",
            ours / 1e3,
            "all distros and the opt of one",
            _allocated(old) / 1e3,
            ours / _allocated(old),
            ours / _allocated(old),
            ours / _allocated(old),
        )

    def _init(self, image: Path, *, volumes: Path | None = None, separate: bool = False) -> float:
        """As the packaged template has it, with opt in the volume of the distro; or ``separate``, in one of its own."""
        volumes = volumes or self._volumes()
        options = {
            "--role": "init",
            "--client-os": "ubuntu18",
            "--client-version": "450",
            "--distros": image,
            "--distro-target": volumes / "distro",
            "--opt-target": volumes / ("opt" if separate else "distro/opt"),
            "--tokens": self._tokens,
            "--client-dir": volumes / "client",
        }
        words = [str(word) for pair in options.items() for word in pair]
        return _seconds(sys.executable, *(("-c", _SEPARATE) if separate else ("-m", "bitfusiond")), *words)

    def _cp(self, image: Path) -> float:
        return _seconds("cp", "-a", f"{image}/{trees.PACKAGE}", str(self._new()))

    def _cp_both(self, image: Path) -> float:
        new = self._new()
        tree = image / trees.PACKAGE
        return _seconds("sh", "-c", f"cp -a {tree} {new}/distro && cp -a {tree}/opt/bitfusion {new}/opt")

    def _write(self, size: int) -> float:
        """One file of zeros."""
        step = bytes(_STEP)
        path = self._new() / "file"
        os.sync()
        began = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            for _ in range(size // _STEP):
                file.write(step)
        return time.perf_counter() - began

    def _clear(self) -> None:
        """Give the room back, but keep the names.

        ext4 does not give the inode of a deleted file to another one for some minutes: whoever makes many files then
        looks past all those that were deleted, one by one, which takes many times longer than to make them.
        """
        for directory, _, names in os.walk(self._rounds):
            for name in names:
                os.truncate(Path(directory, name), 0)
        os.sync()
        time.sleep(_REST_SECONDS)

    def _volumes(self) -> Path:
        volumes = self._new()
        for name in ("client", "distro", "opt"):
            (volumes / name).mkdir()
        return volumes

    def _new(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._rounds))


@contextmanager
def _bench() -> Iterator[_Bench]:
    root = Path(tempfile.mkdtemp(prefix="bitfusiond-bench-", dir=os.environ.get("TMPDIR", "/var/tmp")))
    try:
        yield _Bench(root)
    finally:
        shutil.rmtree(root)


def _seconds(*command: str) -> float:
    # The image has our bytecode: without it each start would compile us anew.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    os.sync()
    began = time.perf_counter()
    done = subprocess.run(
        command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    took = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nended with {done.returncode}:\n{done.stderr}")
    return took


def _allocated(*directories: Path) -> int:
    """Bytes on the disk: a file with two names counts once."""
    found = [path.lstat() for directory in directories for path in directory.rglob("*") if not path.is_dir()]
    return sum({info.st_ino: info.st_blocks * 512 for info in found}.values())
