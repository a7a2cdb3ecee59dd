"""The chart: made of the manifests, the same bytes each time, and as strict as a deploy."""

from __future__ import annotations

import functools
import gzip
import io
import ipaddress
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trustme
import yaml
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bitfusiond import __version__
from bitfusiond.core.fields import Json
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.operate import settings
from bitfusiond.operate.__main__ import main
from bitfusiond.operate.chart import forms, options, package, template, values
from bitfusiond.operate.chart.conditions import ALWAYS, Chosen
from bitfusiond.operate.chart.merge import Fixed
from tests import ROOT
from tests.unit.manifests.overlays import overlay

DOCUMENTS = functools.cache(functools.partial(package.tree, overlay))
FILES = functools.cache(functools.partial(package.files, overlay))


def same(documents: list[Any]) -> list[str]:
    return sorted(json.dumps(each, sort_keys=True) for each in documents)


@pytest.mark.slow
@given(st.sets(st.sampled_from(sorted(options.OPTIONS))).map(frozenset).filter(options.possible))
@hypothesis_settings(max_examples=200)
def test_whatever_is_chosen_the_chart_says_what_a_deploy_applies(chosen: Chosen) -> None:
    """The tree is made of no more than two choices at a time, so that this is no tautology."""
    wanted = same(options.documents(overlay, chosen))
    assert same(package.evaluated(DOCUMENTS(), chosen)) == wanted


@pytest.mark.slow
def test_the_same_sources_make_the_same_bytes(tmp_path: Path) -> None:
    package.write(FILES(), tmp_path / "a", lambda line: None)
    package.run(overlay, tmp_path / "b", lambda line: None)
    made = [(tmp_path / name / f"bitfusiond-{package.version()}.tgz").read_bytes() for name in ("a", "b")]
    assert made[0] == made[1]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(made[0]))) as tar:
        assert {(each.mtime, each.uid, each.uname) for each in tar} == {(0, 0, "")}
        names = {each.name.removeprefix("bitfusiond/") for each in tar}
    directory = tmp_path / "a" / "bitfusiond"
    assert (
        names == {str(each.relative_to(directory)) for each in directory.rglob("*") if each.is_file()} == set(FILES())
    )


@pytest.mark.slow
def test_the_order_of_an_overlay_and_of_its_keys_does_not_matter() -> None:
    def other(platform: str) -> list[Any]:
        return [dict(reversed(list(each.items()))) for each in reversed(overlay(platform))]

    assert package.files(other) == FILES()


def test_what_an_earlier_version_left_in_the_directory_goes(tmp_path: Path) -> None:
    stale = tmp_path / "bitfusiond" / "templates" / "gone.yaml"
    stale.parent.mkdir(parents=True)
    stale.write_text("kind: Gone")
    package.write(FILES(), tmp_path, lambda line: None)
    assert not stale.exists()


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"cannot write into .*file"):
        package.write(FILES(), tmp_path / "file", lambda line: None)


@pytest.mark.slow
def test_a_chart_that_would_say_something_else_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    built = options.documents

    def documents(overlays: options.Overlays, chosen: Chosen) -> list[Any]:
        more = [{"kind": "ConfigMap", "metadata": {"name": "of-three"}}]
        return [*built(overlays, chosen), *(more if {"pool", "clients", "named"} <= chosen else [])]

    monkeypatch.setattr(options, "documents", documents)
    with pytest.raises(Failure, match=r"^the chart would not say what deploy applies to who chooses .*clients.*pool"):
        package.files(overlay)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["chart-token", "chart-*", "7000000000000", "192.0.2.1/24"])
def test_a_chart_with_a_placeholder_that_nothing_fills_is_not_made(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    built = options.documents

    def documents(overlays: options.Overlays, chosen: Chosen) -> list[Any]:
        return [*built(overlays, chosen), {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"b": f"x {part}"}}]

    monkeypatch.setattr(options, "documents", documents)
    with pytest.raises(Failure) as refused:
        package.files(overlay)
    assert str(refused.value) == f"the chart would install a placeholder: '{part}' is left in templates/configmap.yaml"


