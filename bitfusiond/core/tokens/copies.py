"""Copies of the token Secrets: what to do about one copy in one namespace, given its source and what is there.

*Source.* Each token has a Secret of its own in the token namespace (``names.TOKEN_SECRETS``). Where that one is absent,
the earlier ``bitfusion-secret`` serves, which has all three keys. One that is there but lacks its key, or has nothing
in it, is a mistake to be told, not to be worked around with an older Secret.

*Whose is it?* A copy has the label ``app.kubernetes.io/managed-by: bitfusiond`` and says in the annotation
``bitfusion.io/copied-from`` which Secret it was made from. Both can be written by anybody who may write a Secret there.
So a copy follows its source only where it carries our mark (:mod:`bitfusiond.core.tokens.marks`), and in no namespace
that may not have tokens. One that holds what its source holds gets the mark: it gives away nothing, and so copies of a
version without marks, or under a key that was lost, are ours again. Any other is left as it is until a pod is admitted
in its namespace, which would have got it a new copy there. A Secret of that name without the label belongs to the
people of the namespace: it is used as it is and never written. In the token namespace itself a Secret that carries the
label is a source all the same, unless it says that it was copied from another one: people label all that they apply,
and restore a lost source from a copy.

*Two installations* in one cluster, each with its own token namespace, know their copies by the namespace in
``copied-from``. Where both serve a namespace, the first to come stays: its copy is left alone and used by the other,
as long as the Secret it was made from is there. Once that is gone nobody keeps the copy current, so the other takes
it over, when it next admits a pod there; likewise a copy that says nothing of its source. A source that is a
``bitfusion-secret`` of another token namespace cannot be seen and counts as being there. A copy with our mark is ours
wherever it came from: when our token namespace is another one, it follows there.

*A source that is gone.* Its copies stay: pods hold them, and the kubelet could not restart such a pod without. No new
pod gets them: it is refused, naming the missing Secret. When the source comes back, the copies follow it. Nothing here
ever deletes a Secret, so bitfusiond needs no permission to.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.fields import Json
from bitfusiond.core.text import from_base64

# Of what others wrote into our copy's metadata, this is kept; kubectl's annotation repeats the content.
_KEPT_METADATA = ("uid", "labels", "annotations", "ownerReferences", "finalizers")
# Characters of that: ours have some hundreds. What is larger was not left by us, and would fill the memory.
_LARGEST_METADATA = 65_536
# Namespaces that are followed one by one: each takes three watches, with a thread and a connection for each, 0.3 MB.
MOST_FOLLOWED = 32
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True, slots=True)
class Token:
    """One token file: its name is the key in the Secret; ``secret`` is the name of that Secret in every namespace."""

    file: str
    secret: str


TOKENS = tuple(Token(file, secret) for file, secret in names.TOKEN_SECRETS.items())
BY_SECRET = {token.secret: token for token in TOKENS}


@dataclass(frozen=True, slots=True)
class Content:
    """What a copy must hold: ``data`` in base64, as in the source ``origin`` (NAMESPACE/NAME)."""

    origin: str
    data: str = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class Missing:
    """There is nothing to copy; the message names the Secret, the key and the fix."""

    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """A Secret with the name of a token's, as far as decisions need it: its content only as a digest.

    ``digest`` is None where the token's key is missing or empty; ``noted_digest`` is that of the annotation. ``alone``:
    there is no other key.
    """

    namespace: str
    resource_version: str
    labelled: bool
    origin: str | None
    digest: str | None
    noted_digest: str | None
    mark: str | None
    alone: bool
    immutable: bool
    type: str
    metadata: Mapping[str, Any] = field(repr=False)


class State(Enum):
    """What a Secret of a token's name is to us."""

    CURRENT = "current"
    STALE = "stale"  # ours, and must follow its source
    UNMARKED = "unmarked"  # holds what its source holds, and is to get our mark
    UNPROVEN = "unproven"  # labelled as ours, without our mark: it follows nothing
    NOT_ALLOWED = "not_allowed"  # labelled as ours, where no copy may be
    SOURCELESS = "sourceless"  # ours, and its source is gone
    OTHER_INSTALLATION = "other_installation"
    ABANDONED = "abandoned"  # labelled, but nobody keeps it current
    UNMANAGED = "unmanaged"


# These are written without a pod's asking.
FOLLOWING = frozenset({State.STALE, State.UNMARKED})


@dataclass(frozen=True, slots=True)
class Create:
    body: Json = field(repr=False)


@dataclass(frozen=True, slots=True)
class Update:
    """``body`` carries the resourceVersion that was looked at, so that a change in between is a conflict."""

    body: Json = field(repr=False)


class Leave:
    """The pod can use what is there."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The pod would not start; ``problem`` says why and what to do."""

    problem: str


Decision = Create | Update | Leave | Refuse


def allowed(namespace: str, globs: tuple[str, ...]) -> bool:
    """Whether pods of ``namespace`` may receive tokens (``--allow-namespaces``)."""
    return any(fnmatchcase(namespace, glob) for glob in globs)


