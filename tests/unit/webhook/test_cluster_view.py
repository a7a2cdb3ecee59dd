"""What an admission asks of the cluster around it, without HTTP: the application is called as a server calls it."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from prometheus_client import CollectorRegistry

from bitfusiond.core.admission import template
from bitfusiond.core.admission.capacity import Largest
from bitfusiond.core.admission.decision import Rules
from bitfusiond.core.admission.review import Review
from bitfusiond.core.pool.claims import ClaimTemplate
from bitfusiond.files.read import TEMPLATE, load_yaml, packaged
from bitfusiond.http.messages import Request, Response
from bitfusiond.webhook.admission import Admission
from bitfusiond.webhook.certificates.files import FileCertificate
from bitfusiond.webhook.images.pullsecrets import PullSecrets
from tests.pods import admitted, pod, rules


class _Around:
    def __init__(self, *problems: str, largest: Largest | None = None) -> None:
        self.problems = list(problems)
        self._largest = largest
        self.asked: list[tuple[str, bool]] = []
        self.told: list[str] = []

    def largest_node(self) -> Largest | None:
        return self._largest

    async def ensure_tokens(self, namespace: str, dry_run: bool) -> list[str]:
        self.asked.append((namespace, dry_run))
        return self.problems

    async def ensure_templates(self, namespace: str, templates: Sequence[ClaimTemplate], dry_run: bool) -> list[str]:
        raise AssertionError("no pool, no claims")

    async def missing_templates(self, namespace: str, templates: Sequence[str]) -> list[str]:
        raise AssertionError("no pool, no claims")

    async def pull_secrets(self, namespace: str, names: Sequence[str]) -> PullSecrets:
        return PullSecrets()

    def servers(self) -> list[str]:
        return []

    def refused(self, request: Review, message: str) -> None:
        self.told.append(message)


async def _asked(around: _Around, path: str, given: dict[str, Any], by: Rules | None = None) -> dict[str, Any]:
    admission = Admission(lambda: by or rules(), around, lambda _: Response(404, b""), CollectorRegistry())
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    request = {"uid": "u", "kind": kind, "operation": "CREATE", "namespace": "team", "object": given}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    pieces = [b"", json.dumps(review).encode()]

    async def more() -> bytes:
        return pieces.pop()

    headers = {"content-type": "application/json"}
    answer = await admission(Request("POST", path, "1.1", more, math.inf, headers))
    response: dict[str, Any] = json.loads(answer.body)["response"]
    return response


LOOKS = [
    pytest.param("/mutate", pod(), id="first"),
    pytest.param("/mutate", admitted(pod()), id="first, of a copy"),
    pytest.param("/validate", admitted(pod()), id="second"),
]


@pytest.mark.parametrize(("path", "given"), LOOKS)
async def test_a_pod_that_no_node_can_hold_is_refused_at_either_look(path: str, given: dict[str, Any]) -> None:
    """The second is left out where the API server sees that the pod is complete."""
    around = _Around(largest={"bitfusion.io/gpu": 49})
    response = await _asked(around, path, given)
    words = "Resource validation failed: the pod asks for 50 of bitfusion.io/gpu, the largest node has 49: ask for less"
    assert (response["allowed"], response["status"]["message"]) == (False, words)
    assert around.asked == []
    assert (await _asked(_Around(largest={"bitfusion.io/gpu": 50}), path, given))["allowed"]


async def test_a_copy_that_may_lack_what_the_template_of_today_adds_is_to_be_looked_at_again() -> None:
    document: Any = load_yaml(packaged(TEMPLATE))
    document["containers"][0]["volumeMounts"].append({"name": "bitfusion-distro", "mountPath": "/more"})
    own = replace(rules(), template=template.parse(document))
    given = admitted(pod())
    response = await _asked(_Around(), "/mutate", given, own)
    (operation,) = json.loads(base64.b64decode(response["patch"]))
    assert operation == {"op": "add", "path": "/metadata/annotations/bitfusion.io~1validate", "value": "always"}
    assert "patch" not in await _asked(_Around(), "/mutate", given)
    given["metadata"]["annotations"]["bitfusion.io/validate"] = "always"
    assert "patch" not in await _asked(_Around(), "/mutate", given, own)


async def test_parts_that_another_webhook_may_still_bring_back_are_no_matter_of_the_first_look() -> None:
    given = admitted(pod())
    given["spec"]["containers"][0]["volumeMounts"] = []
    assert (await _asked(_Around(), "/mutate", given))["allowed"]
    assert not (await _asked(_Around(), "/validate", given))["allowed"]


@pytest.mark.parametrize(("path", "given"), LOOKS)
async def test_a_pod_without_tokens_is_refused_at_either_look(path: str, given: dict[str, Any]) -> None:
    """A pod that comes with its status already, as `render` prints it, is never mutated here."""
    around = _Around("no Secret", "try again")
    response = await _asked(around, path, given)
    assert (response["allowed"], response["status"]["message"]) == (False, "no Secret; try again")
    assert around.asked == [("team", False)]
    assert around.told == ["no Secret; try again"]
    assert (await _asked(_Around(), path, given))["allowed"]


@pytest.mark.parametrize("path", ["/mutate", "/validate"])
async def test_a_pod_that_did_not_opt_in_asks_nothing(path: str) -> None:
    around = _Around("no Secret")
    assert (await _asked(around, path, pod(mode="none")))["allowed"]
    assert around.asked == []


def test_a_certificate_of_files_tells_its_expiry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = trustme.CA().issue_cert("webhook", not_after=datetime.now(tz=UTC) + timedelta(hours=1))
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate = FileCertificate(tmp_path / "cert.pem", tmp_path / "key.pem")
    assert certificate.seconds_left() == pytest.approx(3600, abs=60)
    assert certificate.ready_reason() is None
    later = time.time() + 3700
    monkeypatch.setattr(time, "time", lambda: later)
    assert certificate.ready_reason() == f"--tls-cert: the certificate in {tmp_path / 'cert.pem'} has expired"
