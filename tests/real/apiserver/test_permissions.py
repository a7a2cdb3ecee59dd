"""The manifests permit the webhook all that it does and nothing else: by the API server's own audit log."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from bitfusiond.core import names
from bitfusiond.core.tokens.copies import TOKENS
from bitfusiond.kube import SECRETS
from bitfusiond.operate import manifests
from bitfusiond.operate.tokenplace import TokenPlace
from bitfusiond.webhook.certificates.cabundles import TARGETS, Target
from bitfusiond.webhook.certificates.selfmanaged import SECRET
from tests import MANIFESTS
from tests.fakes.handshakes import ca_bundle
from tests.fakes.processes import running, wait_until
from tests.pods import container, pod
from tests.real.harness import grants
from tests.real.harness.apiserver import CORE, APIServer, Refused, secret_path, started
from tests.real.harness.grants import Grant, Request
from tests.real.harness.operator import Operator
from tests.real.harness.webhook import Replica, put_sources

BASE = MANIFESTS / "base"
KINDS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


def _manifests() -> list[dict[str, Any]]:
    """What is about permissions in all that an installation applies, namespaces first."""
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    documents = [document for file in files for document in yaml.safe_load_all((BASE / file).read_text())]
    found = [document for document in documents if document["kind"] in KINDS]
    return sorted(found, key=lambda document: KINDS.index(document["kind"]))


def _guard() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((MANIFESTS / "guard" / "secrets.yaml").read_text()))


OBJECTS = _manifests()
# The minor version from which on the API server has ValidatingAdmissionPolicy, v1.
POLICIES_SINCE = 30
ACCOUNT = "bitfusion-webhook-deployment"
USER = f"system:serviceaccount:{names.NAMESPACE}:{ACCOUNT}"
TOKEN_NAMESPACE = "kube-system"
ROUNDS = 40
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "train", "uid": "0001", "controller": True}


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server with the manifests applied, and its audit log."""

    api: APIServer
    audit_log: Path
    directory: Path

    def tokens(self, namespace: str) -> list[bytes]:
        """The contents of the copies that are there."""
        return [value for token in TOKENS for value in self.api.secret(namespace, token.secret).values()]

    def node(self, name: str, shares: int) -> None:
        self.api.create(f"{CORE}/nodes", {"metadata": {"name": name}})
        # The kubelet, which is not here, writes the status.
        status = {"status": {"capacity": {names.GPU: str(shares)}, "allocatable": {names.GPU: str(shares)}}}
        self.api.merge(f"{CORE}/nodes/{name}/status", status)

    def configure(self, target: Target) -> None:
        """A configuration without a caBundle. The API server calls nobody: the tests create no pod in it."""
        webhook = {
            "clientConfig": {"service": {"namespace": names.NAMESPACE, "name": "bwki-webhook-svc", "path": "/mutate"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
        }
        kind = {"apiVersion": f"{target.resource.group}/v1", "kind": target.resource.kind}
        webhooks = [{"name": name, **webhook} for name in target.webhooks]
        self.api.put({**kind, "metadata": {"name": target.name}, "webhooks": webhooks})

    def bundles(self) -> list[bytes]:
        return [ca_bundle(self.api.request("GET", target.resource.path(None, target.name))) for target in TARGETS]

    def trusted(self, than: bytes = b"") -> bool:
        """Whether both configurations hold what the Secret holds, and that is not ``than``."""
        authorities = self.api.secret(names.NAMESPACE, SECRET).get("ca.crt", than)
        return authorities != than and self.bundles() == [authorities] * 2

    def asked(self) -> list[Request]:
        return list(grants.requests(self.audit_log, USER))

    def kubeconfig(self) -> Path:
        """With a token of the ServiceAccount that the manifests bring."""
        return self.api.write_kubeconfig(self.directory / "kubeconfig", self.api.token_of(names.NAMESPACE, ACCOUNT))


class Asked(Replica):
    """A replica that is asked over HTTPS, trusting ``ca`` or what the Secret holds, and nothing else."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, cluster: Cluster, ca: Path | None = None) -> None:
        super().__init__(process, log)
        self._cluster = cluster
        self._ca = ca

    def says(self, event: str, words: str = "") -> bool:
        return any(words in json.dumps(line) for line in self.said(event))

    def context(self) -> ssl.SSLContext:
        held = self._ca.read_bytes() if self._ca else self._cluster.api.secret(names.NAMESPACE, SECRET)["ca.crt"]
        authorities = held.decode()
        context = ssl.create_default_context(cadata=authorities)
        context.check_hostname = False  # it is made for the Service's name
        return context

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"https://{self.address}/readyz", context=self.context(), timeout=15) as answer:
                return b"ok" in answer.read()
        except (OSError, KeyError):
            return False

    def readiness(self) -> bytes:
        try:
            urllib.request.urlopen(f"https://{self.address}/readyz", context=self.context(), timeout=15).close()
        except urllib.error.HTTPError as error:
            return error.read()
        except (OSError, KeyError):  # no certificate yet
            pass
        return b""

    def refusal(self, path: str, namespace: str, document: dict[str, Any]) -> str:
        """Why the pod is refused; empty: it is admitted."""
        response = self.review(document, namespace, path=path)
        return "" if response["allowed"] else str(response["status"]["message"])

    def mutate(self, namespace: str, document: dict[str, Any] | None = None) -> str:
        return self.refusal("/mutate", namespace, document or pod())

    def validate(self, shares: int) -> str:
        """The verdict on a pod of which only what nodes have decides: status injected, but mode none."""
        limits = {names.GPU: str(shares)}
        given = pod(container(limits), mode="none", annotations={names.STATUS: names.STATUS_INJECTED})
        return self.refusal("/validate", "team", given)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server of our own: what other tests leave behind would be seen by the webhook, and theirs by ours."""
    directory = tmp_path_factory.mktemp("permissions")
    policy, audit_log = directory / "audit-policy", directory / "audit.log"
    policy.write_text(json.dumps(grants.POLICY))
    with started(directory, f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}") as api:
        made = Cluster(api, audit_log, directory)
        api.namespace(TOKEN_NAMESPACE)
        for document in [*OBJECTS, *(_guard() if api.minor >= POLICIES_SINCE else [])]:
            api.put(document)
        yield made


@contextmanager
def replica(cluster: Cluster, name: str, *options: str, ca: Path | None = None) -> Iterator[Asked]:
    arguments = [
        *[sys.executable, "-m", "bitfusiond", "--role", "webhook", "--kubeconfig", str(cluster.kubeconfig())],
        *["--listen", "127.0.0.1:0", "--observe", "none", "--drain-seconds", "0"],
        *options,
    ]
    log = cluster.directory / f"{name}.log"
    with running(arguments, log) as process:
        yield Asked(process, log, cluster, ca)


@pytest.fixture(scope="module")
def asked(cluster: Cluster) -> list[Request]:
    """What two replicas asked for while everything happened that can happen to them."""
    try:
        _everything_happens(cluster)
    except Exception as error:
        error.add_note(f"forbidden until then: {[each for each in cluster.asked() if each.forbidden]}")
        raise
    return cluster.asked()


def _everything_happens(cluster: Cluster) -> None:
    team = cluster.api.namespace("team")
    with replica(cluster, "one") as one, replica(cluster, "other") as other:
        # The first start: one CA, whoever is faster; configurations that come later, go, and come again.
        wait_until(lambda: one.ready() and other.ready(), "both replicas")
        for target in TARGETS:
            cluster.configure(target)
        wait_until(cluster.trusted, "the caBundles")
        for target in TARGETS:
            cluster.api.request("DELETE", target.resource.path(None, target.name))
            cluster.configure(target)
        wait_until(cluster.trusted, "the caBundles of new configurations")
        _tokens_come_and_change(cluster, one, other, team)
        _nodes_come(cluster, one)
        refused = pod(container({names.GPU_AMOUNT: "1", names.GPU_PERCENT: "101"}))
        refused["metadata"]["ownerReferences"] = [OWNER]
        assert "101 is not an integer" in one.mutate(team, refused)
        events = f"{CORE}/namespaces/{team}/events"
        wait_until(lambda: bool(cluster.api.request("GET", events)["items"]), "the Event")
        # A broken Secret is written anew.
        before = cluster.api.secret(names.NAMESPACE, SECRET)["ca.crt"]
        cluster.api.put_secret(names.NAMESPACE, SECRET, {"ca.key": b"no key"})
        wait_until(lambda: cluster.trusted(before), "a new CA")
        wait_until(lambda: one.ready() and other.ready(), "both replicas with the new CA")
        for each in (one, other):
            each.process.send_signal(signal.SIGTERM)
            assert each.process.wait(10) == 0


def _tokens_come_and_change(cluster: Cluster, one: Asked, other: Asked, team: str) -> None:
    old = {token.file: b"a: 1" for token in TOKENS}
    cluster.api.put_secret(TOKEN_NAMESPACE, names.EARLIER_TOKEN_SECRET, old)
    wait_until(lambda: not one.mutate(team), "the earlier Secret as the source")
    assert cluster.tokens(team) == [b"a: 1"] * 3
    for value in (b"b: 2", b"c: 3"):
        put_sources(cluster.api, TOKEN_NAMESPACE, value.decode())
        wait_until(partial(_arrived, cluster, team, value), "a rotation")
    # Two replicas that copy the same at the same moment: whoever comes second looks again at what is there.
    missing = {token.secret for token in TOKENS}
    with ThreadPoolExecutor(2) as pool:
        for number in range(ROUNDS):
            space = cluster.api.namespace(f"race-{number}")
            verdicts = [pool.submit(each.mutate, space) for each in (one, other)]
            assert [verdict.result() for verdict in verdicts] == ["", ""]
            missing -= {each.name for each in cluster.asked() if (each.verb, each.resource) == ("get", "secrets")}
            if not missing:
                return
    pytest.fail(f"in {ROUNDS} rounds two replicas were never in each other's way over {missing}")


def _arrived(cluster: Cluster, namespace: str, value: bytes) -> bool:
    return cluster.tokens(namespace) == [value] * 3


def _nodes_come(cluster: Cluster, one: Asked) -> None:
    cluster.node("small", 100)
    wait_until(lambda: "Resource validation failed" in one.validate(200), "the small node")
    cluster.node("large", 400)
    wait_until(lambda: not one.validate(200), "the large node")


def test_nothing_that_the_webhook_asks_for_is_forbidden(asked: list[Request]) -> None:
    assert asked
    assert [request for request in asked if request.forbidden] == []


def test_every_verb_that_the_manifests_grant_is_used_and_as_widely_as_it_is_granted(asked: list[Request]) -> None:
    given = grants.granted(OBJECTS, ACCOUNT)
    assert len(given) == len(set(given)) > 20
    assert grants.unused(given, asked) == []


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            Grant(None, "", "secrets", "bitfusion-client-secret-ca.crt", "delete"),
            "delete secrets bitfusion-client-secret-ca.crt everywhere",
        ),
        (
            Grant(None, "", "secrets", "bwki-webhook-certs", "get", frozenset({"bwki"})),
            "get secrets bwki-webhook-certs everywhere",
        ),
        (Grant("bwki", "", "secrets", "bwki-webhook-certs", "create"), "create secrets bwki-webhook-certs in bwki"),
        (Grant(None, "", "nodes", "small", "get"), "get nodes small everywhere"),
    ],
    ids=["a verb", "a Role would do", "RBAC sees no name", "a name"],
)
def test_a_grant_that_is_not_needed_is_named(asked: list[Request], extra: Grant, words: str) -> None:
    assert grants.unused([*grants.granted(OBJECTS, ACCOUNT), extra], asked) == [words]


