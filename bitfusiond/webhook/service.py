"""The webhook's life: load, listen, serve, follow the files; at the end drain so that no call is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from bitfusiond import configuration, filewatch, logs, observe, serving
from bitfusiond.core import names
from bitfusiond.core.mutate import Configuration
from bitfusiond.errors import ConfigurationError
from bitfusiond.settings import Webhook
from bitfusiond.webhook.app import DEADLINE_SECONDS, ENDPOINTS, Admission
from bitfusiond.webhook.certificates import FileCertificate
from bitfusiond.webhook.surroundings import NoCluster

_log = logs.Log("webhook")


class _Rules:
    """The configuration in force: the last one that was good."""

    def __init__(self, settings: Webhook) -> None:
        self._settings = settings
        self._files: list[Path] = [path for path in (settings.clients, settings.injection) if path is not None]
        self._watch = filewatch.Watch(*self._files)
        self._current = self._load()

    def current(self) -> Configuration:
        return self._current

    async def follow(self) -> None:
        """Take up changed files, for ever."""
        await self._watch.follow(self._reload)

    def _reload(self) -> None:
        try:
            self._current = self._load()
        except ConfigurationError as error:
            _log.error("configuration not taken up, keeping the last good one", message=str(error))
        else:
            _log.info("configuration taken up", files=[str(path) for path in self._files])

    def _load(self) -> Configuration:
        exempt = names.EXEMPT_NAMESPACES | {self._settings.namespace}
        return configuration.load(
            self._settings.clients, self._settings.injection, self._settings.total_gpu_memory, exempt
        )


async def serve(settings: Webhook, stop: trio.Event) -> None:
    """Serve until ``stop``, then drain and return.

    The drain: not ready first, still serving for ``--drain-seconds`` while the endpoints of the Service catch up;
    then no new connection, the last answers, and the end. Raises ConfigurationError and Failure at the start only.
    """
    rules = _Rules(settings)
    if settings.kubeconfig != "none":
        raise ConfigurationError("--kubeconfig: this version serves without a cluster only: give none")
    if settings.tls_cert is None or settings.tls_key is None:
        raise ConfigurationError("--tls-cert and --tls-key are required with --kubeconfig none: give two PEM files")
    certificate = FileCertificate(settings.tls_cert, settings.tls_key)
    health = observe.Health()
    metrics = observe.registry("webhook")
    observing = observe.application(health, metrics, *ENDPOINTS)
    admission = Admission(rules.current, NoCluster(), observing, metrics)
    closing, closed = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(observe.serve, settings.observe, health, metrics, closed)
        sock = serving.listen(settings.listen, "--listen")
        address = serving.bound_address(sock)
        nursery.start_soon(certificate.follow)
        nursery.start_soon(rules.follow)
        async with trio.open_nursery() as serving_nursery:
            await serving_nursery.start(
                partial(
                    serving.serve,
                    admission,
                    sock,
                    lambda: certificate.context,
                    stop=closing,
                    graceful_seconds=DEADLINE_SECONDS,
                )
            )
            _log.info("listening", address=str(address))
            health.ready()
            await stop.wait()
            health.not_ready("stopping")
            admission.draining = True
            _log.info("draining", seconds=settings.drain_seconds)
            await trio.sleep(settings.drain_seconds)
            closing.set()
        closed.set()
        nursery.cancel_scope.cancel()
    _log.info("stopped")
