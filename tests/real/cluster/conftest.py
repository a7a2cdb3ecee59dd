"""One cluster for all tests of this folder, with bitfusiond deployed into it by its own commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
import yaml

from tests.fakes.processes import accepting
from tests.real.harness.cluster import Cluster, of_tests
from tests.tools import remote

NAMESPACE = "tensorflow-benchmark"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, in the end without us. The test is skipped unless all that it needs is there."""
    found, how = of_tests()
    if found is None:
        pytest.skip(how)
    yield found
    found.uninstalled()


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