@contextmanager
def without(cluster: Cluster, resource: str) -> Iterator[None]:
    """The ClusterRole that has rules about ``resource``, without the last of them."""
    role = next(
        document
        for document in OBJECTS
        if document["kind"] == "ClusterRole" and any(rule["resources"] == [resource] for rule in document["rules"])
    )
    less = copy.deepcopy(role)
    *_, last = (rule for rule in less["rules"] if rule["resources"] == [resource])
    less["rules"].remove(last)
    cluster.api.put(less)
    try:
        yield
    finally:
        cluster.api.put(role)


def copies_told(cluster: Cluster, one: Asked) -> bool:
    if not one.ready():  # without a certificate no handshake succeeds
        return False
    # A new one each time: RBAC takes up a change a moment later, and a copy that is there is not made again.
    space = cluster.api.namespace(f"without-copies-{time.monotonic_ns()}")
    return "administrator must give bitfusiond its permissions" in one.mutate(space)


def nodes_told(cluster: Cluster, one: Asked) -> bool:
    return one.says("cannot follow", "nodes is forbidden")


def namespaces_told(cluster: Cluster, one: Asked) -> bool:
    return one.says("cannot follow", "namespaces is forbidden") and b"namespaces: not listed yet" in one.readiness()


def certificates_told(cluster: Cluster, one: Asked) -> bool:
    return one.says("certificates cannot be kept", "is forbidden")


