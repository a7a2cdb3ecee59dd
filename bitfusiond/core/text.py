"""Other people's text: shown in a message of ours, cut to a length, put on one line, out of base64."""

from __future__ import annotations

import base64
import binascii
import json

_SHOWN = 80  # characters of a user's value that a message repeats


def cut(text: str, longest: int) -> str:
    """``text`` in at most ``longest`` characters, ``...`` at the end of what was cut."""
    return text if len(text) <= longest else text[: longest - 3] + "..."


def one_line(text: str, longest: int | None = None) -> str:
    """``text`` without line ends and runs of blanks, cut to ``longest`` characters where that is given."""
    line = " ".join(text.split())
    return line if longest is None else cut(line, longest)


def shown(value: object) -> str:
    """A user's value as a message repeats it: on one line, cut where it is long, in JSON's words.

    A string is bare, but quoted where blanks would hide what is wrong with it.
    """
    if isinstance(value, str):
        head = value[: _SHOWN + 1]  # no more is shown: a long value costs no more than a short one
        written = head if head == head.strip() and head.isprintable() and head else json.dumps(head)
    else:
        written = json.dumps(value, default=str)
    return cut(written, _SHOWN)


def from_base64(value: object) -> bytes:
    """What the base64 text ``value`` holds, as in a Secret or a caBundle; nothing where it is no such text."""
    try:
        return base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        return b""
