"""manifests/monitoring goes by metrics that the daemons really print, with labels that they really have."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests import MANIFESTS, pods
from tests.fakes.processes import running, wait_until
from tests.real.harness.apiserver import started
from tests.real.harness.webhook import Installation, namespace, put_sources
from tests.unit.manifests import overlays
from tests.unit.manifests.overlays import Json

MONITORING = MANIFESTS / "monitoring"
Series = dict[str, set[str]]

# What Prometheus puts on every series of a target, and on every bucket of a histogram.
_TARGET = {"instance", "job", "namespace", "node", "pod", "le"}
_SELECTOR = re.compile(r"\b((?:bitfusiond|process)_\w+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")


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


def series_of(text: str) -> Series:
    """The labels of each series on a page of /metrics."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def plugin_series(directory: Path) -> Series:
    """A plugin without a kubelet, with a server that does not answer."""
    servers = directory / "servers.conf"
    servers.write_text("servers:\n- addresses:\n  - 127.0.0.1:1\n")
    options = ["--device-plugin-dir", str(directory), "--observe", "127.0.0.1:0", "--servers-conf", str(servers)]
    log = directory / "log"
    with running([sys.executable, "-m", "bitfusiond", "--role", "plugin", "--interval", "0.1", *options], log):
        wait_until(lambda: '"observing"' in log.read_text(), "a plugin that observes")
        address = next(
            line["address"] for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "observing"
        )

        def page() -> str:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                return str(answer.read().decode())

        wait_until(lambda: "bitfusiond_plugin_servers{" in page(), "a first round of probes")
        return series_of(page())


def webhook_series(assets: Path, directory: Path) -> Series:
    """A webhook in a cluster, after one pod."""
    with started(assets, directory) as api:
        installation = Installation(api, directory)
        put_sources(api, installation.tokens)
        namespace(api, "team")
        with installation.ready_replica() as replica:
            replica.review(pods.pod(), "team")
            return series_of(replica.get("/metrics")[1])


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Series:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        pytest.skip("set KUBEBUILDER_ASSETS to a directory with kube-apiserver and etcd to run this")
    found = webhook_series(Path(assets), tmp_path_factory.mktemp("webhook"))
    for name, labels in plugin_series(tmp_path_factory.mktemp("plugin")).items():
        found.setdefault(name, set()).update(labels)
    return found


def test_every_metric_of_the_rules_and_the_dashboard_is_printed_with_the_labels_that_they_name(printed: Series) -> None:
    for where, expression, words in expressions():
        selectors = _SELECTOR.findall(expression)
        assert selectors, where
        known = set(_TARGET)
        for name, matchers in selectors:
            # A counter with labels that nothing was counted under yet has no series.
            labels = {"reason"} if name == "bitfusiond_token_copy_failures_total" else printed.get(name)
            assert labels is not None, f"{where}: nobody prints {name}"
            known |= labels
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= labels, f"{where}: {name}"
        grouped = {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")}
        named = set(re.findall(r"\$labels\.(\w+)", words)) | set(re.findall(r"\{\{(\w+)\}\}", words))
        assert grouped | named <= known, where


def test_every_metric_of_our_own_is_looked_at_somewhere(printed: Series) -> None:
    looked_at = " ".join(expression for _, expression, _ in expressions())
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name in printed if name.startswith("bitfusiond_")}
    left_out = {
        # The same as expiry_seconds, for those who would rather subtract themselves.
        "bitfusiond_certificate_expiry_timestamp_seconds",
        "bitfusiond_certificate_renewals_total",
        "bitfusiond_watch_synced",
        "bitfusiond_watch_quiet_seconds",
    }
    assert {name for name in ours if name not in looked_at} == left_out & ours


def test_an_alert_has_one_name_a_severity_and_says_what_to_do() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("install promtool (Debian: package prometheus) to run this")
    (document,) = yaml.safe_load_all((MONITORING / "rules.yaml").read_text())
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(document["spec"]))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, check=False)
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
