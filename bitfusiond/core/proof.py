"""The proof of the whole path: a pod that opts in, created by dry run, and what the answer says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from bitfusiond.core import names
from bitfusiond.core.admission.review import OPTED_IN
from bitfusiond.core.clients.catalogue import Catalogue
from bitfusiond.core.fields import Json, mapping
from bitfusiond.core.objects import Pod
from bitfusiond.core.text import one_line

# An API server takes up a configuration, and the webhook writes its caBundle, a moment after it was applied.
SETTLE_SECONDS = 30.0
POLL_SECONDS = 1.0
NAMESPACE = "default"  # where nobody names another

_OURS = re.compile(r'"\w+\.?[\w-]*\.bitfusion\.io"|bwkimua|bwkival')
_DENIED = re.compile(r'admission webhook "(?P<webhook>[^"]+)" denied the request: (?P<why>.*)', re.DOTALL)
# kubectl's words for the causes of a refusal: whose they are it does not say. That the annotation itself is wrong is
# nobody's problem but ours, and what is wrong with no field of the pod comes under it too.
_INVALID = re.compile(r'The Pod "[^"]*" is invalid:(?P<why>.*)')
_LISTED = re.compile(r"[; ]+\* ")  # before each of several causes, once their lines are one
_FAILED = re.compile(r'failed calling webhook "(?P<webhook>[^"]+)": (?P<why>.*)', re.DOTALL)
# The policy of manifests/guard, which says no where the webhook was not asked.
_GUARDED = re.compile(r"ValidatingAdmissionPolicy 'bitfusiond-pods'.* denied request: (?P<why>.*)", re.DOTALL)
REFUSED_BY_OTHERS = "refused, not by bitfusiond: "
REFUSED_BY_POLICY = "refused by the policy bitfusiond-pods: "


class Outcome(Enum):
    """How the API server answered."""

    ADMITTED = "admitted"  # asked, and the pod was changed
    NOT_ASKED = "not asked"  # the pod came back as it went
    REFUSED = "refused"  # asked, and it said no
    UNREACHABLE = "unreachable"  # the API server could not ask
    OTHER = "other"  # somebody else said no


@dataclass(frozen=True, slots=True)
class Proof:
    """``detail`` is one line for people."""

    outcome: Outcome
    detail: str

    @property
    def good(self) -> bool:
        """A namespace that may not have tokens is refused by us, and so on purpose."""
        return self.outcome is Outcome.ADMITTED or (
            self.outcome is Outcome.REFUSED and "may not receive Bitfusion tokens" in self.detail
        )


def pod(namespace: str, client: Mapping[str, str]) -> Pod:
    """A pod that asks for 1 % of one GPU and would do nothing; as strict as Pod Security ``restricted`` wants it.

    ``client`` are the annotations that name its client.
    """
    security: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    resources = {"cpu": "10m", "memory": "16Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "bitfusiond-proof-",
            "namespace": namespace,
            # Without it an API server that knows no matchConditions would not say why it could not ask.
            "labels": {names.MANAGEMENT: "all"},
            "annotations": {names.MANAGEMENT: "all", **client},
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "proof",
                    "image": "bitfusiond-proof",
                    "command": ["true"],
                    "securityContext": security,
                    "resources": {
                        "requests": resources,
                        "limits": {**resources, names.GPU_AMOUNT: "1", names.GPU_PERCENT: "1"},
                    },
                }
            ],
        },
    }


def broken(wanted: Pod) -> Pod:
    """``wanted`` with an annotation that means nothing, so that we must refuse it."""
    annotations = {**wanted["metadata"]["annotations"], names.MANAGEMENT: "nonsense"}
    return {**wanted, "metadata": {**wanted["metadata"], "annotations": annotations}}


def plain(wanted: Pod) -> Pod:
    """``wanted`` without a word of us, so that we must let it be."""
    metadata = {key: wanted["metadata"][key] for key in ("generateName", "namespace")}
    (container,) = wanted["spec"]["containers"]
    limits = container["resources"]["requests"]
    container = {**container, "resources": {**container["resources"], "limits": limits}}
    return {**wanted, "metadata": metadata, "spec": {**wanted["spec"], "containers": [container]}}


def client_of(known: Catalogue | None) -> dict[str, str]:
    """The annotations that ask for the first client of a catalogue."""
    first = next(iter([*known.clients.values(), *known.others]), None) if known else None
    if first is None:
        return {names.CLIENT_OS: "ubuntu18", names.CLIENT_VERSION: "450"}
    asked = {names.CLIENT_OS: first.os, names.CLIENT_VERSION: first.version}
    if not first.is_bitfusion:
        # The servers are never asked; that none are known is not what this is to find out.
        asked |= {names.CLIENT_NAME: first.name, names.CLIENT_SERVERS: "127.0.0.1:1"}
    return {key: value for key, value in asked.items() if value is not None}


def judge(stored: Pod) -> Proof:
    """From the pod that the API server would store."""
    annotations = mapping(stored, "metadata", "annotations")
    if annotations.get(names.STATUS) != names.STATUS_INJECTED:
        return Proof(
            Outcome.NOT_ASKED, "the API server did not ask the webhook, and would have stored the pod as it is"
        )
    shares = stored["spec"]["containers"][0]["resources"]["limits"].get(names.GPU)
    return Proof(Outcome.ADMITTED, f"asked, patched: 1 % of one GPU became {names.GPU}: {shares}")


def judge_error(message: str) -> Proof:
    """From the words of the API server."""
    message = one_line(message)
    if (match := _INVALID.search(message)) and OPTED_IN in match["why"]:
        causes = [cause.strip().removeprefix(f"{OPTED_IN}: ") for cause in _LISTED.split(match["why"])]
        return Proof(Outcome.REFUSED, f"asked, refused by bitfusiond: {'; '.join(filter(None, causes))}")
    if (match := _DENIED.search(message)) and _OURS.search(match[0]):
        return Proof(Outcome.REFUSED, f"asked, refused by {match['webhook']}: {match['why']}")
    if match := _GUARDED.search(message):
        outcome = Outcome.NOT_ASKED if "was not asked" in match["why"] else Outcome.REFUSED
        return Proof(outcome, f"{REFUSED_BY_POLICY}{match['why']}")
    if (match := _FAILED.search(message)) and _OURS.search(match[0]):
        return Proof(Outcome.UNREACHABLE, f"the API server cannot reach {match['webhook']}: {match['why']}")
    return Proof(Outcome.OTHER, f"{REFUSED_BY_OTHERS}{message}")
