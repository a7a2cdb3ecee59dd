"""A webhook with --image-lookup, asked over HTTPS, and a registry over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry

from bitfusiond import settings
from bitfusiond.core.objects import Pod
from bitfusiond.core.tokens import copies
from bitfusiond.errors import ConfigurationError
from bitfusiond.kube import SECRETS
from bitfusiond.webhook import admission
from bitfusiond.webhook.cluster_view import InCluster, NoCluster
from bitfusiond.webhook.images.trusted import followed_registry_ca
from tests import pods
from tests.fakes import images
from tests.fakes.cluster import FakeCluster
from tests.fakes.https_client import patched, review
from tests.fakes.pki import Pki
from tests.fakes.processes import until
from tests.fakes.registry import Registry, serving, stalled
from tests.pods import BINARY, LIBRARIES
from tests.unit.conftest import Events, RunWebhook

CONFIG = images.config(["/entry"], ["cmd"], ["LD_LIBRARY_PATH=/of/the/image"])
MANIFEST = images.manifest(CONFIG)
CLIENT = [BINARY, "run", "-n", "1", "-p", "0.500000", "--"]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as one:
        yield one


def without_command(image: str, **fields: Any) -> Pod:
    given = pods.container(image=image, **fields)
    del given["command"]
    return pods.pod(given)


def switched_on(registry: Registry, **more: str) -> dict[str, str]:
    """No registry but this one is asked: the pods that ask whether a webhook still answers name the Docker Hub."""
    return {"image_lookup": "true", "insecure_registries": registry.url, "image_registries": registry.address} | more


async def test_a_pod_without_a_command_runs_its_image_under_the_client(
    run_webhook: RunWebhook, registry: Registry
) -> None:
    name = registry.push("team/app", CONFIG, MANIFEST, tag="1")
    given = without_command(name)
    async with run_webhook(**switched_on(registry)) as webhook:
        after = patched(given, await webhook.ask("/mutate", review(given)))
        (container,) = after["spec"]["containers"]
        assert container["command"] == [*CLIENT, "/entry", "cmd"]
        assert {"name": "LD_LIBRARY_PATH", "value": f"{LIBRARIES}:/of/the/image"} in container["env"]
        for path in ("/mutate", "/validate"):
            assert (await webhook.ask(path, review(after)))["response"]["allowed"] is True
        asked = len(registry.requests)
        assert (await webhook.ask("/mutate", review(given)))["response"]["allowed"] is True
        assert len(registry.requests) == asked
        metrics = (await webhook.get("/metrics")).text
        assert 'bitfusiond_image_lookups_total{result="found"} 1.0' in metrics
        assert 'bitfusiond_image_lookups_total{result="cached"} 1.0' in metrics


async def test_without_the_option_no_registry_is_asked(run_webhook: RunWebhook, registry: Registry) -> None:
    name = registry.push("team/app", CONFIG, MANIFEST, tag="1")
    async with run_webhook(insecure_registries=registry.url) as webhook:
        response = (await webhook.ask("/mutate", review(without_command(name))))["response"]
        assert "image_lookups" not in (await webhook.get("/metrics")).text
    assert response["status"]["message"] == (
        "spec.containers[0].command: must be set, as the ENTRYPOINT of the image cannot be seen: write the program and"
        " its arguments"
    )
    assert registry.requests == []


async def test_what_cannot_be_read_is_refused_and_the_log_says_of_which_image(
    run_webhook: RunWebhook, registry: Registry, events: Events
) -> None:
    async with run_webhook(**switched_on(registry)) as webhook:
        response = (await webhook.ask("/mutate", review(without_command(f"{registry.address}/none:1"))))["response"]
        assert response["status"]["message"].endswith(f"; image lookup: {registry.address}/none has no 1")
        response = (await webhook.ask("/mutate", review(without_command("python:3"))))["response"]
        assert "docker.io is none of the registries that are asked" in response["status"]["message"]
        given = pods.pod(pods.container(image=f"{registry.address}/none:1"))
        response = (await webhook.ask("/mutate", review(given)))["response"]
        assert response["allowed"] is True
        assert response["warnings"][0].startswith("spec.containers[0]: LD_LIBRARY_PATH of its image is not known: ")
    (line, _) = events("image not looked up")
    assert (line["image"], line["asked"], line["result"]) == (f"{registry.address}/none", "1", "not_found")


async def test_a_pull_secret_without_a_cluster_is_told(run_webhook: RunWebhook, registry: Registry) -> None:
    registry.users = {"ann": "p"}
    given = without_command(registry.push("app", CONFIG, MANIFEST, tag="1"))
    given["spec"]["imagePullSecrets"] = [{"name": "pull"}]
    async with run_webhook(**switched_on(registry)) as webhook:
        response = (await webhook.ask("/mutate", review(given)))["response"]
    assert response["status"]["message"].endswith("there is no cluster to read pull secrets from")


@pytest.mark.slow
async def test_a_registry_that_stalls_is_answered_in_time_and_holds_no_other_pod(
    run_webhook: RunWebhook, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOKUP_SECONDS", 1.0)
    name = registry.push("app", CONFIG, MANIFEST, tag="1")
    refused: list[float] = []
    with stalled() as (address, _):
        flags = switched_on(registry) | {"insecure_registries": f"{registry.url},http://{address}"}
        flags["image_registries"] = f"{registry.address},{address}"
        async with run_webhook(**flags) as webhook, trio.open_nursery() as nursery:

            async def stall(number: int) -> None:
                began = trio.current_time()
                answer = await webhook.ask("/mutate", review(without_command(f"{address}/app:{number}")))
                assert "did not answer in time: try again" in answer["response"]["status"]["message"]
                refused.append(trio.current_time() - began)

            for number in range(20):
                nursery.start_soon(stall, number)
            await trio.sleep(0.3)
            for given in (pods.pod(mode="none"), without_command(name), pods.pod(pods.container(image=name))):
                assert (await webhook.ask("/mutate", review(given)))["response"]["allowed"] is True
            assert not refused
    assert len(refused) == 20
    assert max(refused) < 5


async def test_a_request_that_came_slowly_leaves_no_time_for_its_image(
    run_webhook: RunWebhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens and its answer come first."""
    monkeypatch.setattr(admission, "_AFTER_LOOKUP_SECONDS", 10.0)
    with stalled() as (address, _):
        stalling = Registry(address)
        async with run_webhook(**switched_on(stalling)) as webhook:
            with trio.fail_after(5):
                answer = await webhook.ask("/mutate", review(without_command(f"{address}/app:1")))
    assert answer["response"]["allowed"] is False


