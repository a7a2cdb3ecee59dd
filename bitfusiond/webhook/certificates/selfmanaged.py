"""The serving certificate where no ``--tls-cert`` is given: signed by this replica, with a CA that all of them share.

The CA is in a Secret, and what trusts it is the ``caBundle`` of the webhook configurations. Nobody leads: each replica
does what :mod:`bitfusiond.core.certificates.rotation` says is next, and whoever comes second finds it done. Two things
keep it safe:

- A replica signs only with a Secret that it has just read.
- A configuration is read first, then the Secret, and the caBundle is written only if the configuration is still what
  was read. So a slow replica cannot put the CAs of an earlier Secret over those of a later one.

Watches only wake it up. What it acts on it reads anew each time, so a watch that stalls costs time and nothing else.

A clock that jumps ahead may be wrong now, or may have been wrong before: the API server alone knows which, and refuses
what has expired as well as what is not valid yet. So a certificate that is not older than its life goes on serving, and
the one that is signed in its place is dated back by the jump: it is good by either clock.
"""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge

from bitfusiond import logs, pki
from bitfusiond.core import names
from bitfusiond.core.certificates import rotation
from bitfusiond.core.certificates.rotation import Lives
from bitfusiond.http import tls
from bitfusiond.kube import SECRETS, Cluster, ClusterError, ConflictError, NotFoundError, Object, Resource
from bitfusiond.kube.follow import WatchState, follow
from bitfusiond.pacing import Repeats
from bitfusiond.pki import BrokenError, Vault
from bitfusiond.webhook.certificates import cabundles
from bitfusiond.webhook.certificates.cabundles import TARGETS, Target

SECRET = names.WEBHOOK_CERTIFICATES
SERVICE = names.WEBHOOK_SERVICE
EXPIRY = "bitfusiond_certificate_expiry_seconds"
POLL_SECONDS = 60.0
# Between two looks at the cluster, so that a fight over a caBundle with somebody else stays slow.
_BREATH_SECONDS = 0.25
# How often the clock is looked at, and how far it may go otherwise than time does.
_CLOCK_SECONDS = 1.0
_JUMP_SECONDS = 5.0
_RETRY_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)
_REPEAT_SECONDS = 300.0
_STEPS_AT_ONCE = 10

_log = logs.Log("certificates")


