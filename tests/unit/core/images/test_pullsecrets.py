"""Pull secrets: what they may look like, and which of their credentials are for an image."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest

from bitfusiond.core.images import pullsecrets, reference
from bitfusiond.core.images.pullsecrets import Credentials, Entry


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def secret(document: Any, kind: str = "kubernetes.io/dockerconfigjson") -> dict[str, Any]:
    key = "." + kind.rpartition("/")[2]
    return {"type": kind, "data": {key: encoded(json.dumps(document))}}


ANN = Credentials("ann", "pass:word")


@pytest.mark.parametrize(
    "entry",
    [
        {"username": "ann", "password": "pass:word"},
        {"auth": encoded("ann:pass:word")},
        {"auth": encoded("ann:pass:word").rstrip("=")},
        {"auth": encoded("ann:pass:word"), "username": "other", "password": "other", "email": "a@b"},
    ],
)
def test_both_types_and_both_ways_to_write_them_are_read(entry: dict[str, str]) -> None:
    assert pullsecrets.read(secret({"auths": {"r.example": entry}})) == [Entry("r.example", ANN)]
    assert pullsecrets.read(secret({"r.example": entry}, "kubernetes.io/dockercfg")) == [Entry("r.example", ANN)]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"auths": None},
        {"auths": []},
        {"auths": {"r": None}},
        {"auths": {"r": {"auth": 1}}},
        [],
        1,
        {"auths": {"r": {"auth": "%"}}},
        {"auths": {"r": {"username": "\ud800", "password": "p"}}},
        {"auths": {"r": {"username": 1, "password": 2}}},
        {"auths": {"r": {}}},
    ],
)
def test_what_says_nothing_gives_nothing(document: Any) -> None:
    assert pullsecrets.read(secret(document)) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"type": "Opaque", "data": {}}, "is not of type kubernetes.io/dockerconfigjson or"),
        ({"type": "kubernetes.io/dockercfg", "data": {}}, "has nothing under .dockercfg"),
        ({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": "%"}}, "has nothing under .dockercfg"),
        ({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": encoded("secret{")}}, "has no JSON"),
        ({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": encoded("[" * 60_000)}}, "has no JSON"),
        ({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": encoded(" " * 65_537)}}, "more than 65536 bytes"),
    ],
)
def test_a_wrong_secret_is_told_without_a_word_of_it(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        pullsecrets.read(given)
    assert "secret{" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "image", "fits"),
    [
        ("r.example", "r.example/app", True),
        ("https://r.example", "r.example/app", True),
        ("https://r.example/v2/", "r.example/app", True),
        ("r.example/team", "r.example/team/app", True),
        ("r.example/team", "r.example/other/app", False),
        ("r.example:5000", "r.example:5000/app", True),
        ("r.example:5000", "r.example/app", False),
        ("r.example", "r.example:5000/app", False),
        ("*.example", "r.example/app", True),
        ("*.example", "a.r.example/app", False),
        ("*.*.example", "a.r.example/app", True),
        ("example", "r.example/app", False),
        ("r.example.evil", "r.example/app", False),
        ("R.Example", "r.example/app", True),
        ("[2001:db8::1]:5000", "[2001:db8::1]:5000/app", True),
        ("https://index.docker.io/v1/", "python:3", True),
        ("docker.io", "team/app", True),
        ("docker.io/other", "team/app", False),
        ("registry-1.docker.io", "docker.io/team/app", True),
        ("https://index.docker.io/v1/", "r.example/app", False),
        ("", "r.example/app", False),
        ("https://", "r.example/app", False),
    ],
)
def test_credentials_are_for_the_images_that_the_kubelet_takes_them_for(key: str, image: str, fits: bool) -> None:
    found = pullsecrets.for_image([Entry(key, ANN)], reference.parse(image))
    assert found == ([ANN] if fits else [])


def test_the_most_special_come_first_each_once_and_few() -> None:
    many = [Credentials(f"user{number}", "p") for number in range(6)]
    entries = [Entry("r.example", ANN), Entry("https://r.example/team", many[0]), Entry("r.example/team/app", many[1])]
    image = reference.parse("r.example/team/app")
    assert pullsecrets.for_image([*entries, *entries], image) == [many[1], many[0], ANN]
    assert len(pullsecrets.for_image([Entry("r.example", each) for each in many], image)) == pullsecrets.MOST_TRIED


@pytest.mark.parametrize(
    ("part", "pattern", "fits"),
    [
        ("abc", "*", True),
        ("abc", "a*", True),
        ("abc", "*c", True),
        ("abc", "a*c", True),
        ("abc", "*b*", True),
        ("abc", "a*b*c", True),
        ("abc", "abc*", True),
        ("abc", "*abc*", True),
        ("abc", "**", True),
        ("aba", "ab*ba", False),
        ("abc", "*b", False),
        ("abc", "b*", False),
        ("abc", "a*d*c", False),
        ("a.c", "a?c", False),
        ("", "*", True),
    ],
)
def test_a_star_stands_for_anything_in_a_part_of_a_host(part: str, pattern: str, fits: bool) -> None:
    assert pullsecrets._fits(part, pattern) is fits


def test_a_pull_secret_that_is_made_to_take_long_does_not() -> None:
    image = reference.parse("a" * 63 + ".example/" + "a" * 200)
    entries = [Entry(f"{'*a' * 30}*b.example", ANN)] * 4096
    began = time.process_time()
    assert pullsecrets.for_image(entries, image) == []
    many = {f"r{number}.example": {"username": "a", "password": "b"} for number in range(1000)}
    assert len(pullsecrets.read(secret({"auths": many}))) == 256
    assert time.process_time() - began < 1


def test_credentials_show_nothing_of_themselves() -> None:
    assert "pass" not in repr(Entry("r.example", ANN))
    assert base64.b64decode(ANN.basic) == b"ann:pass:word"
