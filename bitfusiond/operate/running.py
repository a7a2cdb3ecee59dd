"""What the cluster runs now, as far as a deploy without that variable keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitfusiond.configfiles import CATALOGUE
from bitfusiond.operate import legacy04, render
from bitfusiond.operate.kubectl import Json, Kubectl, Ref
from bitfusiond.operate.settings import Settings

WEBHOOK = Ref("Deployment", "bitfusion-webhook-deployment", "bwki")
PLUGIN = Ref("DaemonSet", "bitfusion-device-plugin", "kube-system")

DEFAULT_TOTAL_GPU_MEMORY = 0
DEFAULT_RESOURCE_NUMS = 1000


@dataclass(frozen=True, slots=True)
class Running:
    """None: nothing is there to be kept."""

    total_gpu_memory: int | None = None
    resource_nums: int | None = None
    clients: str | None = None


def read(kubectl: Kubectl) -> Running:
    plugin = kubectl.get(PLUGIN) or kubectl.get(legacy04.PLUGIN)
    return of(kubectl.get(WEBHOOK), plugin, kubectl.get(render.CATALOGUE_MAP))


def of(webhook: Json | None, plugin: Json | None, catalogue: Json | None) -> Running:
    """From the objects; those of 0.4 have the same variables."""
    annotations: Mapping[str, Any] = ((catalogue or {}).get("metadata") or {}).get("annotations") or {}
    given = annotations.get(render.CLIENTS_GIVEN) == "true"
    return Running(
        _number(render.variable(webhook, render.TOTAL_GPU_MEMORY)),
        _number(render.variable(plugin, render.RESOURCE_NUMS)),
        (catalogue or {}).get("data", {}).get(CATALOGUE) if given else None,
    )


def _number(value: str | None) -> int | None:
    return int(value) if value and value.isascii() and value.isdecimal() else None


def choose(settings: Settings, now: Running) -> tuple[render.Values, list[str]]:
    """The values of a deploy, and a line for each: what it is and why.

    What is not given stays as it runs: an operator who deploys a fix at night must not reset the GPUs' memory.
    """
    notes = [f"images: {settings.image_repo}/bitfusiond:{settings.image_tag} and bitfusion-client of the same tag"]

    def number(name: str, given: int | None, running: int | None, default: int) -> int:
        value = given if given is not None else running if running is not None else default
        why = "given" if given is not None else "as it runs" if running is not None else "the default"
        notes.append(f"{name}: {value} ({why})")
        return value

    total = number(render.TOTAL_GPU_MEMORY, settings.total_gpu_memory, now.total_gpu_memory, DEFAULT_TOTAL_GPU_MEMORY)
    shares = number(render.RESOURCE_NUMS, settings.resource_nums, now.resource_nums, DEFAULT_RESOURCE_NUMS)
    clients = now.clients if settings.clients is None else render.catalogue_text(settings.clients)
    if clients is not None:
        notes.append(f"client catalogue: {settings.clients or 'as it runs (CLIENTS of an earlier deploy)'}")
    return render.Values(settings.image_repo, settings.image_tag, total, shares, clients), notes