# --- who is asked for -------------------------------------------------------------------------------------------------


def in_cluster(cluster: FakeCluster, **flags: str) -> InCluster:
    chosen = settings.resolve(settings.Webhook, {"kubeconfig": "x", **flags}, {})
    assert isinstance(chosen, settings.Webhook)
    return InCluster(cluster, chosen, CollectorRegistry())


async def test_pull_secrets_are_read_for_namespaces_that_are_served_alone() -> None:
    """Whoever reaches the port can name any namespace: what it takes is what a copy of the tokens takes."""
    cluster = FakeCluster("team", "research")
    cluster.add_namespace("ignored", bitfusion__io_admission="ignore")
    view = in_cluster(cluster, allow_namespaces="team,ignored,no-such")
    async with trio.open_nursery() as nursery:
        await nursery.start(view.run)
        await until(lambda: view.ready_reason() is None)
        assert (await view.pull_secrets("team", ["pull"])).notes == ("Secret team/pull is not there",)
        assert (await view.pull_secrets("research", ["pull"])).problem == copies.not_allowed(
            "research", ("team", "ignored", "no-such")
        )
        assert "as it has the label" in ((await view.pull_secrets("ignored", ["pull"])).problem or "")
        assert "sees no namespace no-such" in ((await view.pull_secrets("no-such", ["pull"])).problem or "")
        nursery.cancel_scope.cancel()
    assert [each for each in cluster.requests if each.verb == "get" and each.resource == SECRETS] == [
        ("get", SECRETS, "team", "pull")
    ]
    assert await NoCluster().pull_secrets("team", []) == ((), (), None)


# --- --registry-ca ----------------------------------------------------------------------------------------------------


async def test_the_ca_of_registries_is_taken_up_when_it_changes_and_a_broken_one_is_not(
    tmp_path: Path, events: Events
) -> None:
    one, other = (Pki(tmp_path).ca.cert_pem.bytes() for _ in range(2))
    file = tmp_path / "registries.crt"
    file.write_bytes(one)
    trusted = followed_registry_ca(file)

    def subjects() -> int:
        return len(trusted().checked.get_ca_certs())

    before = subjects()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trusted.follow)
        file.write_bytes(one + other)
        await until(lambda: events("registry CA taken up"))
        assert subjects() == before + 1
        file.write_text("no PEM")
        await until(lambda: events("registry CA not taken up, keeping the last good one"))
        assert subjects() == before + 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("content", ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "registries.crt"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=r"--registry-ca: .*registries.crt holds no certificate: give the PEM"):
        followed_registry_ca(file)
    with pytest.raises(ConfigurationError, match="--registry-ca"):
        followed_registry_ca(tmp_path / "none")
