"""``python -m bitfusiond.prove``: the proof of an installation, from a pod inside the cluster. Nothing is kept of it.

``helm test`` runs it. The account of its pod needs one permission: to create pods in the namespace that is tried.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from bitfusiond import supervise
from bitfusiond.core import names, proof
from bitfusiond.core.clients import catalogue
from bitfusiond.core.objects import Pod
from bitfusiond.core.proof import Outcome, Proof
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files.read import load_yaml
from bitfusiond.kube import PODS, Cluster, ClusterError, UnavailableError, apiserver

_LOGS = f"kubectl logs -n {names.NAMESPACE} deployment/{names.WEBHOOK_DEPLOYMENT}"
# Of a pod that it was not asked about the webhook has logged nothing.
_CONFIGURATIONS = f"kubectl get mutatingwebhookconfiguration {names.MUTATING_CONFIGURATION} -o yaml"


@dataclass(frozen=True, slots=True)
class Settings:
    """``client`` are the annotations that name a client; ``seconds`` is how long a good answer is waited for."""

    cluster: Cluster
    namespace: str
    client: dict[str, str]
    seconds: float = proof.SETTLE_SECONDS


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0 = pods are admitted, refused and left alone as they should be; 1 = not; 2 = wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m bitfusiond.prove", description=__doc__, allow_abbrev=False)
    parser.add_argument("--clients", type=Path, required=True, help="the client catalogue of the installation")
    parser.add_argument("--namespace", default=proof.NAMESPACE, help="whose pods are tried")
    chosen = parser.parse_args(arguments)
    try:
        settings = Settings(apiserver.connect(None), chosen.namespace, client(chosen.clients))
        return supervise.run(serve, settings)
    except Failure as error:
        print(f"prove: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_status


def client(clients: Path) -> dict[str, str]:
    """The annotations that ask for the first client of the catalogue in a file. Raises ConfigurationError."""
    try:
        return proof.client_of(catalogue.parse(load_yaml(clients.read_text("utf-8"))))
    except OSError as error:
        raise ConfigurationError(f"--clients: cannot read {clients}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigurationError(f"--clients: {clients}: {error}") from None


async def serve(settings: Settings, stop: trio.Event) -> None:  # noqa: ARG001 - it ends soon by itself
    """Raises Failure that says which pod was not treated as it should be."""
    wanted = proof.pod(settings.namespace, settings.client)
    answer = await _wait(settings, wanted)
    _say("a pod that opts in", answer, is_right=answer.good)
    answer = await ask(settings.cluster, proof.broken(wanted))
    _say("a pod that opts in and is wrong", answer, is_right=answer.outcome is Outcome.REFUSED)
    answer = await ask(settings.cluster, proof.plain(wanted))
    _say("a pod that does not opt in", answer, is_right=answer.outcome is Outcome.NOT_ASKED)


def _say(what: str, answer: Proof, *, is_right: bool) -> None:
    if not is_right:
        more = _CONFIGURATIONS if answer.outcome is Outcome.NOT_ASKED else _LOGS
        raise Failure(f"{what}, by dry run: {answer.detail}; more: {more}")
    print(f"{what}, by dry run: {answer.detail}", flush=True)  # noqa: T201


async def _wait(settings: Settings, pod: Pod) -> Proof:
    """Ask until the answer is good, or the time is over; the last answer."""
    deadline = trio.current_time() + settings.seconds
    while True:
        answer = await ask(settings.cluster, pod)
        if answer.good or trio.current_time() >= deadline:
            return answer
        await trio.sleep(proof.POLL_SECONDS)


async def ask(cluster: Cluster, pod: Pod) -> Proof:
    """Create ``pod`` by dry run."""
    try:
        return proof.judge(await cluster.create(PODS, pod["metadata"]["namespace"], pod, dry_run=True))
    except UnavailableError as error:
        answer = proof.judge_error(str(error))
        # Nobody said no: the API server is away, or too busy.
        return answer if answer.outcome is not Outcome.OTHER else Proof(Outcome.OTHER, str(error))
    except ClusterError as error:
        return proof.judge_error(str(error))


if __name__ == "__main__":
    sys.exit(main())