class SelfManagedCertificate:
    """A TLS context that is always of a certificate which the API server trusts: :attr:`context`, for each handshake.

    ``clock`` is the time of day; ``lives`` and ``poll_seconds`` are short in tests.
    """

    def __init__(
        self,
        cluster: Cluster,
        metrics: CollectorRegistry,
        *,
        namespace: str,
        service: str = SERVICE,
        secret: str = SECRET,
        targets: Sequence[Target] = TARGETS,
        lives: Lives | None = None,
        poll_seconds: float = POLL_SECONDS,
        clock: Callable[[], float] = time.time,
        client_ca: tls.ClientCAs = tls.no_client_ca,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._secret_name = secret
        self._names = pki.service_names(service, namespace)
        self._targets = targets
        self._lives = lives or Lives()
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._metrics = _Metrics(metrics, clock)
        self._no_certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._client_ca = client_ca
        self._loaded: tls.ServerTLS | None = None
        self._leaf: rotation.Leaf | None = None
        # The clock less the time that never jumps: at the last signing, and the lowest so far.
        self._offset_of_leaf = 0.0
        self._lowest_offset = math.inf
        self._bundles: dict[str, frozenset[str] | None] | None = None
        self._settling = rotation.Settling()
        self._no_start_before = 0.0
        self._wake = trio.Event()
        self._trouble = _Trouble()
        self.watches = {resource: WatchState() for resource in (SECRETS, *(each.resource for each in targets))}
        """How the watches are doing, for metrics."""

    @property
    def context(self) -> ssl.SSLContext:
        """For the next handshake. Without a certificate that has not expired, one with which every handshake fails.

        One that is not valid yet was valid when it was made: our clock was set back, and the API server's may be right.
        """
        if self._loaded is None or self._leaf is None or self._time_of_leaf() >= self._leaf.span.not_after:
            return self._no_certificate
        return self._loaded.context

    def _time_of_leaf(self) -> float:
        """The time of day, as far as it went on since the serving certificate was signed: without jumps ahead."""
        return min(self._clock(), self._offset_of_leaf + trio.current_time())

    def ready_reason(self) -> str | None:
        """Why the API server would not trust this replica at this moment; None if it does.

        A configuration that does not exist, or has lost our webhook, keeps nobody waiting. The API server calls no
        webhook that is not configured, and a rollout that waits for readiness must end for those who apply the
        configurations after it. The Secret and the configurations have to be read once, though. An API server
        that is gone since then changes nothing: what it trusted it trusts when it is back.
        """
        if self._bundles is None:
            return f"certificates: {self._trouble.last or 'the cluster was not read yet'}"
        reason = rotation.distrust(self._leaf, self._time_of_leaf(), self._bundles)
        if reason is None:
            return None
        return f"certificates: {reason}" + (f" ({self._trouble.last})" if self._trouble.last else "")

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep Secret, caBundles and serving certificate as they should be, until cancelled.

        Needs nothing to be there when it starts and raises nothing that a cluster can cause: it logs, and tries again.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, SECRETS, self._namespace, self._secret_name)
            for target in self._targets:
                nursery.start_soon(self._watch, target.resource, None, target.name)
            nursery.start_soon(self._notice_jumps)
            task_status.started()
            failures = 0
            while True:
                self._wake = trio.Event()
                try:
                    done = await self._reconcile_until_done()
                except Exception as error:  # noqa: BLE001 - what lies in the cluster must not end the daemon
                    if not isinstance(error, ClusterError):
                        _log.exception("defect in keeping certificates, please report it")
                    self._trouble.say(str(error) if isinstance(error, ClusterError) else type(error).__name__)
                    pause = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                    failures += 1
                else:
                    self._trouble.resolved()
                    pause = self._poll_seconds if done else _BREATH_SECONDS
                    failures = 0
                await trio.sleep(_BREATH_SECONDS)
                with trio.move_on_after(min(pause, self._poll_seconds)):
                    await self._wake.wait()

    async def _watch(self, resource: Resource, namespace: str | None, name: str) -> None:
        def wake(*_: object) -> None:
            self._wake.set()

        state = self.watches[resource]
        await follow(self._cluster, resource, namespace=namespace, name=name, listed=wake, changed=wake, state=state)

    async def _notice_jumps(self) -> None:
        """Wake up when the clock was set: what was valid a moment ago may not be valid now."""
        offset = self._offset()
        while True:
            await trio.sleep(_CLOCK_SECONDS)
            before, offset = offset, self._offset()
            if abs(offset - before) > _JUMP_SECONDS:
                _log.warning("the clock jumped", seconds=round(offset - before))
                self._wake.set()

    def _offset(self) -> float:
        """Of the clock to the time that never jumps, in seconds; the lowest is kept."""
        offset = self._clock() - trio.current_time()
        self._lowest_offset = min(self._lowest_offset, offset)
        return offset

    async def _reconcile_until_done(self) -> bool:
        for _ in range(_STEPS_AT_ONCE):
            if not await self._reconcile():
                return True
        return False

    async def _reconcile(self) -> bool:
        """Read everything, do what is next; whether to look again at once, since this or another replica wrote."""
        found = {target: await cabundles.read(self._cluster, target, self._namespace) for target in self._targets}
        self._bundles = {target.name: held.trusted if held else None for target, held in found.items()}
        stored = await self._read_secret()
        vault = self._decode(stored)
        keyring = vault.keyring if vault else None
        now, elapsed = self._clock(), trio.current_time()
        held = rotation.held_by_all(keyring.ids if keyring else (), self._bundles)
        self._settling.saw(held, elapsed)
        settled = self._settling.settled(elapsed, self._lives)
        step = rotation.secret_step(keyring, now, settled, self._lives)
        if step is not None and self._may(step, elapsed):
            return await self._change_secret(step, stored, vault, found, now)
        if vault is None:
            return False
        self._metrics.show("ca", pki.span(vault.signing.certificate))
        why = rotation.reason_to_sign(self._leaf, vault.keyring, now, held, settled, self._lives)
        if why is not None:
            self._sign(vault, why, now)
        return await cabundles.write(self._cluster, found, vault.bundle)

    def _may(self, step: rotation.Step, elapsed: float) -> bool:
        """Two replicas of which each finds the other's CA out of date must not make new ones as fast as they can."""
        if not isinstance(step, rotation.StartOver) or not step.by_clock:
            return True
        if elapsed < self._no_start_before:
            _log.error("the CA was just made anew and is out of date again: is a clock of a node wrong?")
            return False
        self._no_start_before = elapsed + self._poll_seconds
        return True

    # --- the Secret -----------------------------------------------------------------------------------------------

    async def _read_secret(self) -> Object | None:
        try:
            return await self._cluster.get(SECRETS, self._namespace, self._secret_name)
        except NotFoundError:
            return None

    def _decode(self, stored: Object | None) -> Vault | None:
        data = (stored or {}).get("data") or {}
        if not any(data.get(key) for key in pki.KEYS):
            return None
        try:
            return pki.decode(data)
        except BrokenError as error:
            _log.error(
                "certificate Secret is broken", namespace=self._namespace, name=self._secret_name, message=str(error)
            )
            return None

    async def _change_secret(
        self,
        step: rotation.Step,
        stored: Object | None,
        vault: Vault | None,
        found: cabundles.Read,
        now: float,
    ) -> bool:
        """Take one step; True, since there is something to look at either way."""
        data = (stored or {}).get("data") or {}
        known = [*pki.remains(data), *(each for held in found.values() if held for each in held.certificates)]
        ours = [each for each in known if pki.is_ours(each)]
        after, made = pki.perform(step, vault, ours, now, self._lives)
        try:
            if stored is None:
                await self._cluster.create(SECRETS, self._namespace, self._new_secret(after))
            else:
                # The resourceVersion in it is the one that was read: of two replicas one wins.
                rest = {key: value for key, value in data.items() if key not in pki.KEYS}
                body = {**stored, "data": {**rest, **after.data()}}
                await self._cluster.replace(SECRETS, self._namespace, self._secret_name, body)
        except ConflictError:
            return True
        if made is not None:
            self._metrics.renewals.labels("ca").inc()
        why = step.why if isinstance(step, rotation.StartOver) else None
        _log.info(
            "certificate authority changed",
            step=type(step).__name__,
            **({"why": why} if why else {}),
            signing=pki.fingerprint(after.signing.certificate)[:16],
            trusted=len(after.trusted),
        )
        return True

    def _new_secret(self, vault: Vault) -> Object:
        labels = {names.MANAGED_BY: names.MANAGED_BY_US}
        metadata = {"name": self._secret_name, "namespace": self._namespace, "labels": labels}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": vault.data()}

    # --- the serving certificate ----------------------------------------------------------------------------------

    def _sign(self, vault: Vault, why: str, now: float) -> None:
        """Dated back by as much as the clock is ahead of where it has been, so that it is good by that time too.

        For its renewal it is of the usual length, or two thirds of it would be over early, or from the beginning.
        """
        self._offset_of_leaf = self._offset()
        ahead = self._offset_of_leaf - self._lowest_offset
        lives = replace(self._lives, backdate=self._lives.backdate + ahead)
        leaf, pem = pki.sign_leaf(vault.signing, self._names, now, lives)
        self._loaded = tls.ServerTLS(pem, pem, self._client_ca)
        span = replace(leaf.span, not_before=now - self._lives.backdate)
        self._leaf = leaf = replace(leaf, span=span)
        self._metrics.renewals.labels("serving").inc()
        self._metrics.show("serving", leaf.span)
        _log.info(
            "serving certificate signed", why=why, ca=leaf.authority[:16], not_after=_rfc3339(leaf.span.not_after)
        )


