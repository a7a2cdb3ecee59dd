"""The script in a checkout of its own, with nothing on the PATH but what it needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests import ROOT
from tests.unit.image.engines import DIGEST, LIST, REPO, Images


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory with the programs that the script needs, and no engine."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in ("bash", "env", "sed", "dirname", "mktemp", "mkdir", "mv", "rm", "cp", "touch", "tee", "grep", "cat"):
        (directory / name).symlink_to(
            next(path for path in (Path("/usr/bin", name), Path("/bin", name)) if path.exists())
        )
    return directory


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the script reads of a checkout; it writes into its ``dist``."""
    directory = tmp_path / "checkout"
    for file in ("image/images", "Containerfile", "bitfusiond/__init__.py"):
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, directory / file)
    return directory


@pytest.fixture
def images(programs: Path, checkout: Path) -> Images:
    """The exit status of ``image/images``, and the lines that it and the engine print."""

    def run(*arguments: str, **variables: str) -> tuple[int, list[str]]:
        known = {"IMAGE_REPO": REPO, "IMAGE_TAG": "7", "DIGEST": DIGEST, "LIST": LIST, "OTHER": f"sha256:{'0' * 64}"}
        known |= dict.fromkeys(("PACKAGES", "BASE", "BUILD_BASE", "PLATFORMS", "CONTAINER_ENGINE", "COSIGN_KEY"), "")
        environment = {**known, **variables, "PATH": str(programs)}
        command: list[str | Path] = [checkout / "image/images", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        return done.returncode, (done.stdout + done.stderr).splitlines()

    return run
