"""An image read from a registry over real HTTP and TLS: good ones, and what a hostile one may say."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from bitfusiond.core.images import reference, registries
from bitfusiond.core.images.image import Image
from bitfusiond.core.images.manifest import CONFIG_LIMIT, MANIFEST_LIMIT, WrongContentError
from bitfusiond.core.images.pullsecrets import Credentials
from bitfusiond.core.images.registries import NotAllowedError, Registries
from bitfusiond.http.memory import Memory
from bitfusiond.registry import wire
from bitfusiond.registry.client import AbsentError, DeniedError, KnownImage, RegistryError, read_image
from bitfusiond.registry.wire import Session, UnreachableError
from tests.fakes import images
from tests.fakes.pki import Pki
from tests.fakes.registry import TOKEN, Answer, Registry, Request, serving, stalled

CONFIG = images.config(["/entry"], ["cmd"], ["LD_LIBRARY_PATH=/of/the/image"])
IMAGE = Image(("/entry",), ("cmd",), {"LD_LIBRARY_PATH": "/of/the/image"})
MANIFEST = images.manifest(CONFIG)
ANN, BOB = Credentials("ann", "one"), Credentials("bob", "two")


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as one:
        yield one


@pytest.fixture
def other() -> Iterator[Registry]:
    with serving() as one:
        yield one


async def read(
    name: str,
    *insecure: Registry,
    credentials: Sequence[Credentials] = (),
    trust: wire.Trust | None = None,
    known: KnownImage = lambda _: None,
    allowed: tuple[str, ...] = ("*",),
) -> tuple[str, Image]:
    of_operator = registries.insecure(",".join(each.url for each in insecure)) if insecure else frozenset()
    chosen = Registries(allowed, of_operator)
    with trio.fail_after(15):
        async with Session(chosen, lambda: trust or wire.trust(), Memory(2**20)) as session:
            return await read_image(session, chosen, reference.parse(name), credentials, known)


async def test_a_tag_and_a_digest_lead_to_the_configuration(registry: Registry) -> None:
    tagged, by_digest = registry.push("app", CONFIG, MANIFEST, tag="1"), registry.push("app", CONFIG, MANIFEST)
    assert await read(tagged, registry) == (MANIFEST.digest, IMAGE)
    assert await read(by_digest, registry) == (MANIFEST.digest, IMAGE)
    assert registry.connections == 2, "one for each lookup"


@pytest.mark.parametrize("kind", [f"{images.OCI}.index.v1+json", f"{images.DOCKER}.list.v2+json"])
async def test_a_list_of_manifests_leads_to_that_for_our_platform(registry: Registry, kind: str) -> None:
    arm = images.manifest(images.config(["arm"]))
    listed = images.index((arm, "linux/arm64"), (MANIFEST, "linux/amd64"), media_type=kind)
    name = registry.push("app", CONFIG, MANIFEST, listed, tag="1")
    assert await read(name, registry) == (MANIFEST.digest, IMAGE)
    assert len(registry.asked()) == 3


async def test_what_is_known_by_its_digest_is_not_read_again(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, images.index((MANIFEST, "linux/amd64")), tag="1")
    known = {MANIFEST.digest: IMAGE}
    assert await read(name, registry, known=known.get) == (MANIFEST.digest, IMAGE)
    assert registry.asked() == ["/v2/app/manifests/1"]


@pytest.mark.parametrize("token", [False, True], ids=["basic", "token"])
async def test_credentials_are_tried_one_after_the_other(registry: Registry, token: bool) -> None:
    registry.users, registry.token = {"bob": "two"}, token
    name = registry.push("team/app", CONFIG, MANIFEST, tag="1")
    assert (await read(name, registry, credentials=[ANN, BOB]))[1] == IMAGE
    for wrong in ([], [ANN], [Credentials("bob", "wrong")]):
        with pytest.raises(DeniedError):
            await read(name, registry, credentials=wrong)
    if token:
        assert registry.asked("/token")[0] == "/token?scope=repository%3Ateam%2Fapp%3Apull&service=us"
        assert Request("/v2/team/app/manifests/1", f"Bearer {TOKEN}") in registry.requests


async def test_a_registry_gets_credentials_only_after_it_asked_for_them(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    await read(name, registry, credentials=[ANN])
    assert {request.authorization for request in registry.requests} == {None}


async def test_a_blob_in_another_store_is_read_there_without_our_authorization(
    registry: Registry, other: Registry
) -> None:
    registry.users = {"ann": "one"}
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    blob = f"/v2/app/blobs/{CONFIG.digest}"
    registry.answers[blob] = Answer(307, b"", {"Location": f"{other.url}/store?signature=x"})
    other.answers["/store"] = Answer(200, CONFIG.data)
    assert (await read(name, registry, other, credentials=[ANN]))[1] == IMAGE
    assert other.requests == [Request("/store?signature=x", None)]
    with pytest.raises(NotAllowedError, match="which is not secure"):
        await read(name, registry, credentials=[ANN])
    assert len(other.requests) == 1


async def test_a_redirect_inside_the_registry_keeps_the_authorization(registry: Registry) -> None:
    registry.users = {"ann": "one"}
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    tag = f"/v2/app/manifests/{MANIFEST.digest}"
    registry.stored["/v2/app/manifests/elsewhere"] = registry.stored.pop(tag)
    refusal = Answer(401, b"", {"WWW-Authenticate": 'Basic realm="x"'})
    moved = Answer(302, b"", {"Location": "./elsewhere"})
    registry.answers["/v2/app/manifests/1"] = lambda request: moved if request.authorization else refusal
    assert (await read(name, registry, credentials=[ANN]))[1] == IMAGE
    assert registry.asked("elsewhere") == ["/v2/app/manifests/elsewhere"]


async def test_redirects_end(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    registry.answers["/v2/app/manifests/1"] = Answer(302, b"", {"Location": "/v2/app/manifests/1"})
    with pytest.raises(RegistryError, match="more than 3 redirects"):
        await read(name, registry)
    assert len(registry.requests) == 4


async def test_a_token_server_is_one_that_may_be_asked(registry: Registry, other: Registry) -> None:
    """A registry may name any URL there: credentials go over TLS, or where the operator said so."""
    registry.users = {"ann": "one"}
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    for realm in (f"{other.url}/token", "http://169.254.169.254/latest", "nonsense", ""):
        challenge = Answer(401, b"", {"WWW-Authenticate": f'Bearer realm="{realm}",service="us"'})
        registry.answers["/v2/app/manifests/1"] = challenge
        with pytest.raises(NotAllowedError):
            await read(name, registry, credentials=[ANN])
    assert other.requests == []
    challenge = Answer(401, b"", {"WWW-Authenticate": 'Bearer realm="https://127.0.0.1:1/token"'})
    registry.answers["/v2/app/manifests/1"] = challenge
    with pytest.raises(NotAllowedError, match=r"127\.0\.0\.1:1 is at 127\.0\.0\.1, where no registry is asked"):
        await read(name, registry, credentials=[ANN])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token": 1}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nHost: x"}',
        b'{"token": "\\u00fc"}',
        b"[" * 30000,
    ],
)
async def test_a_token_that_is_none_is_refused(registry: Registry, body: bytes) -> None:
    registry.users, registry.token = {"ann": "one"}, True
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    registry.answers["/token"] = Answer(200, body)
    with pytest.raises(RegistryError, match="gave no token"):
        await read(name, registry, credentials=[ANN])


async def test_a_challenge_that_is_made_to_take_long_does_not(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    began = time.process_time()
    for words in ("a" * 30_000, 'a="' * 10_000, 'a="\\"' * 6_000, "a=" * 15_000):
        registry.answers["/v2/app/manifests/1"] = Answer(401, b"", {"WWW-Authenticate": f"Bearer {words}"})
        with pytest.raises(NotAllowedError):
            await read(name, registry)
    assert time.process_time() - began < 2


async def test_content_that_is_not_what_its_digest_says_is_refused(registry: Registry) -> None:
    """Wherever it comes in: the list, the manifest, the configuration; by digest, by tag with the registry's word."""
    listed = images.index((MANIFEST, "linux/amd64"))
    name = registry.push("app", CONFIG, MANIFEST, listed)
    wrong = images.manifest(images.config(["wrong"]))
    for digest, kind in ((listed.digest, "manifests"), (MANIFEST.digest, "manifests"), (CONFIG.digest, "blobs")):
        path = f"/v2/app/{kind}/{digest}"
        registry.answers = {path: Answer(200, wrong.data)}
        with pytest.raises(WrongContentError, match=f"is not what its digest {digest} says"):
            await read(name, registry)
    registry.answers = {"/v2/app/manifests/1": Answer(200, wrong.data, {"Docker-Content-Digest": MANIFEST.digest})}
    with pytest.raises(WrongContentError, match="is not what its digest"):
        await read(f"{registry.address}/app:1", registry)