def followed(globs: tuple[str, ...], exempt: frozenset[str]) -> frozenset[str] | None:
    """The namespaces in which alone copies are looked for; None: in all, as ``globs`` has globs, or very many names."""
    if len(globs) > MOST_FOLLOWED or any(set("*?[") & set(glob) for glob in globs):
        return None
    return frozenset(globs) - exempt


def served(namespace: str, globs: tuple[str, ...], exempt: frozenset[str]) -> bool:
    """Whether copies of ours may be in ``namespace``."""
    return namespace not in exempt and allowed(namespace, globs)


def not_allowed(namespace: str, globs: tuple[str, ...]) -> str:
    """The refusal for any other namespace."""
    return (
        f"metadata.namespace: pods of {namespace} may not receive Bitfusion tokens, --allow-namespaces of bitfusiond is"
        f" {','.join(globs)}: use one of these namespaces or have this one added"
    )


def not_served(namespace: str) -> str:
    """The refusal for a namespace that gets no copies, whatever anybody allows."""
    return f"metadata.namespace: no tokens are copied into {namespace}: use a namespace of your own"


def is_source(secret: Mapping[str, Any], token_namespace: str) -> bool:
    """Whether a Secret of a source's name is one, rather than a copy that happens to be in the token namespace."""
    metadata = secret["metadata"]
    if metadata["namespace"] != token_namespace:
        return False
    here = f"{token_namespace}/{metadata['name']}"
    return not _labelled(metadata) or _annotations(metadata).get(names.COPIED_FROM, here) == here


def content(token: Token, secrets: Mapping[str, Mapping[str, Any]], token_namespace: str) -> Content | Missing:
    """What copies of ``token`` hold. ``secrets`` are the Secrets of the token namespace by name."""
    own = secrets.get(token.secret)
    if own is not None and is_source(own, token_namespace):
        return _content_of(own, token, token_namespace)
    where = f"{token_namespace}/{token.secret}"
    earlier = secrets.get(names.EARLIER_TOKEN_SECRET)
    found = None if earlier is None else _content_of(earlier, token, token_namespace)
    if isinstance(found, Content):
        return found
    why = [f"Secret {where} with the key {token.file} is missing"]
    if own is not None:
        why = [f"Secret {where} is itself a copy, of {_annotations(own['metadata'])[names.COPIED_FROM]}"]
    if earlier is not None:
        why.append(f"{token_namespace}/{names.EARLIER_TOKEN_SECRET} has no content under that key either")
    return Missing(f"{', and '.join(why)}: create it with `{_kubectl_create(token, token_namespace)}`")


def _content_of(secret: Mapping[str, Any], token: Token, token_namespace: str) -> Content | Missing:
    origin = f"{token_namespace}/{secret['metadata']['name']}"
    data = secret.get("data") or {}
    digest = _digest(data.get(token.file))
    if digest is not None:
        return Content(origin, data[token.file], digest)
    problem = "nothing under the key" if token.file in data else "no key"
    return Missing(
        f"Secret {origin} has {problem} {token.file}: write it with"
        f" `{_kubectl_create(token, token_namespace)} --dry-run=client -o yaml | kubectl replace -f -`"
    )


def _kubectl_create(token: Token, token_namespace: str) -> str:
    return f"kubectl create secret generic {token.secret} --namespace {token_namespace} --from-file={token.file}"


def summarize(secret: Mapping[str, Any], token: Token) -> Summary:
    """What decisions need to know of ``secret``, which has the token's name; the content is not kept."""
    metadata = secret["metadata"]
    data = secret.get("data") or {}
    digest = _digest(data.get(token.file))
    labelled = _labelled(metadata) and len(json.dumps(_kept(metadata))) <= _LARGEST_METADATA
    annotations = _annotations(metadata) if labelled else {}
    return Summary(
        namespace=metadata["namespace"],
        resource_version=metadata["resourceVersion"],
        labelled=labelled,
        origin=annotations.get(names.COPIED_FROM),
        digest=digest,
        noted_digest=annotations.get(names.CONTENT_SHA256),
        mark=annotations.get(names.MARK),
        alone=list(data) == [token.file],
        immutable=bool(secret.get("immutable")),
        type=secret.get("type") or "Opaque",
        metadata=_kept(metadata) if labelled else {},
    )


@dataclass(frozen=True, slots=True)
class Copy:
    """A token's Secret in a namespace, and all that decides what becomes of it.

    ``stored`` is what is there, None = nothing. ``mark`` is the one that ours carry there, None = it is not known.
    ``origin_lives``: whether the Secret that it was copied from is there, where that can be seen. ``is_served``:
    whether a copy may be there.
    """

    token: Token
    namespace: str
    stored: Summary | None
    source: Content | Missing
    token_namespace: str
    mark: str | None
    origin_lives: bool = True
    is_served: bool = True

    @property
    def where(self) -> str:
        return f"Secret {self.namespace}/{self.token.secret}"


