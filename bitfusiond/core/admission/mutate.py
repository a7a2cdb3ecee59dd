"""What the webhook does to a pod: the way of a pod from the review's object to its patch, top to bottom.

Read what the pod says (``pod``), find its client, look for what stands in the way, and only then build the patch: the
operations are about a pod of which all is known to be right. Nothing is changed in place; the same pod always gets the
same answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain

from bitfusiond.core import names
from bitfusiond.core.admission import (
    calls,
    capacity,
    claims,
    command,
    demand,
    injection,
    optin,
    patch,
    populate_container,
)
from bitfusiond.core.admission.claims import Claim
from bitfusiond.core.admission.decision import Patch, Refusal, Rules, Untouched
from bitfusiond.core.admission.demand import Sizes
from bitfusiond.core.admission.optin import Mode
from bitfusiond.core.admission.patch import Operation, pointer
from bitfusiond.core.admission.pod import GpuContainer, Pod, argv, check_calls, read_pod
from bitfusiond.core.admission.template import Template
from bitfusiond.core.clients.client import BITFUSION, Client, Values, Variable, environment, wrapped_words
from bitfusiond.core.fields import Document, Field, Json, names_of
from bitfusiond.core.images.image import NONE, Images, Unreadable
from bitfusiond.core.text import shown

_STATUS = pointer("metadata", "annotations", names.STATUS)
_VALIDATE = pointer("metadata", "annotations", names.VALIDATE)

Verdict = Patch | Refusal | Untouched
NOT_OPTED_IN = Untouched("not opted in")
ALREADY_INJECTED = Untouched("already injected")


@dataclass(frozen=True, slots=True)
class _Change:
    """What is done to a GPU container: its commands by their places, the variables of its client."""

    container: GpuContainer
    commands: Mapping[str, list[str]]
    variables: Sequence[Variable]

    @property
    def keeps_args(self) -> bool:
        return self.container.program is not None and self.container.program.keeps_args

    @property
    def words(self) -> Iterator[Sequence[str]]:
        """All that it will run, with the arguments that stay."""
        yield from self.commands.values()
        if self.keeps_args:
            yield self.container.raw.get("args") or []


def mutate(document: Json, namespace: str, rules: Rules, looked_up: Images = NONE) -> Verdict:
    """The verdict on the pod ``document`` that is being created in ``namespace``.

    It is raw JSON: fields that no version of this code knows survive. Applied to the patched pod it gives Untouched.
    ``looked_up`` are those of its images that somebody asked a registry about (``admission.images`` says which).
    """
    if namespace in rules.exempt_namespaces:
        return Untouched("exempt namespace")
    root = Document(document)
    opt_in = optin.opt_in(root, namespace)
    if opt_in.is_mirror or opt_in.is_injected:
        return Untouched("mirror pod") if opt_in.is_mirror else ALREADY_INJECTED
    if opt_in.mode is Mode.NONE:
        return Refusal(root.problems) if root.problems else NOT_OPTED_IN
    annotations = root["metadata"]["annotations"]
    client = optin.client(annotations, rules.catalogue)
    selected = claims.selection(annotations, client, rules)
    sizes = claims.sizes(selected, rules)
    pod = read_pod(root, opt_in.mode, client, sizes, looked_up)
    template = rules.template.for_client(client, rules.delivery) if client else rules.template
    servers = pod.servers or (client.servers or rules.servers() if client and client.wants_servers else ())
    if selected is not None:
        claims.check(pod, selected, client)
    elif client is not None:
        _check_client(pod, client, servers)
    _check_containers(pod, sizes, template)
    if client is None or root.problems:
        return Refusal(root.problems)
    values = {each.pointer: demand.values(each.demand, client, sizes) for each in pod.gpu_containers}
    # With a pool the node tells which servers they are.
    our_variables = [each for each in client.env if selected is None or not each.names_servers]
    changes = [_change(each, client, our_variables, values[each.pointer], servers, pod) for each in pod.gpu_containers]
    pod_claims = claims.of_containers(pod, selected, client, values)
    if problem := calls.too_long(chain.from_iterable(each.words for each in changes)):
        pod.spec["containers"].problem(f"{problem}; give fewer filters, or put a script into a file")
        return Refusal(root.problems)
    return Patch(
        _operations(pod, client, changes, template, pod_claims),
        [*_warnings(pod, client, changes, template, rules, sizes), *claims.warnings(pod, client, pod_claims)],
        client.takes_tokens,
        tuple({each.template.name: each.template for each in pod_claims.values()}.values()),
        _wanted(pod),
    )


def mark(document: Json, namespace: str, rules: Rules) -> list[Operation]:
    """For a pod that came injected: the operation that has /validate asked about it, where it lacks that.

    By the template of today a pod of yesterday may lack a part, and with a pool its claims. The API server's
    matchConditions know neither.
    """
    root = Document(document)
    annotations = root["metadata"]["annotations"]
    client = optin.client(annotations, rules.catalogue)
    opted_in = optin.opt_in(root, namespace).mode not in {Mode.NONE, None}
    if client is None or not opted_in or annotations.entry(names.VALIDATE).value is not None:
        return []
    adds_more = rules.template.for_client(client, rules.delivery).adds_more
    is_of_pool = claims.selection(annotations, client, rules) is not None
    return [patch.add(_VALIDATE, names.VALIDATE_ALWAYS)] if adds_more or is_of_pool else []


def _wanted(pod: Pod) -> capacity.Amounts:
    """What the scheduler will count for the patched pod."""
    shares = {each.field: Fraction(each.demand.shares) for each in pod.gpu_containers}

    def amounts(container: Field) -> capacity.Amounts:
        found = capacity.limits(container, but=names.REQUEST_RESOURCES)
        if container in shares:
            found[names.GPU] = shares[container]
        return found

    return capacity.effective(((each, amounts(each)) for each in pod.init_containers), map(amounts, pod.containers))


def _check_client(pod: Pod, client: Client, servers: Sequence[str]) -> None:
    """Note what the pod asks of its client and this one cannot do."""
    if pod.filters and not client.uses("filters"):
        pod.annotations.entry(names.CLIENT_FILTER).problem(f"the client {client.name} takes no filter: remove it")
    field = pod.annotations.entry(names.CLIENT_SERVERS)
    if pod.servers and not client.wants_servers:
        field.problem(f"the client {client.name} is told no servers: remove it")
    if client.wants_servers and not servers and not field.value:
        field.problem(
            f"the client {client.name} must know its servers, and none are known: name them here (HOST:PORT), or let"
            " the operator name them in the pool, in the catalogue or in servers.conf"
        )


def _check_containers(pod: Pod, sizes: Sizes, template: Template) -> None:
    """Note who asks the client for more than was asked of Kubernetes, as a quota would count nothing, and what keeps
    the client from a container.
    """
    for container in pod.gpu_containers:
        if container.parsed_demand:
            shares = container.parsed_demand.shares
            check_calls(container.field, container.calls, container.hooks, shares, sizes)
    injection.check_mounts(pod.gpu_containers, template)
    populate_container.check_names(pod, template)


def _change(
    container: GpuContainer,
    client: Client,
    our_variables: Sequence[Variable],
    values: Values,
    servers: Sequence[str],
    pod: Pod,
) -> _Change:
    commands = _commands(container, client, values, pod.filters)
    return _Change(container, commands, _variables(client, our_variables, values, servers))


def _commands(container: GpuContainer, client: Client, values: Values, filters: Sequence[str]) -> dict[str, list[str]]:
    """The command under the client, and hooks and probes whose calls reach it, by their places."""
    if container.program is None:
        return {}
    words = wrapped_words(client.wrap, values, filters)
    found = {f"{container.pointer}/command": container.program.wrapped(words)}
    for hook in container.hooks:
        if program := command.hook_program(hook.words):
            found[hook.field.pointer] = program.wrapped(words)
    return found


def _variables(
    client: Client, our_variables: Sequence[Variable], values: Values, servers: Sequence[str]
) -> list[Variable]:
    """What the client wants in the environment: its libraries, and ``our_variables`` of its entry."""
    libraries = Variable(names.LD_LIBRARY_PATH, client.library_path, prepends=":") if client.library_path else None
    return [*([libraries] if libraries else []), *environment(our_variables, values, servers)]


def _operations(
    pod: Pod,
    client: Client,
    changes: Sequence[_Change],
    template: Template,
    pod_claims: Mapping[str, Claim],
) -> list[Operation]:
    """In this order, as each path must hold when its turn comes: `populate` moves the other initContainers last."""
    renamed = injection.volume_names(template, pod.volumes)
    operations = [patch.add(_STATUS, names.STATUS_INJECTED)]
    if template.adds_more:
        operations.append(patch.add(_VALIDATE, names.VALIDATE_ALWAYS))
    for each in changes:
        container = each.container
        for path, words in each.commands.items():
            is_absent = path == f"{container.pointer}/command" and "command" not in container.raw  # it is its image's
            operations.append((patch.add if is_absent else patch.replace)(path, words))
        if container.program and "args" in container.raw and not each.keeps_args:
            operations.append(patch.remove(f"{container.pointer}/args"))
        own = template.for_claim(pod_claims[container.pointer].name) if pod_claims else template
        operations += injection.gpu_container(container, each.variables, own, renamed)
    operations += injection.volumes(template, pod.spec, renamed)
    operations += claims.operations(pod, pod_claims)
    operations += populate_container.init_containers(pod, client, template, renamed, pod_claims.values())
    return operations


def _warnings(
    pod: Pod,
    client: Client,
    changes: Sequence[_Change],
    template: Template,
    rules: Rules,
    sizes: Sizes,
) -> list[str]:
    """What the user should hear of a pod that is admitted, a line each."""
    return [
        *(
            each.field.line("neither gpu-percent nor gpu-memory is given: taking 100 percent of each GPU")
            for each in pod.gpu_containers
            if each.demand.takes_all
        ),
        *(
            each.field["command"].line(
                "calls bitfusion inside; to call it yourself use mode injection and the client's path"
            )
            for each in pod.gpu_containers
            if each.program is not None and each.program.hidden_call
        ),
        *(
            hook.field.line("seems to call bitfusion, which is not on PATH: write the client's path")
            for each in pod.gpu_containers
            for hook in each.hooks
            if (program := command.hook_program(hook.words)) and program.hidden_call
        ),
        *(
            each.field["command"].line(
                f"bitfusion run gets words of the shell: whatever they say, {each.demand.shares} shares are counted"
            )
            for each in pod.gpu_containers
            if any(calls.shares(call, sizes) is None for call in each.calls)
        ),
        *(
            each.field.line(f"LD_LIBRARY_PATH of its image is not known: {each.image.reason}")
            for each in pod.gpu_containers
            if isinstance(each.image, Unreadable) and client.merges_library_path
            if names.LD_LIBRARY_PATH not in names_of(each.env)
        ),
        *(() if client.is_bitfusion else _warnings_of_other_client(client, changes)),
        *injection.mount_warnings(pod.gpu_containers, template),
        *populate_container.warnings(pod, client, rules.delivery),
    ]


def _warnings_of_other_client(client: Client, changes: Sequence[_Change]) -> Iterator[str]:
    """What of the client's the container set itself, and what is counted of a demand and never told to the client."""
    for change in changes:
        each = change.container
        taken = names_of(each.env)
        for variable in change.variables:
            if variable.prepends is None and variable.name in taken:
                yield each.field["env"].line(
                    f"{variable.name} is set already: the client {client.name} gets that, not {shown(variable.value)}"
                )
        if each.raw.get("envFrom") and change.variables:
            variable_names = ", ".join(variable.name for variable in change.variables)
            yield each.field["envFrom"].line(f"what it sets of {variable_names} gives way to the client's")
        if argv(each.field)[:1] == [BITFUSION]:
            yield each.field["command"].line(f"runs {BITFUSION}, which the client {client.name} does not bring")
    parts = {"gpu-amount": ("gpus",), "the share of memory": ("fraction", "megabytes")}
    untold = [what for what, keys in parts.items() if not any(client.uses(key) for key in keys)]
    if untold:
        yield f"the client {client.name} is not told {' and '.join(untold)}: counted, and not enforced"
