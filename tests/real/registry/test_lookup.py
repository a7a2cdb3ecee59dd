"""Images looked up in a real registry: as nobody, with a password, with a token, over TLS; broken, and stalled."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import trio
from prometheus_client import CollectorRegistry

from bitfusiond.core.admission.images import Needed
from bitfusiond.core.images import registries
from bitfusiond.core.images.image import Image, Unreadable
from bitfusiond.core.images.pullsecrets import Credentials, Entry
from bitfusiond.core.images.registries import Registries
from bitfusiond.registry import wire
from bitfusiond.webhook.images.lookup import Lookup
from bitfusiond.webhook.images.pullsecrets import PullSecrets
from tests.fakes import images, registry
from tests.fakes.pki import Pki
from tests.fakes.processes import frozen
from tests.real.harness.registry import AUDIENCE, HTPASSWD, ISSUER, Signer, Store

CONFIG = images.config(["/entry"], ["cmd"], ["LD_LIBRARY_PATH=/of/the/image"])
IMAGE = Image(("/entry",), ("cmd",), {"LD_LIBRARY_PATH": "/of/the/image"})
DOCKER_MANIFEST = f"{images.DOCKER}.v2+json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    made.push("team/app", CONFIG, images.manifest(CONFIG), tag="1")
    return made


async def look_up(
    name: str, *insecure: str, user: str = "", password: str = "", trust: wire.Trust | None = None, seconds: float = 4
) -> Image | Unreadable:
    """As an admission does; without ``insecure`` ones the registry is named instead."""
    host = name.partition("/")[0]
    of_operator = registries.insecure(",".join(insecure)) if insecure else frozenset()
    entries = (Entry(host, Credentials(user, password)),) if user else ()
    trusted = trust or wire.trust()
    lookup = Lookup(Registries((host,), of_operator), lambda: trusted, CollectorRegistry())

    async def secrets() -> PullSecrets:
        return PullSecrets(entries)

    async with trio.open_nursery() as nursery:
        await nursery.start(lookup.run)
        found = await lookup.find(Needed({name: True}, ()), "team", secrets, trio.current_time() + seconds)
        nursery.cancel_scope.cancel()
    return found[name]


async def reason(name: str, *insecure: str, user: str = "", password: str = "", seconds: float = 4) -> str:
    found = await look_up(name, *insecure, user=user, password=password, seconds=seconds)
    assert isinstance(found, Unreadable), found
    return found.reason


async def test_an_image_is_found_by_its_tag_and_by_its_digest(store: Store) -> None:
    docker = images.manifest(CONFIG, DOCKER_MANIFEST)
    store.push("docker", CONFIG, docker, tag="1")
    with store.serving() as (address, _):
        for name in ("team/app:1", f"team/app@{images.manifest(CONFIG).digest}", "docker:1", f"docker@{docker.digest}"):
            assert await look_up(f"{address}/{name}", f"http://{address}") == IMAGE, name
        assert await reason(f"{address}/team/app:2", f"http://{address}") == f"{address}/team/app has no 2"
        assert await reason(f"{address}/none", f"http://{address}") == f"{address}/none has no latest"


@pytest.mark.parametrize("kind", [f"{images.OCI}.index.v1+json", f"{images.DOCKER}.list.v2+json"])
async def test_a_list_leads_to_the_image_of_our_platform(store: Store, kind: str) -> None:
    of_list = f"{images.OCI}.manifest.v1+json" if kind.startswith(images.OCI) else DOCKER_MANIFEST
    ours, other = images.manifest(CONFIG, of_list), images.manifest(images.config(["other"]), of_list)
    store.push("many", images.config(["other"]), other)
    listed = images.index((other, "linux/arm64"), (ours, "linux/amd64"), media_type=kind)
    store.push("many", CONFIG, ours, listed, tag="1")
    lonely = images.index((other, "linux/arm64"), media_type=kind)
    store.push("many", CONFIG, lonely, tag="arm")
    with store.serving() as (address, _):
        assert await look_up(f"{address}/many:1", f"http://{address}") == IMAGE
        assert await look_up(f"{address}/many@{listed.digest}", f"http://{address}") == IMAGE
        assert "is not there for linux/amd64" in await reason(f"{address}/many:arm", f"http://{address}")


async def test_a_password_is_what_the_registry_wants(store: Store) -> None:
    (store.directory / "htpasswd").write_text(HTPASSWD)
    auth = {"htpasswd": {"realm": "a registry", "path": str(store.directory / "htpasswd")}}
    with store.serving(auth) as (address, _):
        name, insecure = f"{address}/team/app:1", f"http://{address}"
        assert await look_up(name, insecure, user="ann", password="word") == IMAGE
        assert "no pull secret of the pod is right for it" in await reason(name, insecure, user="ann", password="wrong")
        assert "no pull secret of the pod is there for it" in await reason(name, insecure)


async def test_a_token_is_what_the_registry_wants(store: Store) -> None:
    signer = Signer()
    (store.directory / "tokens.pem").write_bytes(signer.pem)

    def token(request: registry.Request) -> registry.Answer:
        query = parse_qs(urlsplit(request.path).query)
        if request.authorization != registry.basic("ann", "word") or query["service"] != [AUDIENCE]:
            return registry.Answer(401)
        (scope,) = query["scope"]
        return registry.Answer(200, json.dumps({"token": signer.token(scope.split(":")[1])}).encode())

    with registry.serving() as tokens:
        tokens.answers["/token"] = token
        bundle = str(store.directory / "tokens.pem")
        realm = {"realm": f"{tokens.url}/token", "service": AUDIENCE, "issuer": ISSUER, "rootcertbundle": bundle}
        with store.serving({"token": realm}) as (address, _):
            name, insecure = f"{address}/team/app:1", (f"http://{address}", tokens.url)
            assert await look_up(name, *insecure, user="ann", password="word") == IMAGE
            words = await reason(name, *insecure, user="ann", password="wrong")
            assert "no pull secret of the pod is right for it" in words
            assert "which is not secure" in await reason(name, insecure[0], user="ann", password="word")


async def test_a_certificate_is_checked(store: Store) -> None:
    pki = Pki(store.directory)
    with store.serving(pki=pki) as (address, _):
        name = f"{address}/team/app:1"
        assert await look_up(name, trust=wire.trust(pki.ca.cert_pem.bytes().decode())) == IMAGE
        assert "its certificate is not trusted" in await reason(name)
        assert await look_up(name, f"https://{address}") == IMAGE


async def test_content_that_was_changed_on_its_disk_is_not_used(store: Store) -> None:
    for digest in (CONFIG.digest, images.manifest(CONFIG).digest):
        file = store.content(digest)
        good = file.read_bytes()
        wrong = good.replace(b"/entry", b"/wrong").replace(CONFIG.digest.encode(), b"sha256:" + b"0" * 64)
        assert len(wrong) == len(good)
        file.write_bytes(wrong)
        with store.serving() as (address, _):
            words = await reason(f"{address}/team/app:1", f"http://{address}")
        file.write_bytes(good)
        assert f"is not what its digest {digest} says" in words or "HTTP status 500" in words


async def test_a_registry_that_stalls_is_given_up_and_found_again(store: Store) -> None:
    with store.serving() as (address, process):
        name, insecure = f"{address}/team/app:1", f"http://{address}"
        with frozen(process):
            began = trio.current_time()
            assert "did not answer in time" in await reason(name, insecure, seconds=0.5)
            assert trio.current_time() - began < 3
        assert await look_up(name, insecure) == IMAGE
    assert "Connection refused" in await reason(name, insecure)
