"""Objects that somebody made to break the command: no error, and nothing without a bound."""

from __future__ import annotations

import copy
from typing import Any

import hypothesis
from hypothesis import strategies as st

from bitfusiond.core import names
from bitfusiond.core.diagnosis import makers, pods
from bitfusiond.core.diagnosis.facts import MakerFacts, PodFacts
from tests.pods import pod
from tests.unit.core.diagnosis import scenes
from tests.unit.core.diagnosis.scenes import cluster, event, facts, injected, node, quota, stored

JUNK: st.SearchStrategy[Any] = st.sampled_from(
    [None, 0, -1, 1.5, True, "", "x", "\x1b[2J", [], [None], ["x"], {}, {"x": None}, [{}], "9" * 400]
)
LONGEST = 600


def with_junk(draw: st.DrawFn, document: Any) -> Any:
    """``document`` with some of what is in it gone, or replaced by something of another kind."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        # Step by step: deep places are by far the most, and little depends on them.
        inner, key = document, draw(st.sampled_from(sorted(document)))
        while _has_inside(inner[key]) and draw(st.integers(0, 2)):
            inner = inner[key]
            key = draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
        if draw(st.booleans()) and isinstance(inner, dict) and inner is not document:
            del inner[key]
        else:
            inner[key] = copy.deepcopy(draw(JUNK))
    return document


def _has_inside(value: Any) -> bool:
    return isinstance(value, dict | list) and bool(value)


@st.composite
def scene(draw: st.DrawFn) -> PodFacts:
    message = "0/1 nodes are available: 1 Insufficient bitfusion.io/gpu."
    whole = {
        "pod": draw(
            st.sampled_from(
                [injected(**scenes.RUNNING), stored(pod()), injected(None, **scenes.unschedulable(message))]
            )
        ),
        "events": [event("FailedMount", "x"), event("FailedScheduling", "y")] if draw(st.booleans()) else [],
        "node": node("n1"),
        "nodes": [node("n1", "80")],
        "node_pods": [injected(**scenes.RUNNING)],
        "quotas": [quota(100, 50)],
        "about": {"metadata": {"labels": {}}},
        "configuration": scenes.CONFIGURATION,
        "endpoints": scenes.ENDPOINTS,
    }
    whole = with_junk(draw, whole)
    of = {key: whole.pop(key) for key in ("about", "configuration")}
    lists = {
        key: [each for each in whole.pop(key) or [] if isinstance(each, dict)] if isinstance(whole[key], list) else []
        for key in ("quotas", "endpoints", "events", "nodes", "node_pods")
    }
    of = {key: value if isinstance(value, dict) else None for key, value in of.items()}
    document = whole["pod"] if isinstance(whole["pod"], dict) else {}
    return facts(
        document,
        cluster=cluster(quotas=lists.pop("quotas"), endpoints=lists.pop("endpoints"), **of),
        node=whole["node"] if isinstance(whole["node"], dict) else None,
        **lists,
    )


@hypothesis.given(scene())
@hypothesis.settings(max_examples=1000, deadline=None)
def test_no_object_of_a_wrong_form_is_an_error(given: PodFacts) -> None:
    found = pods.diagnose(given)
    assert found
    assert all(len(each.line) <= LONGEST for each in found)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=100, deadline=None)
def test_nor_is_one_of_what_makes_pods(data: st.DataObject) -> None:
    whole = {"metadata": {"name": "app"}, "spec": {"replicas": 1, "template": pod(), "suspend": False}}
    document = data.draw(st.composite(lambda draw: with_junk(draw, whole))())
    found = makers.diagnose(MakerFacts(kind="x", document=document, cluster=cluster(), trial=scenes.PATCHED))
    assert all(len(each.line) <= LONGEST for each in found)


def test_a_huge_annotation_is_cut() -> None:
    document = stored(pod(annotations={names.MANAGEMENT: "x" * 1_000_000}))
    (line, *_) = [each.line for each in pods.diagnose(facts(document))]
    assert line.startswith("it asks in a word that nobody knows: ")
    assert len(line) < 300
