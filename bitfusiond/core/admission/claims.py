"""Where a pod asks the scheduler for GPUs of the pool: a claim for each of its GPU containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bitfusiond.core import names
from bitfusiond.core.admission import calls, optin, patch
from bitfusiond.core.admission.decision import Rules
from bitfusiond.core.admission.demand import Demand, Sizes
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.admission.pod import GpuContainer, Pod
from bitfusiond.core.clients.client import BITFUSION, INDEX, Client, Values, Variable
from bitfusiond.core.fields import Document, Field, names_of, objects
from bitfusiond.core.pool import claims, matching, parameters
from bitfusiond.core.pool.claims import ClaimTemplate, Wish
from bitfusiond.core.pool.matching import Selection
from bitfusiond.core.text import shown

_MOST_CLAIMS = 256  # of a pod's own
_MOST_WORDS = 64  # of a filter; each is looked for among all GPUs
_LONGEST_FILTER = matching.LONGEST_EXPRESSION - 256  # a size may stand beside it
_LONGEST_VALUE = 4096
_PREFIX = "bitfusion-"  # what a claim is called within its pod, with a number behind


@dataclass(frozen=True, slots=True)
class Claim:
    """``name`` is that within the pod."""

    name: str
    template: ClaimTemplate


def selection(annotations: Field, client: Client | None, rules: Rules) -> Selection | None:
    """What a pod with these annotations may have of the pool; None where it is none of the pool's.

    A client whose entry names its servers uses no others. What is wrong with the annotations is said elsewhere.
    """
    if rules.pool is None or (client is not None and client.servers):
        return None
    quiet = Document(annotations.value)
    filters = optin.filters(quiet.entry(names.CLIENT_FILTER))
    servers = optin.servers(quiet.entry(names.CLIENT_SERVERS))
    if quiet.problems or len(filters) > _MOST_WORDS:
        return matching.select(rules.pool)
    return matching.select(rules.pool, filters, servers)


def sizes(selected: Selection | None, rules: Rules) -> Sizes:
    """Megabytes of the GPUs that a pod may have."""
    if selected is None or rules.pool is None:
        return rules.sizes
    return selected.sizes or matching.select(rules.pool).sizes


def check(pod: Pod, selected: Selection, client: Client | None) -> None:
    """Note what the pool can never give: the scheduler has the same words for that as for a pool that is full."""
    check_node(pod.spec)
    pod.spec["resourceClaims"].objects(_MOST_CLAIMS)
    for key, problem in selected.problems:
        annotation = names.CLIENT_SERVERS if key == matching.ADDRESS else names.CLIENT_FILTER
        pod.annotations.entry(annotation).problem(problem)
    if len(pod.filters) > _MOST_WORDS:
        pod.annotations.entry(names.CLIENT_FILTER).problem(f"has {len(pod.filters)} words: at most {_MOST_WORDS}")
    elif len(selected.expression) > _LONGEST_FILTER:
        pod.annotations.entry(names.CLIENT_FILTER).problem(
            f"becomes {len(selected.expression)} characters of CEL for the scheduler, which takes {_LONGEST_FILTER}:"
            " name fewer values"
        )
    for container in pod.gpu_containers:
        for call in container.calls:
            if option := calls.names_servers(call):
                container.field["command"].problem(
                    f"{BITFUSION} run {option} names servers, which the scheduler chooses: remove it, or name them in"
                    f" {names.CLIENT_SERVERS}"
                )
    if client is not None:
        _check_variables(pod, client)
    asking = [
        (each, _wish(each.parsed_demand, selected, client))
        for each in pod.gpu_containers
        if each.parsed_demand is not None
    ]
    if selected.problems or len(asking) < len(pod.gpu_containers):
        return
    for container, wished in asking:
        if not wished.shares:
            container.field["resources"].problem(_too_many(container.demand, selected))
    if all(wished.shares for _, wished in asking):
        _check_together(pod, asking, selected)


def _check_variables(pod: Pod, client: Client) -> None:
    """Note what no node would set: the pod would be placed, and never start."""
    for variable in (each for each in client.env if each.names_servers):
        is_told = any(variable.name not in names_of(each.env) for each in pod.gpu_containers)
        if is_told and not parameters.may_set(variable.name.replace("{" + INDEX + "}", "0")):
            pod.annotations.entry(names.CLIENT_NAME).problem(
                f"the client {client.name} finds its servers by {shown(variable.name)}, which a claim on the pool"
                " cannot set: its entry in the catalogue, which is the operator's, needs another variable, or Servers"
            )


def _too_many(demand: Demand, selected: Selection) -> str:
    if demand.memory is not None and sum(selected.sizes.values()) >= demand.amount:
        return (
            f"asks for {demand.amount} GPUs by their memory, and all GPUs of a container are then of one size; the pool"
            f" has {_counts(selected)}: ask for less, or by {names.GPU_PERCENT}"
        )
    return f"asks for {demand.amount} GPUs; the pool has {_counts(selected)}: ask for less, or take a filter away"


def _check_together(pod: Pod, asking: Sequence[tuple[GpuContainer, Wish]], selected: Selection) -> None:
    """Note what all claims of the pod are together, and can never have."""
    owners = _owners(asking)
    field = pod.spec["containers"]
    for container, wished in asking:
        if container.pointer not in owners:
            container.field["resources"].problem(
                "a claim lasts as long as its pod, so an init container shares that of a container, and none asks for"
                f" the same: ask for {_as_words(wished)} in one of them too, or here for what one of them asks"
            )
    own = [wished for container, wished in asking if owners.get(container.pointer) == container.pointer]
    gpus, available = sum(wished.amount for wished in own), sum(selected.sizes.values())
    least = [(wished.amount, min(wished.shares.values())) for wished in own]
    alone = sum(amount for amount, shares in least if 2 * shares > names.SHARES_OF_ONE_GPU)
    needed = sum(amount * shares for amount, shares in least)
    if len(own) > claims.MOST_CLAIMS_OF_POD or gpus > claims.MOST_GPUS_OF_POD:
        field.problem(
            f"the pod asks for {gpus} GPUs in {len(own)} containers: for more than {claims.MOST_GPUS_OF_POD} GPUs, or"
            f" in more than {claims.MOST_CLAIMS_OF_POD} containers, the scheduler would search too long. Make several"
            " pods of it"
        )
    elif needed > available * names.SHARES_OF_ONE_GPU or alone > available:
        field.problem(
            f"the pod asks for {needed} hundredths of GPUs in all, {alone} times for more than half of one; the pool"
            f" has {_counts(selected)}: ask for less"
        )


def _as_words(wished: Wish) -> str:
    return f"{wished.amount} GPUs with {max(wished.shares.values())} hundredths of each"


def _owners(asking: Sequence[tuple[GpuContainer, Wish]]) -> dict[str, str]:
    """Whose claim each container has, by pointers: its own, or as an init container that of one that asks the same.

    Kubernetes counts init containers by their largest, and a claim lasts as long as its pod. One of which no container
    asks the same has none; where all are init containers, the first has one.
    """
    lasting = [(container, wished) for container, wished in asking if not container.is_passing] or list(asking[:1])
    found = {container.pointer: container.pointer for container, _ in lasting}
    for container, wished in asking:
        if container.pointer not in found:
            of = next((other.pointer for other, same in lasting if same == wished), None)
            found |= {container.pointer: of} if of is not None else {}
    return found


def check_node(spec: Field) -> None:
    """A pod that names its node is seen by no scheduler, so nobody would allocate its claim."""
    if spec["nodeName"].value:
        spec["nodeName"].problem(
            "goes past the scheduler, which gives out the pool's GPUs: use nodeSelector or affinity, for example"
            " kubernetes.io/hostname"
        )


def _counts(selected: Selection) -> str:
    """``2 of 16000M and 1 of 32000M``."""
    return " and ".join(f"{count} of {size}M" for size, count in selected.sizes.items())


def _wish(demand: Demand, selected: Selection, client: Client | None) -> Wish:
    """A client that is told no megabytes takes its fraction of whichever GPU: that must then be of one size."""
    one_size = client is not None and not client.uses("megabytes")
    return claims.wish(demand.amount, demand.percent, demand.memory, selected.sizes, one_size=one_size)


def of_containers(
    pod: Pod, selected: Selection | None, client: Client, values: Mapping[str, Values]
) -> dict[str, Claim]:
    """The claims of a pod without problems by the pointers of its GPU containers; none where it asks the pool for none.

    ``values`` are what the placeholders of the client stand for, by these pointers too.
    """
    if selected is None:
        return {}
    taken = names_of(objects(pod.spec["resourceClaims"].value))
    free = (name for name in (f"{_PREFIX}{number}" for number in range(10_000)) if name not in taken)
    asking = [(each, _wish(each.demand, selected, client)) for each in pod.gpu_containers]
    owners = _owners(asking)
    made = {
        each.pointer: Claim(
            name,
            claims.template(
                wished,
                selected,
                [told for variable in client.env if (told := _told_by_node(variable, each)) is not None],
                values[each.pointer],
            ),
        )
        for (each, wished), name in zip(
            (pair for pair in asking if owners[pair[0].pointer] == pair[0].pointer), free, strict=False
        )
    }
    return {pointer: made[owner] for pointer, owner in owners.items()}


def _told_by_node(variable: Variable, container: GpuContainer) -> Variable | None:
    """A variable that names the servers, which only the node knows; None for any other, and for the user's own."""
    if not variable.names_servers:
        return None
    own = next((each for each in container.env if each.get("name") in _called(variable, container)), None)
    if own is None:
        return replace(variable, prepends=None)
    if variable.prepends is None or not isinstance(own.get("value"), str):
        return None
    if "$(" in own["value"] or len(own["value"]) > _LONGEST_VALUE:  # the node expands none, and keeps to bounds
        return None
    escaped = own["value"].replace("{", "{{").replace("}", "}}")
    return Variable(variable.name, f"{variable.value}{variable.prepends}{escaped}", variable.between)


