"""One cluster for all tests of this folder, with bitfusiond deployed into it by its own commands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
import yaml

from bitfusiond.operate import checks
from bitfusiond.operate.kubectl import Kubectl
from tests.fakes.processes import accepting
from tests.real.harness import programs
from tests.real.harness.cluster import Cluster
from tests.tools import remote

_VARIABLES = ("KUBECONFIG", "BITFUSIOND_TEST_IMAGE_REPO", "BITFUSIOND_TEST_IMAGE_TAG", "BITFUSIOND_TEST_POD_IMAGE")
_HOW = (
    "run as root on the only node of a cluster made for tests, with KUBECONFIG naming its administrator, the images"
    " $BITFUSIOND_TEST_IMAGE_REPO/{bitfusiond,bitfusion-client}:$BITFUSIOND_TEST_IMAGE_TAG of tests/real/images on the"
    " node, and BITFUSIOND_TEST_POD_IMAGE an image with bash and python3"
)
NAMESPACE = "tensorflow-benchmark"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, in the end without us. The test is skipped unless all that it needs is there."""
    kubectl = next(iter(programs.kubectls()), None)
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing or kubectl is None or os.geteuid() != 0:
        pytest.skip(f"{_HOW}; missing: {', '.join(missing) or 'kubectl or root'}")
    variables = {
        "IMAGE_REPO": os.environ["BITFUSIOND_TEST_IMAGE_REPO"],
        "IMAGE_TAG": os.environ["BITFUSIOND_TEST_IMAGE_TAG"],
        "TOTAL_GPU_MEMORY": "16000",
        "RESOURCE_NUMS": "1000",
    }
    _, minor = checks.server_version(Kubectl(kubectl))
    cluster = Cluster(kubectl, variables, os.environ["BITFUSIOND_TEST_POD_IMAGE"], minor)
    yield cluster
    cluster.uninstalled()


@pytest.fixture(scope="session")
def server(cluster: Cluster) -> Iterator[str]:
    """The address of a Bitfusion server as pods reach it: it accepts connections, which is all that the plugin asks."""
    url = cluster.kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
    with accepting("0.0.0.0") as port:
        yield f"{urlsplit(url).hostname}:{port}"


@pytest.fixture(scope="session")
def tokens(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token directory, as one unpacks it."""
    directory = tmp_path_factory.mktemp("tokens")
    trustme.CA().cert_pem.write_to_path(str(directory / "ca.crt"))
    (directory / "client.yaml").write_text("token: of-the-tests\n")
    (directory / "servers.conf").write_text(yaml.safe_dump({"servers": [{"addresses": [server]}]}))
    return directory


@pytest.fixture(scope="session")
def deployed(cluster: Cluster, tokens: Path) -> Cluster:
    """The cluster after ``just tokens`` and ``just deploy``, and a namespace for the README's pods."""
    assert cluster.just("tokens", str(tokens)).status == 0
    done = cluster.just("deploy")
    assert done.status == 0, done.output
    cluster.run("create", "namespace", NAMESPACE)
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """The README's namespace without pods, before and after."""
    yield NAMESPACE
    cluster.clear(NAMESPACE)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The real remoting client and its server."""
    found, how = remote.directory()
    if found is None:
        pytest.skip(how)
    return found