def test_what_is_looked_for_as_a_placeholder_is_each_of_them() -> None:
    placeholders = [*options.EXPRESSIONS, *options.FRAGMENTS]
    assert not [each for each in placeholders if not options.PLACEHOLDER.search(each)]


def test_no_placeholder_is_left() -> None:
    text = "".join(FILES().values())
    assert not re.findall(r"chart-(?:image|token|namespace|allowed|digest|insecure|client|registry|pool)\S*", text)
    assert not re.findall(r"700000000000000\d|192\.0\.2\.\d", text)
    assert not re.findall(r"\b[A-Z]+_(?:LABELS|VERSION|NUMS|TABLE)\b(?<!GPU_MEMORY)", FILES()["templates/NOTES.txt"])


def test_no_placeholder_stands_in_the_manifests() -> None:
    text = json.dumps([overlay(each) for each in ("community", "legacy", "tkgi")])
    assert not [each for each in options.EXPRESSIONS if each in text]


def test_what_looks_like_a_template_in_the_manifests_stays_text() -> None:
    written = template.text([(ALWAYS, Fixed({"a": "{{ .Values.b }}"}))])
    assert """a: '{{ "{{" }} .Values.b }}'""" in written


@pytest.mark.parametrize(
    ("python", "helm"),
    [("0.5.0", "0.5.0"), ("0.6.0rc1", "0.6.0-rc.1"), ("1.0.0.dev3", "1.0.0-dev.3"), ("1.0a2", "1.0a2")],
)
def test_a_version_is_as_helm_has_it(monkeypatch: pytest.MonkeyPatch, python: str, helm: str) -> None:
    monkeypatch.setattr(package, "__version__", python)
    assert package.version() == helm


def test_the_chart_names_the_version_of_the_sources() -> None:
    metadata: Json = yaml.safe_load(FILES()["Chart.yaml"])
    assert (metadata["version"], metadata["appVersion"]) == (package.version(), __version__)


# --- values ---------------------------------------------------------------------------------------------------------


def _defaults() -> Json:
    """What values.yaml must say."""
    found: Json = {}
    for each in values.VALUES:
        *above, last = each.name.split(".")
        place = found
        for name in above:
            place = place.setdefault(name, {})
        place[last] = each.default
    return found


def test_the_schema_is_one_and_takes_the_defaults() -> None:
    schema = json.loads(FILES()["values.schema.json"])
    jsonschema.Draft7Validator.check_schema(schema)
    read = yaml.safe_load(FILES()["values.yaml"])
    assert read == _defaults()
    jsonschema.Draft7Validator(schema).validate(read)


def test_every_object_of_the_schema_refuses_what_it_does_not_know() -> None:
    schema = json.loads(FILES()["values.schema.json"])
    objects = [schema, schema["properties"]["image"], schema["properties"]["image"]["properties"]["digests"]]
    assert all(each["additionalProperties"] is False for each in objects)


def is_taken(name: str, value: Any) -> bool:
    schema = next(each.schema for each in values.VALUES if each.name == name)
    form = forms.FORMS.get(name, forms.Form(".*", ""))
    texts = value if isinstance(value, list) else [value]
    fitting = all(re.fullmatch(form.pattern, str(each), re.DOTALL) for each in texts)
    return fitting and bool(jsonschema.Draft7Validator(schema).is_valid(value))


def test_no_message_is_a_pattern() -> None:
    """The schema's own words for a text that does not fit would be its expression."""
    assert '"pattern"' not in FILES()["values.schema.json"]


def test_every_form_is_of_a_value_that_holds_texts() -> None:
    texts = {each.name for each in values.VALUES if '"string"' in json.dumps(each.schema)}
    of_their_own = {"clients", "pool"}  # the template reads them
    assert set(forms.FORMS) == texts - of_their_own


def is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text and not ("." in text and address.version == 6)  # which no NetworkPolicy takes


ADDRESSES = st.one_of(
    st.ip_addresses().map(str),
    st.ip_addresses(v=6).map(lambda each: each.exploded.upper()),
    st.lists(st.sampled_from(["", "0", "1", "00", "ffff", "12345", "g", "255", "256", "01"]), max_size=10).flatmap(
        lambda parts: st.sampled_from([":".join(parts), ".".join(parts), "::".join(parts)])
    ),
)