def _called(variable: Variable, container: GpuContainer) -> set[str]:
    numbers = range(container.demand.amount) if "{" + INDEX + "}" in variable.name else range(1)
    return {variable.name.replace("{" + INDEX + "}", str(number)) for number in numbers}


def warnings(pod: Pod, client: Client, pod_claims: Mapping[str, Claim]) -> Iterator[str]:
    """A line for each variable of a container's own that hides the pool's servers from the client."""
    for each in pod.gpu_containers if pod_claims else ():
        for variable in client.env:
            if variable.names_servers and _told_by_node(variable, each) is None:
                yield each.field["env"].line(
                    f"{variable.name} is set already: the client {client.name} gets that, not the servers of its claim"
                )


def operations(pod: Pod, pod_claims: Mapping[str, Claim]) -> list[Operation]:
    """The pod's claims, and each container's."""
    if not pod_claims:
        return []
    of_pod = {each.name: each.template.name for each in pod_claims.values()}
    entries = [{"name": name, "resourceClaimTemplateName": of} for name, of in of_pod.items()]
    added = patch.append("/spec/resourceClaims", pod.spec["resourceClaims"].value, entries)
    for container in pod.gpu_containers:
        own = container.raw["resources"].get("claims")
        added += patch.append(
            f"{container.pointer}/resources/claims", own, [{"name": pod_claims[container.pointer].name}]
        )
    return added


def held(spec: Field) -> dict[str, str]:
    """The claims of a pod that are made from templates of ours: the template's name by the claim's within the pod."""
    entries = spec["resourceClaims"].objects(_MOST_CLAIMS)
    named = ((each.get("name"), each.get("resourceClaimTemplateName")) for each in entries)
    return {name: of for name, of in named if isinstance(name, str) and isinstance(of, str) and claims.is_ours(of)}


def templates(ours: Mapping[str, str], container: Field) -> list[str]:
    """Those of the claims that ``container`` has."""
    return [ours[name] for name in sorted(names_of(objects(container["resources"]["claims"].value))) if name in ours]
