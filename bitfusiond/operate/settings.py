"""What an operator can say: environment variables, read and checked in one place, all problems at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from bitfusiond import pki
from bitfusiond.core import names
from bitfusiond.core.pool import inventory
from bitfusiond.errors import ConfigurationError
from bitfusiond.files.read import load_yaml
from bitfusiond.settings import values

COMMUNITY, LEGACY, TKGI = "community", "legacy", "tkgi"
DEFAULT_REPO = "docker.io/bitfusiondeviceplugin"

REPO = r"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"
TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
PUSHED = Path(__file__).parents[2] / "dist" / "images.txt"  # written by `just push-image`
DIGEST = r"sha256:[0-9a-f]{64}"
_PUSHED_LINE = re.compile(rf"(\S+/[^\s/@]+:[^\s/:@]+)@({DIGEST})")


@dataclass(frozen=True, slots=True)
class Settings:
    """None: not given, so that what the cluster has stays.

    ``total_gpu_memory`` is in MB (10^6 bytes) of one GPU, ``resource_nums`` in shares of a node (100 = one GPU),
    ``pool`` is the text of an inventory, empty for none any more; ``digests`` are those of images that were given,
    ``pushed`` these or, without them, what was pushed from this checkout once, by NAME:TAG. ``client_ca`` and
    ``registry_ca`` are the text of a PEM file, and empty for none any more, as ``insecure_registries`` is; ``timeout``
    in seconds for each wait.
    """

    image_repo: str | None
    image_tag: str | None
    digests: Mapping[str, str] | None
    pushed: Mapping[str, str] | None
    platform: str
    total_gpu_memory: int | None
    resource_nums: int | None
    clients: Path | None
    pool: str | None
    delivery: str | None
    allow_namespaces: str | None
    token_namespace: str | None
    client_ca: str | None
    api_server_only: bool | None
    image_lookup: bool | None
    image_registries: str | None
    insecure_registries: str | None
    registry_ca: str | None
    adopt: bool
    timeout: float
    kubectl: str


def _repo(value: str) -> str:
    if not re.fullmatch(REPO, value):
        raise ValueError(f"a registry's name and a path in lower case without a tag, for example {DEFAULT_REPO}")
    return value


def _tag(value: str) -> str:
    if not re.fullmatch(TAG, value):
        raise ValueError("up to 128 letters, digits, '_', '.', '-', for example 0.5.0")
    return value


def _digests(value: str) -> dict[str, str]:
    try:
        lines = Path(value).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ValueError("a file that can be read, with lines NAME:TAG@sha256:DIGEST") from None
    found = {}
    for line in lines:
        match = _PUSHED_LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"a file of lines NAME:TAG@sha256:DIGEST, as `just push-image` writes it: {line!r}")
        found[match[1]] = match[2]
    return found


def _file(value: str) -> Path:
    if not Path(value).is_file():
        raise ValueError("a file that is there, written by `just distros`")
    return Path(value)


LARGEST_MAP = 1024 * 1024 - 4096  # bytes, its metadata beside them; source: MaxSecretSize of k8s.io/api core/v1


def _pool(value: str) -> str:
    """The text of the inventory, empty for ``none``."""
    if value == "none":
        return ""
    try:
        text = Path(value).read_text("utf-8")
        inventory.parse(load_yaml(text))
    except (OSError, UnicodeDecodeError):
        raise ValueError("a file that can be read, or none; `just pool SERVERS.CONF` writes a first one") from None
    except ValueError as error:
        raise ValueError(f"a pool: {error}") from None
    if (size := len(text.encode())) > LARGEST_MAP:
        raise ValueError(f"a file of at most {LARGEST_MAP} bytes, which is what a ConfigMap takes; it has {size}")
    return text


def _globs(value: str) -> str:
    patterns = values.globs(value)
    if names.EXEMPT_NAMESPACES | {names.NAMESPACE} >= set(patterns):
        raise ValueError("a choice of namespaces whose pods may receive tokens: none of these is ever served")
    return ",".join(patterns)


def _namespace(value: str) -> str:
    if not re.fullmatch(names.LABEL, value):
        raise ValueError("the name of a namespace")
    return value


def _ca(whose: str) -> values.Parser:
    def parse(value: str) -> str:
        if value == "none":
            return ""
        try:
            if bundle := pki.bundle_of(Path(value).read_text("utf-8")):
                return bundle  # everybody may read the ConfigMap: no key that stands beside them goes into it
        except (OSError, UnicodeDecodeError):
            pass
        raise ValueError(f"a PEM file with the CA of {whose}, or none")

    return parse


def _registries(value: str) -> str:
    return ",".join(values.registry_globs(value))


def _insecure(value: str) -> str:
    """As it was given: what the webhook is told, if it would take it."""
    return "" if not values.insecure_registries(value) else value


def _on(value: str) -> bool:
    if value not in {"on", "off"}:
        raise ValueError("on or off")
    return value == "on"


def _yes(value: str) -> bool:
    if value not in {"yes", "no"}:
        raise ValueError("yes or no")
    return value == "yes"


class Variable(NamedTuple):
    """How one field of :class:`Settings` is given in the environment."""

    name: str
    default: str | None
    parse: values.Parser


VARIABLES = {
    "image_repo": Variable("IMAGE_REPO", None, _repo),
    "image_tag": Variable("IMAGE_TAG", None, _tag),
    "digests": Variable("IMAGE_DIGESTS", None, _digests),
    "pushed": Variable("IMAGE_DIGESTS", str(PUSHED) if PUSHED.is_file() else None, _digests),
    "platform": Variable("K8S_PLATFORM", COMMUNITY, values.choice(COMMUNITY, LEGACY, TKGI)),
    "total_gpu_memory": Variable("TOTAL_GPU_MEMORY", None, values.integer(0)),
    "resource_nums": Variable("RESOURCE_NUMS", None, values.device_count),
    "clients": Variable("CLIENTS", None, _file),
    "pool": Variable("POOL", None, _pool),
    "delivery": Variable("DELIVERY", None, values.choice("init", "image", "auto")),
    "allow_namespaces": Variable("ALLOW_NAMESPACES", None, _globs),
    "token_namespace": Variable("TOKEN_NAMESPACE", None, _namespace),
    "client_ca": Variable("CLIENT_CA", None, _ca("the API server's client certificate")),
    "api_server_only": Variable("API_SERVER_ONLY", None, _yes),
    "image_lookup": Variable("IMAGE_LOOKUP", None, _on),
    "image_registries": Variable("IMAGE_REGISTRIES", None, _registries),
    "insecure_registries": Variable("INSECURE_REGISTRIES", None, _insecure),
    "registry_ca": Variable("REGISTRY_CA", None, _ca("your registries")),
    "adopt": Variable("ADOPT", "no", _yes),
    "timeout": Variable("TIMEOUT", "300", values.seconds(1, 3600)),
    "kubectl": Variable("KUBECTL", "kubectl", values.text),
}


def resolve(environment: Mapping[str, str]) -> Settings:
    """A variable that is empty counts as not given, as ``just`` passes all of them.

    Raises ConfigurationError that names every variable that is wrong, its value and what is allowed.
    """
    chosen: dict[str, Any] = {}
    problems = []
    for field, each in VARIABLES.items():
        value = environment.get(each.name) or each.default
        try:
            chosen[field] = None if value is None else each.parse(value)
        except ValueError as error:
            problems.append(f"{each.name}: {value!r} is not {error}")
    problems = list(dict.fromkeys(problems))
    if problems:
        lines = problems if len(problems) == 1 else ["wrong variables:", *(f"  - {problem}" for problem in problems)]
        raise ConfigurationError("\n".join(lines))
    return Settings(**chosen)
