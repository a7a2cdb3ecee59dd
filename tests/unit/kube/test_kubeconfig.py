"""Kubeconfigs that cannot be used say why, and never what is secret in them; a pod's token is read again."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import trustme

from bitfusiond.errors import ConfigurationError
from bitfusiond.kube import ConflictError, UnavailableError, kubeconfig
from bitfusiond.kube.status import error_of

GOOD: dict[str, Any] = {
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:6443"}}],
    "users": [{"name": "u", "user": {"token": "SECRET"}}],
}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "a: [",
        "text",
        "[" * 1000 + "]" * 1000,
        json.dumps({**GOOD, "current-context": "other"}),
        json.dumps({**GOOD, "clusters": []}),
        json.dumps({**GOOD, "clusters": [{"name": "k", "cluster": {}}]}),
        json.dumps({**GOOD, "clusters": [{"name": "k", "cluster": {"server": "no url"}}]}),
        json.dumps({**GOOD, "users": [{"user": {"token": "SECRET"}}]}),
        json.dumps({**GOOD, "users": [{"name": "u", "user": {"client-certificate-data": "!", "token": "SECRET"}}]}),
        json.dumps(
            {**GOOD, "clusters": [{"name": "k", "cluster": {"server": "https://k", "certificate-authority": "/no"}}]}
        ),
    ],
)
def test_an_unusable_kubeconfig_is_named_in_one_line_without_its_secrets(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(ConfigurationError) as raised:
        kubeconfig.load(str(path))
    message = str(raised.value)
    assert message.startswith(f"--kubeconfig: '{path}'")
    assert "\n" not in message
    assert "SECRET" not in message


def test_a_kubeconfig_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="--kubeconfig: '/no/such': no such file"):
        kubeconfig.load("/no/such")


def test_outside_a_pod_and_without_any_kubeconfig_it_says_what_to_give() -> None:
    with pytest.raises(ConfigurationError, match="name a kubeconfig, or none"):
        kubeconfig.load(None, {})


def test_outside_a_pod_the_variable_names_it(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(json.dumps(GOOD))
    assert kubeconfig.load(None, {"KUBECONFIG": str(tmp_path / "config")}).host == "https://127.0.0.1:6443"


def test_a_token_that_the_kubelet_renewed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token, ca = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    trustme.CA().cert_pem.write_to_path(ca)
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    configuration = kubeconfig.load(None, environment, str(token), str(ca))
    assert configuration.get_api_key_with_prefix("BearerToken") == "bearer first"
    token.write_text("second")
    loader = "kubernetes.config.incluster_config.datetime"

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return super().now(tz) + datetime.timedelta(minutes=2)

    monkeypatch.setattr(f"{loader}.datetime", Later)
    assert configuration.get_api_key_with_prefix("BearerToken") == "bearer second"


def test_a_create_that_loses_the_race_for_a_quota_is_worth_another_try() -> None:
    status = {"reason": "Conflict", "message": "Operation cannot be fulfilled on resourcequotas"}
    assert isinstance(error_of(409, json.dumps(status).encode(), "POST"), UnavailableError)
    assert isinstance(error_of(409, b'{"reason": "AlreadyExists"}', "POST"), ConflictError)
