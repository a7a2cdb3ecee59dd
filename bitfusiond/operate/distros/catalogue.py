"""The catalogue of the trees: other clients kept from those that are there, those of packages written anew."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from bitfusiond.core.clients import catalogue, packages
from bitfusiond.core.clients.packages import Package
from bitfusiond.core.fields import Json, mapping, names_of, objects
from bitfusiond.errors import Failure
from bitfusiond.files import read, yaml_documents
from bitfusiond.operate.distros import report

_HEADER = """\
# The Bitfusion clients that were unpacked here. `just distros` writes this file anew; of what is changed by hand it
# keeps Clients and the line Default, such as Default: {os: ubuntu18, version: "450"}, for pods that name neither.
"""


def others(*paths: Path) -> list[Json]:
    """The entries of ``Clients`` of the catalogues that are there and of the packaged one.

    Of a name that is in several, the first one's.
    """
    found: list[Json] = []
    packaged = mapping(read.load_yaml(read.packaged(read.CATALOGUE)))
    for entries in (*map(_clients_at, paths), objects(packaged.get("Clients"))):
        known = names_of(found, "Name")
        found += [each for each in entries if each.get("Name") not in known]
    return found


def tree_name(entry: Json) -> str:
    """What the tree of an entry is called; empty where it has none."""
    return PurePosixPath(str(entry.get("Tree") or "")).name


def write(out: Path, libraries: Mapping[Package, str], others: Sequence[Json]) -> None:
    """Raises Failure where the ``Default`` of the one that is there does not fit.

    Of ``others`` are in it those whose tree is there, and those that need none here.
    """
    path = out / read.CATALOGUE
    sizes = {each: _size(out / each.file) for each in libraries}
    kept = [entry for entry in others if not tree_name(entry) or (out / tree_name(entry)).is_dir()]
    try:
        before = path.read_text("utf-8") if path.exists() else ""
        document = read.load_yaml(before)
        default = document.get("Default") if isinstance(document, dict) else None
        written = packages.document(libraries, default, sizes) | ({"Clients": kept} if kept else {})
        text = _HEADER + yaml_documents.dump([written])
        catalogue.parse(read.load_yaml(text))
        if text == before:
            return
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text, "utf-8")
        partial.chmod(0o644)  # `populate` reads it as the workload's user
        partial.rename(path)
    except ValueError as error:
        raise Failure(f"{path}: {error}: mend the file that is there, or delete it") from None
    except OSError as error:
        raise Failure(f"{path}: {report.reason(error)}") from None


def _clients_at(path: Path) -> list[Json]:
    """``Clients`` of a catalogue, nothing where there is none. Raises Failure for one that cannot be kept."""
    try:
        document = mapping(read.load_yaml(path.read_text("utf-8")) if path.exists() else {})
        if document.get("Clients"):
            catalogue.parse({"Clients": document["Clients"]})
    except ValueError as error:
        raise Failure(f"{path}: {error}: mend the file that is there, or delete it") from None
    except OSError as error:
        raise Failure(f"{path}: {report.reason(error)}") from None
    return objects(document.get("Clients"))


def _size(tree: Path) -> int:
    """Bytes of all that is in it."""
    places = (Path(directory, name) for directory, _, names in os.walk(tree) for name in names)
    return sum(place.lstat().st_size for place in places)
