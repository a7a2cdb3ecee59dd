"""The choices of the chart: what each is to ``manifests.build``, and what the template asks to know that it is taken.

Where an operator's value goes, a placeholder is built in, and the template has an expression in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

from bitfusiond.core import names
from bitfusiond.core.objects import Object
from bitfusiond.core.tokens.copies import MOST_FOLLOWED
from bitfusiond.operate import manifests, overlays
from bitfusiond.operate.chart.conditions import Chosen
from bitfusiond.operate.settings import COMMUNITY, LEGACY, TKGI
from bitfusiond.operate.tokenplace import EXEMPT, TokenPlace

Overlays = Callable[[str], Sequence[Object]]
"""The documents of an overlay, by its name."""
Version = tuple[int, int]

_POLICIES = "policies"
IMAGES = ("bitfusiond", "bitfusion-client")
_REPO, _TAG = "chart-image-repository", "chart-image-tag"
_GPU_MEMORY, _SHARES = 7_000_000_000_000_001, 7_000_000_000_000_002
_TOKENS, _ALLOWED, _NAMESPACE = "chart-token-namespace", "chart-allowed", "chart-namespace"
_REGISTRIES, _INSECURE = "chart-image-registries", "chart-insecure-registries"
_ADDRESS = "192.0.2.1"
_CLIENTS, _CLIENT_CA, _REGISTRY_CA, _POOL = "chart-clients", "chart-client-ca", "chart-registry-ca", "chart-pool"

# Any of these, or a part of one.
PLACEHOLDER = re.compile(r"\bchart-[a-z*]\S*|70{10,}\d+|192\.0\.2\.\S*")


def _digest(image: str) -> str:
    return f"chart-digest-of-{image}-"


# What a template writes in the place of each placeholder.
EXPRESSIONS = {
    _REPO: "$.Values.image.repository",
    _TAG: "default $.Chart.AppVersion $.Values.image.tag",
    str(_GPU_MEMORY): "int64 $.Values.totalGpuMemory | toString",
    str(_SHARES): 'include "bitfusiond.resourceNums" $',
    _TOKENS: "$.Values.tokenNamespace",
    _ALLOWED: 'join "," $.Values.allowNamespaces',
    _NAMESPACE: "$namespace",
    _REGISTRIES: 'join "," $.Values.imageRegistries',
    _INSECURE: 'join "," $.Values.insecureRegistries',
    f"{_ADDRESS}/32": 'printf "%s/%d" $address (ternary 128 32 (contains ":" $address))',
    _CLIENTS: "$.Values.clients",
    _CLIENT_CA: "$.Values.clientCa",
    _REGISTRY_CA: "$.Values.registryCa",
    _POOL: "$.Values.pool",
}
_CLOSED = " ".join(f'"{each}"' for each in sorted(EXEMPT))
# The same for what stands or falls with the text before it.
FRAGMENTS = {
    **{
        f"@{_digest(each)}": f'{{{{ with index $.Values.image.digests "{each}" }}}}@{{{{ . }}}}{{{{ end }}}}'
        for each in IMAGES
    },
    # With the quotation marks as YAML writes them inside others.
    f", ''{_TOKENS}''": f"{{{{ if not (has $.Values.tokenNamespace (list {_CLOSED})) }}}}"
    ", ''{{ $.Values.tokenNamespace }}''{{ end }}",
}
# What holds the placeholder is there once for each of the operator's.
LOOPS = {_NAMESPACE: "$namespace := $on.namespaces", f"{_ADDRESS}/32": "$address := $.Values.apiServers"}


@dataclass(frozen=True, slots=True)
class Option:
    """``when`` is the template's question; ``fields`` are those of :class:`manifests.Values`, of tokens by their own
    names. ``platform`` and ``version`` are what :func:`overlays.fitting` goes by.
    """

    name: str
    when: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    platform: str | None = None
    version: Version | None = None


def _since(version: str) -> str:
    return f'semverCompare ">={version}-0" .Capabilities.KubeVersion.Version'


_LEGACY = f'eq (include "bitfusiond.platform" .) "{LEGACY}"'
NAMED = (
    f"and .Values.allowNamespaces (le (len .Values.allowNamespaces) {MOST_FOLLOWED})"
    ' (not (regexMatch "[*?\\\\[]" (join "," .Values.allowNamespaces)))'
)

# Of the options of one row at most one is taken; where none is, it is as by default.
ROWS: tuple[tuple[Option, ...], ...] = (
    (
        Option("legacy", f"and ({_LEGACY}) ({_since('1.26')})", platform=LEGACY),
        Option("legacyOld", f"and ({_LEGACY}) (not ({_since('1.26')}))", platform=LEGACY, version=(1, 25)),
        Option(TKGI, f'eq (include "bitfusiond.platform" .) "{TKGI}"', platform=TKGI, version=(1, 24)),
    ),
    (Option(_POLICIES, _since("{}.{}".format(*overlays.POLICIES)), version=overlays.POLICIES),),
    (Option("ownTokens", f'ne .Values.tokenNamespace "{names.KUBE_SYSTEM}"', {"namespace": _TOKENS}),),
    (
        Option(
            "globs",
            f"and .Values.allowNamespaces (not ({NAMED}))",
            {"allow_namespaces": _ALLOWED, "allowed": ("chart-*",)},
        ),
        Option("named", NAMED, {"allow_namespaces": _ALLOWED, "allowed": (_NAMESPACE,)}),
    ),
    (Option("clients", ".Values.clients", {"clients": _CLIENTS}),),
    (Option("clientCa", ".Values.clientCa", {"client_ca": _CLIENT_CA}),),
    (Option("apiServers", ".Values.apiServers", {"api_servers": (_ADDRESS,)}),),
    (Option("imageLookup", ".Values.imageLookup", {"image_lookup": True}),),
    (Option("imageRegistries", ".Values.imageRegistries", {"image_registries": _REGISTRIES}),),
    (Option("insecureRegistries", ".Values.insecureRegistries", {"insecure_registries": _INSECURE}),),
    (Option("registryCa", ".Values.registryCa", {"registry_ca": _REGISTRY_CA}),),
    (
        Option("pool", ".Values.pool", {"pool": _POOL}),
        Option("claims", "and .Values.servesClaims (not .Values.pool)", {"has_claims": True}),
    ),
    (Option("imageDelivery", 'eq .Values.delivery "image"', {"delivery": "image"}),),
)
OPTIONS = {each.name: each for row in ROWS for each in row}


def possible(chosen: Chosen) -> bool:
    """Whether somebody can have chosen so: one of a row, and one version."""
    one_each = all(sum(each.name in chosen for each in row) <= 1 for row in ROWS)
    return one_each and sum(OPTIONS[name].version is not None for name in chosen) <= 1


def singles_and_pairs() -> Iterator[Chosen]:
    """Nothing chosen, each option by itself, each two that go together."""
    for size in range(3):
        yield from (chosen for chosen in map(frozenset, combinations(OPTIONS, size)) if possible(chosen))


def everything() -> Iterator[Chosen]:
    """Of each row an option, in all ways; without the policies where an older version is chosen."""
    for taken in product(*ROWS):
        chosen = frozenset(each.name for each in taken)
        yield chosen if possible(chosen) else chosen - {_POLICIES}


def documents(overlay_of: Overlays, chosen: Chosen) -> list[Object]:
    """What a deploy with these choices applies, with placeholders for what an operator gives.

    Without the namespace: its release is in it, so that it is there before.
    """
    taken = [OPTIONS[name] for name in chosen]
    platform = next((each.platform for each in taken if each.platform), COMMUNITY)
    version = next((each.version for each in taken if each.version), (1, 28))
    fitting = overlays.fitting(overlay_of(platform), platform, version)
    built = manifests.build(fitting, _values({key: value for each in taken for key, value in each.fields.items()}))
    return [each for each in built.all if each["kind"] != "Namespace"]


def _values(fields: dict[str, Any]) -> manifests.Values:
    tokens = TokenPlace(fields.pop("namespace", names.KUBE_SYSTEM), fields.pop("allowed", ("*",)))
    digests = {f"{_REPO}/{each}:{_TAG}": _digest(each) for each in IMAGES}
    return manifests.Values(_REPO, _TAG, _GPU_MEMORY, _SHARES, tokens=tokens, digests=digests, **fields)


def template() -> str:
    """The template that answers which options are taken."""
    lines = [f"{each.name}: {{{{ not (not ({each.when})) }}}}" for each in OPTIONS.values()]
    return "\n".join(
        [
            "",
            "{{- /* Which options are taken, as YAML; namespaces: those that have a binding of their own. */ -}}",
            '{{- define "bitfusiond.options" -}}',
            *lines,
            f"namespaces: {{{{ without .Values.allowNamespaces {_CLOSED} | toJson }}}}",
            "{{- end -}}",
            "",
        ]
    )
