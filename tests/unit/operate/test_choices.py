"""What a deploy takes where nothing is given, what it adds by version, and what an account must be permitted for it."""

from __future__ import annotations

import ast
import copy
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from bitfusiond import __version__
from bitfusiond.core import names
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import yaml_documents
from bitfusiond.files.read import CATALOGUE, packaged
from bitfusiond.operate import access, choices, current, deploy, manifests, overlays, settings, workloads
from bitfusiond.operate.kubectl import Kubectl, KubectlError, ref

MANIFESTS = overlays.OVERLAYS.parent


# --- permissions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["community", "legacy", "tkgi"])
def test_every_kind_of_the_manifests_is_asked_about_in_its_group_and_plural(platform: str) -> None:
    documents = [
        each for path in MANIFESTS.glob(f"overlays/{platform}/*.yaml") for each in yaml_documents.load(path.read_text())
    ]
    documents += [each for path in MANIFESTS.glob("base/*.yaml") for each in yaml_documents.load(path.read_text())]
    documents = [each for each in documents if each["kind"] != "Kustomization"]
    asked = {(each.verb, each.kind, each.namespace): each for each in access.to_apply(documents)}
    for document in documents:
        what = ref(document)
        for verb in ("get", "create", "patch"):
            assert asked[verb, what.kind, what.namespace].group == document["apiVersion"].rpartition("/")[0]


@pytest.mark.parametrize(
    ("kind", "resource"),
    [
        ("NetworkPolicy", "networkpolicies"),
        ("PriorityClass", "priorityclasses"),
        ("EndpointSlice", "endpointslices"),
        ("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"),
    ],
)
def test_a_kind_is_called_as_the_paths_of_the_api_have_it(kind: str, resource: str) -> None:
    assert access.Access("get", kind).resource == resource


# --- what stays as it runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "image", "chosen"),
    [
        ({}, None, f"{settings.DEFAULT_REPO}:{__version__}"),
        ({}, "localhost:5000/gpu/bitfusiond:0.4.9", f"localhost:5000/gpu:{__version__}"),
        ({}, "localhost/bitfusiond:test", "localhost:test"),
        ({}, "localhost/bitfusiond@sha256:00", f"localhost:{__version__}"),
        ({}, "docker.io/bitfusiondeviceplugin/bitfusion-webhook:0.1", f"{settings.DEFAULT_REPO}:{__version__}"),
        ({"IMAGE_TAG": "9"}, "localhost/bitfusiond:test", "localhost:9"),
        ({"IMAGE_REPO": "r"}, "localhost/bitfusiond:test", "r:test"),
    ],
)
def test_images_come_from_where_they_came_from_in_the_version_of_the_checkout(
    given: dict[str, str], image: str | None, chosen: str
) -> None:
    repo, tag, why = choices.images(settings.resolve(given), image)
    assert f"{repo}:{tag}" == chosen
    assert "IMAGE_REPO" in why
    assert "IMAGE_TAG" in why


A, B, C = (f"sha256:{each * 64}" for each in "abc")


def running(image: str, client: str = "") -> current.Running:
    """A cluster with this image of the webhook, and of the client in its template."""
    webhook = {"spec": {"template": {"spec": {"containers": [{"name": "w", "image": image}]}}}}
    template = {"metadata": {}, "data": {"sidecarconfig.yaml": f"initContainers:\n  - image: {client}\n"}}
    return current.of_objects({current.WEBHOOK: webhook, manifests.TEMPLATE_MAP: template})


def pushed(directory: Path, *lines: str) -> dict[str, str]:
    """The environment of a deploy beside a file that `just push-image` wrote."""
    file = directory / "images.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    return {"IMAGE_DIGESTS": str(file)}


