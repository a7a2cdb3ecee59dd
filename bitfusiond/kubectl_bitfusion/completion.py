"""``kubectl_complete-bitfusion``: what kubectl's shell completion asks for the words behind ``kubectl bitfusion``.

kubectl calls it with these words, the last of which is to be completed, and reads candidates, one a line; the last line
is ``:NUMBER``, a ShellCompDirective of cobra. Source: kubectl's documentation, "Extend kubectl with plugins".
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from bitfusiond.core.fields import mapping
from bitfusiond.errors import Failure
from bitfusiond.kubectl_bitfusion import options
from bitfusiond.kubectl_bitfusion.reader import in_namespace, pods_path
from bitfusiond.kubectl_bitfusion.tables import printable
from bitfusiond.operate.kubectl import Kubectl

PROGRAM = "kubectl_complete-bitfusion"
_DEFAULT, _NO_SPACE, _NO_FILES = 0, 2, 4
_SECONDS = 3  # somebody waits with a finger on the key
_KINDS = {
    "deployment": "apps/v1",
    "statefulset": "apps/v1",
    "daemonset": "apps/v1",
    "replicaset": "apps/v1",
    "job": "batch/v1",
    "cronjob": "batch/v1",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print candidates, and the directive. What goes wrong leaves them out: nobody wants an error in half a line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        candidates, directive = complete(words)
        lines = sorted({printable(each) for each in candidates if each.startswith(words[-1] if words else "")})
    except Failure:
        lines, directive = [], _NO_FILES
    sys.stdout.write("".join(f"{line}\n" for line in [*lines, f":{directive}"]))
    return 0


def complete(words: Sequence[str]) -> tuple[list[str], int]:
    """Candidates for the last of ``words``, and the directive."""
    before, last = list(words[:-1]), words[-1] if words else ""
    previous = before[-1] if before else ""
    parsed = options.split(before[:-1] if previous in options.VALUES else before)
    if previous in options.FILES or previous in {"-f", "--file", "--clients", "--injection", "--pool"}:
        return [], _DEFAULT
    if previous in options.VALUES or previous in options.OUTPUT:
        return list(_values(previous, parsed)), _NO_FILES
    if last.startswith("-"):
        return options.flags(parsed.command), _NO_FILES
    if not parsed.command:
        return list(options.COMMANDS), _NO_FILES
    if parsed.command == "why" and not [word for word in parsed.rest if not word.startswith("-")]:
        return _targets(last, parsed)
    return [], _DEFAULT if parsed.command == "render" else _NO_FILES


def _kubectl(parsed: options.Split) -> Kubectl:
    return options.kubectl(parsed.chosen, seconds=_SECONDS)


def _values(flag: str, parsed: options.Split) -> Iterator[str]:
    kubectl = _kubectl(parsed)
    if flag in options.OUTPUT:
        yield from options.OUTPUTS
    elif flag in {"-n", "--namespace"}:
        yield from _names(kubectl, "/api/v1/namespaces")
    elif flag == "--context":
        yield from kubectl.run("config", "get-contexts", "-o", "name").split()
    elif flag in {"--cluster", "--user"}:
        yield from kubectl.run("config", f"get-{flag.removeprefix('--')}s").split()[1:]


def _targets(last: str, parsed: options.Split) -> tuple[list[str], int]:
    """Pods, and the beginnings of TYPE/NAME; of a type that is written the names."""
    kubectl = _kubectl(parsed)
    namespace = options.namespace(kubectl, parsed.chosen)
    kind, slash, _ = last.partition("/")
    if slash and kind in _KINDS:
        return [
            f"{kind}/{each}" for each in _names(kubectl, in_namespace(_KINDS[kind], f"{kind}s", namespace))
        ], _NO_FILES
    kinds = [f"{each}/" for each in _KINDS]
    found = [*_names(kubectl, pods_path(namespace)), *kinds]
    fitting = [each for each in found if each.startswith(last)]
    only_kinds = bool(fitting) and all(each in kinds for each in fitting)
    return found, _NO_FILES | (_NO_SPACE if only_kinds else 0)


def _names(kubectl: Kubectl, path: str) -> Iterator[str]:
    """The first page is more than anybody reads."""
    for each in next(kubectl.pages(path), []):
        yield str(mapping(each, "metadata").get("name"))
