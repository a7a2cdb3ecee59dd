"""The benchmarks that need no cluster, in their smallest form: they run, and give figures whatever these are."""

from __future__ import annotations

import json
import math
import os
import ssl
import threading
from collections.abc import Callable, Iterable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bitfusiond.settings.values import Address
from tests.tools.bench import __main__ as bench
from tests.tools.bench import admission, core, memory, plugin, populate, simulated, startup, trees
from tests.tools.bench.measure import Figure, cpu_microseconds, paired
from tests.tools.bench.simulated import Size


def once(
    name: str,
    unit: str,
    ours: Callable[[], float],
    baseline_name: str,
    baseline: Callable[[], float],
    rounds: int = 1,
    aim: float | None = None,
) -> Figure:
    """``compare`` with one round, and none to warm up."""
    assert rounds > 0
    return paired(name, unit, [(ours(), baseline())], baseline_name, aim=aim)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (core, plugin, populate, startup):
        monkeypatch.setattr(module, "compare", once)
    monkeypatch.setattr(core, "cpu_microseconds", partial(cpu_microseconds, times=10))
    monkeypatch.setattr(startup, "ROLES", ["render"])
    monkeypatch.setattr(admission, "CONNECTIONS", (2,))
    monkeypatch.setattr(admission, "ROUNDS", 1)
    monkeypatch.setattr(admission.Server.load, "__defaults__", (0.2, None, 0.0))
    for name, value in {"SETTLE_SECONDS": 0.0, "IDLE_SECONDS": 0.2, "RESTARTS": 1}.items():
        monkeypatch.setattr(plugin, name, value)
    for name, number in {"ROUNDS": 1, "SAMPLES": 2, "WARM_UP": 20, "CHANGES": 20}.items():
        monkeypatch.setattr(memory, name, number)
    monkeypatch.setattr(populate, "ROUNDS", 1)
    monkeypatch.setattr(populate, "_REST_SECONDS", 0.0)
    monkeypatch.setattr(os, "sync", lambda: None)  # what others write is not measured here
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def check(figures: Iterable[Figure], names: set[str]) -> None:
    """Each is a row with numbers in it; ``names`` are among them."""
    found = {figure.name: figure for figure in figures}
    assert names <= set(found)
    for figure in found.values():
        assert math.isfinite(figure.ours)
        assert figure.baseline is None or math.isfinite(figure.baseline)


def test_core_admission_startup_and_plugin_print_their_rows_and_write_them_as_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["core", "admission", "startup", "plugin"]
    file = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["bench", "--json", str(file), *names])
    bench.main()
    figures = [Figure(**each) for each in json.loads(file.read_text())]
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.startswith(figure.name) for row, figure in zip(rows, figures, strict=True)] == [True] * len(rows)
    check(
        figures,
        {
            "mutate, the README's pod",
            "admissions, 2 connections",
            "--role render --help",
            f"resident, {plugin.DEVICES} devices",
        },
    )


class _InChunks(BaseHTTPRequestHandler):
    """Answers in three chunks, the last of them empty, as Go does where it does not know the length."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (b"{", b"}" * 3000, b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


def test_answers_in_chunks_are_told_apart() -> None:
    with admission.prepared() as directory, ThreadingHTTPServer(("127.0.0.1", 0), _InChunks) as served:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        served.socket = context.wrap_socket(served.socket, server_side=True)
        threading.Thread(target=served.serve_forever).start()
        where = Address("127.0.0.1", served.server_port)
        try:
            result = admission.Server(os.getpid(), where, directory).load(2, requests=20)
        finally:
            served.shutdown()
    assert result.rate > 0
    assert 0 < result.p50 <= result.p99


def test_memory_measures_a_program_and_the_growth_of_both_servers() -> None:
    check(
        [
            *memory._against("init", "done", memory._init, "python -c pass", memory._program),
            *memory._growth(20, 20),
        ],
        {"init, memory", "webhook, 20 admissions: growth each 1,000", "plugin, 20 changes of the list: memory"},
    )


def test_populate_measures_a_tree_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with populate._bench() as measured:
        check(
            [*measured.tree("tiny", trees.tiny), *measured.tiny()],
            {"opt in another volume, tiny", "second run, tiny", "init of three files, exec to exit"},
        )
    assert list(tmp_path.iterdir()) == []


def test_simulated_measures_both_daemons_beside_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"MINUTE_SECONDS": 1.0, "SETTLE_SECONDS": 1.0, "POD_SECONDS": 6.0, "PODS_OF_A_NODE": 5}
    for name, value in settings.items():
        monkeypatch.setattr(simulated, name, value)
    measured = simulated.measured(Size(nodes=20, namespaces=3, pods=60, gpus=10))
    check(simulated._rows("twice", measured, "once", measured), {"twice: webhook, memory", "twice: plugin, memory"})
    assert measured["plugin, requests for 5 pods"][1] == 10
    assert measured["webhook, requests while they were"][1] <= 1
    assert 0 < measured["webhook, start to ready"][1] <= measured["webhook, start until all is listed"][1]


def test_a_name_that_is_no_benchmark_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "cores"])
    with pytest.raises(SystemExit, match="2"):
        bench.main()
    assert "'cores' is not one of core, admission" in capsys.readouterr().err
