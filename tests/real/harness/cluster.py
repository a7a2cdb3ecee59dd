"""A whole cluster, as its operator reaches it: ``kubectl``, and the commands of the justfile."""

from __future__ import annotations

import base64
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitfusiond.operate import checks
from bitfusiond.operate.kubectl import Kubectl
from tests import ROOT
from tests.fakes.processes import wait_until
from tests.real.harness.apiserver import Door
from tests.real.harness.programs import kubectls, since

Object = dict[str, Any]
_VARIABLES = ("KUBECONFIG", "BITFUSIOND_TEST_IMAGE_REPO", "BITFUSIOND_TEST_IMAGE_TAG", "BITFUSIOND_TEST_POD_IMAGE")
_HOW = (
    "run as root on the only node of a cluster made for tests, with KUBECONFIG naming its administrator, the images"
    " $BITFUSIOND_TEST_IMAGE_REPO/{bitfusiond,bitfusion-client}:$BITFUSIOND_TEST_IMAGE_TAG of tests/real/images on the"
    " node, and BITFUSIOND_TEST_POD_IMAGE an image with bash and python3"
)
_JUST = Path(sys.executable).parent / "just"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, all that it printed, and what of that is its answer: without warnings."""

    status: int
    output: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that belongs to the tests: one node, which is this machine, and both images on it.

    ``variables`` are those of ``just deploy``; ``pod_image`` has bash, sleep and python3. ``minor`` is of the API
    server's version: 20 for 1.20.2.
    """

    kubectl_program: str
    variables: Mapping[str, str]
    pod_image: str
    minor: int

    @property
    def match_conditions(self) -> bool:
        """Whether the API server goes by them, as the overlay community wants; else by legacy's labels."""
        return self.minor >= checks.MATCH_CONDITIONS[1]

    def since(self, minor: int, what: str) -> None:
        """Skip the test on a Kubernetes before 1.``minor``, which has no ``what``."""
        since(minor, self.minor, what)

    def just(self, recipe: str, *arguments: str, timeout: float = 300, sources: Path = ROOT, **variables: str) -> Done:
        """Run ``just RECIPE ARGUMENTS`` as an operator would, with the images of the tests.

        Of other ``sources`` than these the recipe's program is run, as their virtual environment would be ours.
        """
        program = [_JUST, recipe] if sources == ROOT else [sys.executable, "-m", "bitfusiond.operate", recipe]
        done = subprocess.run(
            [*program, *arguments],
            cwd=sources,
            env={**os.environ, "KUBECTL": self.kubectl_program, **self.variables, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        print(done.stdout)  # pytest shows it where a test fails
        return Done(done.returncode, done.stdout)

    def run(self, *arguments: str, given: Object | None = None) -> Done:
        """Run kubectl, ``given`` on its standard input."""
        done = subprocess.run(
            [self.kubectl_program, *arguments],
            input=json.dumps(given) if given is not None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout + done.stderr, done.stdout)

    def kubectl(self, *arguments: str, given: Object | None = None) -> str:
        """The answer, where it must succeed."""
        done = self.run(*arguments, given=given)
        assert done.status == 0, done.output
        return done.answer

    def find(self, kind: str, name: str, namespace: str = "default") -> Object | None:
        text = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        found: Object | None = json.loads(text) if text.strip() else None
        return found

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        found = self.find(kind, name, namespace)
        assert found is not None, f"{kind} {namespace}/{name}"
        return found

    def every(self, kind: str, namespace: str, selector: str = "") -> list[Object]:
        """All objects of a kind; of all namespaces with ``namespace`` empty."""
        where = ["-n", namespace] if namespace else ["--all-namespaces"]
        items: list[Object] = json.loads(self.kubectl("get", kind, *where, "-l", selector, "-o", "json"))["items"]
        return items

    def create(self, document: Object) -> Done:
        return self.run("create", "-f", "-", given=document)

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        self.kubectl("delete", kind, name, "-n", namespace, "--ignore-not-found", "--grace-period=1")

    def kill_pods(self, namespace: str) -> None:
        """Without waiting for a kubelet, which may take ten seconds and more to say that a pod has ended."""
        self.kubectl("delete", "pod", "--all", "-n", namespace, "--force", "--grace-period=0")

    def clear(self, namespace: str) -> None:
        """Leave no pod in the namespace, nothing that makes one, and nothing that keeps one out."""
        makers = "deployment,job,replicaset"
        self.kubectl("delete", f"{makers},quota,limitrange", "--all", "-n", namespace)
        self.wait(lambda: not self.every(makers, namespace), "the end of what makes pods")
        self.kill_pods(namespace)

    def wait(self, ready: Callable[[], bool], what: str, seconds: float = 90) -> None:
        def asked() -> bool:
            time.sleep(0.2)  # each question is a process
            return ready()

        wait_until(asked, what, seconds)

    def ended(self, name: str, namespace: str, *says: str) -> str:
        """The log of all containers of a pod once it has succeeded; a failed one fails the test with its logs.

        Each of ``says``, regular expressions for a line, must be in it: containerd writes the last lines of a container
        after it has told of its end.
        """

        def over() -> bool:
            return self.get("pod", name, namespace)["status"].get("phase") in {"Succeeded", "Failed"}

        try:
            self.wait(over, f"the end of pod {name}")
        except TimeoutError:
            print(self.run("describe", "pod", name, "-n", namespace).output)
            raise
        log = ""

        def is_whole() -> bool:
            nonlocal log
            log = self.run("logs", name, "-n", namespace, "--all-containers").output
            return all(re.search(f"^{each}$", log, re.MULTILINE) for each in says)

        succeeded = self.get("pod", name, namespace)["status"]["phase"] == "Succeeded"
        try:
            self.wait(is_whole, "its log", 30 if succeeded else 1)
        except TimeoutError:
            raise AssertionError(f"pod {name} did not say all of {says}:\n{log}") from None
        if not succeeded:
            raise AssertionError(f"pod {name} failed:\n{log}")
        return log

    def life(self, name: str, namespace: str) -> tuple[Any, ...]:
        """What changes if a pod of one container is made anew, or its container is."""
        found = self.get("pod", name, namespace)
        (status,) = found["status"]["containerStatuses"]
        return found["metadata"]["uid"], status["containerID"], status["restartCount"], found["status"]["phase"]

    def started(self, document: Object) -> tuple[Any, ...]:
        """Create a pod, wait until it runs, and return its :meth:`life`."""
        name, namespace = (document["metadata"][key] for key in ("name", "namespace"))
        done = self.create(document)
        assert done.status == 0, done.output
        self.wait(lambda: self.get("pod", name, namespace)["status"].get("phase") == "Running", f"pod {name} runs")
        return self.life(name, namespace)

    def uninstalled(self) -> None:
        """``just uninstall`` with the namespace; the webhook does not drain first."""
        if self.find("deployment", "bitfusion-webhook-deployment", "bwki") is not None:
            self.scale_webhook(0)
        assert self.just("uninstall", NAMESPACE="yes").status == 0

    def scale_webhook(self, replicas: int) -> None:
        """Change the number of replicas, and wait until the Service has as many endpoints.

        The last ones end without a drain, and in a moment: the API server may still ask them over a connection of its.
        """
        if not replicas:
            (node,) = self.every("node", "")
            self.kubectl("cordon", node["metadata"]["name"])  # others in their place would drain
            self.kill_pods("bwki")
        self.kubectl("scale", "-n", "bwki", "deployment/bitfusion-webhook-deployment", f"--replicas={replicas}")
        if not replicas:
            self.kubectl("uncordon", node["metadata"]["name"])
        self.wait(lambda: self.endpoints() == replicas, f"{replicas} endpoints of the webhook")

    def endpoints(self) -> int:
        slices = self.every("endpointslice", "bwki", "kubernetes.io/service-name=bwki-webhook-svc")
        return sum(each["conditions"]["ready"] for of in slices for each in of.get("endpoints") or [])

    def door(self, directory: Path) -> Door:
        """Into the API server without kubectl, as its administrator; his keys are written into ``directory``."""
        view = json.loads(self.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        (cluster,), (user,) = (view[kind] for kind in ("clusters", "users"))
        ca = base64.b64decode(cluster["cluster"]["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=ca)
        keys = directory / "administrator.pem"
        keys.write_bytes(
            b"".join(base64.b64decode(user["user"][f"client-{which}-data"]) for which in ("certificate", "key"))
        )
        context.load_cert_chain(keys)
        return Door(cluster["cluster"]["server"], context)


def of_tests() -> tuple[Cluster | None, str]:
    """The cluster that the environment names, or None and what is missing."""
    kubectl = next(iter(kubectls()), None)
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing or kubectl is None or os.geteuid() != 0:
        return None, f"{_HOW}; missing: {', '.join(missing) or 'kubectl or root'}"
    variables = {
        "IMAGE_REPO": os.environ["BITFUSIOND_TEST_IMAGE_REPO"],
        "IMAGE_TAG": os.environ["BITFUSIOND_TEST_IMAGE_TAG"],
        "TOTAL_GPU_MEMORY": "16000",
        "RESOURCE_NUMS": "1000",
    }
    _, minor = checks.server_version(Kubectl(kubectl))
    return Cluster(kubectl, variables, os.environ["BITFUSIOND_TEST_POD_IMAGE"], minor), ""
