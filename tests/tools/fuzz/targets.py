"""Every target by its name: what is given to it, and what it starts from."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.tools.fuzz import admission, files, words
from tests.tools.fuzz.choices import FRAGMENTS, KEYS

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 2.0  # of CPU time; the largest input takes some hundredths


@dataclass(frozen=True, slots=True)
class Target:
    """``check`` raises for a finding. No input is larger than ``longest`` bytes."""

    name: str
    check: Callable[[bytes], None]
    longest: int
    seeds: tuple[bytes, ...]

    @property
    def corpus(self) -> Path:
        return CORPUS / self.name

    def run(self, data: bytes) -> None:
        """``check``, which must not take long either: work that grows too fast is a finding."""
        began = time.process_time()
        self.check(data)
        seconds = time.process_time() - began
        assert seconds <= SECONDS, f"{len(data)} bytes took {seconds:.1f} s"


TARGETS = {
    target.name: target
    for target in (
        Target("admission", admission.admission, 8192, admission.review_seeds()),
        Target("pods", admission.structures, 512, admission.structure_seeds()),
        Target("annotations", words.annotated, 256, words.SEEDS["annotations"]),
        Target("commands", words.commands, 256, words.SEEDS["commands"]),
        Target("quantities", words.quantities, 96, words.SEEDS["quantities"]),
        Target("packages", words.package_names, 96, words.SEEDS["packages"]),
        Target("manifests", files.manifests, 4096, files.SEEDS["manifests"]),
        Target("servers", files.servers, 2048, files.SEEDS["servers"]),
        Target("catalogue", files.catalogues, 4096, files.SEEDS["catalogue"]),
        Target("template", files.templates, 4096, files.SEEDS["template"]),
    )
}


def name_of(data: bytes) -> str:
    """The file name of an input: its SHA-1, as libFuzzer names what it keeps."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def dictionary() -> str:
    """Words that a fuzzer of bytes would take long to find, in libFuzzer's form."""
    words = (*FRAGMENTS, *KEYS, "BinaryPath", "<<: *a", "&a ", "!!int ", "1e999")
    found = {word.encode("utf-8", "replace") for word in words}
    return "".join(
        '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in sorted(found) if 0 < len(word) <= 64
    )
