"""Structures out of bytes: every input means something, and a byte that is changed changes one decision.

The fuzzer's own provider would do, but then the kept inputs could be read only where a fuzzer is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from bitfusiond.core import names

T = TypeVar("T")

# What users write, and what parsers stumble over: a blank that is none, a lone surrogate, the kubelet's expansion.
FRAGMENTS = (
    *("", "a", "python", "x.py", " ", "  ", "\t", "\n", "\r", "\u00a0", "\u2028", "\x00", "\x1f", "\ud800", "é", "😀"),
    *(
        "'",
        '"',
        "\\",
        "$",
        "$$",
        "$(X)",
        "${X}",
        "`",
        ";",
        "&&",
        "|",
        ">",
        "#",
        "=",
        "A=1 ",
        "~",
        "~1",
        "/",
        "//",
        "..",
    ),
    *("bash", "/bin/sh", "-c", "-ec", "-o", "pipefail", "--", "-", "+x", "--rcfile", "exec ", "cd /x", "if", "time"),
    *("bitfusion", "/usr/bin/bitfusion", " run ", "bitfusion run -n 1 -- ", "/bitfusion/p/usr/bin/bitfusion"),
    *("all", "ALL", "injection", "none", "yes", "off", "injected", "ubuntu18", "centos8", "450", "401"),
    *("server.addr=", "server.dirver-version=1", "device.name=", "device.id", "Tesla V100"),
    *("0", "1", "-1", "100", "101", "8Gi", "8000M", "1500m", "1e3", "1E", "1e999999", ".5", "5.", "0x10", "nan", "inf"),
    *("9223372036854775807", "9223372036854775808", "1n", "16000M", "1" * 64, "٣", "run", "python x.py"),
    *("linux", "windows", "amd64", "arm64", "Always", "populate", "bitfusion-distro", "10.0.0.1:56001", "[::1]:1"),
    *("/bitfusion", "/bitfusion/", "/opt/../bitfusion", "/etc/bitfusion/servers.conf", "/data"),
)
KEYS = (
    *(names.MANAGEMENT, names.STATUS, names.CLIENT_OS, names.CLIENT_VERSION, names.CLIENT_FILTER),
    *(names.GPU, names.GPU_AMOUNT, names.GPU_NUM, names.GPU_PERCENT, names.GPU_MEMORY, names.LD_LIBRARY_PATH),
    *("metadata", "annotations", "spec", "containers", "initContainers", "ephemeralContainers", "volumes", "name"),
    *("command", "args", "env", "value", "valueFrom", "envFrom", "volumeMounts", "volumeDevices", "mountPath"),
    *("devicePath", "resources", "limits", "requests", "claims", "cpu", "memory", "ephemeral-storage", "image"),
    *("securityContext", "runAsUser", "runAsGroup", "runAsNonRoot", "restartPolicy", "nodeSelector", "os"),
    *("kubernetes.io/arch", "kubernetes.io/os", "fieldFromTheFuture", "a~b/c", ""),
)
_NUMBERS = (0, 1, -1, 2, 50, 100, 101, 2**31, 2**62, 2**63 - 1, 2**63, 10**30, 0.5, 50.0, 1e300, float("inf"))
_REPEATED = 16  # characters
_MOST_REPEATS = 13  # as a power of two: enough to see work that grows with the square of the length


def text(*fragments: str) -> bytes:
    """What :meth:`Choices.text` reads as ``fragments``, at most five."""
    return bytes([len(fragments)]) + b"".join(bytes([0, FRAGMENTS.index(each)]) for each in fragments)


class Choices:
    """Decisions read from ``data``, front to back; all zero when it has run out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        return self._at < len(self._data)

    def below(self, count: int) -> int:
        """A number from 0 to ``count - 1``; ``count`` is at most 65536."""
        wide = count > 256
        piece = self._data[self._at : self._at + 1 + wide]
        self._at += 1 + wide
        return int.from_bytes(piece, "big") % count

    def chance(self, one_in: int = 2) -> bool:
        return self.below(one_in) == 1

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def number(self) -> int:
        """Of up to nine bytes: beyond what 64 bits hold."""
        piece = self._data[self._at + 1 : self._at + 1 + self.below(10)]
        self._at += len(piece)
        return int.from_bytes(piece, "big")

    def text(self) -> str:
        """Some fragments, a few characters of the input's own, some of it very often."""
        parts: list[str] = []
        for _ in range(self.below(6)):
            kind = self.below(8)
            if kind == 7:
                times = 2 ** self.below(_MOST_REPEATS)
                parts = ["".join(parts)[:_REPEATED] * times]
            elif kind == 6:
                parts.append(self._data[self._at : self._at + 8].decode("utf-8", "replace"))
                self._at += 8
            else:
                parts.append(self.pick(FRAGMENTS))
        return "".join(parts)

    def texts(self, most: int = 6) -> list[str]:
        return [self.text() for _ in range(self.below(most + 1))]

    def key(self) -> str:
        return self.pick(KEYS) if not self.chance(8) else self.text()

    def value(self, depth: int = 3) -> Any:
        """Any JSON value, texts most often."""
        match self.below(10):
            case 0 | 1:
                return self.pick((None, False, True))
            case 2:
                return self.pick(_NUMBERS)
            case 3:
                return self.number()
            case 4 | 5 if depth:
                return [self.value(depth - 1) for _ in range(self.below(4))]
            case 6 | 7 if depth:
                return {self.key(): self.value(depth - 1) for _ in range(self.below(4))}
            case _:
                return self.text()
