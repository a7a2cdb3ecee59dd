"""A whole cluster, as its operator reaches it: ``kubectl``, and the commands of the justfile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.processes import wait_until

ROOT = Path(__file__).parents[2]
Object = dict[str, Any]
_JUST = Path(sys.executable).parent / "just"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended, and all that it printed."""

    status: int
    output: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that belongs to the tests: one node, which is this machine, and both images on it.

    ``variables`` are those of ``just deploy``; ``pod_image`` has bash, sleep and python3.
    """

    kubectl_program: str
    variables: Mapping[str, str]
    pod_image: str

    def just(self, recipe: str, *arguments: str, timeout: float = 300, **variables: str) -> Done:
        """Run ``just RECIPE ARGUMENTS`` as an operator would, with the images of the tests."""
        done = subprocess.run(
            [_JUST, recipe, *arguments],
            cwd=ROOT,
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
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout)

    def kubectl(self, *arguments: str, given: Object | None = None) -> str:
        """The same for what must succeed."""
        done = self.run(*arguments, given=given)
        assert done.status == 0, done.output
        return done.output

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

    def wait(self, ready: Callable[[], bool], what: str, seconds: float = 90) -> None:
        def asked() -> bool:
            time.sleep(0.2)  # each question is a process
            return ready()

        wait_until(asked, what, seconds)

    def ended(self, name: str, namespace: str) -> str:
        """The log of a pod, once it has succeeded; a failed one fails the test with its logs."""

        def over() -> bool:
            return self.get("pod", name, namespace)["status"].get("phase") in {"Succeeded", "Failed"}

        try:
            self.wait(over, f"the end of pod {name}")
        except TimeoutError:
            print(self.run("describe", "pod", name, "-n", namespace).output)
            raise
        log = self.run("logs", name, "-n", namespace).output
        if self.get("pod", name, namespace)["status"]["phase"] != "Succeeded":
            populate = self.run("logs", name, "-n", namespace, "-c", "populate").output
            raise AssertionError(f"pod {name} failed:\n{populate}\n{log}")
        return log

    def scale_webhook(self, replicas: int) -> None:
        """Change the number of replicas, and wait until the Service has as many endpoints."""
        self.kubectl("scale", "-n", "bwki", "deployment/bitfusion-webhook-deployment", f"--replicas={replicas}")
        self.wait(lambda: self.endpoints() == replicas, f"{replicas} endpoints of the webhook")

    def endpoints(self) -> int:
        subsets = self.get("endpoints", "bwki-webhook-svc", "bwki").get("subsets") or []
        return sum(len(each.get("addresses") or []) for each in subsets)