@given(ADDRESSES)
@example(":::::")
@example("::")
@example("1:2:3:4:5:6:7::")
@example("::ffff:10.0.0.1")
@example("fe80::1%eth0")
@example("10.0.0.0/8")
@hypothesis_settings(max_examples=500)
def test_the_addresses_of_api_servers_are_addresses(text: str) -> None:
    assert is_taken("apiServers", [text]) is is_address(text)


def certificate(algorithm: trustme.KeyType) -> str:
    return trustme.CA(key_type=algorithm).cert_pem.bytes().decode()


@pytest.mark.parametrize("algorithm", list(trustme.KeyType))
def test_certificates_are_taken(algorithm: trustme.KeyType) -> None:
    one = certificate(algorithm)
    assert is_taken("clientCa", one)
    assert is_taken("registryCa", f"\n{one}\n{one.replace(chr(10), chr(13) + chr(10))}")


def test_what_is_no_certificate_is_not_taken() -> None:
    one = certificate(trustme.KeyType.ECDSA)
    of_nothing = "-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"
    key = one.replace("CERTIFICATE", "PRIVATE KEY")
    assert not [
        each for each in ("AA", of_nothing, one + of_nothing, one + key, f"# {one}") if is_taken("clientCa", each)
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            ("image.repository", each)
            for each in ("localhost", "r.example:5000/a/b", "UPPER", "a//b", "a:1", "a/", "é")
        ),
        *(("image.tag", each) for each in ("1.2_x", "a b", "-a", "a" * 128, "a" * 129)),
        *(("tokenNamespace", each) for each in ("a", "123", "A", "a.b", "-a", "a" * 63, "a" * 64)),
        *(("platform", each) for each in ("community", "tkgi", "aks")),
        *(("delivery", each) for each in ("init", "image")),
    ],
)
def test_the_chart_takes_the_texts_that_a_deploy_takes(name: str, text: str) -> None:
    assert is_taken(name, text) is _deploys(name, text)


@pytest.mark.parametrize(
    ("name", "number"),
    [("totalGpuMemory", -1), ("totalGpuMemory", 0), ("resourceNums", 0), ("resourceNums", 1), ("resourceNums", 10**6)],
)
def test_the_chart_takes_the_numbers_that_a_deploy_takes(name: str, number: int) -> None:
    assert is_taken(name, number) is _deploys(name, str(number))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("allowNamespaces", each) for each in ("a", "team-*", "a[0-9]", "A", "-a", "*", "a]", "a" * 64, "[]", "a.b")),
        *(("imageRegistries", each) for each in ("r.example:5000", "*.example", "a/b")),
        *(("insecureRegistries", each) for each in ("http://r", "https://r:1", "r", "http://r/p", "http://[::1]:5000")),
    ],
)
def test_the_chart_takes_the_items_that_a_deploy_takes(name: str, text: str) -> None:
    assert is_taken(name, [text]) is _deploys(name, text)


def _deploys(name: str, text: str) -> bool:
    variable = next(each.variable for each in values.VALUES if each.name == name)
    try:
        settings.resolve({variable: text})
    except ConfigurationError:
        return False
    return True


def test_every_variable_of_a_deploy_is_a_value_or_not_a_choice_of_what_is_installed() -> None:
    """Those of the command itself have no value: how long to wait, with which kubectl, what becomes of old copies."""
    of_the_command = {"ADOPT", "TIMEOUT", "KUBECTL"}
    known = {each.name for each in settings.VARIABLES.values()}
    assert {each.variable for each in values.VALUES if each.variable} == known - of_the_command


def test_the_page_has_the_table_of_values() -> None:
    assert values.table() in (ROOT / "docs" / "helm.md").read_text()


def test_the_command_needs_a_kubectl(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("KUBECTL", "/nonexistent/kubectl")
    assert main(["chart", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("chart: KUBECTL: '/nonexistent/kubectl' is not there")
