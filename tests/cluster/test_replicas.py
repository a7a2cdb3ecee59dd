"""Two replicas behind one Service: whatever happens to them one at a time, no pod is refused."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.cluster.apiserver import APIServer
from tests.cluster.load import Load, creating_pods
from tests.cluster.webhook import Installation, Replica, namespace, put_sources, routed, secret_path
from tests.fakes.processes import wait_until
from tests.pods import pod

RATE = 50.0
DRAIN_SECONDS = 2.0
CERTIFICATES = secret_path("bwki", "bwki-webhook-certs")
# The same program, whose CA lives for seconds: there is no option for that, since nobody should want one.
HURRIED = """
import sys
from bitfusiond import cli
from bitfusiond.core.rotation import Lives
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


class Pair:
    """Two replicas of an installation, each of which can be replaced."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._stacks: list[ExitStack] = []
        self.replicas: list[Replica] = []
        self.all: list[Replica] = []
        for _ in range(2):
            self._add()

    def _add(self) -> None:
        stack = ExitStack()
        self.replicas.append(
            stack.enter_context(self._installation.ready_replica("--drain-seconds", str(DRAIN_SECONDS)))
        )
        self._stacks.append(stack)
        self.all.append(self.replicas[-1])

    def roll(self) -> None:
        """As a Deployment with maxSurge 1 and maxUnavailable 0: the next one is ready before one is told to stop."""
        for _ in range(2):
            self._add()
            time.sleep(0.5)
            self._drop()

    def restart(self) -> None:
        """As a Deployment with maxUnavailable 1: for a while there is one replica only."""
        for _ in range(2):
            self._drop()
            self._add()
            time.sleep(0.5)

    def _drop(self) -> None:
        replica = self.replicas.pop(0)
        self._stacks.pop(0).close()
        assert replica.process.returncode == 0

    def close(self) -> None:
        for replica in self.replicas:
            replica.process.terminate()  # the stack's is the second, which ends it without a drain
        for stack in self._stacks:
            stack.close()


@contextmanager
def pair(api: APIServer, directory: Path, entry: tuple[str, ...] = ("-m", "bitfusiond")) -> Iterator[Pair]:
    """Both replicas answer for the Service, and the configurations are in force."""
    installation = Installation(api, directory, entry=entry)
    installation.register()
    with ExitStack() as stack:
        both = Pair(installation)
        stack.callback(installation.unregister)
        stack.callback(both.close)
        stack.enter_context(installation.endpoints_follow())
        probe = f"/api/v1/namespaces/{namespace(api, 'probe')}/pods"
        wait_until(lambda: installation.admits(probe, pod()), "a pod that is admitted")
        yield both


def report(what: str, load: Load) -> None:
    print(f"\n{what}: {load.summary()}")  # noqa: T201 - figures for whoever runs this with -s
    assert load.failures == []


def last(seconds: float, begin: float) -> None:
    time.sleep(max(0.0, seconds - (time.monotonic() - begin)))


def test_a_rolling_restart_of_both_replicas_under_load_refuses_nothing(api: APIServer, tmp_path: Path) -> None:
    with pair(api, tmp_path) as both, creating_pods(api, namespace(api, next(_names)), RATE) as load:
        begin = time.monotonic()
        both.roll()
        both.restart()
        last(28, begin)
    report("rolling restarts", load)


def test_certificates_that_rotate_under_load_and_a_restart_refuse_nothing(api: APIServer, tmp_path: Path) -> None:
    with pair(api, tmp_path, ("-c", HURRIED)) as both:
        with creating_pods(api, namespace(api, next(_names)), RATE) as load:
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
    with pair(api, tmp_path) as both, creating_pods(api, namespace(api, next(_names)), RATE) as load:
        time.sleep(1)
        api.request("DELETE", CERTIFICATES)
        time.sleep(2)
        api.request("PATCH", CERTIFICATES, {"data": {"ca.crt": "QUJD"}}, "application/merge-patch+json")
        time.sleep(1)
        both.restart()
    report("broken certificates and a restart", load)
    made = [line["why"] for replica in both.all for line in replica.said("certificate authority changed")]
    assert made == ["there is none"] * 3, "the first, the one deleted, the one broken"
