"""What the texts among the values must look like. The chart says it in words: a schema would print the pattern."""

from __future__ import annotations

from typing import NamedTuple

from bitfusiond.core import names
from bitfusiond.operate.settings import DEFAULT_REPO, DIGEST, REPO, TAG
from bitfusiond.settings.values import GLOB


class Form(NamedTuple):
    """``pattern`` is of the whole text, in what Python's and Go's expressions have in common; ``words`` say the same.

    ``shown`` is how many characters of a wrong text are printed: of a PEM file no more than its first line.
    """

    pattern: str
    words: str
    shown: int = 100


_OCTET = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_GROUP = "[0-9a-fA-F]{1,4}"
_PORT = r"(:[0-9]{1,5})?"
# The first bytes of a certificate, in base64: a sequence of more than 127 bytes.
_CERTIFICATE = r"-----BEGIN CERTIFICATE-----\s+MI[GHI][A-Za-z0-9+/=\s]+-----END CERTIFICATE-----"


def _any_of(*patterns: str) -> str:
    return f"({'|'.join(patterns)})"


def _shortened(before: int) -> str:
    """An IPv6 address with ``before`` groups before its ``::``."""
    most = 7 - before
    after = f"({_GROUP}(:{_GROUP}){{0,{most - 1}}})?" if most else ""
    return ":".join([_GROUP] * before) + f"::{after}"


_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_IPV6 = _any_of(f"({_GROUP}:){{7}}{_GROUP}", *map(_shortened, range(8)))
_PEM = Form(
    rf"\s*({_CERTIFICATE}\s*)*", "certificates in PEM and nothing beside them", shown=len("-----BEGIN CERTIFICATE-----")
)

FORMS = {
    "image.repository": Form(REPO, f"a registry's name and a path in lower case without a tag, such as {DEFAULT_REPO}"),
    "image.tag": Form(f"({TAG})?", "up to 128 letters, digits, '_', '.', '-', such as 0.5.0"),
    "image.digests": Form(DIGEST, "sha256: and 64 digits of 0-9 and a-f"),
    "tokenNamespace": Form(names.LABEL, "the name of a namespace"),
    "allowNamespaces": Form(
        _any_of(names.LABEL, rf"({GLOB})*([*?]|\[!?[a-z0-9-]+\])({GLOB})*"),
        "the name of a namespace or a glob such as team-*",
    ),
    "clientCa": _PEM,
    "apiServers": Form(_any_of(_IPV4, _IPV6), "an IPv4 or IPv6 address such as 10.0.0.1 or fd00::1"),
    "imageRegistries": Form(r"[^/,\s]+", "a registry or a glob such as registry.example:5000 or *.example"),
    "insecureRegistries": Form(
        _any_of(rf"https?://[A-Za-z0-9._-]+{_PORT}", rf"https?://\[[0-9A-Fa-f:]+\]{_PORT}"),
        "http://HOST:PORT or https://HOST:PORT",
    ),
    "registryCa": _PEM,
}


def template() -> str:
    """The template that prints a line for each text that has not its form."""
    lines = [line for name, form in FORMS.items() for line in _checked(name, form)]
    return "\n".join(["", '{{- define "bitfusiond.wrong.forms" -}}', *lines, "{{- end -}}", ""])


def _checked(name: str, form: Form) -> list[str]:
    """The value may be a text, or several in a list or a mapping."""
    place = f'include "bitfusiond.place" (list "{name}" $place)'
    text = f'$text | trunc {form.shown} | printf "%q"'
    return [
        f"{{{{- $given := .Values.{name} }}}}",
        '{{- range $place, $text := ternary (dict "" $given) $given (kindIs "string" $given) }}',
        f"{{{{- if not (regexMatch `^(?:{form.pattern})$` $text) }}}}",
        f"{{{{ {place} }}}}: {{{{ {text} }}}} is not {form.words}",
        "{{- end }}",
        "{{- end }}",
    ]
