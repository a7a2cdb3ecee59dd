"""A pod that does not ask for a GPU, or asked and was not injected: the line that says so, and the next command."""

from __future__ import annotations

from typing import Any

import pytest

from bitfusiond.core import names
from bitfusiond.core.diagnosis.finding import State, Unread
from bitfusiond.core.proof import Outcome, Proof
from tests.pods import container, pod
from tests.unit.core.diagnosis import scenes
from tests.unit.core.diagnosis.scenes import bad, cluster, facts, lines, stored

CHECK = "an operator runs: kubectl bitfusion check"
AGAIN = "kubectl delete pod p -n team, and create it again (what made it does so by itself)"
CREATE_ANEW = "create it from its own manifest, not from a copy of a pod that ran"
ANNOTATE = (
    'put auto-management/bitfusion: "all" into metadata.annotations of the pod, or of the template that it is made'
)
PLAIN = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", "image": "i"}]}}


def labelled(document: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], **metadata}}


@pytest.mark.parametrize(
    ("document", "told", "following"),
    [
        (PLAIN, "it does not ask for a GPU: it has no annotation auto-management/bitfusion", ANNOTATE),
        (
            labelled(PLAIN, annotations={names.MANAGEMENT: "none"}),
            "it wants no GPU: auto-management/bitfusion is none",
            'write "all" instead',
        ),
        (
            labelled(PLAIN, labels={names.MANAGEMENT: "all"}),
            "auto-management/bitfusion is a label of it, and must be an annotation",
            ANNOTATE,
        ),
        (
            {"metadata": {"name": "p"}, "spec": {"containers": [container()]}},
            "it asks for bitfusion.io/gpu-amount, bitfusion.io/gpu-percent without the annotation"
            " auto-management/bitfusion",
            ANNOTATE,
        ),
        (
            pod(mode="maybe"),
            "it asks in a word that nobody knows: metadata.annotations[auto-management/bitfusion]: maybe is not one of"
            " all, injection, none",
            "write all, injection or none",
        ),
        (
            labelled(PLAIN, annotations={names.MIRROR: "x", names.MANAGEMENT: "all"}),
            "the kubelet runs this pod from a file on its node, and such a pod cannot be injected",
            "create it in the API server instead",
        ),
        (
            labelled(PLAIN, annotations={names.STATUS: "injected"}),
            "it has the annotation auto-management/status without what the webhook adds",
            CREATE_ANEW,
        ),
        (
            pod(annotations={names.STATUS: "injected"}),
            "auto-management/status is there, but not what the webhook adds: somebody wrote it, or took the rest away",
            CREATE_ANEW,
        ),
    ],
)
def test_what_the_pod_itself_says_wrong(document: dict[str, Any], told: str, following: str) -> None:
    found = bad(facts(stored(document)))
    assert [(line, each[: len(following)]) for line, each in found] == [(told, following)]


def test_an_annotation_on_what_makes_the_pod_is_told() -> None:
    maker = {"metadata": {"annotations": {names.MANAGEMENT: "all"}}}
    assert bad(facts(stored(PLAIN, phase="Running"), maker=maker)) == [
        (
            "the annotation auto-management/bitfusion stands on what makes the pod, where the webhook does not see it",
            "put it into spec.template.metadata.annotations",
        )
    ]


@pytest.mark.parametrize(
    ("changed", "told", "following"),
    [
        (
            {"namespace": "kube-system"},
            "pods of the namespace kube-system are never injected",
            "create it in a namespace of your own",
        ),
        (
            {"about": {"metadata": {"labels": {names.ADMISSION_LABEL: "ignore"}}}},
            "its namespace has the label bitfusion.io/admission=ignore: the API server does not ask the webhook",
            "kubectl label namespace team bitfusion.io/admission-",
        ),
    ],
)
def test_a_namespace_that_is_left_alone_is_the_only_reason(changed: dict[str, Any], told: str, following: str) -> None:
    assert bad(facts(stored(pod()), cluster=cluster(**changed))) == [(told, following)]


def test_a_pod_from_before_the_webhook() -> None:
    later = {"metadata": {"creationTimestamp": "2026-11-29T10:00:00Z"}, "webhooks": []}
    told = f"it was created ({scenes.MADE}) before the webhook was there (2026-11-29T10:00:00Z)"
    assert bad(facts(stored(pod()), cluster=cluster(configuration=later))) == [(told, AGAIN)]


def test_a_pod_that_was_made_while_the_webhook_was_not_asked() -> None:
    assert bad(facts(stored(pod()))) == [(f"the webhook was not asked when it was created ({scenes.MADE})", AGAIN)]
    assert "a pod that asks for a GPU in team would be injected now (dry run)" in lines(facts(stored(pod())))


def test_no_webhook_is_configured() -> None:
    found = bad(facts(stored(pod()), cluster=cluster(configuration=None, trial=scenes.NOT_ASKED)))
    assert found == [
        (
            "the API server is not told to ask the webhook: there is no MutatingWebhookConfiguration bwki-webhook-cfg",
            CHECK,
        ),
        ("pods that ask for a GPU (dry run): the API server did not ask the webhook", CHECK),
        ("it was not injected, and will not run on a GPU", AGAIN),
    ]


def test_no_replica_of_the_webhook_answers() -> None:
    found = bad(facts(stored(pod()), cluster=cluster(endpoints=[], trial=scenes.UNREACHABLE)))
    look = "kubectl get endpointslices -n bwki -l kubernetes.io/service-name=bwki-webhook-svc"
    assert found[0] == ("no replica of the webhook is ready: the API server cannot ask it", look)
    assert found[1][0].startswith("pods that ask for a GPU (dry run): the API server cannot reach bwkimua")


def test_a_client_that_nobody_has() -> None:
    document = stored(pod(annotations={names.CLIENT_OS: "beos"}))
    found = bad(facts(document))
    assert found[0][0].startswith("the webhook refuses it: metadata.annotations[bitfusion-client/os,")
    assert found[0][1] == "name one of these clients"
    told = lines(facts(document, cluster=cluster(is_packaged=True)), State.UNKNOWN)
    assert told[0].startswith("its client is none of those that come with bitfusiond: ")


def test_an_uninjected_pod_of_somebody_who_may_read_nothing_else() -> None:
    of = facts(
        stored(pod()),
        cluster=cluster(
            about=Unread("namespaces"),
            configuration=Unread("mutatingwebhookconfigurations"),
            endpoints=Unread("endpointslices in bwki"),
            trial=Unread("what a dry run says"),
        ),
    )
    assert lines(of, State.UNKNOWN) == [
        "may not read namespaces: ask the operator",
        "may not read mutatingwebhookconfigurations: ask the operator",
        "may not read endpointslices in bwki: ask the operator",
        "may not read what a dry run says: ask the operator",
    ]
    assert bad(of) == [("it was not injected, and will not run on a GPU", AGAIN)]


def test_somebody_else_would_refuse_it_today() -> None:
    other = Proof(Outcome.OTHER, "refused, not by bitfusiond: pods are forbidden: violates PodSecurity")
    found = bad(facts(stored(pod()), cluster=cluster(trial=other)))
    told = "pods that ask for a GPU (dry run) are refused: pods are forbidden: violates PodSecurity"
    assert (told, "mend what the message names, and create it again") in found
