"""Whether Helm installed what runs: then it is Helm's to change and to take away, as it has a record of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bitfusiond.core import names
from bitfusiond.core.fields import mapping
from bitfusiond.core.objects import Object
from bitfusiond.operate import current
from bitfusiond.operate.kubectl import Ref

TO_READ = (
    current.WEBHOOK,
    current.PLUGIN,
    Ref(names.MUTATING_KIND, names.MUTATING_CONFIGURATION),
    Ref(names.VALIDATING_KIND, names.VALIDATING_CONFIGURATION),
)


class Release(NamedTuple):
    """As Helm calls it, on its command line too."""

    name: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.name} -n {self.namespace}"


def of_objects(found: Mapping[Ref, Object]) -> Release | None:
    """The one that installed us, by those of ``TO_READ`` that are there: what a release left is of none."""
    for what in TO_READ:
        annotations = mapping(found.get(what), "metadata", "annotations")
        name, namespace = (annotations.get(f"meta.helm.sh/release-{part}") for part in ("name", "namespace"))
        if name:
            return Release(str(name), str(namespace))
    return None


def refusal_of_deploy(release: Release) -> str:
    """Why nothing is deployed over it."""
    return (
        f"bitfusiond is here as a Helm release, which `helm upgrade {release}` changes; to go over to deploy,"
        f" `helm uninstall {release}` first"
    )


def refusal_of_uninstall(release: Release) -> str:
    """Why it is not ours to delete."""
    return (
        f"bitfusiond is here as a Helm release: `helm uninstall {release}` takes it away, then `just uninstall` what it"
        " leaves"
    )
