"""What stands around the webhook: a cluster, or none (``--kubeconfig none``)."""

from __future__ import annotations

from bitfusiond.core.review import Review
from bitfusiond.core.validate import Largest


class NoCluster:
    """Nodes are not known, tokens are somebody else's affair, and there is nobody to tell of a refusal."""

    def largest_node(self) -> Largest | None:
        return None

    async def ensure_tokens(self, namespace: str, dry_run: bool) -> list[str]:  # noqa: ARG002
        return []

    def refused(self, request: Review, message: str) -> None:
        pass
