"""The tokens of an installation: where their sources are, and how a copy is known to be ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object
from bitfusiond.core.tokens import copies, marks
from bitfusiond.core.tokens.copies import BY_SECRET, Content, Copy, Missing, Token
from bitfusiond.operate.kubectl import Kubectl, Ref

MARK_KEY = Ref("Secret", names.MARK_SECRET, names.NAMESPACE)
EXEMPT = names.EXEMPT_NAMESPACES | {names.NAMESPACE}


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """``sources`` are the Secrets of the token namespace by name, ``allowed`` the globs of ALLOW_NAMESPACES.

    ``key`` is that of the marks, None while there is none.
    """

    namespace: str
    allowed: tuple[str, ...] = ("*",)
    sources: Mapping[str, Object] | None = None
    key: bytes | None = None

    def content(self, token: Token) -> Content | Missing:
        return copies.content(token, self.sources or {}, self.namespace)

    def mark(self, secret: Object) -> str | None:
        """What a copy of ours carries in the place of ``secret``."""
        metadata = secret["metadata"]
        return None if self.key is None else marks.mark(self.key, metadata["namespace"], metadata["name"])

    def copy(self, secret: Object) -> Copy:
        """A Secret of a token's name, and all that decides what it is to us."""
        token = BY_SECRET[secret["metadata"]["name"]]
        stored = copies.summarize(secret, token)
        is_served = copies.served(stored.namespace, self.allowed, EXEMPT)
        source = self.content(token)
        return Copy(token, stored.namespace, stored, source, self.namespace, self.mark(secret), is_served=is_served)

    def read(self, kubectl: Kubectl) -> TokenPlace:
        """With what the cluster has."""
        secrets = (*names.TOKEN_SECRETS.values(), names.EARLIER_TOKEN_SECRET)
        found = kubectl.existing([MARK_KEY, *(Ref("Secret", name, self.namespace) for name in secrets)])
        key = marks.key_of(mapping(found.pop(MARK_KEY, None), "data"))
        return replace(self, sources={what.name: each for what, each in found.items()}, key=key)
