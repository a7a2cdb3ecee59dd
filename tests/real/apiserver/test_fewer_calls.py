"""The conditions of the overlay community in a real API server: whom it asks, and that nothing gets past it.

Of the tests of /validate those that need no cluster are here again: the same pods, spoilt in the same ways, are created
through an API server that asks only where its conditions say so.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator

import pytest
import yaml

from bitfusiond.core import names
from bitfusiond.core.admission.decision import Refusal
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.objects import Pod
from bitfusiond.operate import checks, manifests
from tests import DATA, spoilt
from tests.pods import NAMESPACE, admitted, container, example, pod, rules
from tests.real.harness.apiserver import APIServer, Refused, started
from tests.real.harness.programs import since
from tests.real.harness.webhook import CONFIGURATIONS, Replica, alone
from tests.unit.manifests import overlays

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All"
DOCUMENTED = ("pod", "pod-memory", "pod-filter", "pod-injection", "deployment", "job")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    """One whose plugin ServiceAccount looks at pods too, as it does in every cluster."""
    with started(tmp_path_factory.mktemp("apiserver"), disabled="") as server:
        since(checks.MATCH_CONDITIONS[1], server.minor, "matchConditions")
        for namespace in ("default", server.namespace(NAMESPACE)):
            server.create(f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "default"}})
        yield server


@pytest.fixture(scope="module")
def webhook(api: APIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    made = manifests.build(overlays.overlay("community"), manifests.Values("r", "t", 16000, 1000)).all
    webhooks = [overlays.one(made, kind, name)["webhooks"][0] for _, kind, name, _, _ in CONFIGURATIONS]
    with alone(api, tmp_path_factory.mktemp("webhook"), webhooks) as replica:
        yield replica


def calls(webhook: Replica) -> dict[str, int]:
    """How many reviews the webhook has answered, by endpoint."""
    found = {"mutate": 0, "validate": 0}
    pattern = r'bitfusiond_admission_requests_total\{endpoint="(\w+)".*\} ([0-9.]+)'
    for endpoint, number in re.findall(pattern, webhook.get("/metrics")[1]):
        found[endpoint] += int(float(number))
    return found


def _free_of_names(document: Pod) -> Pod:
    """So that the namespace is that of the request, and mounts have their volumes."""
    made = copy.deepcopy(document)
    made["metadata"].pop("namespace", None)
    volumes = made["spec"].setdefault("volumes", [])
    present = {volume["name"] for volume in volumes}
    volumes += [{"name": name, "emptyDir": {}} for name in ("code", "download") if name not in present]
    return made


def test_a_thousand_documented_pods_cost_a_thousand_calls_and_others_none(api: APIServer, webhook: Replica) -> None:
    before = calls(webhook)
    for name in itertools.islice(itertools.cycle(DOCUMENTED), 1000):
        stored = api.create(PODS, _free_of_names(example(name)))
        assert stored["metadata"]["annotations"][names.STATUS] == names.STATUS_INJECTED
        places = [mount["mountPath"] for mount in stored["spec"]["initContainers"][0]["volumeMounts"]]
        assert places.count("/var/run/secrets/kubernetes.io/serviceaccount") == 1
    after = calls(webhook)
    assert after["mutate"] - before["mutate"] == 1000
    assert after["validate"] == before["validate"]
    plain = {"metadata": {"name": "plain"}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    for _ in range(200):
        api.create(PODS, plain)
    assert calls(webhook) == after


def _spoilt(spoil: spoilt.Way) -> Iterator[Pod]:
    """The documented pods and those of the golden files, each spoilt by each of its GPU containers."""
    given = [example(name) for name in DOCUMENTED]
    given += [yaml.safe_load(path.read_text()) for path in sorted((DATA / "pods").glob("*.yaml"))]
    for each in given:
        made = _free_of_names(admitted(each))
        for index, _ in enumerate(spoilt.gpu_containers(made)):
            document = copy.deepcopy(made)
            spoil(document, spoilt.gpu_containers(document)[index])
            yield document


@pytest.mark.parametrize("spoil", spoilt.WAYS, ids=lambda way: way.__name__)
def test_what_validate_would_refuse_is_refused(api: APIServer, webhook: Replica, spoil: spoilt.Way) -> None:
    compared = 0
    for document in _spoilt(spoil):
        verdict = validate(document, NAMESPACE, rules(), None)
        try:
            api.create(PODS, document)
            said = ""
        except Refused as refused:
            said = str(refused)
        if said and "bitfusion.io" not in said.partition("denied the request")[0]:
            continue  # the API server has something against it, before it asks anybody
        compared += 1
        assert bool(said) == isinstance(verdict, Refusal), (said, verdict)
        if isinstance(verdict, Refusal) and "bwkival" in said:  # without its status a pod comes to /mutate first
            assert verdict.problems[0] in said
    assert compared


def test_the_largest_pod_that_it_recognizes_is_far_from_what_an_expression_may_cost(
    api: APIServer, webhook: Replica
) -> None:
    """Beyond its costs the API server refuses a pod."""
    env = [{"name": f"VARIABLE_{number}", "value": "x"} for number in range(255)]
    mounts = [{"name": "many", "mountPath": f"/many/{number}"} for number in range(58)]
    containers = [
        container(name=f"c{number}", command=["python", *["x" * 1000] * 50], env=env, volumeMounts=mounts)
        for number in range(7)
    ]
    largest = pod(*containers, volumes=[{"name": "many", "emptyDir": {}}])
    before = calls(webhook)
    api.create(PODS, largest)
    after = calls(webhook)
    assert (after["mutate"] - before["mutate"], after["validate"] - before["validate"]) == (1, 0)


def test_a_pod_that_gets_the_annotation_after_us_is_asked_about(api: APIServer, webhook: Replica) -> None:
    """It says that it was injected, and no webhook but a later one says that it opted in."""
    made = _free_of_names(admitted(pod()))
    del made["metadata"]["annotations"][names.MANAGEMENT]
    before = calls(webhook)
    api.create(PODS, made)
    after = calls(webhook)
    assert (after["mutate"] - before["mutate"], after["validate"] - before["validate"]) == (1, 1)


@pytest.mark.parametrize("factor", [2, 8])
def test_what_is_larger_is_asked_about(api: APIServer, webhook: Replica, factor: int) -> None:
    env = [{"name": f"VARIABLE_{number}", "value": "x"} for number in range(256 * factor)]
    for large in (
        pod(container(env=env)),
        pod(container(command=["python", "x" * 2048 * factor])),
        pod(*(container(name=f"c{number}") for number in range(8 * factor))),
    ):
        before = calls(webhook)
        api.create(PODS, large)
        after = calls(webhook)
        assert (after["mutate"] - before["mutate"], after["validate"] - before["validate"]) == (1, 1)