def _rfc3339(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class _Trouble:
    """What goes wrong with the cluster: said once, and then seldom."""

    def __init__(self) -> None:
        self.last: str | None = None
        self._repeats = Repeats(_REPEAT_SECONDS)

    def say(self, message: str) -> None:
        if self._repeats.is_due(trio.current_time(), message):
            _log.error("certificates cannot be kept", message=message)
        self.last = message

    def resolved(self) -> None:
        if self.last is not None:
            _log.info("certificates are kept again")
        self.last = None
        self._repeats.reset()


class _Metrics:
    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._expiry = Gauge(
            "bitfusiond_certificate_expiry_timestamp_seconds",
            "When the serving certificate of this replica, or the CA that signs, expires.",
            ["certificate"],
            registry=registry,
        )
        self._left = Gauge(
            EXPIRY,
            "Until then, by this machine's clock; below zero when it has expired.",
            ["certificate"],
            registry=registry,
        )
        self._clock = clock
        self.renewals = Counter(
            "bitfusiond_certificate_renewals_total",
            "Serving certificates and CAs that this replica made, the first ones too.",
            ["certificate"],
            registry=registry,
        )
        for certificate in ("ca", "serving"):
            self.renewals.labels(certificate)

    def show(self, certificate: str, span: rotation.Span) -> None:
        self._expiry.labels(certificate).set(span.not_after)
        self._left.labels(certificate).set_function(lambda: span.not_after - self._clock())
