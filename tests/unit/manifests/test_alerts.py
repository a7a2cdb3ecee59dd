"""Each alert of manifests/monitoring by Prometheus' own clock: not while all is well, and in time when it is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from bitfusiond.core.fields import Json
from tests.real.harness.prometheus import promtool, write_rules
from tests.unit.manifests.test_monitoring import rules

HOURS = 2
STEPS = HOURS * 60  # a minute each
WELL = {
    'bitfusiond_build_info{role="webhook",pod="w-1"}': "1",
    'bitfusiond_build_info{role="webhook",pod="w-2"}': "1",
    'bitfusiond_certificate_expiry_seconds{certificate="serving"}': "200000",
    "bitfusiond_token_replication_lag_seconds": "0",
    'bitfusiond_token_copies{state="current"}': "3",
    **{f'bitfusiond_token_copies{{state="{state}"}}': "0" for state in ("sourceless", "unproven", "not_allowed")},
    **{
        f'bitfusiond_admission_requests_total{{endpoint="{endpoint}",verdict="{verdict}",reason="{reason}"}}': value
        for endpoint in ("mutate", "validate")
        for verdict, reason, value in (
            ("patched", "injected", "0+50"),
            ("error", "500", "0"),
            ("refused", "no tokens", "0"),
        )
    },
    'bitfusiond_admission_duration_seconds_bucket{endpoint="mutate",le="1"}': "0+50",
    'bitfusiond_admission_duration_seconds_bucket{endpoint="mutate",le="5"}': "0+50",
    'bitfusiond_admission_duration_seconds_bucket{endpoint="mutate",le="+Inf"}': "0+50",
    'bitfusiond_watch_connected{watch="nodes"}': "1",
    'bitfusiond_pool_server_up{server="gpu-a"}': "1",
    "bitfusiond_pool_problem": "0",
    'bitfusiond_plugin_registered{node="a",pod="p"}': "1",
    'bitfusiond_plugin_dra_registered{node="a",pod="p"}': "1",
    'bitfusiond_plugin_dra_failures_total{call="prepare",node="a"}': "0",
    'bitfusiond_plugin_devices{health="Unhealthy",node="a"}': "0",
    'bitfusiond_plugin_servers{reachable="false",node="a"}': "0",
    'bitfusiond_plugin_servers_conf_errors_total{node="a"}': "0",
}


@dataclass(frozen=True)
class Case:
    """``wrong`` is what differs from WELL, None = not there; ``minutes`` after that the alert is there, not before."""

    alert: str
    wrong: dict[str, str | None]
    minutes: int
    labels: dict[str, str] = field(default_factory=dict)


def alike(start: str, value: str | None) -> dict[str, str | None]:
    return {name: value for name in WELL if name.startswith(start)}


NODE = {"node": "a"}
PLUGIN = {"node": "a", "pod": "p"}
SLOW = alike('bitfusiond_admission_duration_seconds_bucket{endpoint="mutate",le="1"}', "0")
CASES = [
    Case("BitfusionWebhookDown", alike("bitfusiond_build_info", None), 5, {"role": "webhook"}),
    Case("BitfusionWebhookNotRedundant", {'bitfusiond_build_info{role="webhook",pod="w-2"}': None}, 15),
    Case(
        "BitfusionCertificateExpires",
        alike("bitfusiond_certificate_expiry_seconds", "86399"),
        10,
        {"certificate": "serving"},
    ),
    Case("BitfusionTokensStale", alike("bitfusiond_token_replication_lag_seconds", "301"), 5),
    Case(
        "BitfusionTokenCopiesFail",
        {'bitfusiond_token_copy_failures_total{reason="forbidden"}': "1+1"},
        16,
        {"reason": "forbidden"},
    ),
    Case("BitfusionTokensMissing", alike('bitfusiond_token_copies{state="sourceless"}', "1"), 10),
    Case("BitfusionTokenCopiesUnproven", alike('bitfusiond_token_copies{state="unproven"}', "1"), 60),
    Case("BitfusionTokenCopiesNotAllowed", alike('bitfusiond_token_copies{state="not_allowed"}', "1"), 60),
    Case(
        "BitfusionPodsRefusedWithoutTokens",
        alike('bitfusiond_admission_requests_total{endpoint="mutate",verdict="refused"', "0+1"),
        11,
    ),
    # One defect is enough.
    Case(
        "BitfusionAdmissionFails",
        alike('bitfusiond_admission_requests_total{endpoint="validate",verdict="error"', "0 1+0"),
        1,
        {"endpoint": "validate"},
    ),
    Case("BitfusionAdmissionSlow", SLOW, 11, {"endpoint": "mutate"}),
    Case("BitfusionWatchBroken", alike("bitfusiond_watch_connected", "0"), 10, {"watch": "nodes"}),
    Case("BitfusionGpuServerDown", alike("bitfusiond_pool_server_up", "0"), 5, {"server": "gpu-a"}),
    Case("BitfusionPoolNotPublished", alike("bitfusiond_pool_problem", "1"), 10),
    Case("BitfusionPluginDown", alike("bitfusiond_plugin_registered", None), 5),
    Case("BitfusionPluginNotRegistered", alike("bitfusiond_plugin_registered", "0"), 5, PLUGIN),
    Case("BitfusionDriverNotRegistered", alike("bitfusiond_plugin_dra_registered", "0"), 5, PLUGIN),
    Case(
        "BitfusionClaimsNotPrepared",
        alike("bitfusiond_plugin_dra_failures_total", "0+1"),
        16,
        {"call": "prepare", **NODE},
    ),
    Case(
        "BitfusionDevicesUnhealthy",
        alike("bitfusiond_plugin_devices", "100"),
        5,
        {"health": "Unhealthy", **NODE},
    ),
    Case(
        "BitfusionServersUnreachable",
        alike("bitfusiond_plugin_servers{", "1"),
        10,
        {"reachable": "false", **NODE},
    ),
    Case("BitfusionServersUnknown", alike("bitfusiond_plugin_servers_conf_errors_total", "0+1"), 31, NODE),
]


def lasting(values: str) -> str:
    """For all of the time: ``1`` is always that, ``0+1`` one more a minute, ``0 1+0`` the latter from the second on."""
    start, _, rest = values.rpartition(" ")
    return f"{start} {rest}{'' if '+' in rest else '+0'}x{STEPS}".strip()


def scenario(wrong: dict[str, str | None], expected: list[tuple[int, str, list[Json]]]) -> Json:
    series = {name: values for name, values in {**WELL, **wrong}.items() if values is not None}
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": lasting(values)} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": alerts}
            for minutes, alert, alerts in expected
        ],
    }


def passes(directory: Path, *scenarios: Json) -> None:
    rules_file = write_rules(directory / "rules.yaml", with_words=False)
    tests = {"rule_files": [str(rules_file)], "evaluation_interval": "1m", "tests": list(scenarios)}
    file = directory / "tests.yaml"
    file.write_text(yaml.safe_dump(tests))
    done = promtool("test", "rules", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_while_all_is_well_there_is_no_alert(tmp_path: Path) -> None:
    passes(
        tmp_path,
        scenario({}, [(minutes, rule["alert"], []) for rule in rules() for minutes in (1, 30, STEPS)]),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.alert)
def test_an_alert_is_there_in_time_and_not_before(case: Case, tmp_path: Path) -> None:
    (severity,) = [rule["labels"]["severity"] for rule in rules() if rule["alert"] == case.alert]
    there = [{"exp_labels": {"severity": severity, **case.labels}}]
    passes(tmp_path, scenario(case.wrong, [(case.minutes - 1, case.alert, []), (case.minutes, case.alert, there)]))


def test_there_is_a_case_for_each_alert() -> None:
    assert [case.alert for case in CASES] == [rule["alert"] for rule in rules()]
