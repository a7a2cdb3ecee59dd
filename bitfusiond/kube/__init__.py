"""What the webhook wants of an API server, as a protocol: the real one and the fake of the tests both fit it.

Objects are raw JSON, as the API server wrote them: no client library's model has to know a field for it to survive.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol
from urllib.parse import quote

from bitfusiond.core import names, objects

Object = objects.Object
NO_LABELS: Mapping[str, str] = MappingProxyType({})


def is_older(version: str, than: str | None) -> bool:
    """Whether one resourceVersion is of an earlier moment than another.

    The API documents them as opaque, but every API server counts etcd's revisions (and KEP-5504 promises so); where
    they are no numbers, the news that comes last is taken for the newest.
    """
    if than is None or not (version.isdecimal() and than.isdecimal()):
        return False
    return int(version) < int(than)


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object by its path: ``/apis/GROUP/VERSION`` (``/api/v1`` for the core group) and its plural."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """As in an object's ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The URL path of one object, or of the list of a namespace or of the cluster."""
        parts = ["/api", self.version] if not self.group else ["/apis", self.group, self.version]
        if namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        return "/".join([*parts, self.plural, *([quote(name, safe="")] if name is not None else [])])


SECRETS = Resource("", "v1", "secrets", "Secret")
PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node")
NAMESPACES = Resource("", "v1", "namespaces", "Namespace")
EVENTS = Resource("", "v1", "events", "Event")
RESOURCE_SLICES = Resource("resource.k8s.io", "v1", "resourceslices", "ResourceSlice")
DEVICE_CLASSES = Resource("resource.k8s.io", "v1", "deviceclasses", "DeviceClass")
CLAIMS = Resource("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim")
CLAIM_TEMPLATES = Resource("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
MUTATING = Resource("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", names.MUTATING_KIND)
VALIDATING = Resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations", names.VALIDATING_KIND)


class ClusterError(Exception):
    """The API server said no, or did not answer. The message is one line for a person."""


class NotFoundError(ClusterError):
    """404: the object, or its namespace, is not there."""


class ConflictError(ClusterError):
    """409: a create of what is there already, or a replace or delete of what changed since it was read."""


class ForbiddenError(ClusterError):
    """401, 403: no permission, a quota used up, or a namespace that is being deleted; the message says which."""


class InvalidError(ClusterError):
    """400, 422: the API server does not take the object."""


class ExpiredError(ClusterError):
    """410: the resourceVersion is too old; list again."""


class UnavailableError(ClusterError):
    """No connection, no answer in time, 429, or 5xx: worth another try later."""


class Listing(NamedTuple):
    """What a list returned, and the resourceVersion from which a watch goes on."""

    items: list[Object]
    resource_version: str


class Change(NamedTuple):
    """One event of a watch: ``ADDED``, ``MODIFIED``, ``DELETED`` or ``BOOKMARK``."""

    type: str
    object: Object


class Cluster(Protocol):
    """Requests to an API server. Each has a deadline of its own and raises a ClusterError; all can be cancelled."""

    async def get(self, resource: Resource, namespace: str | None, name: str) -> Object: ...

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        name: str | None = None,
        *,
        labels: Mapping[str, str] = NO_LABELS,
        keep: Callable[[Object], Object] | None = None,
    ) -> Listing:
        """All objects of the cluster or of ``namespace``; with ``name`` a ``metadata.name`` field selector.

        That selector is what lets RBAC limit a list or a watch by ``resourceNames``. With ``labels`` only the objects
        that carry them: one that loses them is DELETED for a watch. ``keep`` makes of each object
        what is kept of it while the rest of the list is still to come: 5,000 Nodes in full would be some 100 MB.
        The items carry no ``apiVersion`` and no ``kind``: the API server writes them once for the whole list.
        """
        ...

    def watch(
        self,
        resource: Resource,
        resource_version: str,
        namespace: str | None = None,
        name: str | None = None,
        *,
        labels: Mapping[str, str] = NO_LABELS,
    ) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """Changes from ``resource_version`` on. The iterator ends when the server ends the watch, which it does every
        few minutes, when the connection breaks, or when nothing, not even a bookmark, came for too long: a new watch
        will tell what is the matter. Raises ExpiredError for 410 in the stream.
        """
        ...

    async def create(
        self, resource: Resource, namespace: str | None, body: Object, *, dry_run: bool = False
    ) -> Object: ...

    async def replace(self, resource: Resource, namespace: str | None, name: str, body: Object) -> Object:
        """Put ``body`` in place of the object; ConflictError if its resourceVersion is not the stored one."""
        ...

    async def apply(
        self, resource: Resource, namespace: str | None, name: str, body: Object, *, field_manager: str
    ) -> Object:
        """Server-side apply: only the fields of ``body`` become ours, by force. Creates what is not there.

        ``body`` may leave out apiVersion, kind and metadata. A field that an earlier ``body`` had and this one has not
        is taken away, unless somebody else owns it too. ConflictError if something is stored, of another
        resourceVersion than ``body`` names. InvalidError where the fields alone do not make an object: a webhook
        configuration that was deleted meanwhile does not come back as an empty shell.
        """
        ...

    async def delete(
        self, resource: Resource, namespace: str | None, name: str, *, resource_version: str | None = None
    ) -> None:
        """Delete it, if it still is at ``resource_version`` where one is given (else ConflictError)."""
        ...