@pytest.mark.parametrize(
    ("resource", "verb", "told"),
    [
        ("secrets", "create", copies_told),
        ("nodes", "list", nodes_told),
        ("namespaces", "list", namespaces_told),
        ("mutatingwebhookconfigurations", "get", certificates_told),
    ],
)
def test_a_rule_that_is_missing_is_told_and_in_the_audit_log(
    cluster: Cluster, asked: list[Request], resource: str, verb: str, told: Callable[[Cluster, Asked], bool]
) -> None:
    def refused() -> bool:
        later = cluster.asked()[len(asked) :]
        return any(request.forbidden and (request.verb, request.resource) == (verb, resource) for request in later)

    with without(cluster, resource), replica(cluster, f"without-{resource}") as one:
        wait_until(lambda: told(cluster, one), "words about it")
        wait_until(refused, "the refusal in the audit log")


# --- with the credentials of the webhook's account -------------------------------------------------------------------


def secret(name: str, kind: str = "Opaque") -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": {names.MANAGED_BY: names.MANAGED_BY_US}}
    if kind != "Opaque":
        metadata["annotations"] = {"kubernetes.io/service-account.name": "default"}
    return {"metadata": metadata, "type": kind}


def test_its_credentials_write_no_secret_but_copies_and_its_own(cluster: Cluster, asked: list[Request]) -> None:
    """By the policy of manifests/guard: RBAC permits each of these."""
    api = cluster.api
    if api.minor < POLICIES_SINCE:
        pytest.skip(f"Kubernetes 1.{api.minor} has no ValidatingAdmissionPolicy: KUBEBUILDER_ASSETS of 1.30 or later")
    assert asked, "all that it does goes through with the policy"
    stolen = replace(api, token=api.token_of(names.NAMESPACE, ACCOUNT))
    token, other = TOKENS[0].secret, TOKENS[1].secret
    for of in ("guarded", "default", "kube-public", TOKEN_NAMESPACE):
        api.namespace(of)
    api.put_secret("guarded", other, {"of": b"the team"})
    source = api.secret(TOKEN_NAMESPACE, token)

    def create(of: str, document: dict[str, Any]) -> None:
        stolen.create(secret_path(of), document)

    def update(of: str, name: str) -> None:
        stolen.request("PUT", secret_path(of, name), {**secret(name), "data": {}})

    for attempt, words in (
        (partial(create, "kube-public", secret(token)), "in the namespaces of Kubernetes"),
        (partial(update, TOKEN_NAMESPACE, token), "in the namespaces of Kubernetes"),
        (partial(create, "guarded", secret("another")), "and no others"),
        (partial(create, names.NAMESPACE, secret(token)), "and no others"),
        (partial(create, "guarded", secret(names.MARK_SECRET)), "and no others"),
        (partial(create, "guarded", secret(token, "kubernetes.io/service-account-token")), "of type Opaque alone"),
        (partial(update, "guarded", other), "not labelled as its copy"),
    ):
        with pytest.raises(Refused, match=words) as refused:
            attempt()
        assert refused.value.code == 403
    with pytest.raises(Refused, match="cannot get resource"):
        stolen.request("GET", secret_path("guarded", "another"))
    assert api.secret(TOKEN_NAMESPACE, token) == source
    assert api.secret("guarded", other) == {"of": b"the team"}
    create("guarded", secret(token))
    update("guarded", token)
    # Nobody else is meant by it.
    api.create(secret_path("guarded"), secret("another"))


