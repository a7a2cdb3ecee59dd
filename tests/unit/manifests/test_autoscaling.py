"""The HorizontalPodAutoscaler fits the Deployment, and the way in which the API server spreads its calls."""

from __future__ import annotations

import kubernetes_validate
import pytest

from bitfusiond.core.fields import Json
from tests import MANIFESTS
from tests.unit.manifests.overlays import documents, one

VERSIONS = [f"1.{minor}" for minor in range(25, 38)]


@pytest.fixture
def autoscaler() -> Json:
    (found,) = documents(MANIFESTS / "autoscaling")
    return found


@pytest.fixture
def deployment() -> Json:
    return one(documents(MANIFESTS / "base"), "Deployment", "bitfusion-webhook-deployment")


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_valid(autoscaler: Json, version: str) -> None:
    kubernetes_validate.validate(autoscaler, version, strict=True)


def test_it_scales_the_webhook(autoscaler: Json, deployment: Json) -> None:
    target = autoscaler["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}
    assert autoscaler["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    assert autoscaler["metadata"]["labels"]["app.kubernetes.io/part-of"] == "bitfusiond"


def test_it_never_has_fewer_replicas_than_the_deployment_begins_with(autoscaler: Json, deployment: Json) -> None:
    assert autoscaler["spec"]["minReplicas"] >= deployment["spec"]["replicas"] >= 2


def test_it_acts_before_a_replica_that_does_all_the_work_has_used_up_its_core(autoscaler: Json) -> None:
    (metric,) = autoscaler["spec"]["metrics"]
    amount = metric["resource"]["target"]["averageValue"]
    assert amount.endswith("m")
    assert int(amount[:-1]) * autoscaler["spec"]["minReplicas"] <= 700
