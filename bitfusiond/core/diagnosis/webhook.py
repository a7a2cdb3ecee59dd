"""Whether the webhook was asked about a pod, is there, and answers."""

from __future__ import annotations

from collections.abc import Iterator

from bitfusiond.core import names
from bitfusiond.core.diagnosis.facts import ClusterFacts, PodFacts
from bitfusiond.core.diagnosis.finding import Finding, Unread, bad, good
from bitfusiond.core.fields import mapping, objects
from bitfusiond.core.proof import REFUSED_BY_OTHERS, Outcome, Proof

_OPERATOR = "an operator runs: kubectl bitfusion check"
_ENDPOINTS_COMMAND = (
    f"kubectl get endpointslices -n {names.NAMESPACE} -l kubernetes.io/service-name={names.WEBHOOK_SERVICE}"
)


def configured(cluster: ClusterFacts) -> Iterator[Finding]:
    """Whether the API server is told to ask."""
    if isinstance(cluster.configuration, Unread):
        yield cluster.configuration.finding
    elif cluster.configuration is None:
        yield bad(
            f"the API server is not told to ask the webhook: there is no {names.MUTATING_KIND}"
            f" {names.MUTATING_CONFIGURATION}",
            _OPERATOR,
        )
    else:
        yield good(f"the API server is told to ask the webhook ({names.MUTATING_KIND} {names.MUTATING_CONFIGURATION})")


def answering(cluster: ClusterFacts) -> Iterator[Finding]:
    """Whether the webhook answers: by its endpoints, and by what a dry run said."""
    if isinstance(cluster.endpoints, Unread):
        yield cluster.endpoints.finding
    elif isinstance(cluster.configuration, dict):
        if ready := ready_endpoints(cluster):
            yield good(f"the webhook runs: {ready} ready endpoint{'s' if ready > 1 else ''}")
        else:
            yield bad("no replica of the webhook is ready: the API server cannot ask it", _ENDPOINTS_COMMAND)
    yield from tried(cluster)


def ready_endpoints(cluster: ClusterFacts) -> int:
    found = () if isinstance(cluster.endpoints, Unread) else cluster.endpoints
    ends = [end for each in found for end in objects(each.get("endpoints"))]
    return sum(mapping(end, "conditions").get("ready") is not False for end in ends)


def tried(cluster: ClusterFacts) -> Iterator[Finding]:
    """What became of a pod that was created by dry run."""
    match cluster.trial:
        case Unread():
            yield cluster.trial.finding
        case Proof(Outcome.ADMITTED):
            yield good(f"a pod that asks for a GPU in {cluster.namespace} would be injected now (dry run)")
        case proof:
            yield judged(proof, "pods that ask for a GPU (dry run)")


def judged(proof: Proof, what: str) -> Finding:
    """``proof`` of an answer that was no patch."""
    if proof.outcome is Outcome.NOT_ASKED:
        return bad(f"{what}: {proof.detail}", _OPERATOR)
    if proof.outcome is Outcome.UNREACHABLE:
        return bad(f"{what}: {proof.detail}", _ENDPOINTS_COMMAND)
    if proof.outcome is Outcome.REFUSED:
        return bad(f"{what}: {proof.detail}", "mend what the message names, and create it again")
    # kubectl does not always say who refused it.
    message = proof.detail.removeprefix(REFUSED_BY_OTHERS)
    if "exceeded quota" in message:
        return bad(f"{what} are refused: {message}", "wait until pods end, ask for less, or have the quota raised")
    return bad(f"{what} are refused: {message}", "mend what the message names, and create it again")


def not_injected(facts: PodFacts) -> Iterator[Finding]:
    """Why a pod that asks for a GPU has none of what the webhook adds."""
    cluster = facts.cluster
    again = f"kubectl delete pod {facts.words}, and create it again (what made it does so by itself)"
    made = str(mapping(facts.pod, "metadata").get("creationTimestamp") or "")
    if isinstance(cluster.configuration, dict):
        since = str(mapping(cluster.configuration, "metadata").get("creationTimestamp") or "")
        if made and since and made < since:
            yield bad(f"it was created ({made}) before the webhook was there ({since})", again)
            return
    answers = isinstance(cluster.trial, Proof) and cluster.trial.outcome is Outcome.ADMITTED
    if answers or (isinstance(cluster.trial, Unread) and ready_endpoints(cluster)):
        yield bad(f"the webhook was not asked when it was created ({made or 'at an unknown time'})", again)
    else:
        yield bad("it was not injected, and will not run on a GPU", again)