def test_the_sources_of_another_token_namespace_cannot_be_written_either(
    cluster: Cluster, asked: list[Request]
) -> None:
    api = cluster.api
    if api.minor < POLICIES_SINCE:
        pytest.skip(f"Kubernetes 1.{api.minor} has no ValidatingAdmissionPolicy: KUBEBUILDER_ASSETS of 1.30 or later")
    assert asked
    stolen = replace(api, token=api.token_of(names.NAMESPACE, ACCOUNT))
    source = secret(TOKENS[0].secret)  # labelled, like all that its owner applies
    api.create(secret_path(api.namespace("vault")), source)

    def refused() -> str:
        try:
            stolen.request("PUT", secret_path("vault", TOKENS[0].secret), {**source, "data": {}})
        except Refused as refused:
            return str(refused)
        return ""

    assert refused() == ""
    values = manifests.Values("r", "t", 0, 1, tokens=TokenPlace("vault"))
    for document in manifests.build(_guard(), values).all:
        api.put(document)
    wait_until(lambda: "nor where the tokens come from" in refused(), "the policy")
    # What it has to write still can be: its own.
    stolen.request(
        "PUT", secret_path(names.NAMESPACE, SECRET), api.request("GET", secret_path(names.NAMESPACE, SECRET))
    )


