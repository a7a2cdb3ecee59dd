"""Whether a pod, as it will be stored, can reach its GPUs: what /validate decides, after every other webhook."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

from bitfusiond.core import names
from bitfusiond.core.admission import calls, capacity, claims, command, hooks, optin, pod, shell
from bitfusiond.core.admission.capacity import Largest
from bitfusiond.core.admission.decision import Allowed, Refusal, Rules, Untouched
from bitfusiond.core.admission.demand import Sizes
from bitfusiond.core.admission.optin import Mode
from bitfusiond.core.admission.script import commands
from bitfusiond.core.admission.template import Template
from bitfusiond.core.clients.catalogue import Catalogue
from bitfusiond.core.clients.client import ALWAYS_KNOWN, BINARY, BITFUSION, Client, placeholders
from bitfusiond.core.fields import Document, Field, Json, mapping, names_of, objects

# Stands for every documented client: what is looked for in a pod is the same for all of them.
_SOME_BITFUSION = Client(BITFUSION, library_path="/", takes_tokens=True)
_BLANKS = frozenset(" \t\n")
Verdict = Allowed | Refusal | Untouched
_Groups = Mapping[str, list[Field]]


def validate(
    document: Json, namespace: str, rules: Rules, largest: Largest | None, *, is_final: bool = True
) -> Verdict:
    """The verdict on the pod ``document`` that is about to be stored in ``namespace``.

    ``largest`` None = no node is known, and then nothing is said about them. Not ``is_final``: other webhooks may still
    change the pod, so nothing is said of what is missing in it.
    """
    if namespace in rules.exempt_namespaces:
        return Untouched("exempt namespace")
    root = Document(document)
    opt_in = optin.opt_in(root, namespace)
    if opt_in.is_mirror:
        return Untouched("mirror pod")
    if root.problems or (opt_in.mode is Mode.NONE and not opt_in.is_injected):
        return Refusal(root.problems) if root.problems else Untouched("not opted in")
    client = _client(document, rules.catalogue)
    selected = claims.selection(root["metadata"]["annotations"], client, rules)
    root["spec"].mapping()
    ours = None if selected is None else claims.held(root["spec"])
    groups = pod.containers_of(root["spec"], more=len(rules.template.init_containers))
    serving = [each for containers in groups.values() for each in containers if _counted(each) > 0]
    if opt_in.mode is Mode.NONE and not serving and not root.problems:
        return Untouched("no GPU container")
    if not root.problems and pod.check_length(root["spec"], serving):
        if opt_in.mode is not Mode.NONE and is_final:
            root.problems.extend(_lost_parts(opt_in, groups, rules, client, ours))
        if ours is not None and rules.pool is not None:
            claims.check_node(root["spec"])
        for container in serving if client.is_bitfusion else ():
            _check_calls(container, claims.sizes(selected, rules))
        if opt_in.is_injected:
            pool = None if ours is None else rules.pool
            root.problems.extend(capacity.problems(_wanted(groups), largest, pool))
    if root.problems:
        return Refusal(root.problems)
    needed = [name for each in serving for name in claims.templates(ours, each)] if ours else []
    return Allowed(client.takes_tokens, tuple(dict.fromkeys(needed)))


def _client(document: Json, catalogue: Catalogue) -> Client:
    """The client of the pod. What is not in this catalogue may have been in another replica's a moment ago."""
    annotations = Document(document)["metadata"]["annotations"]
    name = annotations.entry(names.CLIENT_NAME).value
    is_other = isinstance(name, str) and name not in {"", BITFUSION}
    return optin.client(annotations, catalogue) or (Client(name) if is_other else _SOME_BITFUSION)


def _lost_parts(
    opt_in: optin.OptIn, groups: _Groups, rules: Rules, client: Client, ours: Mapping[str, str] | None
) -> Iterator[str]:
    """What mutation adds must still be there: without it the pod would start without a GPU."""
    template = rules.template.for_client(client, rules.delivery)
    our_variables = [each for each in client.env if ours is None or not each.names_servers]
    missing = [
        *_missing_in_pod(opt_in, groups, template),
        *_missing_in_containers(opt_in, groups, template, replace(client, env=tuple(our_variables))),
    ]
    if ours is not None:
        served = (each for containers in groups.values() for each in containers if _counted(each) > 0)
        missing += [f"{each.path} has no claim on the pool" for each in served if not claims.templates(ours, each)]
    if missing:
        yield (
            "the pod opted in but was not injected, or another webhook took parts away: "
            + ", ".join(missing)
            + f". Create it from its own manifest; a copy of a running pod keeps client and shares without annotations"
            f" {names.MANAGEMENT} and {names.STATUS}. If that does not help, the mutating webhook was not asked"
        )


def _wanted(groups: _Groups) -> capacity.Amounts:
    passing = ((each, capacity.limits(each)) for each in groups["initContainers"])
    return capacity.effective(passing, map(capacity.limits, groups["containers"]))


