"""What the Containerfile writes of an image's contents, made here of this environment and a made-up base."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bitfusiond
from tests import ROOT
from tests.fakes.sbom import problems

pytestmark = pytest.mark.slow

HASH = "0123456789abcdef" * 4
REPORT = {
    "install": [
        {"metadata": {"name": "PyYAML"}, "download_info": {"archive_info": {"hashes": {"sha256": HASH}}}},
        {"metadata": {"name": "gone"}, "download_info": {"archive_info": {"hashes": {"sha256": HASH}}}},
    ]
}
RELEASE = 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n'
STATUS = """\
Package: adduser
Status: install ok installed
Architecture: all
Version: 3.134
Description: one that is
 here

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1

"""
DEB, RPM = "bitfusion-client-ubuntu1804_4.5.0-4_amd64.deb", "bitfusion-client-centos7-4.5.0-4.x86_64.rpm"


def written(tmp_path: Path, base: dict[str, str], packages: Path | None = None) -> dict[str, Any]:
    """The document, which fits its schema; ``base`` is the content of files by their paths."""
    for name, text in {**base, "report.json": json.dumps(REPORT)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    places = [tmp_path / "report.json", tmp_path / "base", *([packages] if packages else [])]
    (tmp_path / "base").mkdir(exist_ok=True)
    command: list[str | Path] = [sys.executable, ROOT / "image/sbom.py", "bitfusiond", sys.prefix, *places]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert problems(text) is None
    document: dict[str, Any] = json.loads(text)
    return document


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in document["components"]}


def test_the_schema_is_asked() -> None:
    assert problems('{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"name": "x"}]}')


def test_python_packages_have_version_licence_and_the_hash_of_the_file_that_pip_took(tmp_path: Path) -> None:
    document = written(tmp_path, {})
    found = by_name(document)
    yaml = found["pyyaml"]
    version = importlib.metadata.version("pyyaml")
    assert (yaml["version"], yaml["purl"]) == (version, f"pkg:pypi/pyyaml@{version}")
    assert yaml["hashes"] == [{"alg": "SHA-256", "content": HASH}]
    assert yaml["licenses"] == [{"license": {"id": "MIT"}}]
    assert found["trio"]["licenses"][0]["expression"] == "MIT OR Apache-2.0"
    assert "gone" not in found, "pip installed it, and it was taken away again"
    assert document["metadata"]["component"]["version"] == bitfusiond.__version__
    assert "timestamp" not in document["metadata"]


def test_two_builds_of_the_same_have_the_same_document_and_of_another_not(tmp_path: Path) -> None:
    first = written(tmp_path, {})
    assert written(tmp_path, {}) == first
    assert written(tmp_path, {"base/var/lib/dpkg/status": STATUS})["serialNumber"] != first["serialNumber"]


@pytest.mark.parametrize("file", ["base/var/lib/dpkg/status", "base/var/lib/dpkg/status.d/adduser"])
def test_debian_packages_of_the_base_are_those_that_are_installed(tmp_path: Path, file: str) -> None:
    text = (
        STATUS if file.endswith("status") else STATUS.partition("\n\n")[0].replace("Status: install ok installed\n", "")
    )
    found = by_name(written(tmp_path, {file: text, "base/etc/os-release": RELEASE}))
    assert found["adduser"]["purl"] == "pkg:deb/debian/adduser@3.134?arch=all&distro=debian-12"
    assert (found["debian"]["type"], found["debian"]["version"]) == ("operating-system", "12")
    assert "removed" not in found


def test_a_python_that_is_no_package_is_named_too(tmp_path: Path) -> None:
    header = '#define PY_MAJOR_VERSION 3\n#define PY_VERSION             "3.13.9"\n'
    found = by_name(written(tmp_path, {"base/usr/local/include/python3.13/patchlevel.h": header}))
    assert found["python"]["cpe"] == "cpe:2.3:a:python:python:3.13.9:*:*:*:*:*:*:*"


def test_clients_are_there_by_their_files(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in (DEB, RPM):
        (packages / name).write_bytes(name.encode())
    (packages / "readme").touch()
    found = by_name(written(tmp_path, {}, packages))
    for name in (DEB, RPM):
        assert found[name]["version"] == "4.5.0-4"
        assert found[name]["hashes"][0]["content"] == hashlib.sha256(name.encode()).hexdigest()
    assert "readme" not in found
