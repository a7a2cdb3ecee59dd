"""Whether the client and the token came into a pod: claims prepared, volumes mounted, ``populate`` done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise

from bitfusiond.core import names
from bitfusiond.core.admission.template import IMAGE_VOLUME
from bitfusiond.core.diagnosis.facts import PodFacts, said
from bitfusiond.core.diagnosis.finding import Finding, Unread, bad, good, unknown
from bitfusiond.core.fields import Json, mapping, objects, strings
from bitfusiond.core.objects import Pod
from bitfusiond.core.tokens import copies
from bitfusiond.core.tokens.copies import BY_SECRET, Content
from bitfusiond.core.usage import holdings
from bitfusiond.core.usage.quotas import number

_PULLING = {"ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"}
_LONGEST_LINE = 64 * 1024  # characters of a log that are worth parsing


def populate_name(pod: Pod) -> str | None:
    """The init container that puts the client in place; None where the pod has none.

    The template may give it another name than ours, but it runs our role.
    """
    for each in objects(mapping(pod, "spec").get("initContainers")):
        words = [*strings(each.get("command")), *strings(each.get("args"))]
        if ("--role", "init") in pairwise(words) or "--role=init" in words:
            return str(each.get("name"))
    return None


def token_secrets(pod: Pod) -> list[str]:
    """The token Secrets that the pod mounts."""
    volumes = objects(mapping(pod, "spec").get("volumes"))
    mounted = [mapping(each, "secret").get("secretName") for each in volumes]
    return [name for name in BY_SECRET if name in mounted]


def mounted(facts: PodFacts) -> Iterator[Finding]:
    """What keeps the node from starting any container."""
    if any(state_of(facts.status, each, "running", "terminated") for each in _all_containers(facts.pod)):
        return
    for message in said(facts.events, "FailedPrepareDynamicResources")[:1]:
        yield bad(f"its node could not prepare its claim: {message}", facts.describe)
    for message in said(facts.events, "FailedMount")[:1]:
        missing = [name for name in token_secrets(facts.pod) if name in message]
        following = "create the pod again; if it lasts, an operator runs: kubectl bitfusion check"
        yield bad(f"a volume cannot be mounted: {message}", following if missing else facts.describe)
    for message in said(facts.events, "FailedCreatePodSandBox")[:1]:
        yield bad(f"its node cannot start it: {message}", facts.describe)


def _all_containers(pod: Pod) -> list[str]:
    spec = mapping(pod, "spec")
    return [str(each.get("name")) for group in ("initContainers", "containers") for each in objects(spec.get(group))]


def state_of(status: Json, container: str, *kinds: str) -> Json | None:
    """How a container is: its ``waiting``, ``running`` or ``terminated``, if it is one of ``kinds``."""
    state = mapping(_status_of(status, container), "state")
    return next((mapping(state, kind) for kind in kinds if kind in state), None)


def last_end(status: Json, container: str) -> Json:
    """How a container ended, or the one before it that it takes the place of; ``{}`` where none ever did."""
    found = _status_of(status, container)
    return mapping(found, "state", "terminated") or mapping(found, "lastState", "terminated")


def ending(end: Json) -> str:
    message = f": {end['message']}" if end.get("message") else ""
    return f"exit status {end.get('exitCode')}, {end.get('reason') or 'no reason given'}{message}"


def restarted(facts: PodFacts, container: str) -> Iterator[Finding]:
    """Of a container that runs: how the ones before it ended."""
    found = _status_of(facts.status, container)
    end, count = mapping(found, "lastState", "terminated"), found.get("restartCount")
    if end:
        times = "once" if count in (None, 1) else f"{count} times"
        yield unknown(
            f"{container} restarted {times}, last: {ending(end)}",
            f"kubectl logs {facts.words} -c {container} --previous",
        )


def _status_of(status: Json, container: str) -> Json:
    groups = (status.get("initContainerStatuses"), status.get("containerStatuses"))
    return next((each for group in groups for each in objects(group) if each.get("name") == container), {})


def populated(facts: PodFacts) -> Iterator[Finding]:
    """Whether the client is in its place."""
    if image := client_image(facts.pod):
        yield good(f"its client is mounted from the image {image}")
    name = populate_name(facts.pod)
    if name is None:
        return
    status = facts.status
    logs = f"kubectl logs {facts.words} -c {name}"
    ended, runs, end = state_of(status, name, "terminated"), state_of(status, name, "running"), last_end(status, name)
    if ended is not None and ended.get("exitCode") == 0:
        yield good(f"its client and its token are in place ({name} has ended well)")
    elif runs is not None:
        yield bad(f"{name} still copies the client, since {runs.get('startedAt') or 'a moment ago'}", f"wait; {logs}")
        yield from restarted(facts, name)
    elif end:
        yield bad(f"{name} failed: {failure(end, facts.logs.get(name))}", logs)
    elif waiting := state_of(status, name, "waiting"):
        yield from stuck(facts, name, waiting)


def client_image(pod: Pod) -> str:
    """The image that the client is mounted from; empty for none."""
    for each in objects(mapping(pod, "spec").get("volumes")):
        # Behind our name stands a number where the pod had a volume of that name.
        if str(each.get("name")).startswith(IMAGE_VOLUME) and "image" in each:
            return str(mapping(each, "image").get("reference"))
    return ""


def failure(end: Json, log: str | Unread | None) -> str:
    """Why a container of ours ended: the message of its last line of log, else the node's word for it."""
    status = f"exit status {end.get('exitCode')}, {end.get('reason') or 'no reason given'}"
    if isinstance(log, Unread):
        return f"{status}; {log.words}"
    message = last_message(log or "") or str(end.get("message") or "")
    return f"{message} ({status})" if message else status


