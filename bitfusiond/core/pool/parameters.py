"""The client's variables that a claim carries: checked, and filled in with the servers that were allocated.

The webhook writes them into ``devices.config`` of a claim, as the arguments of ``client.environment``; so may anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bitfusiond.core import names
from bitfusiond.core.clients import client
from bitfusiond.core.clients.client import Values, Variable
from bitfusiond.core.fields import Document, Field, mapping, objects, strings
from bitfusiond.core.objects import ResourceClaim
from bitfusiond.core.pool.allocation import AllocationError, Part, Result
from bitfusiond.core.text import shown

MOST_CONFIGS = 64  # source: AllocationConfigMaxSize of k8s.io/api resource/v1
MOST_VARIABLES = 128
LONGEST_VALUE = 10 * 1024  # characters, before placeholders are filled in; OpaqueParametersMaxLength of the same
LONGEST_ENVIRONMENT = 64 * 1024  # characters of all variables of a claim together
_LONGEST_NAME = 128
_LONGEST_FILLED = 1024  # characters of what stands for a placeholder
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# A claim is not its pod: whoever may make one alone must not say which libraries and programs the pod runs, nor what
# it was given.
_NEVER = re.compile(
    rf"LD_.*|.*_PRELOAD|PATH|BASH_ENV|ENV|(PYTHON|PERL|NODE_|OCL_ICD_|CUDA_INJECTION).*|(?i:.*_proxy)"
    rf"|{names.ALLOCATION_VARIABLE}.*|BITFUSIOND_.*"
)
_OF_SERVERS = {client.SERVERS, client.SERVER, client.INDEX}
# A container's values serve its command too.
_VALUES = frozenset({*client.VARIABLE_PLACEHOLDERS, *client.WRAP_PLACEHOLDERS}) - _OF_SERVERS


def may_set(name: str) -> bool:
    """Whether a claim may set the variable ``name``, in which a number may stand for its placeholder."""
    return bool(_VARIABLE.fullmatch(name)) and len(name) <= _LONGEST_NAME and not _NEVER.fullmatch(name)


def environment(claim: ResourceClaim, parts: list[tuple[Result, Part]]) -> dict[str, str]:
    """The variables that the configuration of ``claim`` makes of the GPUs that it was given.

    One whose placeholder has no value is left out, as in a pod. A later one of the same name wins, as the claim's own
    configuration stands after that of its DeviceClass. Raises AllocationError.
    """
    listed = mapping(claim, "status", "allocation", "devices").get("config")
    configs = [each for each in objects(listed) if mapping(each, "opaque").get("driver") == names.DRIVER]
    if len(configs) > MOST_CONFIGS:
        raise AllocationError(f"it has {len(configs)} configurations: bitfusiond takes at most {MOST_CONFIGS}")
    found: dict[str, str] = {}
    left = LONGEST_ENVIRONMENT
    for config in configs:
        asked = set(strings(config.get("requests")))
        servers = [part.address for result, part in parts if not asked or _names(result.request) & asked]
        if not servers:  # it is about what others gave
            continue
        for name, value in _filled(mapping(config, "opaque").get("parameters"), list(dict.fromkeys(servers))):
            left -= len(name) + len(value)
            if left < 0:
                raise _wrong(f"the variables have more than {LONGEST_ENVIRONMENT} characters together")
            found[name] = value
    return found


def _names(request: str) -> set[str]:
    """What a configuration may call the request of a result: of ``gpu/m16000``, one of several choices, both."""
    return {request, request.partition("/")[0]}


def _filled(parameters: object, servers: list[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each variable of ``parameters``. Raises AllocationError."""
    if not isinstance(parameters, dict):
        raise _wrong(f"they must be an object, not {shown(parameters)}")
    if strange := sorted(parameters.keys() - {"variables", "values"}):
        raise _wrong(f"{shown(strange[0])} is unknown: variables and values are allowed")
    variables, values = parameters.get("variables", []), parameters.get("values", {})
    if not isinstance(variables, list) or len(variables) > MOST_VARIABLES:
        raise _wrong(f"variables must be a list of at most {MOST_VARIABLES}")
    placeholders = _values(values)
    for each in Document(parameters)["variables"].elements():
        variable = _variable(each)
        if unknown := _used(variable) - set(client.VARIABLE_PLACEHOLDERS):
            raise _wrong(each.line(f"{{{min(unknown)}}} is unknown"))
        for filled in client.environment([variable], placeholders, servers):
            if not _VARIABLE.fullmatch(filled.name) or len(filled.name) > _LONGEST_NAME:
                raise _wrong(each.line(f"{shown(filled.name)} is not the name of a variable"))
            if _NEVER.fullmatch(filled.name):
                raise _wrong(each.line(f"{filled.name} is not for a claim to set"))
            yield filled.name, filled.value


def _variable(variable: Field) -> Variable:
    given = mapping(variable.value)
    if not {"name", "value"} <= given.keys() <= {"name", "value", "between"} or not all(
        isinstance(text, str) and len(text) <= LONGEST_VALUE and "\0" not in text for text in given.values()
    ):
        raise _wrong(
            f"{variable.path} must be {{name, value, between}}, between where it is wanted, each a text of at most "
            f"{LONGEST_VALUE} characters"
        )
    return Variable(given["name"], given["value"], given.get("between"))


def _values(values: object) -> Values:
    given = mapping(values)
    if (
        not isinstance(values, dict)
        or not given.keys() <= _VALUES
        or not all(
            isinstance(text, str) and len(text) <= _LONGEST_FILLED and "\0" not in text for text in given.values()
        )
    ):
        raise _wrong(
            f"values must be an object with no keys but {', '.join(sorted(_VALUES))}, each a text of at most "
            f"{_LONGEST_FILLED} characters"
        )
    return given


def _used(variable: Variable) -> frozenset[str]:
    """The placeholders of ``variable``. Raises AllocationError for one that could not be filled in."""
    try:
        name, value = client.placeholders(variable.name), client.placeholders(variable.value)
    except ValueError as error:
        raise _wrong(f"{shown(variable.name)}: {error}") from None
    joined, numbered = variable.between is not None, client.INDEX in name
    if not name <= {client.INDEX} or (joined and numbered):
        raise _wrong(f"{shown(variable.name)}: a name may have {{index}} in it, where there is no between")
    if client.SERVERS in value if joined or numbered else value & {client.SERVER, client.INDEX}:
        raise _wrong(
            f"{shown(variable.name)}: {{servers}} are all, {{server}} is one each, by {{index}} in the name or between"
        )
    return name | value


def _wrong(problem: str) -> AllocationError:
    return AllocationError(f"the parameters for {names.DRIVER} in its devices.config: {problem}")
