"""What an API server's answer to somebody who would create a pod says of us, in words or by the pod that it took."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from bitfusiond.core import names
from bitfusiond.core.admission.review import OPTED_IN
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Pod
from bitfusiond.core.text import one_line

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
        return Proof(outcome, f"refused by the policy bitfusiond-pods: {match['why']}")
    if (match := _FAILED.search(message)) and _OURS.search(match[0]):
        return Proof(Outcome.UNREACHABLE, f"the API server cannot reach {match['webhook']}: {match['why']}")
    return Proof(Outcome.OTHER, f"{REFUSED_BY_OTHERS}{message}")
