"""Logs: one JSON object a line on stderr, or plain text for people.

Standard library ``logging`` underneath, so that what the libraries have to say comes out in the same form.
Nothing here knows what a secret is: callers never hand a token, a key or a Secret's content to a log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TextIO

_RESERVED = frozenset({"ts", "level", "event", "logger"})
_MOST_KEPT = 256  # lines
_encoder = json.JSONEncoder(default=str)


class Log:
    """A named log. Each line is an event, a short lower-case phrase that never varies, and its fields."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"bitfusiond.{name}")

    def info(self, event: str, /, **fields: object) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error of ours, with the traceback of the exception being handled."""
        self._write(logging.ERROR, event, fields, with_traceback=True)

    def _write(self, level: int, event: str, fields: dict[str, object], *, with_traceback: bool = False) -> None:
        if not self._logger.isEnabledFor(level):
            return
        # Logger's own methods look for the caller's file and line first, which no line of ours shows.
        traceback = sys.exc_info() if with_traceback else None
        record = logging.LogRecord(self._logger.name, level, "", 0, event, None, traceback)
        record.fields = fields
        self._logger.handle(record)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes each line at once, or, while there is somebody to tell, keeps what is no warning until :func:`write`."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self.kept: list[str] = []
        self.tell: Callable[[], None] | None = None
        self.teller = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.kept.append(f"{self.format(record)}\n")
            if self.tell is None or record.levelno > logging.INFO or threading.get_ident() != self.teller:
                self.write()
            elif len(self.kept) == 1:
                self.tell()
            elif len(self.kept) >= _MOST_KEPT:
                self.write()
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)

    def write(self) -> None:
        with self.lock or contextlib.nullcontext():
            lines, self.kept = self.kept, []
            # Where nobody reads any more (a broken pipe, a full disk) the lines are lost, and the daemon serves on.
            with contextlib.suppress(OSError, ValueError):
                if lines:
                    self.stream.write("".join(lines))
                    self.flush()


def collect(tell: Callable[[], None] | None) -> None:
    """From now on keep lines of this thread that are no warnings, and ``tell()`` of the first; None = write at once.

    One write for many lines: to write each by itself takes a tenth of what an admission does.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.tell, handler.teller = tell, threading.get_ident()
            if tell is None:
                handler.write()


def write() -> None:
    """Write the lines that were kept."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Handler):
            handler.write()


def configure(form: str, stream: TextIO | None = None) -> None:
    """Send all logs to ``stream`` (stderr) as ``json`` or ``text``: ours from INFO on, libraries' from WARNING on."""
    # No line shows threads and processes; to look them up for each one costs time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = _Handler(stream or sys.stderr)
    handler.setFormatter(_Text() if form == "text" else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("bitfusiond").setLevel(logging.INFO)


def _timestamp(record: logging.LogRecord) -> str:
    """RFC 3339, UTC, milliseconds."""
    return f"{_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=1)
def _second(since_epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_epoch))


def _fields(record: logging.LogRecord, formatter: logging.Formatter) -> dict[str, object]:
    fields: dict[str, object] = {
        (f"{key}_" if key in _RESERVED else key): value for key, value in getattr(record, "fields", {}).items()
    }
    if record.exc_info:
        fields["traceback"] = formatter.formatException(record.exc_info)
    return fields


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": _timestamp(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name.removeprefix("bitfusiond."),
            **_fields(record, self),
        }
        return _encoder.encode(line)


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record, self)
        traceback = fields.pop("traceback", None)
        words = [_timestamp(record), f"{record.levelname:7}", record.getMessage()]
        words += [f"{key}={_encoder.encode(value)}" for key, value in fields.items()]
        return " ".join(words) + (f"\n{traceback}" if traceback else "")
