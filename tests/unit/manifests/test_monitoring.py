"""manifests/monitoring fits together and to what it watches; tests/real/apiserver has what the daemons print of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import yaml

from bitfusiond.core.fields import Json
from tests import MANIFESTS
from tests.real.harness.prometheus import promtool, write_rules
from tests.unit.manifests import overlays

MONITORING = MANIFESTS / "monitoring"


def rules() -> list[Json]:
    (document,) = yaml.safe_load_all((MONITORING / "rules.yaml").read_text())
    return [rule for group in document["spec"]["groups"] for rule in group["rules"]]


def panels() -> list[Json]:
    return [each for each in json.loads((MONITORING / "bitfusiond.json").read_text())["panels"] if "targets" in each]


def expressions() -> Iterator[tuple[str, str, str]]:
    """Where it stands, the expression, and the words beside it in which labels are named."""
    for rule in rules():
        yield rule["alert"], rule["expr"], " ".join(rule["annotations"].values())
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"], target["legendFormat"]


def test_an_alert_has_one_name_a_severity_and_says_what_to_do() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path: Path) -> None:
    done = promtool("check", "rules", write_rules(tmp_path / "rules.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_monitors_find_the_pods_and_their_port() -> None:
    base = overlays.overlay("community")
    own = overlays.documents(MONITORING)
    service = overlays.one(own, "Service", "bitfusion-webhook-metrics")
    kubernetes_validate.validate(service, "1.37.0", strict=True)
    webhook = overlays.pod(base, "Deployment", "bitfusion-webhook-deployment")
    plugin = overlays.pod(base, "DaemonSet", "bitfusion-device-plugin")

    assert service["spec"]["selector"].items() <= webhook["metadata"]["labels"].items()
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] in ports(webhook)
    monitor = overlays.one(own, "ServiceMonitor", "bitfusion-webhook")["spec"]
    selector = monitor["selector"]["matchLabels"]
    assert selector.items() <= service["metadata"]["labels"].items()
    # The Service that the API server calls is not scraped beside it.
    assert not selector.items() <= overlays.one(base, "Service", "bwki-webhook-svc")["metadata"]["labels"].items()
    assert [each["port"] for each in monitor["endpoints"]] == [port["name"]]

    monitor = overlays.one(own, "PodMonitor", "bitfusion-device-plugin")["spec"]
    assert monitor["namespaceSelector"]["matchNames"] == ["kube-system"]
    assert monitor["selector"]["matchLabels"].items() <= plugin["metadata"]["labels"].items()
    assert [each["port"] in ports(plugin) for each in monitor["podMetricsEndpoints"]] == [True]


def ports(template: Json) -> set[str]:
    return {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}


def test_the_dashboard_is_found_by_grafana_and_its_panels_do_not_overlap() -> None:
    (config_map,) = [each for each in overlays.documents(MONITORING) if each["kind"] == "ConfigMap"]
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(config_map["data"]["bitfusiond.json"])
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
