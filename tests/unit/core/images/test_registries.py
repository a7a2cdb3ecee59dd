"""Whom we ask: the operator's choice, and the addresses where no registry is."""

from __future__ import annotations

import pytest

from bitfusiond.core.images import registries
from bitfusiond.core.images.registries import NotAllowedError, Origin, Registries

EXAMPLE = Origin("https", "r.example", 443)


@pytest.mark.parametrize(
    ("registry", "allowed", "may"),
    [
        ("r.example", ("*",), True),
        ("r.example", ("r.example",), True),
        ("a.r.example", ("*.example",), True),
        ("r.example:5000", ("r.example",), False),
        ("r.example:5000", ("r.example:*",), True),
        ("docker.io", ("r.example",), False),
    ],
)
def test_only_registries_that_are_allowed_are_asked(registry: str, allowed: tuple[str, ...], may: bool) -> None:
    chosen = Registries(allowed)
    if may:
        assert chosen.origin(registry, registry).scheme == "https"
    else:
        with pytest.raises(NotAllowedError, match=r"none of the registries that are asked"):
            chosen.origin(registry, registry)


def test_an_insecure_registry_is_one_by_its_scheme_and_its_port() -> None:
    chosen = Registries(insecure=registries.insecure("http://r.example:5000, https://s.example"))
    plain = chosen.origin("r.example:5000", "r.example:5000")
    assert plain == Origin("http", "r.example", 5000)
    unchecked = chosen.origin("s.example", "s.example")
    assert (unchecked, chosen.is_verified(unchecked)) == (Origin("https", "s.example", 443), False)
    assert chosen.is_verified(chosen.origin("r.example", "r.example"))


@pytest.mark.parametrize(
    "text",
    [
        "r.example:5000",
        "ftp://r.example",
        "http://",
        "http://r.example/x",
        "http://a:b@r.example",
        "http://r:x",
        ",",
        "http://r.example?x",
        "http://r.example:0",
        "http://r.example,s.example",
    ],
)
def test_a_wrong_list_of_insecure_registries_says_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match="comma-separated registries, each with its scheme"):
        registries.insecure(text)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "0.0.0.0",
        "::",
        "169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "224.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "240.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
    ],
)
def test_no_registry_is_asked_at_an_address_of_this_machine_or_of_its_cloud_unless_it_is_named(address: str) -> None:
    with pytest.raises(NotAllowedError, match="where no registry is asked unless it is named"):
        Registries().check_address(EXAMPLE, address)
    Registries(("r.example",)).check_address(EXAMPLE, address)
    Registries(insecure=frozenset({EXAMPLE})).check_address(EXAMPLE, address)
    with pytest.raises(NotAllowedError):
        Registries(("*.example",)).check_address(EXAMPLE, address)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd12::1", "2001:db9::1", "64:ff9b::808:808"]
)
def test_registries_inside_and_outside_are_asked(address: str) -> None:
    Registries().check_address(EXAMPLE, address)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://cdn.example/x", "which is not secure"),
        ("ftp://cdn.example/x", "a URL that is none"),
        ("/x", "a URL that is none"),
        ("https://user:secret@cdn.example/x", "a URL that is none"),
        ("https://cdn.example:port/x", "a URL that is none"),
        ("https://cdn.example/x y", "a URL that is none"),
        ("https://cdn.example/ü", "a URL that is none"),
        ("https://[cdn/x", "a URL that is none"),
    ],
)
def test_a_url_of_a_registry_is_followed_where_it_is_secure(url: str, words: str) -> None:
    with pytest.raises(NotAllowedError, match=words):
        Registries().follow(url)
    assert Registries().follow("https://cdn.example:8443/x?y=z#w") == (Origin("https", "cdn.example", 8443), "/x?y=z")
    insecure = Registries(insecure=registries.insecure("http://cdn.example"))
    assert insecure.follow("http://cdn.example") == (Origin("http", "cdn.example", 80), "/")