def last_message(log: str) -> str:
    """The message of the last line that is one of our log's, else the last line that says something."""
    lines = [line for line in log[-_LONGEST_LINE:].splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            found = mapping(json.loads(line))
        except (ValueError, RecursionError):
            continue
        if text := found.get("message") or found.get("event"):
            return str(text)
    return lines[-1] if lines else ""


def stuck(facts: PodFacts, container: str, waiting: Mapping[str, object]) -> Iterator[Finding]:
    """A container that does not start; nothing is said of one whose turn has not come."""
    reason = str(waiting.get("reason") or "")
    if reason in {"", "PodInitializing", "ContainerCreating"}:
        return
    image = next(
        (
            each.get("image")
            for group in ("initContainers", "containers")
            for each in objects(mapping(facts.pod, "spec").get(group))
            if each.get("name") == container
        ),
        None,
    )
    message = f": {waiting['message']}" if waiting.get("message") else ""
    if reason in _PULLING:
        yield bad(f"the image {image} of {container} cannot be pulled ({reason}){message}", facts.describe)
    else:
        yield bad(f"{container} does not start ({reason}){message}", facts.describe)


def pulled(facts: PodFacts) -> Iterator[Finding]:
    """A volume that is an image, and cannot be had: no container says so."""
    image = client_image(facts.pod)
    if not image or any(state_of(facts.status, each, "running", "terminated") for each in _all_containers(facts.pod)):
        return
    for message in said(facts.events, "Failed", "FailedMount", "FailedToRetrieveImagePullSecret"):
        if image in message:
            yield bad(f"the image {image}, which holds its client, cannot be had: {message}", facts.describe)
            return


def tokens(facts: PodFacts) -> Iterator[Finding]:
    """Whether the token in the namespace is the one of its source."""
    unread: dict[str, Finding] = {}
    right = 0
    wanted = token_secrets(facts.pod)
    for name in wanted:
        copy = facts.copies.get(name)
        if isinstance(copy, Unread):
            unread.setdefault(copy.words, copy.finding)
        elif copy is None:
            yield bad(
                f"the token Secret {name} is not in namespace {facts.cluster.namespace}",
                "create the pod again, which brings it back; if it lasts: kubectl bitfusion check",
            )
        else:
            for finding in _compared(facts, name, copy):
                if finding is None:
                    right += 1
                else:
                    unread.setdefault(finding.line, finding)
    yield from unread.values()
    if wanted and right == len(wanted):
        yield good("its token is that of the source")


def _compared(facts: PodFacts, name: str, copy: Json) -> Iterator[Finding | None]:
    """None for a copy that is equal to its source."""
    stored = copies.summarize(copy, BY_SECRET[name])
    if stored.digest is None:
        yield bad(
            f"the token Secret {name} has nothing under {BY_SECRET[name].file}",
            f"kubectl delete secret {name} -n {facts.cluster.namespace}, then create the pod again",
        )
        return
    if mapping(copy, "metadata", "labels").get(names.MANAGED_BY) != names.MANAGED_BY_US:
        yield unknown(f"the token Secret {name} is none of our copies, but the namespace's own: it is used as it is")
        return
    source = facts.sources.get(name)
    if isinstance(source, Unread):
        yield source.finding
        return
    origin = stored.origin or f"{names.KUBE_SYSTEM}/{name}"
    namespace, _, source_name = origin.partition("/")
    content = copies.content(BY_SECRET[name], {source_name: source} if source else {}, namespace)
    if not isinstance(content, Content):
        yield bad(f"the source of its token is gone: {content.message}", "an operator runs: just tokens DIR")
    elif content.digest != stored.digest:
        yield bad(
            f"the token Secret {name} in {facts.cluster.namespace} is not what its source {origin} holds",
            "a copy of bitfusiond follows within seconds; another one: kubectl delete secret"
            f" {name} -n {facts.cluster.namespace}, then create the pod again",
        )
    else:
        yield None


def plugin(facts: PodFacts) -> Iterator[Finding]:
    """What the pod's node says of its plugin: by the shares that it offers."""
    if isinstance(facts.node, Unread):
        yield facts.node.finding
    elif facts.node is not None:
        shares = mapping(facts.node, "status", "allocatable").get(names.GPU)
        name = mapping(facts.node, "metadata").get("name")
        if not holdings.is_ready(facts.node):
            yield bad(f"node {name} does not answer", f"an operator runs: kubectl describe node {name}")
        elif shares == "0":
            yield bad(
                f"node {name} offers 0 {names.GPU}: its plugin reaches no Bitfusion server, or does not run",
                "an operator runs: kubectl bitfusion check",
            )
        elif shares is None:
            yield unknown(f"node {name} offers no {names.GPU}: its plugin does not run")
        else:
            yield good(f"the plugin of node {name} is well: it offers {number(shares)} shares")
