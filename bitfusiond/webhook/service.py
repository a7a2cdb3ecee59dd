"""The webhook's life: load, listen, serve, follow the files; at the end drain so that no call is refused."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import trio
from prometheus_client import CollectorRegistry, Gauge

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.admission.decision import Rules
from bitfusiond.core.admission.template import Delivery
from bitfusiond.core.images.registries import Registries
from bitfusiond.core.pool import matching
from bitfusiond.core.pool.inventory import Pool
from bitfusiond.errors import ConfigurationError
from bitfusiond.files import config, watch
from bitfusiond.http import observe, server, tls
from bitfusiond.http.conversation import REQUEST_SECONDS
from bitfusiond.http.messages import Request, Response
from bitfusiond.settings import Webhook
from bitfusiond.webhook.admission import ENDPOINTS, Admission, ClusterView
from bitfusiond.webhook.certificates.client_ca import followed_client_ca
from bitfusiond.webhook.certificates.files import FileCertificate
from bitfusiond.webhook.certificates.selfmanaged import EXPIRY, SelfManagedCertificate
from bitfusiond.webhook.cluster_view import InCluster, NoCluster, WatchMetrics
from bitfusiond.webhook.images.lookup import Lookup
from bitfusiond.webhook.images.trusted import followed_registry_ca

_WRITE_LOGS_SECONDS = 0.05  # after the first line that is to be written

_log = logs.Log("webhook")


class _Files:
    """The configuration in force: of each file the last one that was good."""

    def __init__(self, settings: Webhook) -> None:
        self._settings = settings
        self.servers: Callable[[], Sequence[str]] = tuple  # what servers.conf says, once there is a cluster
        self.taken_up: Callable[[], None] = lambda: None  # told of other rules
        given = (settings.clients, settings.injection, settings.pool)
        self._files: list[Path] = [path for path in given if path is not None]
        self._watch = watch.Watch(*self._files)
        self._current = self._load()

    def current(self) -> Rules:
        return self._current

    def pool(self) -> Pool | None:
        return self._current.pool

    def _named_servers(self) -> Sequence[str]:
        return self.servers()

    async def follow(self) -> None:
        """Take up changed files, for ever."""
        await self._watch.follow(self._reload, self._not_reloaded)

    def _reload(self) -> None:
        given, before = self._settings, self._current
        rules, problems = config.reload(before, given.clients, given.injection, given.pool)
        if not problems or rules != before:
            self._current = rules
            matching.forget()
            self.taken_up()
            _log.info("configuration taken up", files=[str(path) for path in self._files])
        if problems:
            raise ConfigurationError("; ".join(problems))

    def _not_reloaded(self, error: Exception) -> None:
        event = "configuration not taken up, keeping the last good one"
        if isinstance(error, ConfigurationError):
            _log.error(event, message=str(error))
        else:
            _log.exception(event)

    def _load(self) -> Rules:
        given, exempt = self._settings, names.EXEMPT_NAMESPACES | {self._settings.namespace}
        return config.load(
            given.clients,
            given.injection,
            given.total_gpu_memory,
            exempt,
            pool=given.pool,
            servers=self._named_servers,
            delivery=Delivery(given.delivery),
        )


async def _write_logs() -> None:
    """Write the lines about admissions many at a time, each within a moment."""
    try:
        while True:
            begun = trio.Event()
            logs.collect(begun.set)
            await begun.wait()
            await trio.sleep(_WRITE_LOGS_SECONDS)
            logs.write()
    finally:
        logs.collect(None)


async def serve(settings: Webhook, stop: trio.Event) -> None:
    """Serve until ``stop``, then drain and return. Raises ConfigurationError and Failure at the start only."""
    rules = _Files(settings)
    client_ca = None if settings.client_ca is None else followed_client_ca(settings.client_ca)
    metrics = observe.registry("webhook")
    async with trio.open_nursery() as background:
        if client_ca is not None:
            background.start_soon(client_ca.follow)
        certificate, view, checks = await _open_view(
            settings, rules, client_ca or tls.no_client_ca, metrics, background
        )
        rules.servers = view.servers
        health = observe.Health("starting", *checks)

        def others(request: Request) -> Response:
            return observe.answer(request.method, request.path, health, metrics, *ENDPOINTS)

        needs_certificate = client_ca is not None
        lookup = await _open_lookup(settings, metrics, background) if settings.image_lookup else None
        admission = Admission(rules.current, view, others, metrics, needs_certificate=needs_certificate, lookup=lookup)
        served = trio.Event()
        await background.start(observe.serve, settings.observe, health, metrics, served)
        sock = server.listen(settings.listen, "--listen")
        background.start_soon(rules.follow)
        await _serve_admissions(admission, sock, certificate, health, stop, settings.drain_seconds, background)
        served.set()
        background.cancel_scope.cancel()
    _log.info("stopped")


async def _serve_admissions(
    admission: Admission,
    sock: socket.socket,
    certificate: FileCertificate | SelfManagedCertificate,
    health: observe.Health,
    stop: trio.Event,
    drain_seconds: float,
    background: trio.Nursery,
) -> None:
    """Answer on ``sock`` until ``stop``, then drain; ``background`` writes the logs of answers.

    The drain: not ready first, still serving for ``drain_seconds`` while the endpoints of the Service catch up; then no
    new connection, the last answers, and the end.
    """
    close_keepalives, stop_accepting = trio.Event(), trio.Event()
    address = server.bound_address(sock)
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(
                server.serve,
                admission,
                sock,
                lambda: certificate.context,
                stop=stop_accepting,
                graceful_seconds=REQUEST_SECONDS,
                close_keepalives=close_keepalives,
                broken=admission.broken_http,
                untrusted=admission.untrusted,
            )
        )
        _log.info("listening", address=str(address))
        background.start_soon(_write_logs)  # not before: who waits for the line above gets it at once
        health.ready()
        await stop.wait()
        health.not_ready("stopping")
        close_keepalives.set()
        _log.info("draining", seconds=drain_seconds)
        await trio.sleep(drain_seconds)
        stop_accepting.set()


async def _open_lookup(settings: Webhook, metrics: CollectorRegistry, background: trio.Nursery) -> Lookup:
    """What looks images up, running in ``background``."""
    trusted = followed_registry_ca(settings.registry_ca)
    if settings.registry_ca is not None:
        background.start_soon(trusted.follow)
    lookup = Lookup(Registries(settings.image_registries, settings.insecure_registries), trusted, metrics)
    await background.start(lookup.run)
    return lookup


async def _open_view(
    settings: Webhook, rules: _Files, client_ca: tls.ClientCAs, metrics: CollectorRegistry, background: trio.Nursery
) -> tuple[FileCertificate | SelfManagedCertificate, ClusterView, list[Callable[[], str | None]]]:
    """Certificate and cluster, running in ``background``, and what readiness asks of them.

    Nothing here waits for an API server: while it is away the webhook serves what it can and is not ready.
    """
    files = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        files = FileCertificate(settings.tls_cert, settings.tls_key, client_ca)
        background.start_soon(files.follow)
        left = Gauge(EXPIRY, "Until then, by this machine's clock.", ["certificate"], registry=metrics)
        left.labels("serving").set_function(files.seconds_left)
    if settings.kubeconfig == "none":
        if files is None:
            raise ConfigurationError("--tls-cert and --tls-key are required with --kubeconfig none: give two PEM files")
        return files, NoCluster(), [files.ready_reason]
    # The client takes half a second and 20 MB: not for those who want none.
    from bitfusiond.kube import apiserver  # noqa: PLC0415

    cluster = apiserver.connect(settings.kubeconfig)
    view = InCluster(cluster, settings, metrics, rules.pool)
    rules.taken_up = view.take_up_pool
    await background.start(view.run)
    checks: list[Callable[[], str | None]] = [view.ready_reason]
    watches = view.watches
    if files is not None:
        WatchMetrics(watches, metrics)
        return files, view, [*checks, files.ready_reason]
    managed = SelfManagedCertificate(cluster, metrics, namespace=settings.namespace, client_ca=client_ca)
    await background.start(managed.run)
    WatchMetrics(watches.new_child({resource.plural: state for resource, state in managed.watches.items()}), metrics)
    return managed, view, [*checks, managed.ready_reason]
