"""/mutate and /validate over HTTPS: good requests, and what is counted and logged of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from tests import pods
from tests.fakes.https_client import UID, patched, review
from tests.unit.conftest import Events, RunWebhook, Webhook


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
@pytest.mark.parametrize("path", ["/mutate", "/validate", "/mutate?timeout=10s"])
async def test_an_answer_has_the_version_and_the_uid_of_its_request(
    run_webhook: RunWebhook, version: str, path: str
) -> None:
    """An answer without apiVersion and kind is refused by every API server that asks in v1."""
    async with run_webhook() as webhook:
        answer = await webhook.ask(path, review(pods.pod(mode="none"), version=version))
    assert answer == {
        "apiVersion": f"admission.k8s.io/{version}",
        "kind": "AdmissionReview",
        "response": {"uid": UID, "allowed": True},
    }


@pytest.mark.parametrize("example", ["pod", "pod-filter", "pod-memory", "pod-injection", "deployment", "job"])
async def test_the_patch_of_each_example_applies_and_its_result_is_valid(run_webhook: RunWebhook, example: str) -> None:
    given = pods.example(example)
    async with run_webhook(total_gpu_memory="16000") as webhook:
        after = patched(given, await webhook.ask("/mutate", review(given)))
        assert after == pods.admitted(given)
        again = await webhook.ask("/mutate", review(after))
        assert again["response"] == {"uid": UID, "allowed": True}
        checked = await webhook.ask("/validate", review(after))
        assert checked["response"] == {"uid": UID, "allowed": True}


async def test_a_refusal_names_every_problem_and_has_status_422(run_webhook: RunWebhook) -> None:
    given = pods.pod(pods.container({names.GPU_AMOUNT: 1, names.GPU_PERCENT: 101}), mode="all")
    given["metadata"]["annotations"][names.CLIENT_FILTER] = "server.addr"
    async with run_webhook() as webhook:
        response = (await webhook.ask("/mutate", review(given)))["response"]
    assert response["allowed"] is False
    assert (response["status"]["code"], response["status"]["reason"]) == (422, "Invalid")
    assert response["status"]["message"] == (
        "spec.containers[0].resources.limits[bitfusion.io/gpu-percent]: 101 is not an integer from 1 to 100; "
        "metadata.annotations[bitfusion-client/filter]: server.addr is not of the form key=value"
    )
    assert "patch" not in response


async def test_a_pod_that_opted_in_but_was_not_injected_is_refused_by_validate(run_webhook: RunWebhook) -> None:
    async with run_webhook() as webhook:
        response = (await webhook.ask("/validate", review(pods.pod())))["response"]
    assert response["allowed"] is False
    assert "the pod opted in but was not injected" in response["status"]["message"]


async def test_an_answer_that_would_be_too_large_is_a_refusal_that_names_the_limit(run_webhook: RunWebhook) -> None:
    long = pods.container(env=[{"name": "LD_LIBRARY_PATH", "value": "/x:" * 1_100_000}])
    async with run_webhook() as webhook:
        response = (await webhook.ask("/mutate", review(pods.pod(long))))["response"]
    assert (response["allowed"], response["status"]["code"]) == (False, 422)
    assert response["status"]["message"].startswith("spec: what is to be added to the pod has 4")
    assert "bytes: bitfusiond answers with at most 4194304." in response["status"]["message"]


async def test_a_warning_comes_with_the_admission(run_webhook: RunWebhook) -> None:
    async with run_webhook() as webhook:
        answer = await webhook.ask("/mutate", review(pods.pod(pods.container({names.GPU_AMOUNT: 1}))))
    assert answer["response"]["warnings"] == [
        "spec.containers[0]: neither gpu-percent nor gpu-memory is given: taking 100 percent of each GPU"
    ]


DEPLOYMENT = {"kind": {"group": "apps", "version": "v1", "kind": "Deployment"}}
OTHER_POD = {"kind": {"group": "metrics.k8s.io", "version": "v1", "kind": "Pod"}}


@pytest.mark.parametrize(
    "request_fields",
    [
        pytest.param(DEPLOYMENT, id="a Deployment"),
        pytest.param(OTHER_POD, id="a Pod of another API group"),
        pytest.param({"operation": "UPDATE"}, id="an update"),
        pytest.param({"operation": "DELETE", "object": None}, id="a deletion, which has no object"),
        pytest.param({"operation": "CREATE", "subResource": "eviction"}, id="a subresource"),
        pytest.param({"namespace": "kube-system"}, id="the namespace of the request, not of the object"),
        pytest.param({"namespace": "bwki"}, id="the webhook's own namespace"),
    ],
)
@pytest.mark.parametrize("path", ["/mutate", "/validate"])
async def test_what_is_not_a_pod_being_created_by_a_user_is_left_alone(
    run_webhook: RunWebhook, path: str, request_fields: Json
) -> None:
    async with run_webhook() as webhook:
        answer = await webhook.ask(path, review(pods.pod(), **request_fields))
    assert answer["response"] == {"uid": UID, "allowed": True}


@pytest.mark.slow
async def test_parallel_requests_get_each_their_own_answer(run_webhook: RunWebhook) -> None:
    """Shared state killed the old webhook under parallel load, or mixed up `all` and `injection`."""
    connections, requests = 200, 4
    answers: dict[str, tuple[Json, Json]] = {}

    def pod(number: int) -> Json:
        mode = ("all", "injection")[number % 2]
        return pods.pod(pods.container(command=["python", f"{number}.py"]), mode=mode)

    async def one_connection(webhook: Webhook, first: int) -> None:
        async with webhook.connect() as connection:
            for number in range(first, first + requests):
                uid = f"uid-{number}"
                answers[uid] = (
                    pod(number),
                    (await connection.ask("/mutate", review(pod(number), uid=uid))).review,
                )

    async with run_webhook() as webhook, trio.open_nursery() as nursery:
        for number in range(connections):
            nursery.start_soon(one_connection, webhook, number * requests)
    assert len(answers) == connections * requests
    for uid, (given, answer) in answers.items():
        assert answer["response"]["uid"] == uid
        command = patched(given, answer)["spec"]["containers"][0]["command"]
        own = given["spec"]["containers"][0]["command"]
        if given["metadata"]["annotations"][names.MANAGEMENT] == "injection":
            assert command == own
        else:
            assert command == [pods.BINARY, "run", "-n", "1", "-p", "0.500000", "--", *own]


async def test_each_admission_is_one_line_in_the_log(run_webhook: RunWebhook, events: Events) -> None:
    refused = pods.pod(pods.container({names.GPU_AMOUNT: 0}))
    generated = pods.pod()
    generated["metadata"].pop("name")
    generated["metadata"]["generateName"] = "job-"
    async with run_webhook() as webhook:
        await webhook.ask("/mutate", review(pods.pod(), uid="1"))
        await webhook.ask("/mutate", review(refused, uid="2", dryRun=True))
        await webhook.ask("/mutate", review(generated, uid="3"))
        await webhook.ask("/validate", review(pods.pod(mode="none"), uid="4"))
        lines = events("admission")
    assert len(lines) == 4
    assert all(isinstance(line.pop("microseconds"), int) for line in lines)

    def line(uid: str, **more: Any) -> dict[str, Any]:
        common = {"event": "admission", "level": "INFO", "traceback": None, "namespace": "team", "uid": uid}
        return {**common, "endpoint": "mutate", "name": "p", "dry_run": False, **more}

    assert lines == [
        line("1", verdict="patched", reason="injected"),
        line(
            "2",
            verdict="refused",
            reason=("spec.containers[0].resources.limits[bitfusion.io/gpu-amount]: 0 is not an integer of at least 1"),
            dry_run=True,
        ),
        line("3", verdict="patched", reason="injected", name="job-"),
        line("4", verdict="untouched", reason="not opted in", endpoint="validate"),
    ]


async def test_admissions_are_counted_by_endpoint_verdict_and_reason(run_webhook: RunWebhook) -> None:
    async with run_webhook() as webhook:
        for _ in range(3):
            await webhook.ask("/mutate", review(pods.pod()))
        await webhook.ask("/mutate", review(pods.pod(pods.container({names.GPU_AMOUNT: 0}))))
        await webhook.ask("/validate", review(pods.pod(mode="none")))
        await webhook.request("POST", "/mutate", b"", Content_Type="application/json")
        over_tls = await webhook.request("GET", "/metrics")
        on_observe = await webhook.get("/metrics")
    assert over_tls.headers["content-type"].startswith("text/plain")
    for response in (over_tls, on_observe):
        samples = {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
        }
        counted = "bitfusiond_admission_requests_total"
        assert samples[counted, "mutate", "injected", "patched"] == 3
        assert samples[counted, "mutate", "invalid pod", "refused"] == 1
        assert samples[counted, "validate", "not opted in", "untouched"] == 1
        # What alerts look for must be there before the first of it.
        for endpoint, reason, verdict in (
            ("mutate", "500", "error"),
            ("validate", "500", "error"),
            ("mutate", "no tokens", "refused"),
        ):
            assert samples[counted, endpoint, reason, verdict] == 0
        assert samples[counted, "mutate", "400", "bad_request"] == 1
        assert samples["bitfusiond_admission_duration_seconds_count", "mutate"] == 4
        assert any(name[0] == "bitfusiond_build_info" and "webhook" in name for name in samples)
        assert any(name[0] == "process_resident_memory_bytes" for name in samples)


async def test_the_observe_port_has_no_admission(run_webhook: RunWebhook) -> None:
    async with run_webhook() as webhook:
        assert (await webhook.get("/healthz")).text == "ok\n"
        assert (await webhook.get("/readyz")).text == "ok\n"
        for path in ("/mutate", "/validate", "/"):
            response = await webhook.get(path)
            assert response.status == 404
            assert response.text == "not found; there are /healthz, /readyz and /metrics\n"


async def test_observing_can_be_switched_off(run_webhook: RunWebhook, events: Events) -> None:
    async with run_webhook(observe="none") as webhook:
        assert webhook.observe is None
        assert (await webhook.request("GET", "/readyz")).text == "ok\n"
    assert not events("observing")


async def test_a_secret_in_a_pod_does_not_reach_the_log(
    run_webhook: RunWebhook, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "hunter2-in-an-environment-variable"
    given = pods.pod(pods.container(env=[{"name": "PASSWORD", "value": secret}]))
    async with run_webhook() as webhook:
        await webhook.ask("/mutate", review(given))
        await webhook.request("POST", "/mutate", json.dumps(given).encode(), Content_Type="application/json")
    assert secret not in caplog.text
    assert not any(secret in json.dumps(getattr(record, "fields", {})) for record in caplog.records)