# --- where ALLOW_NAMESPACES holds only names --------------------------------------------------------------------------


def test_where_namespaces_are_named_it_copies_into_these_and_cannot_touch_a_secret_elsewhere(tmp_path: Path) -> None:
    place = TokenPlace(TOKEN_NAMESPACE, ("team", "later"))
    values = manifests.Values("r", "t", 0, 1, tokens=place, absent=frozenset({"later"}))
    policy, audit_log = tmp_path / "audit-policy", tmp_path / "audit.log"
    policy.write_text(json.dumps(grants.POLICY))
    with started(tmp_path, f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}") as api:
        cluster = Cluster(api, audit_log, tmp_path)
        for name in (TOKEN_NAMESPACE, "team", "other"):
            api.namespace(name)
        for document in manifests.build(OBJECTS, values).all:
            api.put(document)
        put_sources(api, TOKEN_NAMESPACE, "a: 1")
        with replica(cluster, "named", "--allow-namespaces", "team,later") as one:
            wait_until(one.ready, "a replica that is ready")
            assert one.mutate("team") == ""
            put_sources(api, TOKEN_NAMESPACE, "b: 2")
            wait_until(lambda: _arrived(cluster, "team", b"b: 2"), "a rotation")
            assert "pods of other may not receive" in one.mutate("other")
            assert [each for each in cluster.asked() if each.forbidden] == []
            # One that comes after the deploy is not permitted until the next one.
            api.namespace("later")
            wait_until(lambda: one.says("cannot follow", "later"), "words about it")
            assert "must give bitfusiond its permissions (`just deploy`)" in one.mutate("later")
            for document in manifests.build(OBJECTS, replace(values, absent=frozenset())).all:
                api.put(document)
            wait_until(lambda: one.mutate("later") == "", "the permission")
        stolen = replace(api, token=api.token_of(names.NAMESPACE, ACCOUNT))
        token = TOKENS[0].secret
        api.put_secret("other", token, {"of": b"the team"})
        for of in (None, "other", "default"):
            with pytest.raises(Refused, match="cannot list resource"):
                stolen.request("GET", f"{SECRETS.path(of)}?fieldSelector=metadata.name={token}")
        source = api.request("GET", secret_path(TOKEN_NAMESPACE, token))
        for method, of in (("GET", "other"), ("PUT", "other"), ("PUT", TOKEN_NAMESPACE)):
            with pytest.raises(Refused, match=r"cannot (get|update) resource"):
                stolen.request(method, secret_path(of, token), source if method == "PUT" else None)
        for of in ("other", TOKEN_NAMESPACE):
            with pytest.raises(Refused, match="cannot create resource"):
                stolen.create(secret_path(of), secret("another"))


