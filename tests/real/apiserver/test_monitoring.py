"""manifests/monitoring goes by metrics that the daemons really print, with labels that they really have."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bitfusiond.core import names
from bitfusiond.webhook.admission import ENDPOINTS
from tests import pods
from tests.fakes.processes import get, logged, repeating, running, wait_until
from tests.real.harness.apiserver import started
from tests.real.harness.prometheus import Prometheus, scraping
from tests.real.harness.webhook import Installation, Replica, put_sources
from tests.unit.manifests.test_monitoring import expressions, panels, rules

Series = dict[str, set[str]]

# What Prometheus puts on every series of a target, and on every bucket of a histogram.
_TARGET = {"instance", "job", "namespace", "node", "pod", "le"}
# Counters of which nothing was counted yet, and what no pool shows before Kubernetes 1.36.
_PERHAPS = {
    "bitfusiond_token_copy_failures_total": {"reason"},
    "bitfusiond_plugin_dra_failures_total": {"call"},
    "bitfusiond_pool_template_failures_total": {"reason"},
    "bitfusiond_pool_writes_total": {"kind", "verb"},
    "bitfusiond_pool_write_failures_total": {"kind"},
    "bitfusiond_pool_dropped_fields_total": {"kind"},
    **{f"bitfusiond_pool_shares_{name}": {"server"} for name in ("offered", "allocated", "free")},
}
# No kubelet, one replica, a server that does not answer.
_WRONG_HERE = {
    "BitfusionWebhookNotRedundant",
    "BitfusionGpuServerDown",
    "BitfusionPluginNotRegistered",
    "BitfusionDriverNotRegistered",
    "BitfusionDevicesUnhealthy",
    "BitfusionServersUnreachable",
}
# Before Kubernetes 1.36 there is nowhere to publish a pool; and of a few pods the first, with its tokens, may be slow.
_PERHAPS_WRONG = {"BitfusionPoolNotPublished", "BitfusionWatchBroken", "BitfusionAdmissionSlow"}
_SELECTOR = re.compile(r"\b((?:bitfusiond|process)_\w+)(?:\{([^}]*)\})?")
_GROUPED = re.compile(r"\b(?:by|on|group_left) \(([^)]*)\)")


def series_of(text: str) -> Series:
    """The labels of each series on a page of /metrics."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@contextmanager
def a_plugin(directory: Path) -> Iterator[str]:
    """Where one answers that has no kubelet, and a server and an API server that do not answer."""
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    servers = directory / "servers.conf"
    servers.write_text("servers:\n- addresses:\n  - 127.0.0.1:1\n")
    options = ["--device-plugin-dir", str(directory), "--observe", "127.0.0.1:0", "--servers-conf", str(servers)]
    options += ["--dra-driver", names.DRIVER, "--kubeconfig", str(kubeconfig)]
    for name in ("plugins", "registry", "cdi"):
        (directory / name).mkdir()
        options += [f"--{name}-dir", str(directory / name)]
    log = directory / "log"
    with running([sys.executable, "-m", "bitfusiond", "--role", "plugin", "--interval", "0.1", *options], log):
        wait_until(lambda: bool(logged(log, "observing")), "a plugin that observes")
        address = logged(log, "observing")[0]["address"]
        wait_until(lambda: "bitfusiond_plugin_servers{" in get(address, "/metrics")[1], "a first round of probes")
        yield address


@contextmanager
def a_webhook(directory: Path) -> Iterator[Replica]:
    """One in a cluster with a pool, after one pod."""
    with started(directory) as api:
        installation = Installation(api, directory)
        put_sources(api, installation.tokens)
        api.namespace("team")
        pool = directory / "pool.yaml"
        pool.write_text("servers: [{name: a, address: '127.0.0.1:1', gpus: [{id: '0', name: T4, memory: 15000M}]}]")
        with installation.ready_replica("--pool", str(pool)) as replica:
            replica.review(pods.pod(), "team")
            last = "bitfusiond_pool_shares_free{" if api.minor >= 36 else "bitfusiond_pool_server_up{"
            wait_until(lambda: last in replica.get("/metrics")[1], "the pool's figures", 40)
            wait_until(lambda: "bitfusiond_pool_server_up{" in replica.get("/metrics")[1], "three probes", 40)
            yield replica


@dataclass(frozen=True)
class Daemons:
    webhook: Replica
    plugin: str

    def review(self) -> None:
        for endpoint in ENDPOINTS:
            self.webhook.review(pods.pod(), "team", path=endpoint)

    @property
    def addresses(self) -> dict[str, str]:
        return {"webhook": str(self.webhook.said("observing")[0]["address"]), "plugin": self.plugin}


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemons]:
    with (
        a_webhook(tmp_path_factory.mktemp("webhook")) as webhook,
        TemporaryDirectory(prefix="dp-") as directory,  # pytest's own can be longer than a socket's path may be
        a_plugin(Path(directory)) as plugin,
    ):
        yield Daemons(webhook, plugin)


@pytest.fixture(scope="module")
def printed(daemons: Daemons) -> Series:
    found: Series = {}
    for address in daemons.addresses.values():
        for name, labels in series_of(get(address, "/metrics")[1]).items():
            found.setdefault(name, set()).update(labels)
    return found


@pytest.fixture(scope="module")
def prometheus(daemons: Daemons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has seen some pods go by, and the rules at work."""
    targets = [(each, {"pod": name, "node": "a", "namespace": "n"}) for name, each in daemons.addresses.items()]
    with scraping(tmp_path_factory.mktemp("prometheus"), targets) as server, repeating(daemons.review, 0.5):
        wait_until(
            lambda: len(server.query("count_over_time(up[5m]) >= 5")) == len(targets), "five rounds of questions"
        )
        wait_until(lambda: all(rule["state"] != "unknown" for rule in server.rules()), "the rules")
        yield server


def test_every_metric_of_the_rules_and_the_dashboard_is_printed_with_the_labels_that_they_name(printed: Series) -> None:
    for where, expression, words in expressions():
        selectors = _SELECTOR.findall(expression)
        assert selectors, where
        known = set(_TARGET)
        for name, matchers in selectors:
            labels = printed.get(name, _PERHAPS.get(name))
            assert labels is not None, f"{where}: nobody prints {name}"
            known |= labels
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= labels, f"{where}: {name}"
        grouped = {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")}
        named = set(re.findall(r"\$labels\.(\w+)", words)) | set(re.findall(r"\{\{(\w+)\}\}", words))
        assert grouped | named <= known, where


def test_prometheus_answers_every_question_of_the_dashboard(prometheus: Prometheus) -> None:
    """With figures, but for those of which nothing was counted yet."""
    silent = {}
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "10s")
            if not prometheus.query(expression):
                silent[panel["title"], target["legendFormat"]] = expression
    assert not {
        where: expression for where, expression in silent.items() if not any(name in expression for name in _PERHAPS)
    }


def test_prometheus_follows_every_rule_and_finds_what_is_wrong_here(prometheus: Prometheus) -> None:
    found = prometheus.rules()
    assert {rule["name"] for rule in found} == {rule["alert"] for rule in rules()}
    assert [(rule["name"], rule["lastError"]) for rule in found if rule["health"] != "ok"] == []
    pending = {rule["name"] for rule in found if rule["state"] != "inactive"}
    assert _WRONG_HERE <= pending <= _WRONG_HERE | _PERHAPS_WRONG
    words = [word for rule in found for alert in rule["alerts"] for word in alert["annotations"].values()]
    assert words
    assert not [each for each in words if "<" in each or "{{" in each or "error" in each]


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
