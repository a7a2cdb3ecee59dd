"""Targets: what an operator writes: YAML at all, servers.conf, the client catalogue, the injection template."""

from __future__ import annotations

import dataclasses
import json

import jsonpatch
import yaml

from bitfusiond.core.admission import template
from bitfusiond.core.admission.decision import Allowed, Patch, Refusal, Rules
from bitfusiond.core.admission.mutate import mutate
from bitfusiond.core.admission.validate import validate
from bitfusiond.core.clients import catalogue, servers_conf
from bitfusiond.files import read, yaml_documents
from tests import EXAMPLES, pods
from tests.tools.fuzz import invariants

_MOST_BYTES = 64 * 2**20  # of what a file expands to
_SERVERS = """\
servers:
- reachable: 10.202.122.248:56001
  addresses:
  - 10.202.122.248:56001
  - "[2001:db8::1]:56001"
"""
_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: {<<: {d: *b}, e: !!binary aGk=}\n"

_CATALOGUE = read.packaged(read.CATALOGUE)
_TEMPLATE = read.packaged("sidecarconfig.yaml")
SEEDS = {
    "manifests": (
        *(path.read_bytes() for path in sorted(EXAMPLES.glob("*.yaml"))),
        *(_BOMB.encode(), b'{"a": "\\ud83d\\ude00", "b": [1e3, 0o17], "c": "0o17"}', b"[.inf, 1e999]"),
    ),
    "servers": (
        _SERVERS.encode(),
        _SERVERS.replace("reachable: ", "reachable:").encode(),
        b"servers: [{addresses: ['10.202.122.248:56001', '[2001:db8::1]:56001']}]",
    ),
    "catalogue": (_CATALOGUE.encode(), _CATALOGUE.replace("ubuntu1804", "\u05f8", 1).encode()),
    "template": (_TEMPLATE.encode(), _TEMPLATE.replace("mountPath: ", "path: ").encode()),
}


def _document(data: bytes) -> tuple[str, object]:
    """The text and its document; None for what is no YAML, which must be said in one line."""
    text = data.decode("utf-8", "replace")
    try:
        return text, read.load_yaml(text)
    except ValueError as error:
        invariants.said_in_one_line(str(error))
        return text, None


def manifests(data: bytes) -> None:
    """Any text: JSON values that are written and read back the same, or one line."""
    try:
        documents = yaml_documents.load(data.decode("utf-8", "replace"))
    except ValueError as error:
        invariants.said_in_one_line(str(error))
        return
    assert len(json.dumps(documents, allow_nan=False)) <= _MOST_BYTES
    written = yaml_documents.dump(documents)
    assert invariants.same(yaml_documents.load(written), documents)
    assert invariants.same(list(yaml.safe_load_all(written)), documents)


def servers(data: bytes) -> None:
    """Any text as servers.conf: addresses that are ones, and only ``reachable`` added."""
    text, document = _document(data)
    repaired = servers_conf.repaired(text)
    assert servers_conf.repaired(repaired) == repaired
    assert "".join(repaired.split()) == "".join(text.split())
    try:
        found = servers_conf.addresses(document)
        added = servers_conf.with_reachable(document)
    except servers_conf.ServersError as error:
        invariants.said_in_one_line(str(error))
        return
    assert isinstance(document, dict)
    assert found
    assert len(set(found)) == len(found)
    assert all(host and 1 <= port <= 65535 for host, port in found)
    if added is not None:
        assert servers_conf.with_reachable(added) is None
        for now, then in zip(added["servers"], document["servers"], strict=True):
            assert now["reachable"] == (then.get("reachable") or then["addresses"][0])
            rest = [{key: value for key, value in each.items() if key != "reachable"} for each in (now, then)]
            assert invariants.same(*rest)


def catalogues(data: bytes) -> None:
    """Any text as the catalogue: each client of one that is taken serves a pod."""
    try:
        found = catalogue.parse(_document(data)[1])
    except catalogue.CatalogueError as error:
        invariants.said_in_one_line(str(error))
        return
    rules = dataclasses.replace(pods.rules(), catalogue=found)
    for (os, version), client in list(found.clients.items())[:3]:
        assert client.package not in {"", ".", ".."}
        assert "/" not in client.package
        assert client.wants_reachable in {True, False}
        serves(rules, os, version)


def templates(data: bytes) -> None:
    """Any text as the template: one that is taken serves a pod."""
    try:
        found = template.parse(_document(data)[1])
    except template.TemplateError as error:
        invariants.said_in_one_line(str(error))
        return
    serves(dataclasses.replace(pods.rules(), template=found), "ubuntu18", "450")


def serves(rules: Rules, os: str, version: str) -> None:
    """Under ``rules`` a pod gets all that it needs, or the reason why its own names stand in the way."""
    pod = pods.pod(annotations={"bitfusion-client/os": os, "bitfusion-client/version": version})
    verdict = mutate(pod, pods.NAMESPACE, rules)
    if isinstance(verdict, Refusal):
        invariants.told(verdict.problems)
        assert all("is the name of a container that bitfusiond adds" in each for each in verdict.problems)
        return
    assert isinstance(verdict, Patch)
    after = jsonpatch.apply_patch(pod, invariants.strict_json(json.dumps(verdict.operations)))
    invariants.patched(pod, after, rules)
    assert isinstance(validate(after, pods.NAMESPACE, rules, None), Allowed)
