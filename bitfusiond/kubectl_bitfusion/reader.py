"""Reading a cluster with a user's own permissions: what may not be read is an Unread, and the rest goes on."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from bitfusiond.core.diagnosis.finding import Unread
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.operate.kubectl import Kubectl, KubectlError

_FORBIDDEN = {"Forbidden", "Unauthorized"}
_LONGEST_LOG = 65_536  # bytes
_LAST_LINES = (50, 5, 1)

# Of kubectl itself, by which it means its kubeconfig; where there is none, it tries the port 8080 of this machine.
_NO_CLUSTER = re.compile(
    r"(context|cluster|auth info) \S+ does not exist|stat .*: no such file|error loading config|invalid configuration"
    r"|no configuration has been provided|localhost:8080 was refused"
)
_UNKNOWN_USER = re.compile(r"[Uu]nauthorized|logged in to the server|getting credentials")

ResultT = TypeVar("ResultT")


class Reader:
    """One cluster, read by paths of its API: no kind has to be discovered first."""

    def __init__(self, kubectl: Kubectl) -> None:
        self.kubectl = kubectl

    def get(self, path: str, what: str) -> Object | Unread | None:
        """The object, None where there is none; ``what`` it is, in a plural."""
        return attempt(lambda: self.kubectl.document(path), what, absent=None)

    def all(self, path: str, what: str, keep: Callable[[Object], bool], **selectors: str) -> list[Object] | Unread:
        """Those objects of a list that are to be kept; none where the cluster has no such kind."""

        def read() -> list[Object]:
            pages = self.kubectl.pages(path, **selectors)
            return [each for page in pages for each in page if keep(each)]

        return attempt(read, what, absent=[])

    def log(self, namespace: str, pod: str, container: str, *, previous: bool = False) -> str | Unread:
        """The last lines of a container; nothing where it has none yet."""
        path = f"{pods_path(namespace)}/{pod}/log?container={container}&limitBytes={_LONGEST_LOG}"
        path += "&previous=true" if previous else ""
        text = ""
        try:
            for lines in _LAST_LINES:
                text = self.kubectl.raw(f"{path}&tailLines={lines}")
                # Of too many bytes the API server sends the first ones, and it is the last words that count.
                if len(text.encode()) < _LONGEST_LOG:
                    break
        except KubectlError as error:
            return Unread("logs of pods") if error.reason in _FORBIDDEN else ""
        return text


def attempt(read: Callable[[], ResultT], what: str, absent: ResultT) -> ResultT | Unread:
    """What ``read()`` returns, or why it could not. Raises Failure where there is no API server to say no."""
    try:
        return read()
    except KubectlError as error:
        if error.reason == "NotFound":
            return absent
        if error.reason == "Forbidden":
            return Unread(what)
        if error.reason == "Unauthorized":
            raise unanswered(error) from None
        if not error.reason:
            raise unanswered(error) from None
        return Unread(what, str(error))


def unanswered(error: KubectlError) -> Failure:
    """What it means that kubectl got no answer about an object: no cluster was chosen, or none that knows us."""
    words = str(error)
    if _NO_CLUSTER.search(words):
        return ConfigurationError(
            f"which cluster is meant is not clear: {words}: `kubectl config get-contexts` lists what --context takes,"
            " and KUBECONFIG or --kubeconfig names the file"
        )
    if error.reason == "Unauthorized" or _UNKNOWN_USER.search(words):
        look = "kubectl config view --minify"
        return Failure(f"the cluster does not know you: {words}: log in again; whom you ask as: {look}")
    return Failure(f"the cluster does not answer: {words}: does `kubectl get --raw /readyz`?")


def everything(_: Object) -> bool:
    return True


def pods_path(namespace: str) -> str:
    """Of all namespaces where ``namespace`` is empty."""
    return f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"


def in_namespace(group: str, plural: str, namespace: str) -> str:
    """The path of a kind in ``group`` (``apps/v1``; ``v1`` for the core's)."""
    root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def uid(document: Object) -> str:
    return str(mapping(document, "metadata").get("uid") or "")
