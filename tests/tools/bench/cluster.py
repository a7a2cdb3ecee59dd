"""A whole cluster: what it costs to create a pod, and how long it takes until its program says something.

It wants the cluster of tests/real/cluster, deploys bitfusiond there and takes it away again. Pods are created by dry
run in three namespaces that take turns: one about whose pods no webhook is asked, one with a webhook that allows
everything on our server, and one of ours. Then pods are started that print the time and end, one kind after the other.
"""

from __future__ import annotations

import base64
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import trustme
import yaml

from bitfusiond.core import names
from tests.fakes.processes import accepting
from tests.pods import example
from tests.real.cluster.examples import pod
from tests.real.harness.apiserver import APIServer, Program
from tests.real.harness.cluster import Cluster, Object, of_tests
from tests.tools.bench import clients, scale_cluster
from tests.tools.bench.measure import Figure, paired

CREATORS = (1, 8, 64)
ROUNDS = 5
WINDOW_SECONDS = 2.0
STARTS = 7
RATE_AIM = 0.95
_Of = Callable[[clients.Result], float]
NOBODY, FLOOR, OURS = "bench-nobody", "bench-floor", "bench-ours"
_PLAIN, _TRIVIAL = "the plain pod", "an init container that runs true"
_SAYS_WHEN = ["sh", "-c", "date +%s.%N"]


def figures() -> Iterator[Figure]:
    """Rates and latencies of creates, then seconds from create to the program's first line."""
    cluster, how = of_tests()
    if cluster is None:
        raise SystemExit(how)
    with tempfile.TemporaryDirectory(prefix="bench-") as name, accepting("0.0.0.0") as port:
        directory = Path(name)
        api = _administrator(cluster, directory)
        node = urlsplit(api.url).hostname  # the pods' way to this machine
        assert cluster.just("tokens", str(_tokens(directory, f"{node}:{port}"))).status == 0
        try:
            yield from _creates(cluster, api, directory)
            yield from _starts(cluster)
        finally:
            cluster.uninstalled()
            for namespace in (NOBODY, FLOOR, OURS):
                cluster.run("delete", "namespace", namespace, "--wait=false")


def _tokens(directory: Path, server: str) -> Path:
    made = directory / "tokens"
    made.mkdir()
    trustme.CA().cert_pem.write_to_path(str(made / "ca.crt"))
    (made / "client.yaml").write_text("token: of-the-bench\n")
    (made / "servers.conf").write_text(yaml.safe_dump({"servers": [{"addresses": [server]}]}))
    return made


def _administrator(cluster: Cluster, directory: Path) -> APIServer:
    view = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    server = view["clusters"][0]["cluster"]
    (directory / "ca.crt").write_bytes(base64.b64decode(server["certificate-authority-data"]))
    cluster.run("create", "serviceaccount", "bench", "-n", "kube-system")
    role = ("--clusterrole=cluster-admin", "--serviceaccount=kube-system:bench")
    cluster.run("create", "clusterrolebinding", "bench", *role)
    token = cluster.kubectl("create", "token", "bench", "-n", "kube-system", "--duration=2h").strip()
    return APIServer(server["server"], directory / "ca.crt", token, Program([], directory / "log"))


# --- creates ----------------------------------------------------------------------------------------------------------


def _creates(cluster: Cluster, api: APIServer, directory: Path) -> Iterator[Figure]:
    done = cluster.just("deploy")
    assert done.status == 0, done.output
    for namespace in (NOBODY, FLOOR, OURS):
        labels = {} if namespace == OURS else {names.ADMISSION_LABEL: "ignore"}
        api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}})
    document = example("pod")
    document["metadata"].pop("namespace", None)
    document["metadata"] = {**document["metadata"], "generateName": "train-"}
    del document["metadata"]["name"]
    cluster.wait(lambda: cluster.find("serviceaccount", "default", OURS) is not None, "the namespaces")
    api.create(f"/api/v1/namespaces/{OURS}/pods", document)  # which brings its tokens
    with _allowing(api, directory):
        for creators in CREATORS:
            rounds = [
                {where: _window(api, where, document, creators) for where in (OURS, FLOOR, NOBODY)}
                for _ in range(ROUNDS + 1)
            ][1:]
            yield from _rows(rounds, creators)
    cluster.kill_pods(OURS)


def _window(api: APIServer, namespace: str, document: Object, creators: int) -> clients.Result:
    request = clients.Request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", json.dumps(document))
    return clients.run(api, [request], creators, WINDOW_SECONDS)


