"""A run of the fuzzer over one target, from the kept inputs to new ones that are worth keeping."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT
from tests.tools.fuzz.targets import Target, dictionary, name_of

KEPT_BYTES = 32_000  # of a target's corpus
_MEMORY = 1024  # MB; a YAML bomb takes all that it gets
_HANG = 20  # seconds, as the clock says, until libFuzzer ends the run
_STATUS = re.compile(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)", re.MULTILINE)
_FINDING = re.compile(r"^FINDING (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many inputs were tried, what they reached (libFuzzer's edges and features), and what was found."""

    inputs: int
    edges: int
    features: int
    findings: list[str]


class Campaign:
    """One target in a scratch directory; what was found stays in ``findings``. Needs atheris."""

    def __init__(self, target: Target, scratch: Path, findings: Path) -> None:
        self._target = target
        self._findings = findings
        self._seeds, self._found = scratch / "seeds", scratch / "found"
        for directory in (self._seeds, self._found, findings):
            directory.mkdir(parents=True, exist_ok=True)
        for seed in target.seeds:
            (self._seeds / name_of(seed)).write_bytes(seed)
        self._words = scratch / "words"
        self._words.write_text(dictionary())
        self._program = scratch / "program"
        command = shlex.join([sys.executable, "-m", "tests.tools.fuzz.run"])
        arguments = shlex.join([target.name, str(findings)])
        # Without `exec`: the limit of memory goes by ru_maxrss. A program has that of the process that it was before,
        # which began as a copy of ours.
        self._program.write_text(
            f'#!/bin/sh\ncd {shlex.quote(str(ROOT))} || exit\n{command} "$0" {arguments} "$@"\nexit $?\n'
        )
        self._program.chmod(0o700)

    def run(self, seconds: int) -> Outcome:
        """Search for ``seconds``, beginning with the seeds and the kept corpus."""
        output = self._libfuzzer(
            f"-max_total_time={seconds}",
            f"-max_len={self._target.longest}",
            f"-dict={self._words}",
            f"-timeout={_HANG}",
            f"-rss_limit_mb={_MEMORY}",
            f"-artifact_prefix={self._findings}/",
            "-reload=0",
            *map(str, (self._found, self._seeds, *self._kept())),
        )
        reached = _STATUS.findall(output)
        if not reached:
            raise RuntimeError(f"{self._target.name}: the fuzzer did not run:\n{output[-2000:]}")
        ended = [f"{path}: the run ended with it" for path in self._findings.glob("*-*")]  # timeout-..., oom-...
        inputs, edges, features = map(int, reached[-1])
        return Outcome(inputs, edges, features, _FINDING.findall(output) + ended)

    def keep(self) -> None:
        """Make the kept corpus anew: the fewest inputs that reach all that was reached beyond the seeds."""
        before = {path.name for path in self._seeds.iterdir()}
        self._libfuzzer("-merge=1", *map(str, (self._seeds, self._found, *self._kept())))
        inputs = sorted((path.read_bytes() for path in self._seeds.iterdir() if path.name not in before), key=len)
        self._target.corpus.mkdir(parents=True, exist_ok=True)
        for path in self._target.corpus.iterdir():
            path.unlink()
        size = 0
        for data in inputs:
            size += len(data)
            if size <= KEPT_BYTES:
                (self._target.corpus / name_of(data)).write_bytes(data)

    def _kept(self) -> list[Path]:
        return [self._target.corpus] if self._target.corpus.is_dir() else []

    def _libfuzzer(self, *options: str) -> str:
        ended = subprocess.run(
            [str(self._program), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        return ended.stdout.decode(errors="replace")
