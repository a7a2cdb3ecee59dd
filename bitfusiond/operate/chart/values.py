"""What an operator can say to the chart: a table, of which values.yaml, its schema and its page are made."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from bitfusiond.core import devices, names
from bitfusiond.core.fields import Json
from bitfusiond.operate import choices
from bitfusiond.operate.chart.options import IMAGES
from bitfusiond.operate.settings import COMMUNITY, DEFAULT_REPO, LARGEST_MAP, LEGACY, TKGI


class Value(NamedTuple):
    """``name`` with dots, of what type it must be, the variable of ``just deploy`` that says the same, and a sentence.

    What a text must look like: ``forms``.
    """

    name: str
    default: Any
    schema: Json
    variable: str
    about: str


_TEXT: Json = {"type": "string"}
_TEXTS: Json = {"type": "array", "items": _TEXT, "uniqueItems": True}
_LARGEST_MEMORY = 10**15  # MB; what YAML readers still take for a whole number

VALUES = (
    Value("image.repository", DEFAULT_REPO, _TEXT, "IMAGE_REPO", "Where both images are: a registry and a path."),
    Value("image.tag", "", _TEXT, "IMAGE_TAG", "Their tag. Empty: the version of the chart."),
    Value(
        "image.digests",
        {},
        {"type": "object", "properties": dict.fromkeys(IMAGES, _TEXT), "additionalProperties": False},
        "IMAGE_DIGESTS",
        f"Digests, sha256:..., under {' and '.join(IMAGES)}: what is pulled, whatever the tag says by then.",
    ),
    Value(
        "platform",
        COMMUNITY,
        {"enum": [COMMUNITY, LEGACY, TKGI]},
        "K8S_PLATFORM",
        f"{COMMUNITY} becomes {LEGACY} by itself before Kubernetes 1.28; {TKGI} is for TKGi up to 1.24.",
    ),
    Value(
        "totalGpuMemory",
        choices.DEFAULT_TOTAL_GPU_MEMORY,
        {"type": "integer", "minimum": 0, "maximum": _LARGEST_MEMORY},
        "TOTAL_GPU_MEMORY",
        "MB (10^6 bytes) of one GPU of the Bitfusion servers; 0: requests of gpu-memory are refused.",
    ),
    Value(
        "resourceNums",
        None,
        {"type": ["integer", "null"], "minimum": 1, "maximum": devices.largest_size()},
        "RESOURCE_NUMS",
        f"Shares that a node may hand out, 100 = one GPU. Null: {choices.DEFAULT_RESOURCE_NUMS}; with a pool give it.",
    ),
    Value(
        "clients",
        "",
        {"type": "string", "maxLength": LARGEST_MAP},
        "CLIENTS",
        "The text of a client catalogue: --set-file clients=FILE. Empty: the packaged one.",
    ),
    Value(
        "tokenNamespace",
        names.KUBE_SYSTEM,
        _TEXT,
        "TOKEN_NAMESPACE",
        "Where the Secrets of your tokens are.",
    ),
    Value(
        "allowNamespaces",
        [],
        _TEXTS,
        "ALLOW_NAMESPACES",
        "Names or globs of namespaces: only their pods may receive tokens. Empty: all. With names alone, 32 at most, no"
        " permission reaches further; these namespaces must be there.",
    ),
    Value(
        "clientCa",
        "",
        _TEXT,
        "CLIENT_CA",
        "CAs in PEM, nothing beside them: --set-file clientCa=FILE. Who asks the webhook needs a certificate of one.",
    ),
    Value(
        "apiServers",
        [],
        _TEXTS,
        "API_SERVER_ONLY",
        "Addresses of the API servers: a NetworkPolicy lets none but these reach the webhook's port. Empty: everybody.",
    ),
    Value("imageLookup", False, {"type": "boolean"}, "IMAGE_LOOKUP", "The image lookup, with its permissions."),
    Value(
        "imageRegistries",
        [],
        _TEXTS,
        "IMAGE_REGISTRIES",
        "Registries or globs: the image lookup asks no others. Empty: all.",
    ),
    Value(
        "insecureRegistries",
        [],
        _TEXTS,
        "INSECURE_REGISTRIES",
        "http://HOST:PORT (no TLS) or https://HOST:PORT (a certificate that nobody checks).",
    ),
    Value("registryCa", "", _TEXT, "REGISTRY_CA", "CAs of registries in PEM: --set-file registryCa=FILE."),
    Value(
        "pool",
        "",
        {"type": "string", "maxLength": LARGEST_MAP},
        "POOL",
        "The text of an inventory: --set-file pool=FILE. From Kubernetes 1.36 on. Empty: each node counts for itself.",
    ),
    Value(
        "servesClaims",
        False,
        {"type": "boolean"},
        "",
        "true where you take a pool away while pods hold its GPUs: nodes go on serving these until they are gone.",
    ),
    Value(
        "delivery",
        "init",
        {"enum": ["init", "image"]},
        "DELIVERY",
        "image: clients are mounted from their image (from Kubernetes 1.36 on). No node is tried, so there is no auto.",
    ),
)


def schema() -> Json:
    """values.schema.json: an unknown value is an error, as one that is spelled wrongly would do nothing."""
    found = _object()
    for each in VALUES:
        *above, last = each.name.split(".")
        place = found
        for name in above:
            place = place["properties"].setdefault(name, _object())
        place["properties"][last] = {"description": each.about, **each.schema}
    # Helm gives it to a chart that another one depends on.
    found["properties"]["global"] = {"type": "object"}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of bitfusiond", **found}


def _object() -> Json:
    return {"type": "object", "additionalProperties": False, "properties": {}}


def text() -> str:
    """values.yaml, each value with its sentence."""
    lines = ["# What `just deploy` takes as variables. What Helm can see to be wrong it refuses before it installs."]
    group = ""
    for each in VALUES:
        above, _, last = each.name.rpartition(".")
        if above != group and above:
            lines += ["", f"{above}:"]
        group, indent = above, "  " if above else ""
        lines += [*([] if above else [""]), f"{indent}# {each.about}", f"{indent}{last}: {json.dumps(each.default)}"]
    return "\n".join(lines) + "\n"


def table() -> str:
    """The values as a table of Markdown."""
    cells = [
        (f"`{each.name}`", f"`{json.dumps(each.default)}`", f"`{each.variable}`" if each.variable else "", each.about)
        for each in VALUES
    ]
    rows = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(["| value | default | of `just deploy` | meaning |", "|---|---|---|---|", *rows]) + "\n"
