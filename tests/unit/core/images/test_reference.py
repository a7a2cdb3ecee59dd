"""Names of images, as container runtimes read them."""

from __future__ import annotations

import pytest

from bitfusiond.core.images import reference
from bitfusiond.core.images.reference import Reference

D = f"sha256:{'a' * 64}"
D512 = f"sha512:{'a' * 128}"


@pytest.mark.parametrize(
    ("name", "expected", "api"),
    [
        ("python", Reference("docker.io", "library/python", "", ""), "registry-1.docker.io"),
        ("python:3", Reference("docker.io", "library/python", "3", ""), "registry-1.docker.io"),
        ("team/app:1", Reference("docker.io", "team/app", "1", ""), "registry-1.docker.io"),
        ("docker.io/python:3", Reference("docker.io", "library/python", "3", ""), "registry-1.docker.io"),
        ("index.docker.io/team/app", Reference("docker.io", "team/app", "", ""), "registry-1.docker.io"),
        ("registry.example/app", Reference("registry.example", "app", "", ""), "registry.example"),
        ("Registry.Example/app", Reference("registry.example", "app", "", ""), "registry.example"),
        ("registry:5000/a/b/c:v1.0_x", Reference("registry:5000", "a/b/c", "v1.0_x", ""), "registry:5000"),
        ("localhost/app", Reference("localhost", "app", "", ""), "localhost"),
        ("10.0.0.1:5000/app", Reference("10.0.0.1:5000", "app", "", ""), "10.0.0.1:5000"),
        ("[2001:db8::1]:5000/app:1", Reference("[2001:db8::1]:5000", "app", "1", ""), "[2001:db8::1]:5000"),
        (f"r.example/app@{D}", Reference("r.example", "app", "", D), "r.example"),
        (f"r.example/app:1@{D}", Reference("r.example", "app", "1", D), "r.example"),
        (f"app@{D512}", Reference("docker.io", "library/app", "", D512), "registry-1.docker.io"),
        ("a__b/c-d.e", Reference("docker.io", "a__b/c-d.e", "", ""), "registry-1.docker.io"),
    ],
)
def test_a_name_is_read_as_a_runtime_reads_it(name: str, expected: Reference, api: str) -> None:
    found = reference.parse(name)
    assert found == expected
    assert found.api == api


@pytest.mark.parametrize(
    "name",
    [
        "",
        "UPPER",
        "a b",
        "a:",
        "a:b:c",
        "a@sha256:12",
        "a@md5:" + "a" * 32,
        "/a",
        "a/",
        "https://r.example/a",
        "a//b",
        "r.example:port/a",
        "r.example/a:" + "t" * 129,
        "a" * 513,
        "r.example/a?x",
        "r.example/a#x",
        "r.example/../a",
    ],
)
def test_what_is_no_name_is_refused_and_shown(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of an image"):
        reference.parse(name)


@pytest.mark.parametrize(
    ("name", "asked", "is_latest"),
    [("a", "latest", True), ("a:latest", "latest", True), ("a:1", "1", False), (f"a:latest@{D}", D, False)],
)
def test_what_is_asked_for_is_the_digest_then_the_tag_then_latest(name: str, asked: str, is_latest: bool) -> None:
    found = reference.parse(name)
    assert (found.tag_or_digest, found.is_latest) == (asked, is_latest)
