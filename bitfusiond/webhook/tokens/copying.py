"""One copy of a token Secret made right by requests to the API server, and what a person reads where that fails."""

from __future__ import annotations

from collections.abc import Callable

from bitfusiond.core.tokens.copies import Create, Decision, Leave, Refuse, Update
from bitfusiond.kube import SECRETS, Cluster, ClusterError, ConflictError, NotFoundError
from bitfusiond.webhook.flights import Problem, explained
from bitfusiond.webhook.tokens.inventory import Inventory, Key

# Each conflict means that another replica, or a person, wrote in between; after one of theirs the copy mostly is right.
_CONFLICTS = 5


async def ensure_copy(cluster: Cluster, inventory: Inventory, key: Key, decide: Callable[[Key], Decision]) -> bool:
    """Create or update the copy if ``decide`` says so; whether it wrote. Raises Problem.

    Any number of replicas may do so at once: the API server refuses all but the first (409), and they look again.
    """
    try:
        for _ in range(_CONFLICTS):
            match decide(key):
                case Leave():
                    return False
                case Refuse(problem):
                    raise Problem("refused", problem)
                case Create() | Update() as write:
                    if await _write(cluster, inventory, key, write):
                        return True
    except ClusterError as error:
        raise explained(error, _where(key), key.namespace, "copied", "Secrets") from None
    raise Problem("conflict", f"{_where(key)} changes all the time, so no copy could be made: try again", passing=True)


async def _write(cluster: Cluster, inventory: Inventory, key: Key, write: Create | Update) -> bool:
    name, namespace = key.token.secret, key.namespace
    try:
        if isinstance(write, Create):
            stored = await cluster.create(SECRETS, namespace, write.body)
        else:
            stored = await cluster.replace(SECRETS, namespace, name, write.body)
    except ConflictError:
        await _read_again(cluster, inventory, key)
        return False
    except NotFoundError:
        if isinstance(write, Create):
            raise  # then it is the namespace that is not there
        inventory.forget(namespace, name)
        return False
    inventory.observe(stored)
    return True


async def _read_again(cluster: Cluster, inventory: Inventory, key: Key) -> None:
    try:
        inventory.observe(await cluster.get(SECRETS, key.namespace, key.token.secret))
    except NotFoundError:
        inventory.forget(key.namespace, key.token.secret)


def _where(key: Key) -> str:
    return f"Secret {key.namespace}/{key.token.secret}"
