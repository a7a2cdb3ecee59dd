"""What must be right before anything is changed: every problem at once, each with its fix."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

from bitfusiond.core import names
from bitfusiond.core.fields import Json, mapping
from bitfusiond.core.objects import Namespace
from bitfusiond.core.text import from_base64
from bitfusiond.core.tokens.copies import TOKENS, Missing, Token
from bitfusiond.errors import ConfigurationError
from bitfusiond.operate import tokenfiles
from bitfusiond.operate.kubectl import Kubectl, KubectlError, Ref
from bitfusiond.operate.report import Say
from bitfusiond.operate.settings import COMMUNITY, LEGACY, TKGI
from bitfusiond.operate.tokenplace import TokenPlace

NAMESPACE = Ref("Namespace", names.NAMESPACE)
# matchConditions of webhooks are on by default from here on.
MATCH_CONDITIONS = (1, 28)
# PodSecurityPolicy, for which the overlay tkgi is, ends before this one.
NO_POLICIES = (1, 25)
OLDEST = (1, 20)
# Shared devices of a pool (consumable capacity) are on by default from here on.
ONE_POOL = (1, 36)
# So are volumes that are images, with sub-paths.
IMAGE_VOLUMES = (1, 36)

Version = tuple[int, int]


def server_version(kubectl: Kubectl) -> Version:
    """The API server's version. Raises KubectlError that names the context where it does not answer."""
    try:
        answer = json.loads(kubectl.run("version", "-o", "json"))
    except KubectlError as error:
        raise KubectlError(
            f"the cluster does not answer (context {context(kubectl)}): {error}; choose another with"
            " `kubectl config use-context NAME` or KUBECONFIG"
        ) from None
    return version_of(mapping(answer, "serverVersion"))


def version_of(server: Json) -> Version:
    """From ``{"major": "1", "minor": "28+"}``."""
    numbers = [re.match(r"\d+", str(server.get(part) or "")) for part in ("major", "minor")]
    if numbers[0] is None or numbers[1] is None:
        raise KubectlError("the API server does not tell its version: is it a Kubernetes API server?")
    return int(numbers[0][0]), int(numbers[1][0])


def cluster(kubectl: Kubectl, say: Say) -> Version:
    """Say which cluster is meant, before anything is done to it; its version."""
    version = server_version(kubectl)
    say(f"cluster: context {context(kubectl)}, API server {version[0]}.{version[1]}")
    return version


def pool(text: str, version: Version) -> list[str]:
    """Why a pool cannot be counted once by this API server, if it cannot."""
    if not text or version >= ONE_POOL:
        return []
    present, since = (f"{major}.{minor}" for major, minor in (version, ONE_POOL))
    return [f"POOL: the API server is {present}; a pool is counted once from {since} on: deploy without it"]


def delivery(chosen: str, version: Version) -> list[str]:
    """Why no runtime of this cluster can be asked to mount a client from its image, if none can."""
    if chosen != "image" or version >= IMAGE_VOLUMES:
        return []
    present, since = (f"{major}.{minor}" for major, minor in (version, IMAGE_VOLUMES))
    return [f"DELIVERY: the API server is {present}; images are mounted from {since} on: DELIVERY=init, or auto"]


def context(kubectl: Kubectl) -> str:
    """The name of the context that kubectl uses now; ``none`` without one."""
    for option in kubectl.options:
        if option.startswith("--context="):
            return option.partition("=")[2]
    try:
        return kubectl.run("config", "current-context").strip()
    except KubectlError:
        return "none"


def platform(wanted: str, version: Version) -> tuple[str, str | None]:
    """Which overlay fits the API server, and why it is not the one that was asked for.

    Raises ConfigurationError for a server that none fits.
    """
    present = f"{version[0]}.{version[1]}"
    if version < OLDEST:
        raise ConfigurationError(f"the API server is {present}; bitfusiond needs {OLDEST[0]}.{OLDEST[1]} or later")
    if wanted == COMMUNITY and version < MATCH_CONDITIONS:
        since = f"{MATCH_CONDITIONS[0]}.{MATCH_CONDITIONS[1]}"
        return LEGACY, f"the API server is {present}, which has no matchConditions (from {since}): using {LEGACY}"
    if wanted == TKGI and version >= NO_POLICIES:
        instead, _ = platform(COMMUNITY, version)
        return instead, f"the API server is {present}, which has no PodSecurityPolicy: {TKGI} needs nothing of its own"
    return wanted, None


def namespace(current: Namespace | None) -> list[str]:
    """Why the namespace cannot be applied to, if it cannot."""
    if current is None or "deletionTimestamp" not in current["metadata"]:
        return []
    name = current["metadata"]["name"]
    return [f"Namespace {name} is being deleted: deploy when `kubectl get namespace {name}` finds it no more"]


def tokens(place: TokenPlace) -> list[str]:
    """What is wrong with the sources of the tokens today."""
    now = datetime.now(UTC)
    return [problem for token in TOKENS for problem in token_problems(token, place, now)]


def token_problems(token: Token, place: TokenPlace, now: datetime) -> list[str]:
    """What is wrong with the source of one token; its content is never quoted."""
    source = place.content(token)
    if isinstance(source, Missing):
        return [f"{source.message}, or all three with `just tokens DIR`"]
    return [
        f"Secret {source.origin}: {problem}; mend the file and run `just tokens DIR`"
        for problem in tokenfiles.problems(token.file, from_base64(source.data), now)
    ]