def applied(values: manifests.Values) -> set[str]:
    """The images in what is applied for these values, by the manifests themselves."""
    base = MANIFESTS / "base"
    documents = [each for path in base.glob("*.yaml") for each in yaml_documents.load(path.read_text())]
    template = {"data": {"sidecarconfig.yaml": (base / "config/sidecarconfig.yaml").read_text()}}
    documents.append({"kind": "ConfigMap", "metadata": {"name": "any"}, **template})
    text = str([manifests.substituted(each, values) for each in documents if each["kind"] != "Kustomization"])
    return set(re.findall(r"[^\s'\"]+/bitfusion(?:d|-client):[^\s'\"\\]+", text))


def test_what_was_pushed_is_applied_by_its_digest(tmp_path: Path) -> None:
    chosen = settings.resolve(
        {"IMAGE_REPO": "r/x", "IMAGE_TAG": "7"}
        | pushed(tmp_path, f"r/x/bitfusiond:7@{A}", f"r/x/bitfusion-client:7@{B}", f"r/x/bitfusiond:8@{C}")
    )
    values, notes = choices.choose(chosen, current.Running())
    assert applied(values) == {f"r/x/bitfusiond:7@{A}", f"r/x/bitfusion-client:7@{B}"}
    assert notes[1] == f"digests: bitfusiond {A} (as it was pushed); bitfusion-client {B} (as it was pushed)"


def test_an_image_that_was_not_pushed_from_here_is_applied_by_its_tag(tmp_path: Path) -> None:
    given = {"IMAGE_REPO": "r/x", "IMAGE_TAG": "7"} | pushed(tmp_path, f"r/x/bitfusiond:8@{A}", f"r/bitfusiond:7@{A}")
    values, notes = choices.choose(settings.resolve(given), current.Running())
    assert applied(values) == {"r/x/bitfusiond:7", "r/x/bitfusion-client:7"}
    assert notes[1].count("none, a node takes what has the tag") == 2


@pytest.mark.parametrize("tag", ["test", __version__])
def test_digests_that_run_stay_for_whoever_deploys_from_elsewhere(tag: str) -> None:
    now = running(f"r/bitfusiond:{tag}@{A}", f"r/bitfusion-client:{tag}@{B}")
    for given in ({}, {"IMAGE_REPO": "r"}):
        values, notes = choices.choose(settings.resolve(given), now)
        assert applied(values) == {f"r/bitfusiond:{tag}@{A}", f"r/bitfusion-client:{tag}@{B}"}
        assert notes[1] == f"digests: bitfusiond {A} (as it runs); bitfusion-client {B} (as it runs)"


@pytest.mark.parametrize("given", [{"IMAGE_TAG": "test"}, {"IMAGE_TAG": "9"}, {"IMAGE_REPO": "s"}])
def test_a_tag_or_a_repository_that_is_given_is_not_what_ran_under_it(given: dict[str, str]) -> None:
    values, _ = choices.choose(settings.resolve(given), running(f"r/bitfusiond:test@{A}"))
    assert not values.digests


def test_an_upgrade_leaves_the_digest_of_the_version_before_behind() -> None:
    values, _ = choices.choose(
        settings.resolve({}), running(f"r/bitfusiond:0.4.9@{A}", f"r/bitfusion-client:0.4.9@{B}")
    )
    assert applied(values) == {f"r/bitfusiond:{__version__}", f"r/bitfusion-client:{__version__}"}


@pytest.mark.parametrize(
    ("tag", "digest", "why"),
    [
        (None, A, f"{A} (as it runs, not {C}, which was pushed from here: to take it, give IMAGE_TAG)"),
        ("test", C, f"{C} (as it was pushed)"),
    ],
)
def test_what_was_pushed_from_here_once_does_not_go_before_what_runs_unless_the_tag_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: str | None, digest: str, why: str
) -> None:
    """Somebody else may have pushed and deployed since."""
    file = pushed(tmp_path, f"r/bitfusiond:test@{C}", f"r/bitfusion-client:test@{B}")["IMAGE_DIGESTS"]
    default = settings.VARIABLES["pushed"]._replace(default=file)
    monkeypatch.setitem(settings.VARIABLES, "pushed", default)
    given = {} if tag is None else {"IMAGE_REPO": "r", "IMAGE_TAG": tag}
    values, notes = choices.choose(settings.resolve(given), running(f"r/bitfusiond:test@{A}"))
    assert applied(values) == {f"r/bitfusiond:test@{digest}", f"r/bitfusion-client:test@{B}"}
    assert f"bitfusiond {why}; bitfusion-client {B} (as it was pushed)" in notes[1]


