"""ResourceClaimTemplates in the namespaces of pods: there before a pod is admitted, gone a day after the last.

A template's name has the hash of what it asks for, and Kubernetes changes no template, so one that is there is right:
unless somebody made another under its name. What we know to be right is the answer to a write of our own; a template
of the same name with another content is believed in no namespace, and a write shows what it is. So each replica writes
each shape once, and after that nothing while the watch shows it where a pod needs it.

The controller makes a pod's claims as soon as the pod is there. So nothing is lost with a template that no pod was
admitted with for a day, and any replica deletes it, if nobody has changed it since it was looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge

from bitfusiond import logs
from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.pool import slices
from bitfusiond.core.pool.claims import ClaimTemplate
from bitfusiond.kube import (
    CLAIM_TEMPLATES,
    Change,
    Cluster,
    ClusterError,
    ConflictError,
    InvalidError,
    NotFoundError,
    Object,
    is_older,
)
from bitfusiond.kube.follow import WatchState, follow
from bitfusiond.webhook.flights import (
    ENSURE_SECONDS,
    LISTED_SECONDS,
    Flights,
    Problem,
    RateLimit,
    explained,
    patiently,
)
from bitfusiond.webhook.namespaces import Namespaces

MOST = 256  # of ours in a namespace
# First templates of a shape in a namespace, where nobody proves to be the API server.
FIRST_AT_ONCE = 500
FIRST_PER_SECOND = 20.0
REFRESH_SECONDS = 12 * 3600.0  # of the time of last use, at an admission
UNUSED_SECONDS = 24 * 3600.0
CLEAN_SECONDS = 600.0
_NOT_YET = f"bitfusiond writes {FIRST_PER_SECOND:g} claim templates a second: try again"
_MOST_KEPT = 4 * MOST  # of a namespace; whoever may write there can make more with our label
_MOST_SHAPES = 10_000
_AT_ONCE = 12  # of the 16 requests that the client sends at a time
_PAUSE_SECONDS = 0.05  # between two deletes
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")

_log = logs.Log("pool")


class _Kept(NamedTuple):
    """What is kept of a template. ``used_at`` is a text whose order is that of time."""

    used_at: str
    content: bytes
    version: str


class Templates:
    """The ResourceClaimTemplates of ours.

    ``run`` must be running for anything to happen. ``is_proven``: whoever asks is the API server. ``clock`` is the time
    of day.
    """

    def __init__(
        self,
        cluster: Cluster,
        metrics: CollectorRegistry,
        namespaces: Namespaces,
        *,
        is_proven: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.watch = WatchState()
        self._cluster = cluster
        self._namespaces = namespaces
        self._clock = clock
        self._rate_limit = RateLimit(FIRST_AT_ONCE, FIRST_PER_SECOND, is_proven=is_proven)
        self._kept: dict[str, dict[str, _Kept]] = {}
        self._right: dict[str, bytes] = {}
        self._listed = trio.Event()
        self._flights: Flights[tuple[str, str]] = Flights()
        self._at_once = trio.CapacityLimiter(_AT_ONCE)
        self._failures = Counter(
            "bitfusiond_pool_template_failures",
            "ResourceClaimTemplates that could not be had for a pod.",
            ["reason"],
            registry=metrics,
        )
        count = Gauge(
            "bitfusiond_pool_templates", "ResourceClaimTemplates of ours in all namespaces.", registry=metrics
        )
        count.set_function(lambda: float(sum(map(len, self._kept.values()))))

    # --- for admissions -----------------------------------------------------------------------------------------------

    def known(self, namespace: str, name: str) -> bool:
        """Whether the template is there, and not known to be another's."""
        kept = self._kept.get(namespace, {}).get(name)
        return kept is not None and self._right.get(name, kept.content) == kept.content

    async def ensure(self, namespace: str, templates: Sequence[ClaimTemplate], dry_run: bool) -> list[str]:
        """Have ``templates`` in ``namespace``; what a pod would lack there, and nothing where it lacks nothing.

        Asks the API server for nothing while they are there. Takes ENSURE_SECONDS at most, raises nothing. A dry run
        writes nothing, and is refused for what no write could mend.
        """
        wanted = {template.name: template for template in templates}
        with trio.move_on_after(ENSURE_SECONDS):
            with trio.move_on_after(LISTED_SECONDS):
                await self._listed.wait()
            if not self._listed.is_set():
                return [] if dry_run else [f"bitfusiond is not ready yet, {self.ready_reason()}: try again"]
            lacking = [each for each in wanted.values() if not self._stands(namespace, each.name, UNUSED_SECONDS)]
            if lacking and not dry_run and (problem := await self._namespaces.problem(namespace)):
                self._failures.labels("namespace").inc()
                return [problem]
            if lacking and (problem := self._bound(namespace, lacking)):
                self._failures.labels("bound").inc()
                return [problem]
            if dry_run:
                return []
            flights = {
                each.name: self._flights.join((namespace, each.name), partial(self._ensure_one, namespace, each))
                for each in wanted.values()
                if each in lacking or not self._stands(namespace, each.name, REFRESH_SECONDS)
            }
            problems = [problem for each in lacking for problem in await flights[each.name].landed()]
            return list(dict.fromkeys(problems))
        return [
            f"the claim templates could not be written into namespace {namespace} in {ENSURE_SECONDS:g} s: try again"
        ]

    async def missing(self, namespace: str, templates: Sequence[str]) -> list[str]:
        """Those of these names that are not there. What the watch has not told yet, the API server does."""
        lacking = []
        with trio.move_on_after(ENSURE_SECONDS):
            for name in templates:
                if self.known(namespace, name):
                    continue
                try:
                    found = await self._cluster.get(CLAIM_TEMPLATES, namespace, name)
                except NotFoundError:
                    lacking.append(name)
                except ClusterError as error:  # the pod waits until there is an answer, as any pod does
                    _log.warning("claim template not seen", namespace=namespace, name=name, message=str(error))
                else:
                    if slices.LABELS.items() <= mapping(found, "metadata", "labels").items():
                        self._observe(_keep(found))  # of another the watch would not tell that it goes
        return lacking

    def ready_reason(self) -> str | None:
        """Why no pod can get a template yet; None from the first list on."""
        if self._listed.is_set():
            return None
        why = f" ({self.watch.last_error})" if self.watch.last_error else ""
        return f"the pool: ResourceClaimTemplates not listed yet{why}"

    def _stands(self, namespace: str, name: str, seconds: float) -> bool:
        """Whether the template is there, is right, and was used within ``seconds``."""
        kept = self._kept.get(namespace, {}).get(name)
        return kept is not None and self._right.get(name) == kept.content and kept.used_at >= self._ago(seconds)

    def _bound(self, namespace: str, lacking: list[ClaimTemplate]) -> str | None:
        """Why the namespace gets no more of them."""
        there = set(self._kept.get(namespace, ())) | {name for place, name in self._flights if place == namespace}
        if len(there | {each.name for each in lacking}) <= max(MOST, len(there)):
            return None
        return (
            f"namespace {namespace} has {len(there)} ResourceClaimTemplates of bitfusiond, one for each shape of"
            f" demand, and may have {MOST}: use fewer shapes, wait a day, or `kubectl delete resourceclaimtemplates"
            f" -n {namespace} -l {names.MANAGED_BY}={names.MANAGED_BY_US}`, which harms no pod that is there"
        )

    async def _ensure_one(self, namespace: str, template: ClaimTemplate) -> list[str]:
        with trio.move_on_after(ENSURE_SECONDS):
            if not await self._rate_limit.wait():
                self._failures.labels("rate").inc()
                return [_NOT_YET]
            try:
                async with self._at_once:
                    await patiently(partial(self._write, namespace, template))
            except Problem as problem:
                self._failures.labels(problem.reason).inc()
                return [str(problem)]
            return []
        self._failures.labels("unavailable").inc()
        return [f"the API server did not take the claim templates for {namespace} in time: try again"]

    async def _write(self, namespace: str, template: ClaimTemplate) -> None:
        """Raises Problem."""
        where = f"ResourceClaimTemplate {namespace}/{template.name}"
        annotations = {names.USED_AT: self._ago(0)}
        body = {
            "metadata": {"labels": dict(slices.LABELS), "annotations": annotations},
            "spec": {"spec": template.spec},
        }
        try:
            stored = await self._cluster.apply(
                CLAIM_TEMPLATES, namespace, template.name, body, field_manager=slices.FIELD_MANAGER
            )
        except InvalidError as error:
            if "immutable" in str(error):
                raise self._another(where, namespace, template) from None
            raise explained(error, where, namespace, "written", "ResourceClaimTemplates") from None
        except ClusterError as error:
            raise explained(error, where, namespace, "written", "ResourceClaimTemplates") from None
        if dropped := slices.missing(body["spec"], mapping(stored, "spec")):
            # It would ask for more than the pod does.
            with contextlib.suppress(ClusterError):
                await self._delete(namespace, template.name, stored["metadata"]["resourceVersion"])
            raise Problem(
                "dropped",
                f"{where}: the API server drops {', '.join(dropped)}: its feature gates for Dynamic Resource"
                " Allocation, DRAConsumableCapacity among them, must be on, which is for the cluster's administrator",
            )
        # Other fields of a request cannot be another's: a list of requests is one value for a server-side apply.
        if mapping(stored, "spec", "spec", "devices").keys() - mapping(template.spec, "devices").keys():
            raise self._another(where, namespace, template)
        self._learn(template.name, _content(stored))
        self._observe(_keep(stored))

    def _another(self, where: str, namespace: str, template: ClaimTemplate) -> Problem:
        return Problem(
            "changed",
            f"{where} is not as bitfusiond writes it: `kubectl delete resourceclaimtemplate {template.name} -n"
            f" {namespace}`, then create the pod again",
        )

    def _learn(self, name: str, content: bytes) -> None:
        self._right.pop(name, None)
        if len(self._right) >= _MOST_SHAPES:
            del self._right[next(iter(self._right))]
        self._right[name] = content

    # --- for ever -----------------------------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch the templates and delete those that are not used, until cancelled.

        Needs nothing to be there when it starts, and raises nothing that a cluster can cause.
        """
        async with trio.open_nursery() as nursery:
            self._flights.nursery = nursery
            try:
                nursery.start_soon(self._follow)
                task_status.started()
                await self._listed.wait()
                while True:
                    # Replicas that were started together are not to delete the same ones at the same moment.
                    await trio.sleep(CLEAN_SECONDS * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
                    await self._clean()
            finally:
                self._flights.nursery = None

    async def _follow(self) -> None:
        await follow(
            self._cluster,
            CLAIM_TEMPLATES,
            labels=slices.LABELS,
            listed=self._list,
            changed=self._change,
            state=self.watch,
            keep=_keep,
        )

    def _list(self, templates: list[Object]) -> None:
        self._kept = {}
        for each in templates:
            self._observe(each)
        self._listed.set()

    def _change(self, change: Change) -> None:
        if change.type != "DELETED":
            self._observe(change.object)
            return
        metadata = change.object["metadata"]
        of_namespace = self._kept.get(metadata["namespace"], {})
        kept = of_namespace.get(metadata["name"])
        if kept is None or is_older(metadata["resourceVersion"], kept.version):
            return
        del of_namespace[metadata["name"]]
        if not of_namespace:
            del self._kept[metadata["namespace"]]

    def _observe(self, template: Object) -> None:
        """A template as :func:`_keep` makes it."""
        metadata = template["metadata"]
        name, version = metadata["name"], metadata["resourceVersion"]
        of_namespace = self._kept.setdefault(metadata["namespace"], {})
        kept = of_namespace.get(name)
        if kept is None and len(of_namespace) >= _MOST_KEPT:
            return
        if kept is None or not is_older(version, kept.version):
            of_namespace[name] = _Kept(template["used_at"], template["content"], version)

    async def _clean(self) -> None:
        """Delete what no pod was admitted with for a day."""
        since = self._ago(UNUSED_SECONDS)
        deleted = 0
        for namespace, name, kept in list(self._all()):
            if kept.used_at >= since:
                continue
            try:
                deleted += await self._delete(namespace, name, kept.version)
            except ClusterError as error:
                _log.warning("claim templates not deleted", message=str(error))
                break
            await trio.sleep(_PAUSE_SECONDS)
        if deleted:
            _log.info("unused claim templates deleted", number=deleted)

    async def _delete(self, namespace: str, name: str, version: str) -> bool:
        """Whether it was there, as it was at ``version``: if not, another replica did it, or a pod needs it now."""
        try:
            await self._cluster.delete(CLAIM_TEMPLATES, namespace, name, resource_version=version)
        except (NotFoundError, ConflictError):
            return False
        return True

    def _all(self) -> Iterator[tuple[str, str, _Kept]]:
        for namespace, of_namespace in self._kept.items():
            for name, kept in of_namespace.items():
                yield namespace, name, kept

    def _ago(self, seconds: float) -> str:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock() - seconds))


def _keep(template: Object) -> Object:
    """Where it is, when it was used last, and what stands for its content."""
    metadata = template["metadata"]
    used_at = mapping(metadata, "annotations").get(names.USED_AT)
    if not isinstance(used_at, str) or not _TIME.fullmatch(used_at):
        used_at = metadata.get("creationTimestamp") or ""
    where = {key: metadata[key] for key in ("name", "namespace", "resourceVersion")}
    return {"metadata": where, "used_at": used_at, "content": _content(template)}


def _content(template: Object) -> bytes:
    text = json.dumps(template.get("spec"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).digest()[:16]
