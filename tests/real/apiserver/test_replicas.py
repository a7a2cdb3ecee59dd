"""Two replicas behind one Service: whatever happens to them one at a time, no pod is refused."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.harness.apiserver import APIServer, secret_path
from tests.real.harness.load import Load, creating_pods
from tests.real.harness.pair import pair
from tests.real.harness.webhook import put_sources, routed

RATE = 50.0
CERTIFICATES = secret_path("bwki", "bwki-webhook-certs")
# The same program, whose CA lives for seconds: there is no option for that, since nobody should want one.
HURRIED = """
import sys
from bitfusiond import cli
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.webhook.certificates.selfmanaged import SelfManagedCertificate
lives = Lives(ca=15, leaf=9, backdate=2, settle=2)
SelfManagedCertificate.__init__.__kwdefaults__.update(lives=lives, poll_seconds=0.3)
sys.exit(cli.main(sys.argv[1:]))
"""
_names = (f"load-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with routed(tmp_path_factory.mktemp("routed")) as server:
        put_sources(server, "kube-system")
        yield server


def report(what: str, load: Load) -> None:
    print(f"\n{what}: {load.summary()}")  # noqa: T201 - figures for whoever runs this with -s
    assert load.failures == []


def last(seconds: float, begin: float) -> None:
    time.sleep(max(0.0, seconds - (time.monotonic() - begin)))


def test_a_rolling_restart_of_both_replicas_under_load_refuses_nothing(api: APIServer, tmp_path: Path) -> None:
    with pair(api, tmp_path) as both, creating_pods(api.door, api.namespace(next(_names)), RATE) as load:
        begin = time.monotonic()
        both.roll()
        both.restart()
        last(20, begin)
    report("rolling restarts", load)


def test_certificates_that_rotate_under_load_and_a_restart_refuse_nothing(api: APIServer, tmp_path: Path) -> None:
    with pair(api, tmp_path, ("-c", HURRIED)) as both:
        with creating_pods(api.door, api.namespace(next(_names)), RATE) as load:
            begin = time.monotonic()
            time.sleep(4)
            both.restart()
            last(20, begin)
        steps = [line["step"] for replica in both.all for line in replica.said("certificate authority changed")]
        signed = [line["why"] for replica in both.all for line in replica.said("serving certificate signed")]
    report(f"rotation ({steps.count('Promote')} CAs, {len(signed)} serving certificates) and a restart", load)
    assert steps.count("Promote") >= 1
    assert "another CA signs now" in signed


def test_a_certificate_secret_that_is_deleted_and_broken_under_load_and_a_restart_refuse_nothing(
    api: APIServer, tmp_path: Path
) -> None:
    with pair(api, tmp_path) as both, creating_pods(api.door, api.namespace(next(_names)), RATE) as load:
        time.sleep(1)
        api.request("DELETE", CERTIFICATES)
        time.sleep(2)
        api.request("PATCH", CERTIFICATES, {"data": {"ca.crt": "QUJD"}}, "application/merge-patch+json")
        time.sleep(1)
        both.restart()
    report("broken certificates and a restart", load)
    made = [line["why"] for replica in both.all for line in replica.said("certificate authority changed")]
    assert made == ["there is none"] * 3, "the first, the one deleted, the one broken"
