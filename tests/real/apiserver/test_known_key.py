"""The procedure of docs/operating.md for a CA whose private key somebody knows, as it stands there."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bitfusiond import pki
from bitfusiond.core import names
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.http import tls
from bitfusiond.webhook.certificates.cabundles import TARGETS
from tests import MANIFESTS
from tests.fakes.handshakes import ca_bundles, shake
from tests.fakes.processes import wait_until
from tests.pods import pod
from tests.real.harness import programs
from tests.real.harness.apiserver import APIServer, secret_path
from tests.real.harness.webhook import installed, routed

OPERATING = MANIFESTS.parent / "docs" / "operating.md"
SERVICE = "bwki-webhook-svc.bwki.svc"


def commands() -> list[str]:
    """The blocks of shell of the section."""
    section = re.search(r"^## When the CA's key is known.*?^(?=## )", OPERATING.read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    return re.findall(r"^```shell\n(.*?)^```", section[0], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with routed(tmp_path_factory.mktemp("known-key")) as server:
        yield server


def bundles(api: APIServer) -> list[bytes]:
    return [
        each for target in TARGETS for each in ca_bundles(api.request("GET", target.resource.path(None, target.name)))
    ]


def _fingerprints(pem: bytes) -> set[str]:
    return {pki.fingerprint(each) for each in pki.certificates_of(pem)}


def shell(script: str, kubeconfig: Path, directory: Path) -> str:
    (directory / "kubectl").symlink_to(programs.kubectl())
    path = f"{directory}:{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(directory), "KUBECONFIG": str(kubeconfig)}
    words = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_after_the_commands_of_the_docs_pods_are_admitted_and_the_known_ca_is_nowhere(
    api: APIServer, tmp_path: Path
) -> None:
    kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
    team = f"/api/v1/namespaces/{api.namespace('team')}/pods"
    with (
        installed(api, tmp_path) as (installation, replica),
        installation.ready_replica() as other,
        installation.endpoints_follow(),
    ):
        wait_until(lambda: installation.admits(team, pod()), "the first pod")
        stolen = pki.decode(api.request("GET", secret_path("bwki", names.WEBHOOK_CERTIFICATES))["data"])
        known = pki.fingerprint(stolen.signing.certificate)
        renew, look = commands()
        (tmp_path / "bin").mkdir()
        shell(renew, kubeconfig, tmp_path / "bin")
        wait_until(lambda: len({*bundles(api)}) == 1 and known not in _fingerprints(bundles(api)[0]), "new bundles")
        (bundle,) = {*bundles(api)}
        assert len(pki.certificates_of(bundle)) == 1
        secret = api.secret("bwki", names.WEBHOOK_CERTIFICATES)
        assert secret["ca.crt"] == bundle
        assert stolen.signing.certificate not in pki.certificates_of(b"".join(secret.values()))
        wait_until(lambda: replica.ready() and other.ready(), "both replicas, with certificates of the new CA")
        wait_until(lambda: installation.admits(team, pod()), "a pod after it")
        # Whoever has the key signs what they like: nobody takes it any more.
        _, forged = pki.sign_leaf(stolen.signing, [SERVICE], time.time(), Lives())
        with pytest.raises(ssl.SSLCertVerificationError):
            shake(tls.ServerTLS(forged, forged, tls.no_client_ca).context, bundle, time.time(), SERVICE)
        (tmp_path / "look").mkdir()
        shown = shell(look, kubeconfig, tmp_path / "look").split()
        assert len(shown) == 3
        assert len({*shown}) == 1, "each line is the same"
        # Neither a restart nor a look at the cluster brings it back.
        with installation.ready_replica():
            assert {*bundles(api)} == {bundle}