def test_digests_that_are_given_go_before_those_that_run(tmp_path: Path) -> None:
    given = pushed(tmp_path, f"r/bitfusiond:test@{C}")
    values, _ = choices.choose(
        settings.resolve(given), running(f"r/bitfusiond:test@{A}", f"r/bitfusion-client:test@{B}")
    )
    assert applied(values) == {f"r/bitfusiond:test@{C}", f"r/bitfusion-client:test@{B}"}


@pytest.mark.parametrize("line", ["r/bitfusiond:7", f"r/bitfusiond@{A}", f"r/bitfusiond:7@{A}0", "", "{}"])
def test_a_line_that_push_image_did_not_write_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)IMAGE_DIGESTS: .*@sha256:DIGEST, as `just push-image`"):
        settings.resolve(pushed(tmp_path, f"r/bitfusiond:7@{A}", line))
    with pytest.raises(ConfigurationError, match=r"IMAGE_DIGESTS: .* a file that can be read"):
        settings.resolve({"IMAGE_DIGESTS": str(tmp_path / "none")})


PACKAGED = packaged(CATALOGUE)
EDITED = PACKAGED + '\nDefault: {os: ubuntu18, version: "450"}\n'


@pytest.mark.parametrize(
    ("text", "annotations", "kept"),
    [
        (PACKAGED, {}, None),
        ("of an earlier version", {names.PACKAGED_DIGEST: manifests.digest("of an earlier version")}, None),
        (EDITED, {}, EDITED),
        (EDITED, {names.PACKAGED_DIGEST: manifests.digest(PACKAGED)}, EDITED),
    ],
)
def test_a_catalogue_that_was_edited_stays_and_the_packaged_one_of_an_earlier_version_does_not(
    text: str, annotations: dict[str, str], kept: str | None
) -> None:
    metadata = {"labels": dict([manifests.PART_OF]), "annotations": annotations}
    now = current.of_objects({manifests.CATALOGUE_MAP: {"metadata": metadata, "data": {CATALOGUE: text}}})
    assert now.clients == kept
    assert current.of_objects({manifests.CATALOGUE_MAP: {"metadata": {}, "data": {CATALOGUE: text}}}).clients is None, (
        "of 0.4"
    )
    values, notes = choices.choose(settings.resolve({}), now)
    assert values.clients == kept
    assert ("edited in the cluster" in notes[-1]) is (kept is not None)


def test_a_broken_catalogue_is_replaced_and_that_is_told() -> None:
    values, notes = choices.choose(settings.resolve({}), current.Running(clients="BitfusionClients: 1"))
    assert values.clients is None
    assert "in the place of that in the cluster, which is broken: BitfusionClients" in notes[-1]


def test_manifests_tell_that_they_ask_no_cluster_and_what_they_are_made_from() -> None:
    told: list[str] = []
    chosen = settings.resolve({"K8S_PLATFORM": "legacy", "KUBECTL": "kubectl-of-nobody"})
    with pytest.raises(ConfigurationError, match="kubectl-of-nobody"):
        deploy.for_empty_cluster(chosen, told.append)
    assert told[0] == "manifests: no cluster is asked, only what is given counts. K8S_PLATFORM: legacy"
    assert "manifests: TOTAL_GPU_MEMORY: 0 (the default)" in told