async def test_a_list_does_not_lead_to_a_list(registry: Registry) -> None:
    inner = images.index((MANIFEST, "linux/amd64"))
    name = registry.push("app", CONFIG, MANIFEST, inner, images.index((inner, "linux/amd64")), tag="1")
    with pytest.raises(WrongContentError, match="leads to another list"):
        await read(name, registry)


@pytest.mark.parametrize("lies", [False, True], ids=["as it says", "without a length that is true"])
@pytest.mark.parametrize(("path", "limit"), [("manifests/1", MANIFEST_LIMIT), (f"blobs/{CONFIG.digest}", CONFIG_LIMIT)])
async def test_what_is_too_large_is_not_read(registry: Registry, path: str, limit: int, lies: bool) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    registry.answers[f"/v2/app/{path}"] = Answer(200, b" " * (limit + 1), length=10 * limit if lies else None)
    with pytest.raises(RegistryError, match=f"has more than {limit} bytes"):
        await read(name, registry)
    registry.answers[f"/v2/app/{path}"] = Answer(200, b" " * limit)
    with pytest.raises(WrongContentError):
        await read(name, registry)


async def test_an_answer_that_ends_early_is_none(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    registry.answers["/v2/app/manifests/1"] = Answer(200, MANIFEST.data, length=len(MANIFEST.data) + 1)
    with pytest.raises(UnreachableError, match=registry.address):
        await read(name, registry)


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (404, AbsentError, "^$"),
        (403, DeniedError, "^$"),
        (401, DeniedError, "^$"),
        (429, RegistryError, "HTTP status 429"),
        (500, RegistryError, "HTTP status 500"),
        (204, RegistryError, "HTTP status 204"),
        (304, RegistryError, "HTTP status 304"),
    ],
)
async def test_what_is_no_answer_is_told_by_its_status(
    registry: Registry, status: int, error: type[Exception], words: str
) -> None:
    registry.answers["/v2/app/manifests/1"] = Answer(status, b"" if status in {204, 304} else b"<html>secret")
    with pytest.raises(error, match=words):
        await read(f"{registry.address}/app:1", registry, credentials=[ANN])