def _rows(rounds: Sequence[Mapping[str, clients.Result]], creators: int) -> Iterator[Figure]:
    where = f"{creators} creator{'s' if creators > 1 else ''}"

    def row(
        name: str, unit: str, of: Callable[[clients.Result], float], other: str, aim: float | None = None
    ) -> Figure:
        pairs = [(of(each[OURS]), of(each[other])) for each in rounds]
        title = "no webhook" if other == NOBODY else "one that allows everything"
        return paired(f"{name}, {where}", unit, pairs, title, ratio_aim=aim)

    yield row("creates", "/s", lambda result: result.rate, NOBODY)
    yield row("creates", "/s", lambda result: result.rate, FLOOR, RATE_AIM)
    yield row("half of them within", "ms", lambda result: result.percentile(0.5), FLOOR)
    yield row("99 % of them within", "ms", lambda result: result.percentile(0.99), FLOOR)


@contextlib.contextmanager
def _allowing(api: APIServer, directory: Path) -> Iterator[None]:
    """A webhook that allows everything is asked about the pods of its namespace."""
    path = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
    rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}
    with scale_cluster.floor(directory) as (port, ca):
        client = {"url": f"https://127.0.0.1:{port}/mutate", "caBundle": base64.b64encode(ca).decode()}
        webhook = {"name": "floor.bench.bitfusion.io", "clientConfig": client, "rules": [rule], "sideEffects": "None"}
        webhook["namespaceSelector"] = {"matchLabels": {"kubernetes.io/metadata.name": FLOOR}}
        webhook["admissionReviewVersions"] = ["v1"]
        api.create(path, {"metadata": {"name": "floor.bench"}, "webhooks": [webhook]})
        try:
            time.sleep(2)  # the API server takes it up a moment later
            yield
        finally:
            api.delete(f"{path}/floor.bench")


# --- starts -----------------------------------------------------------------------------------------------------------


def _starts(cluster: Cluster) -> Iterator[Figure]:
    """Of two deliveries one after the other, each beside the pods that have nothing to do with us."""
    trivial = {"name": "first", "image": cluster.pod_image, "command": ["true"]}
    plain, waiting = _unasked(cluster), _unasked(cluster, initContainers=[trivial])
    copied = pod("copied", OURS, _SAYS_WHEN, cluster.pod_image, amount=1, percent=10)
    yield from _compared(cluster, {"by init": (copied, _TRIVIAL), _PLAIN: (plain, ""), _TRIVIAL: (waiting, _PLAIN)})
    done = cluster.just("deploy", DELIVERY="image")
    assert done.status == 0, done.output
    mounted = pod("mounted", OURS, _SAYS_WHEN, cluster.pod_image, amount=1, percent=10)
    direct = pod("direct", OURS, _SAYS_WHEN, cluster.pod_image, amount=1)
    annotations = direct["metadata"]["annotations"]
    for key in (names.CLIENT_OS, names.CLIENT_VERSION):
        del annotations[key]
    annotations |= {names.CLIENT_NAME: "pocl", names.CLIENT_SERVERS: "127.0.0.1:10998"}
    of_image = {"by image volume, with tokens": (mounted, _TRIVIAL), "by image volume, without": (direct, _PLAIN)}
    yield from _compared(cluster, {**of_image, _PLAIN: (plain, ""), _TRIVIAL: (waiting, "")})


def _unasked(cluster: Cluster, **spec: object) -> Object:
    container = {"name": "main", "image": cluster.pod_image, "command": _SAYS_WHEN}
    made = {"containers": [container], "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "plain", "namespace": NOBODY}, "spec": made}


def _compared(cluster: Cluster, kinds: Mapping[str, tuple[Object, str]]) -> Iterator[Figure]:
    """Rows for the kinds that name another one to be held against; all are started in turn."""
    rounds = [{kind: _seconds(cluster, document) for kind, (document, _) in kinds.items()} for _ in range(STARTS + 1)][
        1:
    ]
    for kind, (_, other) in kinds.items():
        if other:
            pairs = [(each[kind], each[other]) for each in rounds]
            added = statistics.median(one - two for one, two in pairs)
            yield paired(f"start, {kind} ({added:+.2f} s)", "s", pairs, other)


def _seconds(cluster: Cluster, document: Object) -> float:
    """From create to the line of the program, by the clock of this machine, which is the node."""
    name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
    began = time.time()
    done = cluster.create(document)
    assert done.status == 0, done.output
    log = cluster.ended(name, namespace, "[0-9.]+")
    cluster.kill_pods(namespace)
    return float(next(line for line in log.splitlines() if line[:1].isdecimal())) - began
