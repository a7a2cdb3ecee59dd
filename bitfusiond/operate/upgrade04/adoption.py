"""The token Secrets that 0.4 copied into namespaces: made known to bitfusiond, so that they follow their source.

They carry no label, so the webhook takes them for the namespace's own and leaves them as they are, for ever. One
whose content is the source's is adopted without asking: nothing in it changes. One with other content may be a stale
copy or a team's own token; nobody but the operator can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Secret
from bitfusiond.core.tokens import copies
from bitfusiond.core.tokens.copies import BY_SECRET, Content, Copy, State
from bitfusiond.operate.checks import TOKEN_NAMESPACE
from bitfusiond.operate.kubectl import Kubectl, Ref, ref


@dataclass(frozen=True, slots=True)
class Unknown:
    """Secrets of a token's name in other namespaces that bitfusiond does not manage."""

    same: list[Secret]  # content of the source
    other: list[Secret]
    fixed: list[Ref]  # immutable, or of another type: nobody can bring them up to date


def find(kubectl: Kubectl) -> list[Secret]:
    """Every Secret of a token's name outside the token namespace."""
    return [
        each
        for name in BY_SECRET
        for each in kubectl.all("Secret", "--field-selector", f"metadata.name={name}")
        if each["metadata"]["namespace"] != TOKEN_NAMESPACE
    ]


def sort(secrets: Iterable[Secret], sources: Mapping[str, Secret]) -> Unknown:
    """``sources`` are the Secrets of the token namespace by name. A token without a source has no copies."""
    unknown = Unknown([], [], [])
    for secret in secrets:
        token = BY_SECRET[secret["metadata"]["name"]]
        source = copies.content(token, sources, TOKEN_NAMESPACE)
        stored = copies.summarize(secret, token)
        copy = Copy(token, stored.namespace, stored, source, TOKEN_NAMESPACE)
        if not isinstance(source, Content) or copies.state(copy) != State.UNMANAGED:
            continue
        if stored.immutable or stored.type != "Opaque":
            unknown.fixed.append(ref(secret))
        elif stored.digest == source.digest and set(mapping(secret, "data")) == {token.file}:
            unknown.same.append(secret)
        else:
            unknown.other.append(secret)
    return unknown


def adopted(secret: Secret, sources: Mapping[str, Secret]) -> Secret:
    """What to apply so that bitfusiond knows ``secret`` as its copy: nothing of the content.

    With ``uid`` the apply fails where the Secret was deleted meanwhile, instead of making an empty one. A digest that
    is not the source's is how the webhook sees that the copy has to follow.
    """
    metadata = secret["metadata"]
    token = BY_SECRET[metadata["name"]]
    source = copies.content(token, sources, TOKEN_NAMESPACE)
    digest = copies.summarize(secret, token).digest
    origin = source.origin if isinstance(source, Content) else f"{TOKEN_NAMESPACE}/{token.secret}"
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "labels": {names.MANAGED_BY: names.MANAGED_BY_US},
            "annotations": {names.COPIED_FROM: origin, names.CONTENT_SHA256: digest or "none"},
        },
    }