# --- with a certificate of another issuer -----------------------------------------------------------------------------


def kustomization(directory: Path, minor: int) -> Path:
    """manifests/tls-cert in a copy, as its comments say for this version."""
    copied = directory / "manifests"
    shutil.copytree(MANIFESTS, copied)
    file = copied / "tls-cert" / "kustomization.yaml"
    if minor < 28:
        file.write_text(file.read_text().replace("\nresources:", "\nbases:").replace("/community\n", "/legacy\n"))
    return file.parent


def test_with_a_certificate_of_another_issuer_it_needs_none_of_the_permissions_for_its_own(
    tmp_path: Path,
) -> None:
    policy, audit_log = tmp_path / "audit-policy", tmp_path / "audit.log"
    policy.write_text(json.dumps(grants.POLICY))
    with started(tmp_path, f"--audit-policy-file={policy}", f"--audit-log-path={audit_log}") as api:
        cluster = Cluster(api, audit_log, tmp_path)
        api.namespace(TOKEN_NAMESPACE)
        for document in OBJECTS:  # of an installation that made its own certificates
            api.put(document)
        operator = Operator.of_environment(api.write_kubeconfig(tmp_path / "admin"))
        place = kustomization(tmp_path, api.minor)
        words = [str(operator.kubectl), "--kubeconfig", str(operator.kubeconfig), "apply", "-k", str(place)]
        applied = subprocess.run(words, capture_output=True, text=True, check=False)
        assert applied.returncode == 0, applied.stderr
        put_sources(api, TOKEN_NAMESPACE, "a: 1")
        ca = trustme.CA()
        ca.issue_cert("bwki-webhook-svc.bwki.svc").private_key_and_cert_chain_pem.write_to_path(tmp_path / "tls.pem")
        ca.cert_pem.write_to_path(tmp_path / "ca.pem")
        options = ("--tls-cert", str(tmp_path / "tls.pem"), "--tls-key", str(tmp_path / "tls.pem"))
        with replica(cluster, "files", *options, ca=tmp_path / "ca.pem") as one:
            wait_until(one.ready, "a replica that is ready")
            team = api.namespace("team")
            wait_until(lambda: not one.mutate(team), "a pod")
            put_sources(api, TOKEN_NAMESPACE, "b: 2")
            wait_until(lambda: _arrived(cluster, team, b"b: 2"), "a rotation")
            _nodes_come(cluster, one)
            refused = pod(container({names.GPU_AMOUNT: "1", names.GPU_PERCENT: "101"}))
            refused["metadata"]["ownerReferences"] = [OWNER]
            assert "101 is not an integer" in one.mutate(team, refused)
            wait_until(lambda: bool(api.request("GET", f"{CORE}/namespaces/{team}/events")["items"]), "the Event")
        done = cluster.asked()
        assert [each for each in done if each.forbidden] == []
        assert {each.resource for each in done if each.group == "admissionregistration.k8s.io"} == set()
        assert not [each for each in done if each.name == SECRET]
        assert cluster.bundles() == [b"", b""], "the caBundles are the issuer's affair"
        stolen = replace(api, token=api.token_of(names.NAMESPACE, ACCOUNT))
        for target in TARGETS:
            with pytest.raises(Refused, match="cannot patch resource"):
                stolen.merge(target.resource.path(None, target.name), {"metadata": {"labels": {"a": "b"}}})
        with pytest.raises(Refused, match="cannot get resource"):
            stolen.request("GET", secret_path(names.NAMESPACE, SECRET))
        # The operator's commands know of it.
        seen = operator.run("verify")
        assert "Deployment bwki/bitfusion-webhook-deployment" in seen.out
        assert "bitfusiond-webhook-certificates" not in seen.out
        assert "bwki-webhook-certs" not in seen.out
        result = operator.run("deploy")
        assert result.status == 1
        assert "runs with --tls-cert /etc/bitfusiond-tls/tls.crt, which deploy would take away" in result.err