def state(copy: Copy) -> State:
    """What a Secret that is there is to us; one that is not there is stale."""
    stored = copy.stored
    if stored is None:
        return State.STALE
    here = f"{copy.token_namespace}/{copy.token.secret}"
    if not stored.labelled or (copy.namespace == copy.token_namespace and (stored.origin or here) == here):
        return State.UNMANAGED
    origin_namespace, _, origin_name = (stored.origin or "").partition("/")
    is_foreign = origin_namespace != copy.token_namespace and not _is_marked(copy, stored)
    if is_foreign and origin_namespace and origin_name and copy.origin_lives:
        return State.OTHER_INSTALLATION
    if not copy.is_served:
        return State.NOT_ALLOWED
    return State.ABANDONED if is_foreign else _of_ours(copy, stored)


def _of_ours(copy: Copy, stored: Summary) -> State:
    """Of a Secret that says that it is a copy by us, of our source."""
    source = copy.source
    if isinstance(source, Missing):
        return State.SOURCELESS
    is_equal = stored.alone and stored.digest == source.digest and stored.type == "Opaque"
    if _is_marked(copy, stored):
        is_noted = stored.noted_digest == source.digest and stored.origin == source.origin
        return State.CURRENT if is_equal and is_noted else State.STALE
    if not is_equal:
        return State.UNPROVEN
    return State.CURRENT if stored.immutable else State.UNMARKED  # nobody can make that one follow


def _is_marked(copy: Copy, stored: Summary) -> bool:
    return copy.mark is not None and hmac.compare_digest((stored.mark or "").encode(), copy.mark.encode())


def decide(copy: Copy) -> Decision:
    """What a pod in the copy's namespace needs."""
    stored, found = copy.stored, state(copy)
    if found is State.NOT_ALLOWED or (stored is None and not copy.is_served):
        return Refuse(not_served(copy.namespace))
    if stored is None:
        return Refuse(copy.source.message) if isinstance(copy.source, Missing) else Create(_body(copy, copy.source, {}))
    match found:
        case State.CURRENT | State.UNMARKED:
            return Leave()
        case State.UNMANAGED:
            return _others(copy, stored, "which bitfusiond does not manage")
        case State.OTHER_INSTALLATION:
            return _others(copy, stored, f"a copy of {stored.origin} by another bitfusiond")
    return _follow(copy, stored)


def upkeep(copy: Copy) -> Decision:
    """What the copy needs while no pod asks for it: that which we wrote follows its source, all else is left alone."""
    stored = copy.stored
    return _follow(copy, stored) if stored is not None and state(copy) in FOLLOWING else Leave()


def _others(copy: Copy, stored: Summary, whose: str) -> Leave | Refuse:
    if stored.digest is not None:
        return Leave()
    # The kubelet would wait for the key for ever, and the pod with it.
    return Refuse(
        f"{copy.where}, {whose}, has nothing under the key {copy.token.file}: add it, or delete the Secret to get a"
        " copy"
    )


def _follow(copy: Copy, stored: Summary) -> Update | Refuse:
    if isinstance(copy.source, Missing):
        return Refuse(copy.source.message)
    if stored.immutable or stored.type != "Opaque":
        # The API server lets nobody change the content of an immutable Secret, nor any Secret's type.
        why = "is immutable" if stored.immutable else f"is of type {stored.type} instead of Opaque"
        return Refuse(f"{copy.where}, a copy that bitfusiond must bring up to date, {why}: delete it")
    return Update(_body(copy, copy.source, {**stored.metadata, "resourceVersion": stored.resource_version}))


def _body(copy: Copy, source: Content, metadata: Mapping[str, Any]) -> Json:
    annotations = {names.COPIED_FROM: source.origin, names.CONTENT_SHA256: source.digest}
    annotations |= {names.MARK: copy.mark} if copy.mark is not None else {}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            **metadata,
            "name": copy.token.secret,
            "namespace": copy.namespace,
            "labels": {**(metadata.get("labels") or {}), names.MANAGED_BY: names.MANAGED_BY_US},
            "annotations": {**(metadata.get("annotations") or {}), **annotations},
        },
        "type": "Opaque",
        "data": {copy.token.file: source.data},
    }


def _labelled(metadata: Mapping[str, Any]) -> bool:
    return (metadata.get("labels") or {}).get(names.MANAGED_BY) == names.MANAGED_BY_US


def _annotations(metadata: Mapping[str, Any]) -> Mapping[str, str]:
    return metadata.get("annotations") or {}


def _kept(metadata: Mapping[str, Any]) -> Json:
    kept = {key: metadata[key] for key in _KEPT_METADATA if metadata.get(key)}
    if "annotations" in kept:
        kept["annotations"] = {key: value for key, value in kept["annotations"].items() if key != _LAST_APPLIED}
    return kept


def _digest(data: object) -> str | None:
    """SHA-256 of what the base64 ``data`` holds, as ``sha256sum`` prints it; None for nothing but blanks."""
    content = from_base64(data)
    return hashlib.sha256(content).hexdigest() if content.strip() else None
