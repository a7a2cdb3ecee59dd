"""Two replicas behind one Service, each of which can be replaced as a Deployment would do it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.fakes.processes import wait_until
from tests.pods import pod
from tests.real.harness.apiserver import APIServer
from tests.real.harness.webhook import Installation, Replica

DRAIN_SECONDS = 2.0


class Pair:
    """Two replicas of an installation, each of which can be replaced."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._stacks: list[ExitStack] = []
        self.replicas: list[Replica] = []
        self.all: list[Replica] = []
        for _ in range(2):
            self._add()

    def _add(self) -> None:
        stack = ExitStack()
        self.replicas.append(
            stack.enter_context(self._installation.ready_replica("--drain-seconds", str(DRAIN_SECONDS)))
        )
        self._stacks.append(stack)
        self.all.append(self.replicas[-1])

    def roll(self) -> None:
        """As a Deployment with maxSurge 1 and maxUnavailable 0: the next one is ready before one is told to stop."""
        for _ in range(2):
            self.replace()

    def replace(self) -> None:
        """Half of :meth:`roll`: the older one."""
        self._add()
        time.sleep(0.5)
        self._drop()

    def restart(self) -> None:
        """As a Deployment with maxUnavailable 1: for a while there is one replica only."""
        for _ in range(2):
            self._drop()
            self._add()
            time.sleep(0.5)

    def _drop(self) -> None:
        replica = self.replicas.pop(0)
        self._stacks.pop(0).close()
        assert replica.process.returncode == 0

    def close(self) -> None:
        for replica in self.replicas:
            replica.process.terminate()  # the stack's is the second, which ends it without a drain
        for stack in self._stacks:
            stack.close()


@contextmanager
def pair(api: APIServer, directory: Path, entry: tuple[str, ...] = ("-m", "bitfusiond")) -> Iterator[Pair]:
    """Both replicas answer for the Service, and the configurations are in force."""
    installation = Installation(api, directory, entry=entry)
    installation.register()
    with ExitStack() as stack:
        both = Pair(installation)
        stack.callback(installation.unregister)
        stack.callback(both.close)
        stack.enter_context(installation.endpoints_follow())
        probe = f"/api/v1/namespaces/{api.namespace('probe')}/pods"
        wait_until(lambda: installation.admits(probe, pod()), "a pod that is admitted")
        yield both
