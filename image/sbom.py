"""Write what an image holds, as CycloneDX JSON.

``python sbom.py NAME ENVIRONMENT REPORT BASE [PACKAGES]`` is run by the Containerfile and prints the document. NAME is
the image's. ENVIRONMENT is the virtual environment that stays in it, REPORT is pip's of what it installed there, with
the hash of each file. BASE is where the base image's files are: its Debian packages are listed, and a Python that is
none of them. PACKAGES is the directory of the clients' packages.

Nothing of the time or the place goes in: two builds of the same have the same document.
"""

# ruff: noqa: T201 - it prints the document

from __future__ import annotations

import email.parser
import hashlib
import importlib.metadata
import json
import re
import sys
import uuid
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

INSTALLED = "install ok installed"


def main(name: str, environment: str, report: str, base: str, packages: str | None = None) -> None:
    (site,) = Path(environment, "lib").glob("python3*/site-packages")
    archives = json.loads(Path(report).read_text("utf-8"))["install"]
    found = [*_python_packages(site, archives), *_operating_system(Path(base)), *_interpreter(Path(base))]
    if packages is not None:
        found += _clients(Path(packages))
    version = next(each.version for each in found if each.name == "bitfusiond")
    bom = Bom(components=found)
    bom.metadata.component = Component(
        name=name, version=version, type=ComponentType.CONTAINER, licenses=_licenses("Apache-2.0"), bom_ref=name
    )
    print(document(bom))


def document(bom: Bom) -> str:
    """Without the moment that it was made, and with a number that follows from what it says."""
    result: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    del result["metadata"]["timestamp"], result["serialNumber"]
    content = json.dumps(result, sort_keys=True)
    result["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, content).urn
    return json.dumps(result, indent=1, sort_keys=True)


def _python_packages(site: Path, archives: list[dict[str, Any]]) -> Iterator[Component]:
    """What slim.py left there; of what came from the index, the hash of the file that pip took."""
    hashes = {
        _normal(each["metadata"]["name"]): each["download_info"]["archive_info"]["hashes"]["sha256"]
        for each in archives
    }
    for distribution in importlib.metadata.distributions(path=[str(site)]):
        name, version = _normal(distribution.name), distribution.version
        url = PackageURL("pypi", None, name, version)
        yield Component(
            name=name,
            version=version,
            type=ComponentType.LIBRARY,
            purl=url,
            bom_ref=str(url),
            licenses=_licenses(_declared(distribution.metadata)),  # type: ignore[arg-type]
            hashes=_sha256(hashes[name]) if name in hashes else None,
        )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared(metadata: Message) -> str:
    """A package's licence: as an expression, by its classifiers, or in its own words where those are one line."""
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier", []) if "License ::" in each]
    words = str(metadata.get("License") or "").strip()
    return metadata.get("License-Expression") or (words if "\n" not in words else "") or ", ".join(classifiers)


def _licenses(declared: str) -> list[License] | None:
    return [LicenseFactory().make_from_string(declared)] if declared else None


def _sha256(value: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=value)]


def _operating_system(base: Path) -> Iterator[Component]:
    """Debian's packages: in one file, or as images without a package manager have them, a file each."""
    release = _release(base / "etc/os-release")
    if release:
        yield Component(
            name=release["ID"], version=release.get("VERSION_ID"), type=ComponentType.OPERATING_SYSTEM, bom_ref="os"
        )
    files = [base / "var/lib/dpkg/status", *sorted((base / "var/lib/dpkg/status.d").glob("*"))]
    parser = email.parser.Parser()
    for path in files:
        if not path.is_file() or path.name.endswith(".md5sums"):
            continue
        for paragraph in path.read_text("utf-8").split("\n\n"):
            fields = parser.parsestr(paragraph, headersonly=True)
            if fields["Package"] and fields.get("Status", INSTALLED) == INSTALLED:
                yield _debian(fields, release)


def _debian(fields: Message, release: dict[str, str]) -> Component:
    system = release.get("ID", "debian")
    qualifiers = {"arch": fields["Architecture"]}
    if "VERSION_ID" in release:
        qualifiers["distro"] = f"{system}-{release['VERSION_ID']}"
    url = PackageURL("deb", system, fields["Package"], fields["Version"], qualifiers)
    return Component(
        name=fields["Package"], version=fields["Version"], type=ComponentType.LIBRARY, purl=url, bom_ref=str(url)
    )


def _release(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    pairs = (line.partition("=") for line in path.read_text("utf-8").splitlines() if "=" in line)
    return {name: value.strip("\"'") for name, _, value in pairs}


def _interpreter(base: Path) -> Iterator[Component]:
    """A Python that was built into the base, as in the images python:*."""
    for path in base.glob("usr/local/include/python3*/patchlevel.h"):
        version = re.search(r'^#define PY_VERSION\s+"(.+)"', path.read_text("utf-8"), re.MULTILINE)
        if version:
            url = PackageURL("generic", None, "python", version[1])
            yield Component(
                name="python",
                version=version[1],
                type=ComponentType.APPLICATION,
                purl=url,
                bom_ref=str(url),
                cpe=f"cpe:2.3:a:python:python:{version[1]}:*:*:*:*:*:*:*",
            )


def _clients(packages: Path) -> Iterator[Component]:
    """Each package by the name of its file, under which it is unpacked too, and each directory of another client."""
    for path in sorted(packages.glob("*")):
        if path.is_dir():
            yield Component(name=path.name, type=ComponentType.APPLICATION, bom_ref=path.name)
        elif path.suffix in {".deb", ".rpm", ".whl"}:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            version = re.search(r"[-_](\d[\d.]+-.+)(?:_amd64\.deb|\.x86_64\.rpm)$", path.name)
            yield Component(
                name=path.name,
                version=version[1] if version else None,
                type=ComponentType.APPLICATION,
                bom_ref=path.name,
                hashes=_sha256(digest),
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
