"""Who may ask the webhook, and where tokens may go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from bitfusiond import pki
from bitfusiond.core.objects import Object
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate.current import WEBHOOK
from bitfusiond.operate.kubectl import Ref
from bitfusiond.operate.manifests import ABSENT, CLIENT_CA, CLIENT_CA_MAP, NETWORK_POLICY, Values
from bitfusiond.operate.report import NOTE, OK, WRONG, Row
from bitfusiond.operate.verify.installation import DEPLOY
from bitfusiond.operate.workloads import option


def check(values: Values, found: Mapping[Ref, Object], addresses: Callable[[], tuple[str, ...]]) -> list[Row]:
    """A row for each choice. ``found`` is what is installed; ``addresses()`` are those of the API servers today."""
    place = values.tokens
    tokens = f"from {place.namespace}, into namespaces {','.join(place.allowed)}"
    return [
        Row("tokens are copied", OK, tokens),
        *(Row(f"Namespace {name}", NOTE, ABSENT, f"{DEPLOY}, when it is") for name in sorted(values.absent)),
        client_ca(values.client_ca, option(found.get(WEBHOOK), CLIENT_CA), datetime.now(UTC)),
        *([image_lookup(values)] if values.image_lookup else []),
        *([reached_from(found.get(NETWORK_POLICY), addresses)] if values.api_server_only else []),
    ]


def image_lookup(values: Values) -> Row:
    """Which registries are asked, and of which no certificate is checked."""
    insecure = f", insecure: {values.insecure_registries}" if values.insecure_registries else ""
    return Row("image lookup", OK, f"on, for registries {values.image_registries or '*'}{insecure}")


def client_ca(pem: str, path: str | None, now: datetime) -> Row:
    """The CA of the API server's certificate, and its end. ``path`` is what the webhook was told."""
    if not pem and path:
        return Row("client CA", NOTE, f"--client-ca {path}, which no deploy put there")
    if not pem:
        detail = "none: whoever reaches port 8443 of the webhook can post reviews (docs/operating.md)"
        return Row("client CA", NOTE, detail, "CLIENT_CA=FILE just deploy")
    certificates = pki.certificates_of(pem.encode())
    if not certificates:
        return Row("client CA", WRONG, f"{CLIENT_CA_MAP} holds none", "CLIENT_CA=FILE just deploy")
    last = max(each.not_valid_after_utc for each in certificates)
    listed = ", ".join(each.subject.rfc4514_string() for each in certificates)
    if last <= now:
        return Row("client CA", WRONG, f"{listed}: expired {last:%Y-%m-%d}", "CLIENT_CA=FILE just deploy")
    return Row("client CA", OK, f"{listed}, until {last:%Y-%m-%d}")


def reached_from(policy: Mapping[str, Any] | None, addresses: Callable[[], tuple[str, ...]]) -> Row:
    """The addresses of the NetworkPolicy are those of the API servers."""
    rules = ((policy or {}).get("spec") or {}).get("ingress") or []
    blocks = [each.get("ipBlock") or {} for rule in rules for each in rule.get("from") or []]
    found = sorted(block.get("cidr", "").partition("/")[0] for block in blocks)
    try:
        wanted = sorted(addresses())
    except ConfigurationError as error:
        return Row("reached from", WRONG, str(error), "API_SERVER_ONLY=no just deploy")
    if found != wanted:
        detail = f"the webhook is reached from {', '.join(found)}, the API servers are {', '.join(wanted)}"
        return Row("reached from", WRONG, detail, DEPLOY)
    return Row("reached from", OK, ", ".join(found))
