"""A cluster in memory with token Secrets, and a replica of the replication at work on it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from prometheus_client import CollectorRegistry

from bitfusiond.core import names
from bitfusiond.core.tokens.copies import TOKENS, Token
from bitfusiond.kube import SECRETS, Object
from bitfusiond.webhook.namespaces import Namespaces
from bitfusiond.webhook.tokens.replication import Replication
from tests.fakes.cluster import FakeCluster

HOME = "kube-system"
CA, CLIENT, SERVERS = TOKENS


def secret(name: str, **data: str) -> Object:
    return {"metadata": {"name": name}, "stringData": {key.replace("_", "."): value for key, value in data.items()}}


def put_sources(cluster: FakeCluster, value: str = "a: 1", namespace: str = HOME) -> None:
    for token in TOKENS:
        cluster.put(SECRETS, secret(token.secret, **{token.file: value}), namespace)


@asynccontextmanager
async def running(
    cluster: FakeCluster, metrics: CollectorRegistry | None = None, **options: Any
) -> AsyncIterator[Replication]:
    """A replica that has listed everything it can."""
    given = {"namespace": names.NAMESPACE, "token_namespace": HOME, **options}
    namespaces = Namespaces(names.EXEMPT_NAMESPACES)
    tokens = Replication(cluster, metrics or CollectorRegistry(), namespaces, **given)
    async with trio.open_nursery() as nursery:
        await nursery.start(namespaces.run, cluster)
        await nursery.start(tokens.run)
        await trio.sleep(1)
        yield tokens
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(
    cluster: FakeCluster, metrics: CollectorRegistry | None = None, **options: Any
) -> AsyncIterator[Replication]:
    """A replica that has just admitted a pod in the namespace team, with copies of all tokens."""
    async with running(cluster, metrics, **options) as tokens:
        assert await tokens.ensure("team", dry_run=False) == []
        yield tokens


def value(cluster: FakeCluster, namespace: str, token: Token) -> str | None:
    found = cluster.find(SECRETS, namespace, token.secret)
    return None if found is None else base64.b64decode(found["data"][token.file]).decode()


def values(cluster: FakeCluster, namespace: str = "team") -> list[str | None]:
    return [value(cluster, namespace, token) for token in TOKENS]


def writes(cluster: FakeCluster) -> list[str]:
    """The verbs, but for the Secret that holds the key of marks."""
    return [
        request.verb
        for request in cluster.requests
        if request.verb not in {"list", "watch", "get"} and request.name != names.MARK_SECRET
    ]
