"""An API server's refusal, a Status object in JSON or some text, as a ClusterError. Pure."""

from __future__ import annotations

import json

from bitfusiond.core.fields import Json
from bitfusiond.core.text import one_line
from bitfusiond.kube import (
    ClusterError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)

_CLASSES: dict[int, type[ClusterError]] = {
    401: ForbiddenError,
    403: ForbiddenError,
    404: NotFoundError,
    408: UnavailableError,
    409: ConflictError,
    410: ExpiredError,
    429: UnavailableError,
}
LONGEST = 1000  # characters of a message of the API server


def error_of(code: int, data: bytes | Json, method: str) -> ClusterError:
    """The ClusterError of an HTTP status from 300 on, or of the code and the object in a watch's ERROR event."""
    status, text = (data, "") if isinstance(data, dict) else (_status(data), data.decode(errors="replace"))
    said = status.get("message")
    message = one_line(said if said and isinstance(said, str) else text, LONGEST) or f"HTTP status {code}"
    kind = _CLASSES.get(code) or (InvalidError if 400 <= code < 500 else UnavailableError)
    if code == 409 and method == "POST" and status.get("reason") == "Conflict":
        # A create conflicts only with what is there (reason AlreadyExists). This one means that two requests counted
        # up the same ResourceQuota.
        kind = UnavailableError
    return kind(message)


def _status(data: bytes) -> Json:
    """The Status object in ``data``; empty where it is something else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
