"""Admission webhooks of other projects beside ours, under the same load: docs/figures.md says how to build them.

``BENCH_PEERS`` names a directory with any of their executables, ``KUBEBUILDER_ASSETS`` the API server that they want.
Each is asked about a pod that it changes: the README's with what it goes by. All take turns, and the log of each is
read. vault-k8s looks for its ServiceAccount in one place only, so it runs with a /run of its own (unshare).
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from bitfusiond.core.fields import Json
from bitfusiond.settings.values import Address
from tests.fakes.https_client import review
from tests.fakes.processes import free_port, wait_until
from tests.pods import NAMESPACE, example
from tests.real.harness.apiserver import APIServer, started
from tests.tools.bench.admission import Server, prepared, webhook
from tests.tools.bench.measure import Figure, paired, resident_megabytes

ROUNDS = 7
CONNECTIONS = 8
BURSTS = (8, 64)
RATE = 100.0  # reviews a second
WINDOW_SECONDS = 3.0
_PEERS = "BENCH_PEERS"
_ASSETS = "KUBEBUILDER_ASSETS"
_ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
_IN_CLUSTER = (
    'mount -t tmpfs none /run && mkdir -p {0} && cp {1}/token {0}/token && cp {1}/api-ca.crt {0}/ca.crt && exec "$@"'
)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a peer is started with."""

    program: Path
    directory: Path
    api: APIServer
    port: int


@dataclass(frozen=True, slots=True)
class _Peer:
    """``program`` is the name of its executable, ``pod`` one that it changes."""

    program: str
    path: str
    command: Callable[[_Place], list[str]]
    pod: Callable[[], Json]


def _vault(place: _Place) -> list[str]:
    files = ["-tls-cert-file", f"{place.directory}/tls.crt", "-tls-key-file", f"{place.directory}/tls.key"]
    inside = ["sh", "-c", _IN_CLUSTER.format(_ACCOUNT, shlex.quote(str(place.directory))), "sh"]
    listen = ["-listen", f"127.0.0.1:{place.port}", "-vault-address", "https://vault.example:8200"]
    namespaces = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return [*namespaces, *inside, str(place.program), "agent-inject", *listen, *files]


def _pod_identity(place: _Place) -> list[str]:
    files = [f"--tls-cert={place.directory}/tls.crt", f"--tls-key={place.directory}/tls.key"]
    ports = [f"--port={place.port}", f"--metrics-port={free_port()}"]
    return [str(place.program), f"--kubeconfig={place.directory}/kubeconfig", "--in-cluster=false", *ports, *files]


def _hami(place: _Place) -> list[str]:
    devices = place.directory / "devices.yaml"
    resources = {"resourceCountName": "nvidia.com/gpu", "resourceMemoryName": "nvidia.com/gpumem"}
    devices.write_text(json.dumps({"nvidia": {**resources, "resourceCoreName": "nvidia.com/gpucores"}}))
    files = [f"--cert_file={place.directory}/tls.crt", f"--key_file={place.directory}/tls.key"]
    listen = [f"--http_bind=127.0.0.1:{place.port}", f"--metrics-bind-address=127.0.0.1:{free_port()}"]
    return [
        str(place.program),
        *listen,
        *files,
        "--scheduler-name=hami-scheduler",
        f"--device-config-file={devices}",
    ]


def _pod() -> Json:
    """The README's without what is ours; its token mounted, as the API server does before it asks anybody."""
    made = example("pod")
    made["metadata"]["annotations"] = {}
    made["spec"]["serviceAccountName"] = "default"
    (container,) = made["spec"]["containers"]
    del container["resources"]
    token = {"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    container["volumeMounts"] = [*container.get("volumeMounts", []), token]
    return made


def _for_vault() -> Json:
    made, domain = _pod(), "vault.hashicorp.com"
    made["metadata"]["annotations"] = {f"{domain}/agent-inject": "true", f"{domain}/role": "train"}
    return made


def _for_hami() -> Json:
    made = _pod()
    made["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "8000"}}
    return made


PEERS = (
    _Peer("vault-k8s", "/mutate", _vault, _for_vault),
    _Peer("pod-identity-webhook", "/mutate", _pod_identity, _pod),
    _Peer("hami-scheduler", "/webhook", _hami, _for_hami),
)


def figures() -> Iterator[Figure]:
    """What a review costs, how long one waits, and memory: ours with each peer's as the baseline."""
    directory = os.environ.get(_PEERS, "")
    there = [peer for peer in PEERS if (Path(directory) / peer.program).is_file()]
    if not directory or not there or not os.environ.get(_ASSETS):
        programs = ", ".join(peer.program for peer in PEERS)
        print(
            f"peers are left out: {_PEERS} must name a directory with any of {programs}; {_ASSETS} too", file=sys.stderr
        )
        return
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="peers-")))
        try:
            api = stack.enter_context(started(root))
        except pytest.skip.Exception as skipped:  # the tests' word for what this machine cannot do
            print(f"peers are left out: {skipped}", file=sys.stderr)
            return
        _furnish(api)
        ours = stack.enter_context(webhook(stack.enter_context(prepared())))
        theirs = {
            peer.program: stack.enter_context(_running(peer, Path(directory).resolve() / peer.program, api))
            for peer in there
        }
        yield from _rows(ours, theirs)


