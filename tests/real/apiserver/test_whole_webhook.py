"""The whole executable in a cluster: what people who create pods see, and what the cluster keeps of it."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bitfusiond.core import names
from tests.fakes.processes import wait_until
from tests.pods import container, pod
from tests.real.harness.apiserver import APIServer, Refused, secret_path
from tests.real.harness.webhook import CONFIGURATIONS, Installation, Replica, copies, installed, put_sources, routed

NODES = "/api/v1/nodes"
READS = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}
ALL = sorted(names.TOKEN_SECRETS.values())
_numbers = itertools.count()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with routed(tmp_path_factory.mktemp("routed")) as server:
        yield server


@pytest.fixture(scope="module")
def running(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Installation, Replica]]:
    with installed(api, tmp_path_factory.mktemp("webhook"), "--allow-namespaces", "team-*,probe") as both:
        probe = pods(api.namespace("probe"))
        wait_until(lambda: both[0].admits(probe, pod()), "a pod that is admitted")
        yield both


@pytest.fixture
def webhook(running: tuple[Installation, Replica]) -> Replica:
    return running[1]


@pytest.fixture
def team(api: APIServer) -> str:
    """A namespace that is new."""
    return api.namespace(f"team-{next(_numbers)}")


def pods(of: str) -> str:
    return f"/api/v1/namespaces/{of}/pods"


def named(name: str, **spec: Any) -> dict[str, Any]:
    document = pod(**spec)
    document["metadata"]["name"] = name
    return document


def of_controller(uid: str) -> dict[str, Any]:
    """A pod that cannot be, made by a ReplicaSet that tries again and again."""
    document = pod(container({names.GPU_AMOUNT: "1", names.GPU_PERCENT: "101"}))
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": True}
    document["metadata"]["ownerReferences"] = [owner]
    return document


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", ["", "ignored", "public"])
def test_a_review_that_comes_from_no_api_server_brings_no_tokens_where_it_would_ask_about_no_pod(
    api: APIServer, webhook: Replica, made: str
) -> None:
    name = f"team-{next(_numbers)}"
    words = f"bitfusiond sees no namespace {name} in the cluster: try again"
    if made == "ignored":
        api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": {names.ADMISSION_LABEL: "ignore"}}})
        words = f"no tokens are copied into {name}, as it has the label bitfusion.io/admission=ignore"
    if made == "public":
        name, words = "kube-public", ""
    answer = webhook.review(pod(), name)
    if words:
        assert not answer["allowed"]
        assert words in answer["status"]["message"]
    assert copies(api, name) == []


def test_a_pod_that_is_admitted_finds_all_three_token_secrets_in_its_namespace(
    api: APIServer, webhook: Replica, team: str
) -> None:
    assert copies(api, team) == []
    stored = api.create(pods(team), pod())
    assert copies(api, team) == ALL
    assert stored["metadata"]["annotations"][names.STATUS] == names.STATUS_INJECTED


def test_a_dry_run_is_admitted_and_copies_nothing(api: APIServer, webhook: Replica, team: str) -> None:
    stored = api.create(f"{pods(team)}?dryRun=All", pod())
    assert stored["metadata"]["annotations"][names.STATUS] == names.STATUS_INJECTED
    assert copies(api, team) == []


def test_a_source_that_is_missing_refuses_the_pod_by_its_name_until_it_is_there(
    api: APIServer, webhook: Replica, running: tuple[Installation, Replica], team: str
) -> None:
    missing = names.TOKEN_SECRETS[names.CLIENT_YAML]
    api.request("DELETE", secret_path(running[0].tokens, missing))
    wait_until(lambda: bool(webhook.said("token source missing")), "the webhook's notice")
    with pytest.raises(Refused, match=rf"denied the request: .*Secret kube-system/{re.escape(missing)}"):
        api.create(pods(team), pod())
    put_sources(api, running[0].tokens)
    wait_until(lambda: running[0].admits(pods(team), pod()), "the source, again")


def test_another_client_gets_the_servers_of_servers_conf_and_no_token_comes_with_it(
    api: APIServer, running: tuple[Installation, Replica], team: str
) -> None:
    lupine = pod(annotations={names.CLIENT_NAME: "lupine"})
    with pytest.raises(Refused, match="the client lupine must know its servers, and none are known"):
        api.create(pods(team), lupine)  # the source holds no servers
    conf = "servers:\n- addresses: [gpu-a:14833, 10.0.0.1:14833]\n- reachable: gpu-b:14833\n  addresses: [gpu-c:1]\n"
    secret = names.TOKEN_SECRETS[names.SERVERS_CONF]
    api.put_secret(running[0].tokens, secret, {names.SERVERS_CONF: conf.encode()})
    wait_until(lambda: running[0].admits(pods(team), lupine), "the servers")
    stored = api.create(pods(team), lupine)
    env = {each["name"]: each["value"] for each in stored["spec"]["containers"][0]["env"]}
    assert env["LUPINE_SERVER"] == "gpu-a:14833,gpu-b:14833"
    assert copies(api, team) == []
    put_sources(api, running[0].tokens)


def test_a_namespace_that_may_not_have_tokens_gets_none_and_its_pod_is_refused(
    api: APIServer, webhook: Replica
) -> None:
    other = api.namespace("other")
    with pytest.raises(Refused, match=r"pods of other may not receive .*--allow-namespaces"):
        api.create(pods(other), pod())
    assert copies(api, other) == []


def test_what_the_api_server_forbids_refuses_the_pod_and_says_who_can_mend_it(
    api: APIServer, running: tuple[Installation, Replica], team: str, tmp_path: Path
) -> None:
    """By an account that may read everything and create Secrets nowhere but at home."""
    installation = running[0]
    kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig", api.account(installation.home, "reader", [READS]))
    with installation.replica(kubeconfig=kubeconfig) as replica:
        wait_until(replica.ready, "a replica that is ready")
        answer = replica.review(pod(), team)
    assert answer["allowed"] is False
    assert "does not permit it to bitfusiond" in answer["status"]["message"]
    assert ALL[0] in answer["status"]["message"]
    assert copies(api, team) == []


# --- in steady state ------------------------------------------------------------------------------------------------


def test_admissions_in_a_namespace_that_has_its_tokens_ask_the_api_server_for_nothing(
    api: APIServer, webhook: Replica, team: str
) -> None:
    api.create(pods(team), named("first"))
    asked = []
    for window in range(2):
        before = _requests(api)
        for number in range(100):
            api.create(pods(team), named(f"pod-{window}-{number}"))
        asked.append(_requests(api) - before)
    # Once a minute the certificates are looked at: of two windows one is free of that.
    assert min(asked) == 0, asked


def _requests(api: APIServer) -> float:
    """What the API server has counted, but for pods and for what it is asked by itself and by this test."""
    metrics = str(api.request("GET", "/metrics"))
    resources = "secrets|events|nodes|mutatingwebhookconfigurations|validatingwebhookconfigurations|namespaces"
    found = re.findall(
        rf'^apiserver_request_total\{{[^}}]*resource="(?:{resources})"[^}}]*\}} (\S+)$', metrics, re.MULTILINE
    )
    return sum(map(float, found))


# --- nodes ----------------------------------------------------------------------------------------------------------


def test_nodes_bound_what_a_pod_may_ask_for_and_a_thousand_of_them_cost_an_admission_nothing(
    api: APIServer, webhook: Replica, team: str
) -> None:
    large = container({names.GPU_AMOUNT: "20", names.GPU_PERCENT: "100"})
    assert api.create(pods(team), named("before"))["metadata"]["name"] == "before"
    assert api.create(pods(team), pod(large))["metadata"]["name"] == "p"  # no node is known: allowed
    try:
        _create_nodes(api, 1000)
        wait_until(lambda: _is_refused(api, team, pod(large)), "the nodes in the webhook")
        with pytest.raises(Refused, match=r"Resource validation failed: the pod asks for 2000 of bitfusion.io/gpu"):
            api.create(pods(team), named("large", mode="all", containers=[large]))
        seconds = []
        lines = len(webhook.said("admission"))
        for number in range(50):
            began = time.perf_counter()
            api.create(pods(team), named(f"pod-{number}"))
            seconds.append(time.perf_counter() - began)
        logged = webhook.said("admission")[lines:]
        print(f"\n1,000 nodes: median of 50 admissions {sorted(seconds)[25] * 1000:.1f} ms")  # noqa: T201 - with -s
        assert sorted(seconds)[25] < 0.1
        assert len(logged) == 100, "one line for /mutate, one for /validate"
        assert max(len(json.dumps(line)) for line in logged) < 1000
    finally:
        api.request("DELETE", NODES)
        wait_until(lambda: not _is_refused(api, team, pod(large)), "the webhook without nodes")


def _create_nodes(api: APIServer, count: int) -> None:
    connection = api.door.connect()
    for number in range(count):
        resources = {names.GPU: "1000", "cpu": "64", "memory": "256Gi"}
        node = {"metadata": {"name": f"node-{number}"}, "status": {"allocatable": resources, "capacity": resources}}
        assert _post(connection, api, NODES, node)[0] == 201
    connection.close()


def _is_refused(api: APIServer, of: str, document: dict[str, Any]) -> bool:
    try:
        api.create(f"{pods(of)}?dryRun=All", {**document, "metadata": {**document["metadata"], "name": "asked"}})
    except Refused as refused:
        return "Resource validation failed" in str(refused)
    return False


# --- what people are told -------------------------------------------------------------------------------------------


def test_a_refused_pod_of_a_controller_leaves_one_event_at_it(api: APIServer, webhook: Replica, team: str) -> None:
    for _ in range(3):
        with pytest.raises(Refused, match="101 is not an integer"):
            api.create(pods(team), of_controller("1-2-3"))
    path = f"/api/v1/namespaces/{team}/events"
    wait_until(lambda: bool(api.request("GET", path)["items"]), "the Event")
    time.sleep(0.5)
    (event,) = api.request("GET", path)["items"]
    assert event["reason"] == "BitfusionRefused"
    assert event["involvedObject"]["name"] == "rs"
    assert "101 is not an integer" in event["message"]


def test_a_warning_reaches_whoever_created_the_pod(api: APIServer, webhook: Replica, team: str) -> None:
    connection = api.door.connect()
    document = pod(container(command=["bash", "-c", "cd /work; mywrapper bitfusion run x"]))
    status, headers = _post(connection, api, pods(team), document)
    connection.close()
    assert status == 201
    assert "calls bitfusion inside; to call it yourself use mode injection" in headers["Warning"]


def _post(
    connection: http.client.HTTPSConnection, api: APIServer, path: str, document: object
) -> tuple[int, http.client.HTTPMessage]:
    headers = {**api.door.headers, "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(document), headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.headers


# --- others in the cluster ------------------------------------------------------------------------------------------


def test_two_installations_in_one_cluster_leave_each_other_alone(
    api: APIServer, running: tuple[Installation, Replica], team: str, tmp_path: Path
) -> None:
    first, webhook = running
    api.create(pods(team), pod())
    second = Installation(api, tmp_path, home="bwki-two", tokens="tokens-two")
    put_sources(api, second.tokens, "b: 2")
    with second.ready_replica() as other:
        time.sleep(1)
        before = _versions(api, team)
        lines = len(webhook.said())
        assert other.review(pod(), team)["allowed"] is True
        time.sleep(3)
        assert _versions(api, team) == before
        assert first.admits(pods(team), named("again"))
        assert {line["event"] for line in webhook.said()[lines:]} == {"admission"}
        assert not other.said("caBundle written")


def _versions(api: APIServer, of: str) -> list[str]:
    """Of all that two installations could fight over."""
    objects = [api.request("GET", f"{path}/{name}") for path, _, name, _, _ in CONFIGURATIONS]
    objects += [api.request("GET", secret_path(of, name)) for name in ALL]
    return [each["metadata"]["resourceVersion"] for each in objects]
