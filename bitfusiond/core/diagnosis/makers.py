"""Why what makes pods (a Deployment, a Job, anything) has none."""

from __future__ import annotations

from collections.abc import Iterator

from bitfusiond.core import names
from bitfusiond.core.admission.optin import Mode
from bitfusiond.core.diagnosis import asked, placing, webhook
from bitfusiond.core.diagnosis.facts import MakerFacts, said, template
from bitfusiond.core.diagnosis.finding import Finding, Unread, bad, good, is_bad, unknown
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.objects import Object
from bitfusiond.core.proof import Outcome, Proof, judge_error
from bitfusiond.core.text import shown

# Reasons of Events about what makes pods: its controller's, and ours.
REFUSALS = ("FailedCreate", names.EVENT_REFUSED)


def diagnose(facts: MakerFacts) -> list[Finding]:
    """Findings, one of them bad at least: it has no pod. Only a Job may have done its work without one."""
    if _condition(facts.document, "Complete") is not None:
        return [good("it has done its work, and its pods are gone")]
    failed = _condition(facts.document, "Failed")
    if failed is not None:
        why = ": ".join(str(failed[key]) for key in ("reason", "message") if failed.get(key)) or "it gives no reason"
        return [bad(f"it failed, and its pods are gone: {why}", f"kubectl describe {facts.words}")]
    found = list(_walk(facts))
    schedule = mapping(facts.document, "spec").get("schedule")
    if not is_bad(found) and schedule is not None:
        found.append(bad(f"it has no pod now: its schedule is {shown(schedule)}", f"kubectl describe {facts.words}"))
    elif not is_bad(found):
        found.append(bad("it has made no pod, and nothing says why", f"kubectl describe {facts.words}"))
    return found


def _condition(document: Object, kind: str) -> Object | None:
    """A condition of a Job that is met."""
    conditions = objects(mapping(document, "status").get("conditions"))
    met = (each for each in conditions if each.get("type") == kind and each.get("status") == "True")
    return next(met, None)


def _walk(facts: MakerFacts) -> Iterator[Finding]:
    if idle := _idle(facts):
        yield bad(f"it wants no pods: {idle}", f"kubectl edit {facts.words}")
        return
    cluster, pod = facts.cluster, template(facts.document)
    yield from asked.annotation(pod, cluster, facts.document)
    if _asks(facts) not in {None, Mode.NONE}:
        yield from asked.values(pod, cluster)
        yield from asked.namespace(cluster)
        yield from webhook.configured(cluster)
    yield from _refused(facts)
    yield from placing.by_quota(cluster)


def _asks(facts: MakerFacts) -> Mode | None:
    return asked.read(template(facts.document), facts.cluster.namespace).mode


def _idle(facts: MakerFacts) -> str:
    spec = mapping(facts.document, "spec")
    if spec.get("replicas") == 0 and isinstance(spec.get("replicas"), int):
        return "spec.replicas is 0"
    if spec.get("suspend") is True:
        return "spec.suspend is true"
    if spec.get("parallelism") == 0 and isinstance(spec.get("parallelism"), int):
        return "spec.parallelism is 0"
    return ""


def _refused(facts: MakerFacts) -> Iterator[Finding]:
    """What the API server said when a pod was to be made: by the last Event, else by a dry run now."""
    told = said(facts.events, *REFUSALS)
    if isinstance(facts.events, Unread):
        yield facts.events.finding
    if told:
        yield webhook.judged(judge_error(told[0]), "its pods")
        return
    match facts.trial:
        case Unread():
            yield facts.trial.finding
        case Proof(Outcome.ADMITTED):
            yield good("a pod of it would be admitted now (dry run)")
        case Proof(Outcome.NOT_ASKED) if _asks(facts) is Mode.NONE:
            yield unknown("a pod of it would be stored as it is (dry run)")
        case proof:
            yield webhook.judged(proof, "its pods (dry run)")
