"""Whether a pod, as it will be stored, can reach its GPUs: the second look, after every other webhook had its turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from bitfusiond.core import names, quantity
from bitfusiond.core.admission import pod
from bitfusiond.core.admission.decision import Allowed, Refusal, Rules, Untouched
from bitfusiond.core.admission.pod import Mode
from bitfusiond.core.admission.template import Template
from bitfusiond.core.clients.catalogue import BINARY
from bitfusiond.core.fields import Field, Json, mapping, names_of, objects
from bitfusiond.core.text import shown

Largest = Mapping[str, int]
Verdict = Allowed | Refusal | Untouched
_Groups = Mapping[str, list[Field]]


def validate(document: Json, namespace: str, rules: Rules, largest: Largest | None) -> Verdict:
    """The verdict on the pod ``document`` that is about to be stored in ``namespace``.

    ``largest`` is the most that any one node has (allocatable) of each of our resources; None = no node is known, and
    then nothing is said about them. Nor is it about a resource of which all have 0: they had more, and will again.
    """
    if namespace in rules.exempt_namespaces:
        return Untouched("exempt namespace")
    root = Field(document)
    asked = pod.opt_in(root, namespace)
    if root.problems or (asked.mode is Mode.NONE and not asked.is_injected):
        return Refusal(root.problems) if root.problems else Untouched("not opted in")
    root["spec"].mapping()
    groups = pod.containers_of(root["spec"])
    if not root.problems:
        if asked.mode is not Mode.NONE:
            root.problems.extend(_lost_parts(asked, groups, rules.template))
        if asked.is_injected and largest is not None:
            root.problems.extend(_too_large(groups, largest))
    return Refusal(root.problems) if root.problems else Allowed()


def _lost_parts(asked: pod.OptIn, groups: _Groups, template: Template) -> Iterator[str]:
    """What mutation adds must still be there: without it the pod would start without a GPU."""
    missing = [*_missing_in_pod(asked, groups, template), *_missing_in_containers(asked, groups, template)]
    if missing:
        yield (
            "the pod opted in but was not injected, or another webhook took parts away: "
            + ", ".join(missing)
            + f". Create it again without metadata.annotations[{names.STATUS}]; if that does not help, the mutating"
            " webhook was not asked"
        )


def _missing_in_pod(asked: pod.OptIn, groups: _Groups, template: Template) -> Iterator[str]:
    if not asked.is_injected:
        yield f"metadata.annotations[{names.STATUS}] is not {names.STATUS_INJECTED}"
    present = names_of([each.value for each in groups["initContainers"]])
    for container in template.init_containers:
        if container["name"] not in present:
            yield f"spec.initContainers has no {container['name']}"


def _missing_in_containers(asked: pod.OptIn, groups: _Groups, template: Template) -> Iterator[str]:
    paths = sorted({mount["mountPath"] for mount in template.volume_mounts})
    served = False
    for container in (each for containers in groups.values() for each in containers):
        limits = _limits(container)
        for key in limits:
            if key in names.REQUEST_RESOURCES:
                yield f"{container.path}.resources still asks for {key}"
        if names.GPU in limits:
            served = True
            for part in _missing_in_container(container.value, paths, wrapped=asked.mode is Mode.ALL):
                yield f"{container.path} has no {part}"
    if not served:
        yield f"no container has {names.GPU}"


def _missing_in_container(container: Json, paths: list[str], *, wrapped: bool) -> Iterator[str]:
    """With ``wrapped`` the command must call the client: whichever, as the replica that mutated the pod may have had
    another catalogue a moment ago.
    """
    mounted = names_of(objects(container.get("volumeMounts")), "mountPath")
    yield from (f"mount at {path}" for path in paths if path not in mounted)
    if names.LD_LIBRARY_PATH not in names_of(objects(container.get("env"))):
        yield names.LD_LIBRARY_PATH
    words = container.get("command")
    if wrapped and not (isinstance(words, list) and any(BINARY in word for word in words if isinstance(word, str))):
        yield f"{BINARY} in its command"


def _limits(container: Field) -> Json:
    return mapping(container.value, "resources", "limits")


def _too_large(groups: _Groups, largest: Largest) -> Iterator[str]:
    for resource, amount in sorted(_effective(groups).items()):
        if resource not in largest:
            yield f"Resource validation failed: no node has {shown(resource)}: its device plugin must run on one"
        elif amount > largest[resource] > 0:
            yield (
                f"Resource validation failed: the pod asks for {_number(amount)} of {shown(resource)}, the largest node"
                f" has {largest[resource]}: ask for less"
            )


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else str(float(value))


def _effective(groups: _Groups) -> dict[str, Fraction]:
    """What the scheduler counts of each of our resources: containers and sidecars together, or one initContainer with
    the sidecars before it where that is more.

    Source: Kubernetes' documentation of init containers, "Resource sharing within containers", and KEP-753.
    """
    together: dict[str, Fraction] = {}
    largest: dict[str, Fraction] = {}
    for container in groups["initContainers"]:
        for resource, amount in _ours(container):
            before = together.get(resource, Fraction(0))
            if container["restartPolicy"].value == "Always":  # a sidecar
                together[resource] = before + amount
            largest[resource] = max(largest.get(resource, Fraction(0)), before + amount)
    for container in groups["containers"]:
        for resource, amount in _ours(container):
            together[resource] = together.get(resource, Fraction(0)) + amount
    return {key: max(together.get(key, Fraction(0)), largest.get(key, Fraction(0))) for key in together | largest}


def _ours(container: Field) -> Iterator[tuple[str, Fraction]]:
    for resource, amount in _limits(container).items():
        if resource.startswith(names.DOMAIN):
            yield resource, _amount(amount)


def _amount(value: object) -> Fraction:
    try:
        return quantity.parse(value)
    except ValueError:  # the API server refuses it with a better message than ours
        return Fraction(0)