def test_a_kustomize_that_is_too_old_is_told_by_its_version(tmp_path: Path) -> None:
    old = tmp_path / "kubectl"
    old.write_text(
        '#!/bin/sh\ncase "$*" in *version*) echo \'{"clientVersion": {"gitVersion": "v1.20.2"}}\' ;;'
        " *) echo \"error: '../../base' must be a file\" >&2; exit 1 ;; esac\n"
    )
    old.chmod(0o755)
    with pytest.raises(KubectlError, match=r"must be a file \(by kubectl v1\.20\.2; the overlay community needs 1\.21"):
        overlays.overlay(Kubectl(str(old)), "community")


def test_a_variable_may_stand_after_the_command_and_after_the_recipe() -> None:
    words = [sys.executable, "-m", "bitfusiond.operate", "uninstall", "NAMESPACE=maybe"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "uninstall: NAMESPACE: 'maybe' is not yes or no\n")
    just = Path(sys.executable).with_name("just")
    if just.exists():
        words = [str(just), "uninstall", "NAMESPACE=maybe"]
        done = subprocess.run(words, cwd=MANIFESTS.parent, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "uninstall: NAMESPACE: 'maybe' is not yes or no")


# --- by the version of the API server -------------------------------------------------------------------------------


def test_kube_system_gets_its_label_where_the_api_server_gives_it_no_name() -> None:
    (namespace,) = overlays.fitting([], "legacy", (1, 20))
    assert overlays.ignored(namespace)
    assert all(each["kind"] != "Namespace" for each in overlays.fitting([], "legacy", (1, 21)))


@pytest.mark.parametrize(("version", "policy"), [((1, 21), False), ((1, 25), False), ((1, 26), True)])
def test_legacy_gets_the_disruption_budget_in_the_words_that_the_api_server_knows(
    version: tuple[int, int], policy: bool
) -> None:
    (budget,) = overlays.fitting([], "legacy", version)
    assert (budget["apiVersion"], budget["kind"]) == ("policy/v1", "PodDisruptionBudget")
    assert ("unhealthyPodEvictionPolicy" in budget["spec"]) is policy
    assert overlays.fitting([], "community", (1, 28)) == []
    assert overlays.fitting([], "tkgi", version) == []


def test_what_the_webhook_may_write_is_a_policy_where_the_api_server_has_such() -> None:
    made = overlays.fitting([], "community", (1, 30))
    kinds = ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]
    assert [each["kind"] for each in made] == kinds * 2
    assert [each["kind"] for each in manifests.build(made, manifests.Values("r", "t", 0, 1)).configurations] == sorted(
        kinds * 2
    )
    assert overlays.fitting([], "community", (1, 29)) == []


# --- who may ask, and where tokens may go ---------------------------------------------------------------------------

