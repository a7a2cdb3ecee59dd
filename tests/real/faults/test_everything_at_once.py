"""Pods created all the time while replicas, certificates, tokens, clocks and the API server change under them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.harness.apiserver import APIServer, secret_path
from tests.real.harness.load import KILLED_IN_A_HANDSHAKE, Load, creating_pods
from tests.real.harness.pair import Pair, pair
from tests.real.harness.schedule import Schedule
from tests.real.harness.webhook import Replica, put_sources, routed

RATE = 100.0
SECONDS = 20.0
FAULTS = ("replica", "API server", "tokens", "clock", "certificate Secret")
# Of the pods that are due while there is an API server, so many are answered at least. On two cores, which API server,
# etcd, replicas and clients share, all were under a load of 8, and half of all that were due under 12.
HELD = 0.5
PAUSE_SECONDS = 2.0
CERTIFICATES = secret_path("bwki", "bwki-webhook-certs")
# The program with a clock of its own, which a file can put forward or back; and with certificates that live so many
# seconds, or as long as ever. That the API server's certificate is valid, OpenSSL still reads from the machine's clock.
ENTRY = """
import os, pathlib, sys, time
clock, life = pathlib.Path(sys.argv.pop(1)) / str(os.getpid()), float(sys.argv.pop(1))
right = time.time
time.time = lambda: right() + (float(clock.read_text()) if clock.exists() else 0)
from bitfusiond import cli
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.webhook.certificates.selfmanaged import SelfManagedCertificate
if life:
    lives = Lives(ca=life, leaf=life, backdate=life / 2, settle=2)
    SelfManagedCertificate.__init__.__kwdefaults__.update(lives=lives, poll_seconds=0.3)
sys.exit(cli.main(sys.argv[1:]))
"""
LIFE = 60.0
# In everyday life a certificate is dated back by a quarter of an hour: here by 30 s, and clocks err by a third of that.
JUMPS = (-10.0, 10.0, 0.0)
NOTICED_SECONDS = 2.5  # until a replica has a certificate for the time that it has now
HOUR, DAY = 3600.0, 86400.0
WEEK_AND_A_DAY = 8 * DAY  # past the end of a serving certificate, which lives for seven


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIServer]:
    with routed(tmp_path_factory.mktemp("routed")) as server:
        put_sources(server, "kube-system")
        yield server


def entry(directory: Path, life: float) -> tuple[str, ...]:
    return "-c", ENTRY, str(directory), str(life)


def set_clock(directory: Path, replica: Replica, ahead: float) -> None:
    """So many seconds before the right time, or behind it where it is negative."""
    new = directory / "clock"
    new.write_text(str(ahead))
    new.rename(directory / str(replica.process.pid))


def restart(api: APIServer, load: Load) -> float:
    """The seconds without an API server that is ready."""
    began = time.monotonic()
    with load.without_api_server(), api.stopped():
        time.sleep(0.5)
    return time.monotonic() - began


def said(both: Pair, event: str) -> int:
    return sum(len(replica.said(event)) for replica in both.all)


@pytest.mark.filterwarnings(KILLED_IN_A_HANDSHAKE)
def test_load_with_every_fault_loses_no_pod(api: APIServer, tmp_path: Path) -> None:
    schedule = Schedule(FAULTS, SECONDS)
    tokens, away = 0, 0.0
    with pair(api, tmp_path, entry(tmp_path, LIFE)) as both:
        with creating_pods(api.door, api.namespace("everything"), RATE) as load:
            began = time.monotonic()
            for fault in schedule:
                match fault:
                    case "replica":
                        both.replace()
                    case "API server":
                        away += restart(api, load)
                    case "tokens":
                        tokens += 1
                        put_sources(api, "kube-system", f"a: {tokens}")
                    case "clock":
                        set_clock(tmp_path, schedule.random.choice(both.replicas), schedule.random.choice(JUMPS))
                    case "certificate Secret":
                        api.request("DELETE", CERTIFICATES)
                time.sleep(schedule.random.uniform(0, PAUSE_SECONDS))
            seconds = time.monotonic() - began
        authorities, certificates = (
            said(both, "certificate authority changed"),
            said(both, "serving certificate signed"),
        )
    print(f"\n  {schedule}; {authorities} steps of the CA, {certificates} serving certificates")  # noqa: T201
    print(f"  {load.summary()}; {RATE * seconds:.0f} due, {away:.1f} s of {seconds:.1f} s without an API server")  # noqa: T201
    assert load.failures == []
    assert set(schedule.done) == set(FAULTS)
    assert len(load.seconds) >= HELD * RATE * (seconds - away)
    assert len(load.unsent) <= RATE * away  # those that are due meanwhile


def test_clocks_that_jump_by_an_hour_a_day_and_past_a_certificate_lose_no_pod(api: APIServer, tmp_path: Path) -> None:
    """Each replica is on a node of its own: one clock at a time, and that of the API server is right.

    Once set back, a clock may want a new CA. It gets no two of them within a minute.
    """
    jumps = (HOUR, DAY, WEEK_AND_A_DAY, -HOUR, 0)
    with pair(api, tmp_path, entry(tmp_path, 0)) as both:
        with creating_pods(api.door, api.namespace("clocks"), RATE / 4) as load:
            for jump in jumps:
                for replica in both.replicas:
                    set_clock(tmp_path, replica, jump)
                    time.sleep(NOTICED_SECONDS)
        noticed, certificates = said(both, "the clock jumped"), said(both, "serving certificate signed")
    print(f"\n  {noticed} jumps; {certificates} serving certificates")  # noqa: T201
    print(f"  {load.summary()}")  # noqa: T201
    assert load.failures == []
    assert noticed == 2 * len(jumps)
