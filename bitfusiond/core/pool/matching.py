"""The documented filter over the pool: the same conditions for the scheduler, as CEL, and for what there is now.

Words with different keys must all hold, of those with one key any: ``server.hostname=a server.hostname=b`` is either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import lru_cache

from bitfusiond.core import names
from bitfusiond.core.pool.inventory import Gpu, Pool, Server
from bitfusiond.core.text import shown

LONGEST_EXPRESSION = 10 * 1024  # source: CELSelectorExpressionMaxLength of k8s.io/api resource/v1
_MOST_CHOICES = 20  # in a message
ADDRESS = "address"  # the condition of the annotation bitfusion-client/servers: no key of the filter is called so
_MEMORY = "device.phy-memory"
NAME = "device.name"
_NAME_ENDS = (" ", "-")  # Tesla means Tesla V100, and Tesla V100 means Tesla V100-SXM2-16GB


@dataclass(frozen=True, slots=True)
class Selection:
    """What a pod may have of the pool.

    ``expression`` says it in CEL, empty for every GPU; ``sizes`` are the megabytes of such GPUs as there are now,
    ascending, with how many have each. ``problems`` are values that no server meets, by the key of the filter.
    """

    expression: str
    sizes: Mapping[int, int]
    problems: tuple[tuple[str, str], ...] = ()


def values_of(server: Server, gpu: Gpu) -> dict[str, str | bool | int]:
    """What is known of a GPU, by the keys of the filter, in their order; published as :func:`attribute` calls it."""
    known = {
        "server.addr": server.host,
        "server.hostname": server.hostname,
        "server.has-rdma": server.has_rdma,
        "server.cuda-version": server.cuda_version,
        "server.driver-version": server.driver_version,
        "device.id": gpu.id,
        NAME: gpu.name,
        _MEMORY: gpu.megabytes,
    }
    return {key: value for key, value in known.items() if value is not None}


def attribute(key: str) -> str:
    """A key of the filter as the name of an attribute, which must be an identifier of C."""
    return key.replace(".", "_").replace("-", "_")


@lru_cache(maxsize=256)  # pods of one workload ask the same, and a pool may have thousands of GPUs
def select(pool: Pool, filters: tuple[str, ...] = (), servers: tuple[str, ...] = ()) -> Selection:
    """The GPUs that ``filters``, words KEY=VALUE, and the addresses ``servers``, HOST:PORT, leave; without them all."""
    wanted: dict[str, list[str]] = {}
    for key, _, value in (word.partition("=") for word in filters):
        wanted.setdefault(key, []).append(value)
    if servers:
        wanted[ADDRESS] = list(servers)
    gpus = _known(pool)
    fitting: dict[str, set[str]] = {}  # of each key what is known of some GPU and meets it
    problems: list[tuple[str, str]] = []
    for key, values in wanted.items():
        known = dict.fromkeys(words.get(key, "") for words, _ in gpus)
        met = {value: _meeting(key, value, known) for value in values}
        fitting[key] = set[str]().union(*met.values())
        problems += [(key, _unknown(key, value, known)) for value, texts in met.items() if not texts]
    sizes = Counter(megabytes for words, megabytes in gpus if all(words.get(key, "") in fitting[key] for key in wanted))
    if wanted and not sizes and not problems:
        problems.append((next(iter(wanted)), "no GPU of the pool meets all of it: take a part away"))
    expression = " && ".join(_condition(key, values) for key, values in wanted.items())
    return Selection(expression, dict(sorted(sizes.items())), tuple(problems))


def forget() -> None:
    """Keep nothing of the pools of before: one may be large."""
    select.cache_clear()
    _known.cache_clear()


@lru_cache(maxsize=4)
def _known(pool: Pool) -> list[tuple[dict[str, str], int]]:
    """What the filter sees of each GPU, in its own words, and its megabytes."""
    return [
        (
            {key: _written(value) for key, value in values_of(server, gpu).items()} | {ADDRESS: server.address},
            gpu.megabytes,
        )
        for server in pool.servers
        for gpu in server.gpus
    ]


def of_size(megabytes: int) -> str:
    """The CEL of GPUs with so much memory."""
    return _condition(_MEMORY, [str(megabytes)])


def both(*expressions: str) -> str:
    """The CEL of what meets all that is not empty."""
    return " && ".join(each for each in expressions if each)


def _written(value: str | bool | int) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _meeting(key: str, wanted: str, known: Mapping[str, None]) -> Set[str]:
    """What of ``known`` meets the word of a filter. There may be thousands of it, and hundreds of words."""
    if key != NAME:
        return {wanted} & known.keys()
    return {text for text in known if text == wanted or text.startswith(tuple(wanted + end for end in _NAME_ENDS))}


def _unknown(key: str, value: str, seen: Mapping[str, None]) -> str:
    what = f"{shown(value)} is no {key}" if key != ADDRESS else f"{shown(value)} is not the address"
    choices = [text for text in seen if text]
    if not choices:
        return f"{what} of a server of the pool, which tells none"
    more = ", ..." if len(choices) > _MOST_CHOICES else ""
    return f"{what} of a server of the pool: choose of {', '.join(map(shown, choices[:_MOST_CHOICES]))}{more}"


def _condition(key: str, values: Sequence[str]) -> str:
    """CEL that is false, and no error, for a device without the attribute."""
    name = f'device.attributes["{names.DRIVER}"].{attribute(key)}'
    literal = _LITERALS.get(key, _string)
    choices = list(dict.fromkeys(literal(value) for value in values))
    tests = [f"{name} in [{', '.join(choices)}]"] if len(choices) > 1 else [f"{name} == {each}" for each in choices]
    if key == NAME:
        tests += [f"{name}.startsWith({_string(value + end)})" for value in dict.fromkeys(values) for end in _NAME_ENDS]
    return f"has({name}) && " + (f"({' || '.join(tests)})" if len(tests) > 1 else tests[0])


def _string(text: str) -> str:
    """A string of CEL: any sign but printable ASCII by its number."""
    signs = (f"\\{sign}" if sign in '\\"' else sign if " " <= sign <= "~" else f"\\U{ord(sign):08x}" for sign in text)
    return f'"{"".join(signs)}"'


def _boolean(text: str) -> str:
    return "true" if text == "true" else "false"


def _integer(text: str) -> str:
    return text if text.isascii() and text.isdecimal() else "-1"


# Another value than the attribute can have was refused before.
_LITERALS: dict[str, Callable[[str], str]] = {"server.has-rdma": _boolean, _MEMORY: _integer}
