"""``just chart OUT``: the chart as a directory and as a package, the same bytes from the same sources."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

from bitfusiond import __version__
from bitfusiond.core.fields import Json
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files import yaml_documents
from bitfusiond.operate import choices
from bitfusiond.operate.chart import forms, options, template, values
from bitfusiond.operate.chart.conditions import Chosen, Formula, explain, holds
from bitfusiond.operate.chart.merge import Node, chosen_of, merge
from bitfusiond.operate.chart.options import Overlays
from bitfusiond.operate.kubectl import Ref
from bitfusiond.operate.report import Say

NAME = "bitfusiond"
_FILES = Path(__file__).parent / "files"
_PRE_RELEASE = re.compile(r"(\d+\.\d+\.\d+)\.?(a|b|rc|dev)(\d+)")


def run(overlays: Overlays, out: Path, say: Say) -> None:
    """Make the chart and write it."""
    write(files(overlays), out, say)


def write(made: Mapping[str, str], out: Path, say: Say) -> None:
    """Write ``OUT/bitfusiond/`` and ``OUT/bitfusiond-VERSION.tgz``. Raises ConfigurationError."""
    directory, archive = out / NAME, out / f"{NAME}-{version()}.tgz"
    try:
        shutil.rmtree(directory, ignore_errors=True)
        for name, text in made.items():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text(text, "utf-8")
        archive.write_bytes(packed(made))
    except OSError as error:
        raise ConfigurationError(f"cannot write into {out}: {error.strerror}") from None
    say(f"{archive} and {directory}: helm install bitfusiond {archive} -n bwki")


def version() -> str:
    """That of the sources, as Helm has it: 0.6.0-rc.1 for 0.6.0rc1."""
    return _PRE_RELEASE.sub(r"\1-\2.\3", __version__)


def files(overlays: Overlays) -> dict[str, str]:
    """The chart's files by their names. Raises Failure where it would say something else than a deploy."""
    documents = tree(overlays)
    for chosen in options.everything():
        if not _are_equal(evaluated(documents, chosen), options.documents(overlays, chosen)):
            raise Failure(f"the chart would not say what deploy applies to who chooses {', '.join(sorted(chosen))}")
    labels = " ".join(f"{key}={value}" for key, value in sorted(_namespace_labels(overlays).items()))
    words = {
        "NAMESPACE_LABELS": labels,
        "CHART_VERSION": version(),
        "DEFAULT_RESOURCE_NUMS": str(choices.DEFAULT_RESOURCE_NUMS),
        "VALUES_TABLE": values.table(),
    }
    found = {
        "Chart.yaml": yaml_documents.dump([_metadata()]),
        "README.md": _read("README.md", words),
        "values.yaml": values.text(),
        "values.schema.json": json.dumps(values.schema(), indent=2) + "\n",
        "templates/NOTES.txt": _read("NOTES.txt", words),
        "templates/_helpers.tpl": _read("_helpers.tpl", words) + options.template(),
        "templates/_refusals.tpl": _read("_refusals.tpl", words) + forms.template(),
        "templates/refusals.yaml": _read("refusals.yaml", words),
        "templates/tests/prove.yaml": _read("test.yaml", words),
    }
    for kind in sorted({what.kind for what in documents}):
        of_kind = [each for what, each in documents.items() if what.kind == kind]
        found[f"templates/{kind.lower()}.yaml"] = template.text(of_kind)
    _check_filled(found)
    return found


def _check_filled(made: Mapping[str, str]) -> None:
    """A placeholder that is cut or written otherwise has no expression in its place, and would go into the cluster."""
    for name, text in made.items():
        if name.startswith("templates/") and (left := options.PLACEHOLDER.search(text)):
            raise Failure(f"the chart would install a placeholder: {left[0]!r} is left in {name}")


def tree(overlays: Overlays) -> dict[Ref, tuple[Formula, Node]]:
    """What the chart installs, by kind and name: when it is there, and what it is.

    In an order of its own, also of keys: every kubectl that builds an overlay has another.
    """
    built = {chosen: options.documents(overlays, chosen) for chosen in options.singles_and_pairs()}
    versions: dict[Ref, dict[Chosen, Any]] = {}
    for chosen, documents in built.items():
        for each in documents:
            sorted_keys = json.loads(json.dumps(each, sort_keys=True))
            versions.setdefault(Ref(each["kind"], each["metadata"]["name"]), {})[chosen] = sorted_keys
    among = list(built)
    in_order = sorted(versions, key=attrgetter("kind", "name"))
    return {what: (explain(list(versions[what]), among), merge(versions[what])) for what in in_order}


def evaluated(documents: Mapping[Ref, tuple[Formula, Node]], chosen: Chosen) -> list[Any]:
    """What the chart says for these choices, placeholders as they are."""
    return [chosen_of(node, chosen) for formula, node in documents.values() if holds(formula, chosen)]


def _are_equal(*several: Iterable[Any]) -> bool:
    """In whatever order."""
    return len({tuple(sorted(json.dumps(each, sort_keys=True) for each in documents)) for documents in several}) == 1


def packed(made: Mapping[str, str]) -> bytes:
    """A package as ``helm package`` makes it, but without the moment and the user that made it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, text in made.items():
            content = text.encode()
            info = tarfile.TarInfo(f"{NAME}/{name}")
            info.size, info.mode = len(content), 0o644
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(archive.getvalue(), mtime=0)


def _metadata() -> Json:
    return {
        "apiVersion": "v2",
        "name": NAME,
        "description": "Kubernetes pods on the GPUs of a Bitfusion pool: admission webhook and device plugin",
        "type": "application",
        "version": version(),
        "appVersion": __version__,
        # Before, no namespace is labelled with its name, and a chart cannot label kube-system.
        "kubeVersion": ">=1.21.0-0",
        "keywords": ["gpu", "bitfusion", "device-plugin", "admission-webhook"],
    }


def _namespace_labels(overlays: Overlays) -> dict[str, str]:
    """What deploy labels our namespace with, beyond its name."""
    (namespace,) = (each for each in overlays("community") if each["kind"] == "Namespace")
    labels: dict[str, str] = namespace["metadata"]["labels"]
    return labels


def _read(name: str, words: Mapping[str, str]) -> str:
    text = (_FILES / name).read_text("utf-8")
    for word, meaning in words.items():
        text = text.replace(word, meaning)
    return text
