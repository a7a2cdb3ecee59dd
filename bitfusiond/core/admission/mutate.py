"""What the webhook does to a pod: the way of a pod from the review's object to its patch, top to bottom.

Read what the pod says (``pod``), find its client, look for what stands in the way, and only then build the patch: the
operations are about a pod of which all is known to be right. Nothing is changed in place; the same pod always gets the
same answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from bitfusiond.core import names
from bitfusiond.core.admission import calls, command, injection, patch, pod, populate_container
from bitfusiond.core.admission.decision import Patch, Refusal, Rules, Untouched
from bitfusiond.core.admission.patch import Operation, pointer
from bitfusiond.core.admission.pod import GpuContainer, Mode, Pod
from bitfusiond.core.clients.catalogue import Catalogue, Client, UnknownClientError
from bitfusiond.core.fields import Field, Json
from bitfusiond.core.images.image import NONE, Images, Unreadable

_STATUS = pointer("metadata", "annotations", names.STATUS)

Verdict = Patch | Refusal | Untouched
NOT_OPTED_IN = Untouched("not opted in")


def mutate(document: Json, namespace: str, rules: Rules, looked_up: Images = NONE) -> Verdict:
    """The verdict on the pod ``document`` that is being created in ``namespace``.

    It is raw JSON: fields that no version of this code knows survive. Applied to the patched pod it gives Untouched.
    ``looked_up`` are those of its images that somebody asked a registry about (``admission.images`` says which).
    """
    if namespace in rules.exempt_namespaces:
        return Untouched("exempt namespace")
    root = Field(document)
    asked = pod.opt_in(root, namespace)
    if asked.is_mirror or asked.is_injected:
        return Untouched("mirror pod" if asked.is_mirror else "already injected")
    if asked.mode is Mode.NONE:
        return Refusal(root.problems) if root.problems else NOT_OPTED_IN
    given = pod.read(root, asked.mode, rules.total_gpu_memory, looked_up)
    client = _client(given, rules.catalogue)
    _check_calls(given, rules.total_gpu_memory)
    injection.check_mounts(given.gpu_containers, rules.template)
    populate_container.check_names(given, rules.template)
    if client is None or root.problems:
        return Refusal(root.problems)
    commands = {each.pointer: _command(each, client, given.filters) for each in given.gpu_containers if each.program}
    kept = [each.raw.get("args") or [] for each in given.gpu_containers if each.program and each.program.keeps_args]
    if problem := calls.too_long([*commands.values(), *kept]):
        return Refusal([f"{given.spec['containers'].path}: {problem}; give fewer filters, or put a script into a file"])
    return Patch(_operations(given, client, commands, rules), _warnings(given, client, rules))


def _client(given: Pod, catalogue: Catalogue) -> Client | None:
    """The client that the pod asks for; None, with a problem, where there is none such."""
    os, version = given.os, given.version
    if os is None and version is None and catalogue.default is not None:
        os, version = catalogue.default
    if os is None or version is None:
        for key, value in ((names.CLIENT_OS, os), (names.CLIENT_VERSION, version)):
            if value is None:
                given.annotations.entry(key).problem(f"must be set; {catalogue.choices()}")
        return None
    try:
        return catalogue.find(os, version)
    except UnknownClientError as error:
        given.annotations.entry(f"{names.CLIENT_OS}, {names.CLIENT_VERSION}").problem(str(error))
        return None


def _check_calls(given: Pod, total_megabytes: int) -> None:
    """Who calls the client must ask it for no more than was asked of Kubernetes, or a quota would count nothing."""
    for container in given.gpu_containers:
        if container.asked and (problem := calls.excess(container.calls, container.demand.shares, total_megabytes)):
            container.field["command"].problem(problem)


def _command(container: GpuContainer, client: Client, filters: tuple[str, ...]) -> list[str]:
    """The command under the client."""
    words = command.client_words(client.binary_path, container.demand, filters)
    return container.program.under(words) if container.program else []


def _operations(given: Pod, client: Client, commands: Mapping[str, list[str]], rules: Rules) -> list[Operation]:
    """In this order, as each path must hold when its turn comes: `populate` moves the other initContainers last."""
    renamed = injection.volume_names(rules.template, given.volumes)
    operations = [patch.add(_STATUS, names.STATUS_INJECTED)]
    for container in given.gpu_containers:
        if container.program:
            write = patch.replace if "command" in container.raw else patch.add
            operations.append(write(f"{container.pointer}/command", commands[container.pointer]))
            if "args" in container.raw and not container.program.keeps_args:
                operations.append(patch.remove(f"{container.pointer}/args"))
        operations += injection.gpu_container(container, client, rules.template, renamed)
    operations += injection.volumes(rules.template, given.spec, renamed)
    operations += populate_container.init_containers(given, client, rules.template, renamed)
    return operations


def _warnings(given: Pod, client: Client, rules: Rules) -> list[str]:
    """What the user should hear of a pod that is admitted, a line each."""
    return [
        *(
            f"{each.field.path}: neither gpu-percent nor gpu-memory is given: taking 100 percent of each GPU"
            for each in given.gpu_containers
            if each.demand.takes_all
        ),
        *(
            f"{each.field.path}.command: calls bitfusion inside; to call it yourself use mode injection and the"
            " client's path"
            for each in given.gpu_containers
            if each.program is not None and each.program.hidden_call
        ),
        *(
            f"{each.field.path}.command: bitfusion run gets words of the shell: whatever they say,"
            f" {each.demand.shares} shares are counted"
            for each in given.gpu_containers
            if any(calls.shares(call, rules.total_gpu_memory) is None for call in each.calls)
        ),
        *(
            f"{each.field.path}: LD_LIBRARY_PATH of its image is not known: {each.image.reason}"
            for each in given.gpu_containers
            if isinstance(each.image, Unreadable) and injection.takes_library_path(each)
        ),
        *populate_container.warnings(given, client),
    ]
