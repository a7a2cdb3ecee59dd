"""The token Secrets that 0.4 copied into namespaces: made known to bitfusiond, so that they follow their source.

They carry no label, so the webhook takes them for the namespace's own and leaves them as they are, for ever. One
whose content is the source's is adopted without asking: nothing in it changes. One with other content may be a stale
copy or a team's own token; nobody but the operator can tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object, Secret
from bitfusiond.core.tokens import copies
from bitfusiond.core.tokens.copies import BY_SECRET, Content, State
from bitfusiond.operate.kubectl import Kubectl, Ref, ref
from bitfusiond.operate.tokenplace import TokenPlace

_UNKNOWN = frozenset({State.UNMANAGED, State.UNPROVEN})


@dataclass(frozen=True, slots=True)
class Unknown:
    """Secrets of a token's name in other namespaces that bitfusiond does not manage, or cannot know that it wrote."""

    same: list[Secret]  # content of the source
    other: list[Secret]
    fixed: list[Ref]  # immutable, or of another type: nobody can bring them up to date


def find(kubectl: Kubectl, token_namespace: str) -> list[Object]:
    """Every Secret of a token's name outside the token namespace."""
    return [
        each
        for name in BY_SECRET
        for each in kubectl.all("Secret", "--field-selector", f"metadata.name={name}")
        if each["metadata"]["namespace"] != token_namespace
    ]


def sort(secrets: Iterable[Object], place: TokenPlace) -> Unknown:
    """A token without a source has no copies, nor has a namespace that may not receive any."""
    unknown = Unknown([], [], [])
    for secret in secrets:
        copy = place.copy(secret)
        token, stored, source = copy.token, copy.stored, copy.source
        if stored is None or not isinstance(source, Content) or copies.state(copy) not in _UNKNOWN:
            continue
        if not copy.is_served:
            continue
        if stored.immutable or stored.type != "Opaque":
            unknown.fixed.append(ref(secret))
        elif stored.digest == source.digest and set(mapping(secret, "data")) == {token.file}:
            unknown.same.append(secret)
        else:
            unknown.other.append(secret)
    return unknown


def adopted(secret: Object, place: TokenPlace) -> Object:
    """What to apply so that bitfusiond knows ``secret`` as its copy: nothing of the content.

    With its mark, as the operator says that it is one. With ``uid`` the apply fails where the Secret was deleted
    meanwhile, instead of making an empty one. A digest that is not the source's is how the webhook sees that the copy
    has to follow.
    """
    metadata = secret["metadata"]
    token = BY_SECRET[metadata["name"]]
    source, mark = place.content(token), place.mark(secret)
    digest = copies.summarize(secret, token).digest
    origin = source.origin if isinstance(source, Content) else f"{place.namespace}/{token.secret}"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "labels": {names.MANAGED_BY: names.MANAGED_BY_US},
            "annotations": {
                names.COPIED_FROM: origin,
                names.CONTENT_SHA256: digest or "none",
                **({} if mark is None else {names.MARK: mark}),
            },
        },
    }
