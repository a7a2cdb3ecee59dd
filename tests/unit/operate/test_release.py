"""Whose an installation is: Helm's where the annotations of a release say so, else nobody's but ours."""

from __future__ import annotations

from bitfusiond.core.fields import Json
from bitfusiond.operate import current, manifests, release
from bitfusiond.operate.release import Release


def annotated(**annotations: str) -> Json:
    named = {f"meta.helm.sh/release-{key}": value for key, value in annotations.items()}
    return {"kind": "Deployment", "metadata": {"name": "d", "annotations": {"other": "x", **named}}}


def test_a_release_is_known_by_the_annotations_of_any_object() -> None:
    assert release.of_objects(
        {current.WEBHOOK: {"metadata": {}}, current.PLUGIN: annotated(name="mine", namespace="bwki")}
    ) == ("mine", "bwki")


def test_without_them_it_is_ours() -> None:
    assert release.of_objects({}) is None
    assert release.of_objects({current.WEBHOOK: {"metadata": {}}, current.PLUGIN: annotated()}) is None


def test_what_a_release_left_is_of_no_release() -> None:
    assert release.of_objects({manifests.CATALOGUE_MAP: annotated(name="mine", namespace="bwki")}) is None


def test_the_words_have_commands_that_can_be_copied() -> None:
    mine = Release("mine", "bwki")
    assert "`helm upgrade mine -n bwki`" in release.refusal_of_deploy(mine)
    for told in (release.refusal_of_deploy(mine), release.refusal_of_uninstall(mine)):
        assert "`helm uninstall mine -n bwki`" in told
