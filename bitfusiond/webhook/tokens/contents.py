"""What stands in the files of the token Secrets: the servers, and whether any client can read it."""

from __future__ import annotations

import base64
from functools import lru_cache

import trio
import yaml

from bitfusiond import logs
from bitfusiond.core.clients import servers_conf
from bitfusiond.core.tokens.copies import Content, Token

_LARGEST_CHECKED = 64 * 1024  # bytes of base64: a thousand times what is in such a file, and no more work than that
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_log = logs.Log("tokens")


async def check_yaml(token: Token, source: Content) -> None:
    """Warn of a file that no client will read. Only a warning: the Secret is the operator's, and copied as it is."""
    # In a thread: the API server takes Secrets of 1 MiB, and reading such a file takes longer than an admission may.
    if len(source.data) > _LARGEST_CHECKED:
        return
    problem = await trio.to_thread.run_sync(_yaml_problem, source.data, abandon_on_cancel=True)
    if problem is not None:
        _log.warning("token is not YAML, copied all the same", secret=source.origin, key=token.file, problem=problem)


@lru_cache(maxsize=1)
def servers(data: str) -> tuple[str, ...]:
    """The servers that a servers.conf in base64 names, HOST:PORT; none where it is wrong or very large."""
    if len(data) >= _LARGEST_CHECKED:
        return ()
    try:
        return tuple(servers_conf.one_each(yaml.load(base64.b64decode(data).decode(), Loader=_YAML)))  # noqa: S506
    except (ValueError, yaml.YAMLError):
        return ()


def _yaml_problem(data: str) -> str | None:
    """Where and what, without a word of the content, which PyYAML's own messages repeat."""
    try:
        events = list(yaml.parse(base64.b64decode(data).decode(), Loader=_YAML))
    except UnicodeDecodeError:
        return "not UTF-8 text"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        return "not YAML" if mark is None else f"line {mark.line + 1}, column {mark.column + 1} is not YAML"
    except yaml.YAMLError:
        return "characters that YAML does not allow"
    return None if any(isinstance(event, yaml.MappingStartEvent) for event in events[2:3]) else "not a mapping"