async def test_a_connection_that_the_registry_ended_is_made_anew(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    registry.answers["/v2/app/manifests/1"] = Answer(200, MANIFEST.data, {"Connection": "close"}, len(MANIFEST.data))
    assert (await read(name, registry))[1] == IMAGE
    assert registry.connections == 2


# --- TLS and addresses ------------------------------------------------------------------------------------------------


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[tuple[Registry, Pki]]:
    pki = Pki(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.cert, pki.key)
    with serving(context) as one:
        yield one, pki


async def test_a_certificate_is_checked_against_the_systems_cas_and_those_that_are_given(
    secured: tuple[Registry, Pki],
) -> None:
    registry, pki = secured
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    of_ca = wire.trust(pki.ca.cert_pem.bytes().decode())
    assert (await read(name, trust=of_ca, allowed=(registry.address,)))[1] == IMAGE
    with pytest.raises(UnreachableError, match=r"its certificate is not trusted: .*--registry-ca"):
        await read(name, allowed=(registry.address,))
    assert (await read(name, registry))[1] == IMAGE, "insecure, by the operator's word"


async def test_a_name_that_is_not_in_the_certificate_is_not_trusted(tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pki.cert, pki.key)
    of_ca = wire.trust(pki.ca.cert_pem.bytes().decode())
    with serving(context, "127.0.0.2") as registry:
        with pytest.raises(UnreachableError, match="its certificate is not trusted: IP address mismatch"):
            await read(f"{registry.address}/app:1", trust=of_ca, allowed=(registry.address,))
        assert registry.requests == []


async def test_plain_http_is_not_asked_unless_the_operator_says_so(registry: Registry) -> None:
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    with pytest.raises(UnreachableError, match="no TLS"):
        await read(name, allowed=(registry.address,))
    assert registry.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254"])
async def test_nothing_is_sent_to_this_machine_or_its_link(registry: Registry, host: str) -> None:
    port = registry.address.rpartition(":")[2]
    with pytest.raises(NotAllowedError, match="where no registry is asked"):
        await read(f"{host}:{port}/app:1")
    assert registry.connections == 0


async def test_a_host_that_is_not_there_is_told() -> None:
    with pytest.raises(UnreachableError, match=r"registry\.invalid: "):
        await read("registry.invalid/app:1")


async def test_a_registry_that_never_answers_ends_with_the_lookup() -> None:
    with stalled() as (address, taken):
        insecure = Registry(address)
        with trio.move_on_after(0.5) as scope:
            await read(f"{address}/app:1", insecure)
        assert scope.cancelled_caught
        assert len(taken) == 1
        taken[0].settimeout(5)
        while taken[0].recv(4096):
            pass
