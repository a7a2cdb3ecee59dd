"""Waiting for a cluster: look, pause, look again, until it is as it should be or the time is over."""

from __future__ import annotations

import time
from collections.abc import Iterator


def rounds(seconds: float, pause: float) -> Iterator[bool]:
    """One round at once, then one every ``pause`` seconds; each says whether it is the last.

    The last one begins when ``seconds`` are over: whatever takes long is looked at once more.
    """
    deadline = time.monotonic() + seconds
    while True:
        is_last = time.monotonic() > deadline
        yield is_last
        if is_last:
            return
        time.sleep(pause)
