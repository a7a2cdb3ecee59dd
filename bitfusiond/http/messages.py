"""What a service is asked and what it answers: HTTP as values, whoever speaks it on the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


class ClientGoneError(Exception):
    """The client left before its request was whole: there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer with a body whose length is known."""

    status: int
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request, and the way to its body.

    ``path`` comes without the query, ``headers`` with names in lower case. The whole of the request must be there at
    ``deadline``, by trio's clock. ``more()`` is the next piece of the body, ``b""`` at its end; it raises
    ClientGoneError, and TooSlowError after ``deadline``. ``is_certified``: the client showed a certificate, and it is
    good.
    """

    method: str
    path: str
    version: str
    more: Callable[[], Awaitable[bytes]]
    deadline: float
    headers: dict[str, str] = field(default_factory=dict)
    is_certified: bool = False


Handler = Callable[[Request], Awaitable[Response]]
