"""docs/troubleshooting.md has every message by its words, and none that nothing says any more.

In the tables whose first column is headed "the message", what stands in backquotes there is an entry: the fixed words
of a message, with ``...`` for what varies between them. Every text of the source that reads like a sentence is a
message (:func:`said`), but for those that are declared not to be one. Whoever adds a message adds a row.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT
from tests.unit.core.admission import test_refusals

PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGE = ROOT / "bitfusiond"
SCRIPT = ROOT / "image" / "images"

VARIES = "\0"  # stands in a message for what is known only when it is said
TELLING = 8  # fixed characters of an entry; one with fewer would stand for too much
LEAST = 16  # fixed characters; what has fewer is part of another message, and nobody would look for it
# Calls whose texts are no messages: help, metrics, expressions, progress that is printed or logged as such.
SILENT_CALLS = {
    *("add_argument", "ArgumentParser", "_Parser", "option", "compile", "split", "search", "simplefilter"),
    *("Gauge", "Counter", "Histogram", "GaugeMetricFamily", "CounterMetricFamily"),
    *("info", "print", "say", "_say", "run"),
    "good",  # what a diagnosis finds in order
}
# Modules whose texts are the words of another page: `just --list`, `--help`, docs/operating.md, docs/helm.md.
SILENT_MODULES = {
    *("bitfusiond.settings", "bitfusiond.settings.values", "bitfusiond.plugin.metrics", "bitfusiond.operate.__main__"),
    "bitfusiond.kubectl_bitfusion.options",
} | {f"bitfusiond.operate.chart.{name}" for name in ("forms", "options", "template", "values")}
# No messages by themselves: parts of others, headings of ``just verify``, names.
SILENT = {
    *("usage: bitfusiond --role ROLE [options]", "       bitfusiond --role ROLE --help", "text/plain; charset=utf-8"),
    *("  --version  print the version and exit", "it is worked out from", "is not a directory"),
    *(
        "bitfusiond webhook CA \0",
        "bitfusiond webhook CA ",
        "bitfusiond webhook CA",
        "bitfusiond webhook",
        "being terminated",
        "no GPU container",
    ),
    *(
        "tokens are copied",
        "from \0, into namespaces \0",
        "on, for registries \0\0",
        "the API server's client certificate",
        "CLIENT_CA=FILE just deploy",
        "API_SERVER_ONLY=no just deploy",
    ),
    *("it failed without a word", "wrong variables:", 'service "bwki-webhook-svc" not found'),
    *("--device-plugin-dir and --socket-name", ", its last exit status was \0"),
    *("mend what refuses it; then just verify", "a pod in \0 (dry run)", "\0; kubectl get networkpolicy -n bwki"),
    *("context \0, API server \0.\0, \0", "\0 up to date, in \0 namespaces"),
    *("\0 with bitfusion.io/gpu and a plugin that is registered",),
    *("the next pod there gets a new copy; ADOPT=yes just deploy does it for all such",),
    *("no pod ran under it", "the webhook signs its own certificates"),
    *("made the namespace's default account cluster-admin",),
    *("privileged, replaced by DaemonSet kube-system/bitfusion-device-plugin",),
    *("images: \0/bitfusiond:\0 and bitfusion-client of the same tag (\0)",),
    *("bitfusion-client/os, bitfusion-client/version", "exceeded maximum nesting depth", "'AbstractChildWatcher' is"),
    *("\0 (the next pod there gets a new copy; ADOPT=yes just deploy does it for all such)",),
    *("the configuration", "the connection ended before the answer"),  # parts of others
    *("certificate taken up", "client CA taken up", "registry CA taken up"),  # progress that is logged
    'device.driver == "bitfusion.io"',  # of CEL
    # Of `kubectl bitfusion`: what it says where all is well, parts of lines, others' words, what to do about a line.
    *("\0 of \0 shares free (100 = one GPU), counted by \0", "each node for itself", "in all namespaces"),
    *("an unknown number", "does not answer since \0", "\0 shares of GPU \0 of \0", "it runs on its GPUs"),
    *("\0 wrong: begin with the first", "which cluster, before the command or behind it", "what a dry run says"),
    *("endpointslices in bwki", "resourceclaims in \0", "resourcequotas in \0", 'cannot create resource "pods"'),
    *("secrets in \0, so not whether its token is the right one", "Insufficient bitfusion.io/gpu"),
    *("connection refused", "context deadline exceeded", "error while loading shared libraries"),
    *("an operator runs: kubectl bitfusion check", "create the pod again", "ask the operator whether it runs"),
    *("create the pod again; if it lasts, an operator runs: kubectl bitfusion check", "write the command as a list"),
    *("an operator downloads a new one and runs: just tokens DIR", "take another bitfusion-client/os"),
    *("an operator downloads a new token and runs: just tokens DIR; or the network is in the way",),
    *("look for a firewall, or a NetworkPolicy for outgoing traffic",),
    "Kubernetes pods on the GPUs of a Bitfusion pool: admission webhook and device plugin",  # of the chart
    *("both Content-Length and Transfer-Encoding", "\0: its demand is wrong"),  # seen by no user
}
# What begins so is a command that a message advises or that is run, a form of names, a file's head.
SILENT_BEGINNINGS = (
    "kubectl ",
    "just ",
    "bitfusion-client-OS",
    "HOST:PORT with",
    "# The Bitfusion clients",
    "# The pool's inventory",
    "- name: FILL-IN",
    "export PATH=",
    "import os; ",
)


def said(tree: ast.AST) -> Iterator[ast.expr]:
    """Each text in ``tree`` that is neither a docstring nor in a call that says nothing to a user in trouble."""
    match tree:
        case ast.Expr(value=ast.Constant()):
            return
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in SILENT_CALLS:
            return
        case ast.Assign(targets=[ast.Name(id="SUMMARIES")]):  # of --help
            return
        case ast.Call(func=ast.Name(id="bad" | "unknown"), args=[line, *_]):  # what stands behind it is the advice
            yield from said(line)
            return
        case ast.JoinedStr() | ast.Constant(value=str()):
            yield tree
            return
    for child in ast.iter_child_nodes(tree):
        yield from said(child)


def worded(text: ast.expr, known: dict[str, object]) -> str:
    """``text`` as it is said: names of the module that are constants by their value, all else as VARIES."""
    if isinstance(text, ast.Constant):
        return text.value.decode(errors="replace") if isinstance(text.value, bytes) else str(text.value)
    if isinstance(text, ast.JoinedStr):
        return "".join(worded(part, known) for part in text.values)
    assert isinstance(text, ast.FormattedValue)
    if not isinstance(text.value, ast.Name | ast.Attribute):
        return VARIES
    try:
        value = eval(compile(ast.Expression(text.value), "", "eval"), dict(known))
    except (NameError, AttributeError):
        return VARIES
    return str(value) if isinstance(value, str | int) else VARIES


@cache
def literals() -> frozenset[str]:
    """Every text in the package, messages and all others, and those of image/images."""
    found = set(re.findall(r'(?:fail|echo) "([^"]*)"', SCRIPT.read_text()))
    for known, tree in modules():
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in docstrings:
                found.add(worded(node, known))
    return frozenset({re.sub(r"\$\w+", VARIES, text) for text in found})


@cache
def messages() -> tuple[str, ...]:
    """What :func:`said` finds, and what image/images fails with."""
    found = {re.sub(r"\$\w+", VARIES, text) for text in re.findall(r'fail "([^"]*)"', SCRIPT.read_text())}
    for known, tree in modules():
        if known["__name__"] not in SILENT_MODULES:
            found |= {worded(text, known) for text in said(tree)}
    return tuple(sorted(text for text in found if is_message(text)))


def is_message(text: str) -> bool:
    words = text.replace(VARIES, "")
    return (
        len(words) >= LEAST
        and " " in words.strip()
        and not text.startswith(SILENT_BEGINNINGS)
        and text not in SILENT
        and not re.match(r"-[A-Za-z]+ --?[A-Za-z]", text)  # a list of options
        and not re.search(r"\(\?|\[\^|\\w|\\d|\\s|\[ ?-|\[A-Z|\[y", text)  # a regular expression
    )


def modules() -> Iterator[tuple[dict[str, object], ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not name.endswith(("_pb2", "_grpc")):  # generated
            yield vars(importlib.import_module(name)), ast.parse(path.read_text())


@cache
def entries() -> tuple[str, ...]:
    found: list[str] = []
    ours = False
    for line in PAGE.read_text().splitlines():
        if not line.startswith("|"):
            ours = False
        elif line.startswith("| the message |"):
            ours = True
        elif ours:
            found += re.findall(r"`([^`]+)`", line.split(" | ")[0])
    return tuple(found)


def describes(entry: str, text: str) -> bool:
    """Whether the fixed words of ``entry`` stand in ``text``, in their order."""
    at = 0
    for words in entry.split("..."):
        at = text.find(words, at)
        if at < 0:
            return False
        at += len(words)
    return True


def fixed(entry: str) -> int:
    return len(entry.replace("...", "").strip(" :;,"))


def test_every_message_is_in_the_page() -> None:
    known = [entry for entry in entries() if fixed(entry) >= TELLING]
    missing = [text.replace(VARIES, "...") for text in messages() if not any(describes(each, text) for each in known)]
    assert not missing, f"{PAGE.name} needs a row for:\n" + "\n".join(missing)


def test_each_exception_is_still_said_somewhere() -> None:
    said_somewhere = literals()
    assert not SILENT - said_somewhere
    assert not [each for each in SILENT_BEGINNINGS if not any(text.startswith(each) for text in said_somewhere)]


def test_a_refused_user_finds_the_words_that_kubectl_prints() -> None:
    table = vars(test_refusals.test_a_wrong_pod_is_refused_in_these_words)["pytestmark"][0].args[1]
    known = [entry for entry in entries() if fixed(entry) >= TELLING]
    assert len(table) > 30
    assert not [text for _, text in table if not any(describes(entry, text) for entry in known)]


def test_every_entry_of_the_page_is_said_somewhere() -> None:
    stale = [entry for entry in entries() if not any(describes(entry, text) for text in literals())]
    assert not stale, f"nothing says any more what {PAGE.name} has:\n" + "\n".join(stale)


def test_a_message_that_is_made_up_is_in_no_row() -> None:
    """The rows could fit everything: then no message would ever be missing."""
    for text in ("spec.containers[0].colour: red is not blue: paint it", f"the moon is {VARIES} km away: come nearer"):
        assert not [entry for entry in entries() if fixed(entry) >= TELLING and describes(entry, text)]


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *sorted(str(each.relative_to(ROOT)) for each in ROOT.glob("docs/*.md")),
    ],
)
def test_links_to_and_from_the_page_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for path, anchor in re.findall(r"\]\(([\w./-]*)(?:#([\w-]+))?\)", page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path} in {name}"
        assert not anchor or anchor in anchors(target), f"{path}#{anchor} in {name}"


def anchors(page: Path) -> set[str]:
    """What headings are called in links, as GitHub makes it: lower case, without signs, - for a blank."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
