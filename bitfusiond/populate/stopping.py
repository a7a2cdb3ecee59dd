"""Being told to stop: a copy that ends early must end as a failure."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Self

from bitfusiond.errors import Failure

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """A context manager: between its start and its end SIGTERM and SIGINT only set a flag, which ``check`` turns into
    a Failure.

    In a container we are process 1, for which the kernel drops a signal that has no handler: the pod would take its
    whole grace period to end. And the exit status may not be 0, as for a daemon: the kubelet would go on and start the
    workload without its client.

    For the main thread; ``asked`` may be read from any.
    """

    def __init__(self) -> None:
        self.asked = ""  # the name of the signal, once it came
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal.signal() gave back

    def check(self) -> None:
        """Raises Failure once a signal came."""
        if self.asked:
            raise Failure(f"stopped by {self.asked} before the copy was whole")

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.asked = signal.Signals(number).name