def _rows(ours: Server, theirs: Mapping[str, Server]) -> Iterator[Figure]:
    servers = {"ours": ours, **theirs}
    steady = [
        {name: each.load(CONNECTIONS, WINDOW_SECONDS) for name, each in servers.items()} for _ in range(ROUNDS + 1)
    ]
    measured = {f"{CONNECTIONS} connections": steady}
    for size in BURSTS:
        measured[f"bursts of {size}"] = [
            {name: each.load(size, WINDOW_SECONDS, pause=size / RATE) for name, each in servers.items()}
            for _ in range(ROUNDS + 1)
        ]
    for peer, server in theirs.items():
        for where, rounds in measured.items():
            for title, unit, field in (
                ("CPU of one", "us", "cpu_microseconds"),
                ("half of them within", "ms", "p50"),
                ("99 % of them within", "ms", "p99"),
            ):
                pairs = [(getattr(each["ours"], field), getattr(each[peer], field)) for each in rounds[1:]]
                yield paired(f"{title}, {where}", unit, pairs, peer)
        pairs = [(resident_megabytes(ours.pid), resident_megabytes(server.pid))]
        yield paired("resident after all of that", "MB", pairs, peer)


def _furnish(api: APIServer) -> None:
    """The ServiceAccount of the pods, with the role that one peer goes by."""
    api.namespace(NAMESPACE)
    annotations = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/train"}
    metadata = {"name": "default", "namespace": NAMESPACE, "annotations": annotations}
    api.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})


@contextmanager
def _running(peer: _Peer, program: Path, api: APIServer) -> Iterator[Server]:
    """The peer, once it changes its pod."""
    with prepared() as directory:
        (directory / "review.json").write_text(json.dumps(review(peer.pod(), NAMESPACE)))
        (directory / "token").write_text(api.token)
        shutil.copy(api.ca, directory / "api-ca.crt")
        api.write_kubeconfig(directory / "kubeconfig")
        place = _Place(program, directory, api, free_port())
        where = urlsplit(api.url)
        variables = {"KUBECONFIG": str(directory / "kubeconfig"), "HOME": str(directory)}
        variables |= {"KUBERNETES_SERVICE_HOST": where.hostname or "", "KUBERNETES_SERVICE_PORT": str(where.port)}
        with subprocess.Popen(
            peer.command(place), stderr=subprocess.STDOUT, stdout=subprocess.PIPE, env={**os.environ, **variables}
        ) as process:
            assert process.stdout is not None
            log = deque[bytes](maxlen=20)
            threading.Thread(target=log.extend, args=(process.stdout,)).start()
            try:
                server = Server(process.pid, Address("127.0.0.1", place.port), directory, peer.path)
                wait_until(lambda: _changes(place, peer), f"{peer.program} to change a pod", 30)
                yield server
            except TimeoutError:
                print(b"".join(log).decode(errors="replace"), file=sys.stderr)
                raise
            finally:
                process.kill()


def _changes(place: _Place, peer: _Peer) -> bool:
    """Whether it answers with a patch."""
    context = ssl.create_default_context(cafile=place.directory / "ca.crt")
    connection = http.client.HTTPSConnection("localhost", place.port, timeout=5, context=context)
    try:
        body = (place.directory / "review.json").read_bytes()
        connection.request("POST", peer.path, body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())["response"]
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return bool(answer["allowed"] and answer.get("patch"))