CA = trustme.CA()
PEM = CA.cert_pem.bytes().decode()
WEBHOOK = {"kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"name": "w", "image": "i"}]}}}}


def webhook(args: list[str] | None = None, **variables: str) -> dict[str, Any]:
    made = copy.deepcopy(WEBHOOK)
    (container,) = made["spec"]["template"]["spec"]["containers"]  # type: ignore[index]
    container["args"] = args or []
    container["env"] = [{"name": f"BITFUSIOND_{name}", "value": value} for name, value in variables.items()]
    return made


def deployment() -> dict[str, Any]:
    """The webhook's, as the manifests have it."""
    documents = yaml_documents.load((MANIFESTS / "base/webhook.yaml").read_text())
    return next(each for each in documents if each["kind"] == "Deployment")


def chosen(given: dict[str, str], running: dict[str, Any] | None) -> tuple[manifests.Values, list[str]]:
    return choices.choose(settings.resolve(given), current.of_objects({current.WEBHOOK: running} if running else {}))


@pytest.mark.parametrize(
    ("given", "running", "allow", "tokens", "why"),
    [
        ({}, None, None, "kube-system", "ALLOW_NAMESPACES: * (the default)"),
        ({}, webhook(ALLOW_NAMESPACES="a-*, b"), "a-*,b", "kube-system", "ALLOW_NAMESPACES: a-*,b (as it runs)"),
        ({}, webhook(["--allow-namespaces", "c"]), "c", "kube-system", "ALLOW_NAMESPACES: c (as it runs)"),
        ({}, webhook(["--allow-namespaces=c"]), "c", "kube-system", "ALLOW_NAMESPACES: c (as it runs)"),
        ({}, webhook(["--allow-namespaces", " , "]), None, "kube-system", "ALLOW_NAMESPACES: * (the default)"),
        ({"ALLOW_NAMESPACES": "*"}, webhook(ALLOW_NAMESPACES="a"), "*", "kube-system", "ALLOW_NAMESPACES: * (given)"),
        ({}, webhook(TOKEN_NAMESPACE="vault"), None, "vault", "TOKEN_NAMESPACE: vault (as it runs)"),
        ({"TOKEN_NAMESPACE": "v"}, webhook(TOKEN_NAMESPACE="vault"), None, "v", "TOKEN_NAMESPACE: v (given)"),
    ],
)
def test_where_tokens_may_go_stays_as_it_runs_whoever_said_it(
    given: dict[str, str], running: dict[str, Any] | None, allow: str | None, tokens: str, why: str
) -> None:
    values, notes = chosen(given, running)
    assert (values.allow_namespaces, values.tokens.namespace) == (allow, tokens)
    assert values.tokens.allowed == tuple((allow or "*").split(","))
    assert why in notes
    assert any("the plugin looks for servers.conf in kube-system alone" in each for each in notes) is (
        tokens != "kube-system"
    )


def test_a_client_ca_stays_until_it_is_taken_off(tmp_path: Path) -> None:
    """Nothing that stands beside it in the file goes into the cluster, where everybody may read it."""
    beside = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    (tmp_path / "ca.crt").write_text(f"# CA der Firma Müller\n{beside}{PEM}")
    values, notes = chosen({"CLIENT_CA": str(tmp_path / "ca.crt")}, None)
    assert values.client_ca == PEM
    assert any(each.startswith("CLIENT_CA: ") and each.endswith("(given)") for each in notes)
    running = current.of_objects({manifests.CLIENT_CA_MAP: {"data": {manifests.CLIENT_CA_KEY: PEM}}})
    values, notes = choices.choose(settings.resolve({}), running)
    assert values.client_ca == PEM
    assert any(each.startswith("CLIENT_CA: ") and each.endswith("(as it runs)") for each in notes)
    values, notes = choices.choose(settings.resolve({"CLIENT_CA": "none"}), running)
    assert values.client_ca == ""
    assert "CLIENT_CA: none (given)" in notes


ROLES = yaml_documents.load((MANIFESTS / "base" / "webhook-rbac.yaml").read_text())


@pytest.mark.parametrize(
    ("allowed", "absent", "bound"),
    [
        ("*", (), {"ClusterRoleBinding bitfusiond-webhook-copies"}),
        ("team-*,research", (), {"ClusterRoleBinding bitfusiond-webhook-copies"}),
        ("a,b", (), {"RoleBinding a/bitfusiond-webhook-copies", "RoleBinding b/bitfusiond-webhook-copies"}),
        ("a,kube-system,bwki", (), {"RoleBinding a/bitfusiond-webhook-copies"}),
        ("a,b", ("b",), {"RoleBinding a/bitfusiond-webhook-copies"}),
    ],
)
def test_copies_are_permitted_where_they_may_be(allowed: str, absent: tuple[str, ...], bound: set[str]) -> None:
    values, _ = chosen({"ALLOW_NAMESPACES": allowed}, None)
    made = manifests.build(ROLES, replace(values, absent=frozenset(absent))).all
    bindings = [each for each in made if (each.get("roleRef") or {}).get("name") == manifests.COPIES_ROLE]
    assert {str(ref(each)) for each in bindings} == bound
    assert all(each["roleRef"]["kind"] == "ClusterRole" for each in bindings)
    (sources,) = (each for each in made if each["kind"] == "Role" and each["metadata"]["name"] == manifests.TOKENS_ROLE)
    reads = {name for rule in sources["rules"] for name in rule["resourceNames"]}
    assert (reads == {names.EARLIER_TOKEN_SECRET, *names.TOKEN_SECRETS.values()}) is ("*" not in allowed)


@pytest.mark.parametrize(
    ("tokens", "closed"),
    [
        ("kube-system", {"kube-system", "kube-public", "kube-node-lease"}),
        ("vault", {"kube-system", "kube-public", "kube-node-lease", "vault"}),
        ("bwki", {"kube-system", "kube-public", "kube-node-lease"}),
    ],
)
def test_the_policy_closes_the_namespace_of_the_tokens_too(tokens: str, closed: set[str]) -> None:
    values, _ = chosen({"TOKEN_NAMESPACE": tokens}, None)
    made = manifests.build(overlays.fitting([], "community", (1, 30)), values).all
    (policy,) = [
        each
        for each in made
        if each["metadata"]["name"] == "bitfusiond-webhook-secrets" and "variables" in each["spec"]
    ]
    (variable,) = policy["spec"]["variables"]
    assert variable["name"] == "closed"
    assert set(ast.literal_eval(variable["expression"])) == closed


@pytest.mark.parametrize("running", [webhook(["--client-ca=/x"]), webhook(CLIENT_CA="/x")])
def test_a_client_ca_that_somebody_else_brought_is_not_taken_off_in_silence(running: dict[str, Any]) -> None:
    now = current.of_objects({current.WEBHOOK: running})
    (problem,) = choices.taken_away(settings.resolve({}), now)
    assert problem.startswith(
        "CLIENT_CA: the webhook runs with --client-ca /x, which no deploy put there: give CLIENT_CA="
    )
    assert choices.taken_away(settings.resolve({"CLIENT_CA": "none"}), now) == []


@pytest.mark.parametrize("running", [webhook(["--registry-ca=/x"]), webhook(REGISTRY_CA="/x")])
def test_a_ca_of_registries_that_somebody_else_brought_is_not_taken_off_in_silence(running: dict[str, Any]) -> None:
    now = current.of_objects({current.WEBHOOK: running})
    (problem,) = choices.taken_away(settings.resolve({}), now)
    assert problem.startswith("REGISTRY_CA: the webhook runs with --registry-ca /x, which no deploy put there: give")
    assert choices.taken_away(settings.resolve({"REGISTRY_CA": "none"}), now) == []


@pytest.mark.parametrize(
    ("given", "running", "is_on", "why"),
    [
        ({}, None, False, "off (the default)"),
        ({"IMAGE_LOOKUP": "on"}, None, True, "on (given)"),
        ({}, webhook(IMAGE_LOOKUP="true"), True, "on (as it runs)"),
        ({}, webhook(["--image-lookup"]), True, "on (as it runs)"),
        ({}, webhook(["--image-lookup", "--role"]), True, "on (as it runs)"),
        ({}, webhook(IMAGE_LOOKUP="false"), False, "off (as it runs)"),
        ({"IMAGE_LOOKUP": "off"}, webhook(IMAGE_LOOKUP="true"), False, "off (given)"),
        ({"IMAGE_LOOKUP": "on"}, webhook(IMAGE_LOOKUP="false"), True, "on (given)"),
    ],
)
def test_the_image_lookup_stays_as_it_runs_and_its_permissions_come_with_it(
    given: dict[str, str], running: dict[str, Any] | None, is_on: bool, why: str
) -> None:
    values, notes = chosen(given, running)
    assert values.image_lookup is is_on
    assert f"IMAGE_LOOKUP: {why}" in notes
    made = manifests.build([deployment()], values).all
    assert [each["metadata"]["name"] for each in made].count("bitfusiond-webhook-images") == (2 if is_on else 0)
    assert ("BITFUSIOND_IMAGE_LOOKUP" in str(made)) is is_on


def test_whom_the_image_lookup_asks_stays_as_it_runs(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(PEM)
    given = {
        "IMAGE_REGISTRIES": "r.example, *.s.example",
        "INSECURE_REGISTRIES": "http://r.example",
        "REGISTRY_CA": str(tmp_path / "ca.crt"),
    }
    values, notes = chosen(given, None)
    assert (values.image_registries, values.insecure_registries) == ("r.example,*.s.example", "http://r.example")
    assert "INSECURE_REGISTRIES: http://r.example (given)" in notes
    made = manifests.build([deployment()], values).all
    (applied_webhook,) = (each for each in made if each["kind"] == "Deployment")
    (configmap,) = (each for each in made if each["kind"] == "ConfigMap")
    assert configmap["data"] == {"registry-ca.crt": PEM}
    assert workloads.variable(applied_webhook, "BITFUSIOND_REGISTRY_CA") == "/etc/bitfusiond/registry-ca.crt"
    now = current.of_objects({current.WEBHOOK: applied_webhook, manifests.REGISTRY_CA_MAP: configmap})
    again, notes = choices.choose(settings.resolve({}), now)
    assert manifests.build([deployment()], again).all == made
    assert sum(each.endswith("(as it runs)") for each in notes) == 3 + 1  # and TOTAL_GPU_MEMORY
    off = {"IMAGE_REGISTRIES": "*", "INSECURE_REGISTRIES": "none", "REGISTRY_CA": "none"}
    values, notes = choices.choose(settings.resolve(off), now)
    assert (values.image_registries, values.insecure_registries, values.registry_ca) == ("*", "", "")
    assert "REGISTRY_CA: none (given)" in notes
    broken = webhook(IMAGE_REGISTRIES="a/b", INSECURE_REGISTRIES="r.example")
    assert chosen({}, broken)[0].insecure_registries == ""
    assert chosen({}, broken)[0].image_registries is None


def test_the_permission_of_the_image_lookup_is_as_wide_as_that_for_copies() -> None:
    values, _ = chosen({"IMAGE_LOOKUP": "on", "ALLOW_NAMESPACES": "team,research,gone"}, None)
    made = manifests.build([], replace(values, absent=frozenset({"gone"}))).all
    bindings = [each["metadata"]["namespace"] for each in made if each["kind"] == "RoleBinding"]
    assert bindings == ["research", "team"]
    assert not [each for each in made if each["kind"] == "ClusterRoleBinding"]
    values, _ = chosen({"IMAGE_LOOKUP": "on", "ALLOW_NAMESPACES": "team-*"}, None)
    assert [each["kind"] for each in manifests.build([], values).all] == ["ClusterRole", "ClusterRoleBinding"]


@pytest.mark.parametrize(
    ("given", "running", "problems"),
    [
        ({}, webhook(ALLOW_NAMESPACES="team,[a-"), 1),
        ({"ALLOW_NAMESPACES": "team"}, webhook(ALLOW_NAMESPACES="team,[a-"), 0),
        ({}, webhook(ALLOW_NAMESPACES="team,[a-c]"), 0),
    ],
)
def test_a_broken_glob_of_a_version_that_took_it_is_told_and_not_widened_to_all(
    given: dict[str, str], running: dict[str, Any], problems: int
) -> None:
    now = current.of_objects({current.WEBHOOK: running})
    told = choices.taken_away(settings.resolve(given), now)
    assert len(told) == problems
    assert all(each.startswith("ALLOW_NAMESPACES: 'team,[a-', as it runs, is not comma-separated") for each in told)
    assert choices.token_place(settings.resolve(given), now).allowed != ("*",)


@pytest.mark.parametrize("running", [webhook(["--tls-cert=/x"]), webhook(TLS_CERT="/x")])
def test_a_certificate_of_another_issuer_is_not_taken_off_in_silence(running: dict[str, Any]) -> None:
    (problem,) = choices.taken_away(
        settings.resolve({}), current.of_objects({current.WEBHOOK: running} if running else {})
    )
    assert problem.startswith("the webhook runs with --tls-cert /x, which deploy would take away")
    assert "apply manifests/tls-cert instead" in problem


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALLOW_NAMESPACES", " , ", "is not comma-separated namespace names or globs"),
        (
            "ALLOW_NAMESPACES",
            "kube-system,bwki",
            "is not a choice of namespaces whose pods may receive tokens",
        ),
        (
            "ALLOW_NAMESPACES",
            "[a-",
            "is not comma-separated namespace names or globs, for example team-*,research: [a-",
        ),
        ("ALLOW_NAMESPACES", "team-*,Team", "for example team-*,research: Team matches none"),
        ("TOKEN_NAMESPACE", "Kube_System", "is not the name of a namespace"),
        (
            "CLIENT_CA",
            "/nowhere/ca.crt",
            "is not a PEM file with the CA of the API server's client certificate, or none",
        ),
        ("CLIENT_CA", __file__, "is not a PEM file with the CA of the API server's client certificate, or none"),
        ("API_SERVER_ONLY", "maybe", "is not yes or no"),
        ("IMAGE_LOOKUP", "yes", "is not on or off"),
        ("IMAGE_REGISTRIES", "https://r.example", "is not comma-separated registries or globs"),
        ("INSECURE_REGISTRIES", "r.example", "is not comma-separated registries, each with its scheme"),
        ("REGISTRY_CA", __file__, "is not a PEM file with the CA of your registries, or none"),
    ],
)
def test_a_wrong_choice_is_refused_with_its_name_and_what_is_allowed(variable: str, value: str, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        settings.resolve({variable: value})
    assert str(raised.value).startswith(f"{variable}: {value!r} ")
    assert words in str(raised.value)


def test_the_policy_of_the_webhooks_port_names_the_api_servers_and_the_probes_stay_open() -> None:
    text = (MANIFESTS / "base/network-policies.yaml").read_text()
    policy = next(each for each in yaml_documents.load(text) if ref(each) == manifests.NETWORK_POLICY)
    values = manifests.Values("r", "1", 0, 1, api_servers=("192.0.2.1", "2001:db8::1"))
    https, observe = manifests.substituted(policy, values)["spec"]["ingress"]
    assert https == {
        "ports": [{"protocol": "TCP", "port": "https"}],
        "from": [{"ipBlock": {"cidr": "192.0.2.1/32"}}, {"ipBlock": {"cidr": "2001:db8::1/128"}}],
    }
    assert observe == {"ports": [{"protocol": "TCP", "port": "observe"}]}
    assert manifests.substituted(policy, manifests.Values("r", "1", 0, 1)) == policy
    now = current.of_objects({manifests.NETWORK_POLICY: {"spec": {"ingress": [https, observe]}}})
    assert choices.choose(settings.resolve({}), now)[0].api_server_only
    assert not choices.choose(settings.resolve({"API_SERVER_ONLY": "no"}), now)[0].api_server_only
    assert not choices.choose(settings.resolve({}), current.of_objects({manifests.NETWORK_POLICY: policy}))[
        0
    ].api_server_only


@pytest.mark.parametrize(
    ("ingress", "only"),
    [
        ([{"ports": [{"port": "https"}, {"port": "observe"}]}], False),
        ([{"ports": [{"port": "https"}], "from": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}], True),
        (
            [{"ports": [{"port": "https"}]}, {"ports": [{"port": "observe"}], "from": [{"ipBlock": {"cidr": "::/0"}}]}],
            False,
        ),
        ([{"ports": [{"port": "https"}], "from": [{"namespaceSelector": {}}]}], False),
        ([], False),
    ],
)
def test_whether_only_api_servers_may_ask_is_read_from_the_webhooks_own_port(ingress: list[Any], only: bool) -> None:
    running = current.of_objects({manifests.NETWORK_POLICY: {"spec": {"ingress": ingress}}})
    assert running.api_server_only is only
