"""``--client-ca`` with a real API server that got its certificate as docs/operating.md says, word for word."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import trustme

from bitfusiond.core import names
from tests.fakes.processes import wait_until
from tests.pods import pod
from tests.real.harness.apiserver import APIServer, Refused
from tests.real.harness.webhook import Installation, Replica, copies, installed, routed

PAGE = Path(__file__).parents[3] / "docs" / "operating.md"
PLACE = "/etc/kubernetes/admission"  # of the page


def _blocks() -> list[str]:
    """The commands and the two files of the page."""
    section = PAGE.read_text().partition("## Who may ask the webhook\n")[2].partition("\n## ")[0]
    return re.findall(r"^```\w+\n(.*?)^```", section, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the page, made by its commands."""
    if shutil.which("openssl") is None:
        pytest.skip("install openssl to run this: docs/operating.md makes certificates with it")
    directory = tmp_path_factory.mktemp("admission")
    commands, configuration, kubeconfig = _blocks()
    subprocess.run(["bash", "-e"], input=commands, text=True, cwd=directory, check=True, capture_output=True)
    for name, text in (("configuration.yaml", configuration), ("webhooks.kubeconfig", kubeconfig)):
        assert PLACE in text
        (directory / name).write_text(text.replace(PLACE, str(directory)))
    return directory


@pytest.fixture(scope="module")
def api(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    option = f"--admission-control-config-file={files / 'configuration.yaml'}"
    with routed(tmp_path_factory.mktemp("routed"), option) as server:
        yield server


@pytest.fixture(scope="module")
def webhook(
    api: APIServer, files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Installation, Replica]]:
    with installed(api, tmp_path_factory.mktemp("webhook"), "--client-ca", str(files / "ca.crt")) as both:
        yield both


def posted(address: str, of: str, context: ssl.SSLContext) -> tuple[int, str]:
    """A review that comes from no API server."""
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    request: dict[str, Any] = {"uid": "u", "kind": kind, "operation": "CREATE", "namespace": of, "object": pod()}
    body = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = HTTPSConnection(address, timeout=15, context=context)
    try:
        connection.request("POST", "/mutate", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_the_api_server_shows_its_certificate_and_nobody_else_gets_tokens_anywhere(
    api: APIServer, webhook: tuple[Installation, Replica], files: Path
) -> None:
    installation, replica = webhook
    team, victim = api.namespace("team"), api.namespace("victim")
    path = f"/api/v1/namespaces/{team}/pods"
    wait_until(lambda: installation.admits(path, pod()), "a pod that is admitted")
    document = pod()
    document["metadata"]["name"] = "train"
    stored = api.create(path, document)
    assert stored["metadata"]["annotations"][names.STATUS] == names.STATUS_INJECTED
    assert copies(api, team) == sorted(names.TOKEN_SECRETS.values())

    status, text = posted(replica.address, victim, ssl.create_default_context())
    assert (status, "a client certificate of the CA in --client-ca" in text) == (401, True)
    stranger = ssl.create_default_context()
    trustme.CA().issue_cert("kube-apiserver").configure_cert(stranger)
    with pytest.raises((OSError, HTTPException)):
        posted(replica.address, victim, stranger)
    assert copies(api, victim) == []
    assert replica.said("client certificate refused")

    ours = ssl.create_default_context()
    ours.load_cert_chain(files / "apiserver.crt", files / "apiserver.key")
    assert posted(replica.address, victim, ours)[0] == 200
    assert copies(api, victim) == sorted(names.TOKEN_SECRETS.values()), "the certificate was what they lacked"


def test_an_api_server_without_one_is_told_apart_and_pods_are_refused(
    api: APIServer, webhook: tuple[Installation, Replica], tmp_path: Path
) -> None:
    """Last: the replica with another CA takes the place of the first one."""
    installation, first = webhook
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    with installation.ready_replica("--client-ca", str(tmp_path / "other.crt")) as replica:
        first.process.kill()
        first.process.wait()
        wait_until(lambda: not first.ready(), "the end of the first one")
        installation.publish()
        path = f"/api/v1/namespaces/{api.namespace('refused')}/pods"
        wait_until(lambda: _refused(api, path) and bool(replica.said("client certificate refused")), "words about it")
    assert copies(api, "refused") == []


def _refused(api: APIServer, path: str) -> bool:
    document = pod()
    document["metadata"]["generateName"] = "train-"
    try:
        api.create(path, document)
    except Refused as refused:
        return "failed calling webhook" in str(refused)
    return False
