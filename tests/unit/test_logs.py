"""The form of a log line: one JSON object, or plain text for people."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfusiond import logs


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where logs go; logging is as it was before, afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("bitfusiond")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_a_line_is_a_json_object_with_time_level_event_and_fields(stream: io.StringIO) -> None:
    logs.configure("json", stream)
    logs.Log("part").info("something happened", name="p", number=3, missing=None, path=Path("/x"))
    (line,) = stream.getvalue().splitlines()
    written = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", written.pop("ts"))
    assert written == {
        "level": "info",
        "event": "something happened",
        "logger": "part",
        "name": "p",
        "number": 3,
        "missing": None,
        "path": "/x",
    }


def test_what_a_user_sends_cannot_begin_a_line_of_its_own(stream: io.StringIO) -> None:
    logs.configure("json", stream)
    nasty = 'a\n{"event": "forged"}\r\u2028\x1b[31m\ud800%s'
    logs.Log("part").warning("refused", message=nasty)
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().isascii()
    assert json.loads(stream.getvalue())["message"] == nasty
    logs.configure("text", stream)
    logs.Log("part").warning("refused", message=nasty)
    assert stream.getvalue().count("\n") == 2


def test_a_field_does_not_overwrite_what_every_line_has(stream: io.StringIO) -> None:
    logs.configure("json", stream)
    logs.Log("part").error("real", event="false", level="low", ts=0, logger="x")
    written = json.loads(stream.getvalue())
    assert (written["event"], written["level"], written["logger"]) == ("real", "error", "part")
    assert (written["event_"], written["level_"], written["ts_"], written["logger_"]) == ("false", "low", 0, "x")


def test_a_traceback_is_in_its_line(stream: io.StringIO) -> None:
    logs.configure("json", stream)
    try:
        int("boom")
    except ValueError:
        logs.Log("part").exception("defect", path="/x")
    written = json.loads(stream.getvalue())
    assert written["level"] == "error"
    assert written["traceback"].endswith("ValueError: invalid literal for int() with base 10: 'boom'")


def test_a_librarys_warnings_come_out_in_the_same_form(stream: io.StringIO) -> None:
    logs.configure("json", stream)
    logging.getLogger("library").warning("%d is odd", 3)
    logging.getLogger("library").info("chatter")
    (line,) = stream.getvalue().splitlines()
    written = json.loads(line)
    assert (written["logger"], written["level"], written["event"]) == ("library", "warning", "3 is odd")


def test_text_is_for_people(stream: io.StringIO) -> None:
    logs.configure("text", stream)
    logs.Log("part").info("listening", address="127.0.0.1:1", tries=2)
    _, words = stream.getvalue().split(" ", 1)
    assert words == 'INFO    listening address="127.0.0.1:1" tries=2\n'


def test_configuring_twice_does_not_write_twice(stream: io.StringIO) -> None:
    logs.configure("json", stream)
    logs.configure("json", stream)
    logs.Log("part").info("once")
    assert stream.getvalue().count("\n") == 1


# --- lines that are kept for a moment ---------------------------------------------------------------------------------


@pytest.fixture
def begun(stream: io.StringIO) -> Iterator[list[str]]:
    """What somebody was told who collects lines."""
    told: list[str] = []
    logs.configure("json", stream)
    logs.collect(lambda: told.append(stream.getvalue()))
    yield told
    logs.collect(None)


def events_of(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_lines_are_written_together_and_in_order_when_it_is_said(stream: io.StringIO, begun: list[str]) -> None:
    for number in range(3):
        logs.Log("part").info(f"number {number}")
    assert (begun, stream.getvalue()) == ([""], "")
    logs.write()
    logs.write()
    assert events_of(stream) == ["number 0", "number 1", "number 2"]
    logs.Log("part").info("number 3")
    assert len(begun) == 2


def test_a_warning_waits_for_nothing_and_neither_do_the_lines_before_it(stream: io.StringIO, begun: list[str]) -> None:
    logs.Log("part").info("before")
    logs.Log("part").warning("wrong")
    assert events_of(stream) == ["before", "wrong"]


def test_what_another_thread_says_waits_for_nothing(stream: io.StringIO, begun: list[str]) -> None:
    logs.Log("part").info("before")
    thread = threading.Thread(target=logs.Log("part").info, args=("beside",))
    thread.start()
    thread.join()
    assert events_of(stream) == ["before", "beside"]


def test_no_more_lines_are_kept_than_some(stream: io.StringIO, begun: list[str]) -> None:
    for number in range(1000):
        logs.Log("part").info(f"number {number}")
    assert 1000 - len(events_of(stream)) < 256


def test_who_stops_collecting_leaves_nothing_behind(stream: io.StringIO, begun: list[str]) -> None:
    logs.Log("part").info("before")
    logs.collect(None)
    logs.Log("part").info("after")
    assert events_of(stream) == ["before", "after"]


class _Broken(io.StringIO):
    """What nobody reads any more, or a disk that is full."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_where_nobody_reads_any_more_the_lines_are_lost_and_nothing_else(stream: io.StringIO) -> None:
    logs.configure("json", _Broken())
    logs.collect(lambda: None)
    logs.Log("part").info("kept")
    logs.write()
    logs.Log("part").info("kept")
    logs.collect(None)
    logs.Log("part").warning("at once")
