"""Where a pod asks the scheduler for GPUs of the pool: a claim for each of its GPU containers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from bitfusiond.core import names
from bitfusiond.core.admission import optin, patch
from bitfusiond.core.admission.decision import Rules
from bitfusiond.core.admission.demand import Demand, Sizes
from bitfusiond.core.admission.patch import Operation
from bitfusiond.core.admission.pod import GpuContainer, Pod
from bitfusiond.core.clients.client import INDEX, Client, Values, Variable
from bitfusiond.core.fields import Field, names_of, objects
from bitfusiond.core.pool import claims, matching
from bitfusiond.core.pool.claims import ClaimTemplate, Wish
from bitfusiond.core.pool.matching import Selection

_MOST_CLAIMS = 256  # of a pod's own
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
    quiet = Field(annotations.value)
    filters = optin.filters(quiet.entry(names.CLIENT_FILTER))
    servers = optin.servers(quiet.entry(names.CLIENT_SERVERS))
    return matching.select(rules.pool) if quiet.problems else matching.select(rules.pool, filters, servers)


def sizes(chosen: Selection | None, rules: Rules) -> Sizes:
    """Megabytes of the GPUs that a pod may have."""
    if chosen is None or rules.pool is None:
        return rules.sizes
    return tuple(chosen.sizes or matching.select(rules.pool).sizes)


def check(given: Pod, chosen: Selection, client: Client | None) -> None:
    """Note what the pool can never give: the scheduler has the same words for that as for a pool that is full."""
    check_node(given.spec)
    given.spec["resourceClaims"].objects(_MOST_CLAIMS)
    for key, problem in chosen.problems:
        annotation = names.CLIENT_SERVERS if key == matching.ADDRESS else names.CLIENT_FILTER
        given.annotations.entry(annotation).problem(problem)
    for container in given.gpu_containers:
        asked = container.asked
        if asked is None or chosen.problems:
            continue
        if asked.amount > claims.MOST_GPUS:
            container.field["resources"].problem(
                f"{asked.amount} GPUs are more than a claim can have, {claims.MOST_GPUS}: ask for less"
            )
        elif not _wish(asked, chosen, client).shares:
            container.field["resources"].problem(
                f"asks for {asked.amount} GPUs; the pool has {_counts(chosen)}: ask for less, or take a filter away"
            )


def check_node(spec: Field) -> None:
    """A pod that names its node is seen by no scheduler, so nobody would allocate its claim."""
    if spec["nodeName"].value:
        spec["nodeName"].problem(
            "goes past the scheduler, which gives out the pool's GPUs: use nodeSelector or affinity, for example"
            " kubernetes.io/hostname"
        )


def _counts(chosen: Selection) -> str:
    """``2 of 16000M and 1 of 32000M``."""
    return " and ".join(f"{count} of {size}M" for size, count in chosen.sizes.items())


def _wish(asked: Demand, chosen: Selection, client: Client | None) -> Wish:
    """A client that is told no megabytes takes its fraction of whichever GPU: that must then be of one size."""
    one_size = client is not None and not client.uses("megabytes")
    return claims.wish(asked.amount, asked.percent, asked.memory, chosen.sizes, one_size=one_size)


def of_containers(
    given: Pod, chosen: Selection | None, client: Client, values: Mapping[str, Values]
) -> dict[str, Claim]:
    """The claims of a pod without problems by the pointers of its GPU containers; none where it asks the pool for none.

    ``values`` are those of the placeholders, by the same.
    """
    if chosen is None:
        return {}
    taken = names_of(objects(given.spec["resourceClaims"].value))
    free = (name for name in (f"{_PREFIX}{number}" for number in range(10_000)) if name not in taken)
    return {
        each.pointer: Claim(
            name,
            claims.template(
                _wish(each.demand, chosen, client),
                chosen,
                [told for variable in client.env if (told := _told_by_node(variable, each)) is not None],
                values[each.pointer],
            ),
        )
        for each, name in zip(given.gpu_containers, free, strict=False)
    }


def _told_by_node(variable: Variable, container: GpuContainer) -> Variable | None:
    """A variable that names the servers, which only the node knows; None for any other, and for the user's own."""
    if not variable.names_servers:
        return None
    own = next((each for each in container.env if each.get("name") in _called(variable, container)), None)
    if own is None:
        return replace(variable, prepends=None)
    if variable.prepends is None or not isinstance(own.get("value"), str):
        return None
    escaped = own["value"].replace("{", "{{").replace("}", "}}")
    return Variable(variable.name, f"{variable.value}{variable.prepends}{escaped}", variable.between)


def _called(variable: Variable, container: GpuContainer) -> set[str]:
    numbers = range(container.demand.amount) if "{" + INDEX + "}" in variable.name else range(1)
    return {variable.name.replace("{" + INDEX + "}", str(number)) for number in numbers}


def warnings(given: Pod, client: Client, found: Mapping[str, Claim]) -> Iterator[str]:
    """A line for each variable of a container's own that hides the pool's servers from the client."""
    for each in given.gpu_containers if found else ():
        for variable in client.env:
            if variable.names_servers and _told_by_node(variable, each) is None:
                yield (
                    f"{each.field.path}.env: {variable.name} is set already: the client {client.name} gets that, not"
                    " the servers of its claim"
                )


def operations(given: Pod, found: Mapping[str, Claim]) -> list[Operation]:
    """The pod's claims, and each container's."""
    if not found:
        return []
    entries = [{"name": each.name, "resourceClaimTemplateName": each.template.name} for each in found.values()]
    added = patch.append("/spec/resourceClaims", given.spec["resourceClaims"].value, entries)
    for container in given.gpu_containers:
        own = container.raw["resources"].get("claims")
        added += patch.append(f"{container.pointer}/resources/claims", own, [{"name": found[container.pointer].name}])
    return added


def held(spec: Field) -> dict[str, str]:
    """The claims of a pod that are made from templates of ours: the template's name by the claim's within the pod."""
    entries = spec["resourceClaims"].objects(_MOST_CLAIMS)
    named = ((each.get("name"), each.get("resourceClaimTemplateName")) for each in entries)
    return {name: of for name, of in named if isinstance(name, str) and isinstance(of, str) and claims.is_ours(of)}


def templates(ours: Mapping[str, str], container: Field) -> list[str]:
    """Those of the claims that ``container`` has."""
    return [ours[name] for name in sorted(names_of(objects(container["resources"]["claims"].value))) if name in ours]