def _counted(container: Field) -> int:
    """The shares that Kubernetes counts for it."""
    return int(capacity.limits(container).get(names.GPU, 0))


def _check_calls(container: Field, sizes: Sizes) -> None:
    found = calls.anywhere(pod.argv(container))
    pod.check_calls(container, found, hooks.read(container), _counted(container), sizes)


def _missing_in_pod(opt_in: optin.OptIn, groups: _Groups, template: Template) -> Iterator[str]:
    if not opt_in.is_injected:
        yield f"metadata.annotations[{names.STATUS}] is not {names.STATUS_INJECTED}"
    present = names_of([each.value for each in groups["initContainers"]])
    for container in template.init_containers:
        if container["name"] not in present:
            yield f"spec.initContainers has no {container['name']}"


def _missing_in_containers(opt_in: optin.OptIn, groups: _Groups, template: Template, client: Client) -> Iterator[str]:
    paths = sorted({mount["mountPath"] for mount in template.volume_mounts})
    served = False
    for container in (each for containers in groups.values() for each in containers):
        limits = _limits(container)
        for key in limits:
            if key in names.REQUEST_RESOURCES:
                yield f"{container.path}.resources still asks for {key}"
        if _counted(container) > 0:
            served = True
            for part in _missing_in_container(container.value, paths, client, wrapped=opt_in.mode is Mode.ALL):
                yield f"{container.path} has no {part}"
    if not served:
        yield f"no container has {names.GPU}"


def _missing_in_container(container: Json, paths: list[str], client: Client, *, wrapped: bool) -> Iterator[str]:
    """With ``wrapped`` the command must call the client: whichever, as the replica that mutated the pod may have had
    another catalogue a moment ago.
    """
    mounted = names_of(objects(container.get("volumeMounts")), "mountPath")
    yield from (f"mount at {path}" for path in paths if path not in mounted)
    wanted = [names.LD_LIBRARY_PATH] if client.library_path else []
    wanted += [each.name.replace("{index}", "0") for each in client.env if placeholders(each.value) <= ALWAYS_KNOWN]
    present = names_of(objects(container.get("env")))
    yield from (name for name in wanted if name not in present)
    if wrapped and client.is_bitfusion:
        yield from _missing_in_command(pod.argv(Document(container)))
    elif wrapped and client.wrap:
        program = client.wrap[0][0].format(binary=client.binary_path)
        if not any(program in word for word in pod.argv(Document(container))):
            yield f"{program} in its command"


def _missing_in_command(argv: list[str]) -> Iterator[str]:
    """The client must be what runs, behind whichever program another webhook has put in front of it."""
    if any(_is_path(word) and (then == "run" or then[:1] == "-") for word, then in pairwise([*argv, ""])):
        return
    found = [
        call
        for call in calls.anywhere(argv)
        if call.name.endswith(BINARY) or command.has_client_on_path(argv[call.index])
    ]
    if any(_is_torn(call) for call in found) or any(_is_torn_line(word) for word in argv):
        yield (
            "program behind the client any more, as another webhook made one line of its command. Webhooks are asked in"
            f" the order of their configurations' names: give that one a name that comes before"
            f" {names.MUTATING_CONFIGURATION}"
        )
    elif not found:
        yield f"{BINARY} in its command"


def _is_path(word: str) -> bool:
    return word.startswith("/") and word.endswith(BINARY) and _BLANKS.isdisjoint(word)


# How we begin a call; who calls the client himself seldom writes so.
_OURS = re.compile(r"run -n [0-9]+ (?:-p [01]\.[0-9]{2}0000|-m [0-9]+)")


def _is_torn(call: calls.Call) -> bool:
    """Whether the shell that we start has lost its script: ``bash -c cd /x && python y`` without quotes."""
    if not _OURS.fullmatch(" ".join(word or "$" for word in call.words[:5])) or "--" not in call.words:
        return False
    program = call.words[call.words.index("--") + 1 :]
    words = [word or "$" for word in program]
    index = calls.script_under(words, calls.in_words(words)[1])
    if index is None or index >= len(words) or program[index] is None or not _BLANKS.isdisjoint(words[index]):
        return False
    return len(words) > index + 1 or not call.comes_last or not shell.is_plain(words[index])


def _is_torn_line(line: str) -> bool:
    """Whether a script of ours has lost its quotes in ``line``: ``bash -c CLIENT run x`` starts CLIENT alone."""
    if command.has_torn_path_line(line):
        return True
    found = commands(line) if BINARY in line else ()
    return any(_starts_bare_client([word.text or "$" for word in each]) for each in found)


def _starts_bare_client(words: list[str]) -> bool:
    index = calls.script_under(words, calls.in_words(words)[1])
    return index is not None and words[index + 1 : index + 2] == ["run"] and _is_path(words[index])


def _limits(container: Field) -> Json:
    return mapping(container.value, "resources", "limits")
