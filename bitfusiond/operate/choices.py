"""What a deploy takes: what is given, else what runs, else the default."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bitfusiond import __version__, pki
from bitfusiond.core import devices, names
from bitfusiond.core.clients import catalogue
from bitfusiond.core.pool import inventory
from bitfusiond.files.read import load_yaml
from bitfusiond.operate import delivery, manifests
from bitfusiond.operate.current import IMAGES, Running
from bitfusiond.operate.settings import DEFAULT_REPO, Settings
from bitfusiond.operate.tokenplace import TokenPlace
from bitfusiond.settings.values import globs, parts

ValueT = TypeVar("ValueT")

DEFAULT_TOTAL_GPU_MEMORY = 0
DEFAULT_RESOURCE_NUMS = 1000

_OUR_IMAGE = re.compile(r"(?P<repo>\S+)/bitfusiond(?::(?P<tag>[^@]+))?(?:@\S+)?")
# As releases are tagged; an operator's own tag ("test") stays.
_VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+(?:(?:a|b|rc|\.dev|\.post)[0-9]+)?")


class _Choices:
    """What is given before what runs, that before the default; ``notes`` has a line for each, in their order."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def take(
        self,
        name: str,
        given: ValueT | None,
        running: ValueT | None,
        default: ValueT,
        shown: Callable[[ValueT], str] = str,
        *,
        is_rare: bool = False,
    ) -> ValueT:
        """``is_rare``: most do without, so that the default is worth no line."""
        value = given if given is not None else running if running is not None else default
        why = "given" if given is not None else "as it runs" if running is not None else "the default"
        if not is_rare or why != "the default":
            self.notes.append(f"{name}: {shown(value)} ({why})")
        return value


def choose(settings: Settings, deployed: Running) -> tuple[manifests.Values, list[str]]:
    """The values of a deploy, and a line for each: what it is and why.

    What is not given stays as it runs: an operator who deploys a fix at night must not reset the GPUs' memory.
    """
    choices = _Choices()
    take = choices.take
    repo, tag = _images(choices, settings, deployed)
    digests = _digests(choices, settings, deployed, f"{repo}/{{}}:{tag}")
    total = take(
        manifests.TOTAL_GPU_MEMORY, settings.total_gpu_memory, deployed.total_gpu_memory, DEFAULT_TOTAL_GPU_MEMORY
    )
    pool = take("POOL", settings.pool, deployed.pool, "", _described_pool)
    shares = _shares(choices, settings, deployed, pool)
    tokens = _tokens(choices, settings, deployed)
    allow = take("ALLOW_NAMESPACES", settings.allow_namespaces, deployed.allow_namespaces, None, _or_all)
    client_ca = take("CLIENT_CA", settings.client_ca, deployed.client_ca, "", _described)
    only = take("API_SERVER_ONLY", settings.api_server_only, deployed.api_server_only or None, False, _yes_or_no)
    chosen = take("DELIVERY", settings.delivery, deployed.delivery, delivery.INIT)
    lookup = take("IMAGE_LOOKUP", settings.image_lookup, deployed.image_lookup, False, _on_or_off)
    allowed = take("IMAGE_REGISTRIES", settings.image_registries, deployed.image_registries, None, is_rare=True)
    given, running = settings.insecure_registries, deployed.insecure_registries
    insecure = take("INSECURE_REGISTRIES", given, running, "", _or_none, is_rare=True)
    registry_ca = take("REGISTRY_CA", settings.registry_ca, deployed.registry_ca, "", _described, is_rare=True)
    values = manifests.Values(
        repo,
        tag,
        total,
        shares,
        _catalogue(choices, settings.clients, deployed.clients),
        tokens,
        allow,
        client_ca,
        only,
        digests=digests,
        image_lookup=lookup,
        image_registries=allowed,
        insecure_registries=insecure,
        registry_ca=registry_ca,
        pool=pool,
        delivery=chosen,
    )
    return values, choices.notes


def _images(choices: _Choices, settings: Settings, deployed: Running) -> tuple[str, str]:
    repo, tag, why = images(settings, deployed.image)
    choices.notes.append(f"images: {repo}/bitfusiond:{tag} and bitfusion-client of the same tag ({why})")
    return repo, tag


def _shares(choices: _Choices, settings: Settings, deployed: Running, pool: str) -> int:
    """Those that are given, else those of the pool, which each node offers."""
    of_pool = _shares_of_pool(pool) if pool and settings.resource_nums is None else None
    if of_pool is None:
        return choices.take(
            manifests.RESOURCE_NUMS, settings.resource_nums, deployed.resource_nums, DEFAULT_RESOURCE_NUMS
        )
    choices.notes.append(f"{manifests.RESOURCE_NUMS}: {of_pool} (those of the pool, which each node offers)")
    return of_pool


def _tokens(choices: _Choices, settings: Settings, deployed: Running) -> TokenPlace:
    namespace = choices.take("TOKEN_NAMESPACE", settings.token_namespace, deployed.token_namespace, names.KUBE_SYSTEM)
    if namespace != names.KUBE_SYSTEM:
        choices.notes.append(f"the plugin looks for servers.conf in {names.KUBE_SYSTEM} alone, and so probes no server")
    return token_place(settings, deployed)


def _or_all(allowed: str | None) -> str:
    return allowed or "*"


def _or_none(value: str) -> str:
    return value or "none"


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


def _on_or_off(value: bool) -> str:
    return "on" if value else "off"


def taken_away(settings: Settings, deployed: Running) -> list[str]:
    """What somebody else put into the webhook, and a deploy would take away in silence or could not keep."""
    problems = []
    if settings.allow_namespaces is None and deployed.allow_namespaces is not None:
        try:
            globs(deployed.allow_namespaces)
        except ValueError as error:
            problems.append(
                f"ALLOW_NAMESPACES: {deployed.allow_namespaces!r}, as it runs, is not {error}: give another"
            )
    if settings.pool == "" and deployed.pool and settings.resource_nums is None:
        problems.append(
            "POOL=none: give RESOURCE_NUMS too, the shares that each node may hand out; today's"
            f" {deployed.resource_nums}"
            " are those of the pool"
        )
    if settings.pool is None and deployed.pool is None and deployed.pool_path is not None:
        problems.append(
            f"POOL: the webhook runs with --pool {deployed.pool_path}, which no deploy put there: give POOL=FILE to"
            " keep a pool, or POOL=none"
        )
    if deployed.tls_cert is not None:
        problems.append(
            f"the webhook runs with --tls-cert {deployed.tls_cert}, which deploy would take away, with the"
            " permissions that it does without: apply manifests/tls-cert instead, or take the option off the Deployment"
            " first"
        )
    if settings.client_ca is None and deployed.client_ca is None and deployed.client_ca_path is not None:
        running = f"the webhook runs with --client-ca {deployed.client_ca_path}, which no deploy put there"
        problems.append(f"CLIENT_CA: {running}: give CLIENT_CA=FILE to keep a client CA, or CLIENT_CA=none")
    if settings.registry_ca is None and deployed.registry_ca is None and deployed.registry_ca_path is not None:
        running = f"the webhook runs with --registry-ca {deployed.registry_ca_path}, which no deploy put there"
        problems.append(
            f"REGISTRY_CA: {running}: give REGISTRY_CA=FILE to keep a CA of registries, or REGISTRY_CA=none"
        )
    return problems


def token_place(settings: Settings, deployed: Running) -> TokenPlace:
    """Where the tokens are and where they may go, nothing read yet."""
    namespace = settings.token_namespace or deployed.token_namespace or names.KUBE_SYSTEM
    return TokenPlace(namespace, parts(settings.allow_namespaces or deployed.allow_namespaces or "*"))


def _described_pool(text: str) -> str:
    if not text:
        return "none, each node counts for itself"
    try:
        pool = inventory.parse(load_yaml(text))
    except ValueError:
        return "broken in the cluster"  # verify says how
    return f"{sum(len(each.gpus) for each in pool.servers)} GPUs on {len(pool.servers)} servers"


def _shares_of_pool(text: str) -> int | None:
    """What each node offers of a pool, at most what a kubelet can be told; None for a broken one."""
    try:
        return min(inventory.parse(load_yaml(text)).shares, devices.largest_size())
    except ValueError:
        return None


def _described(client_ca: str) -> str:
    certificates = pki.certificates_of(client_ca.encode())
    return ", ".join(each.subject.rfc4514_string() for each in certificates) or "none"


def images(settings: Settings, running: str | None) -> tuple[str, str, str]:
    """The images' repository and tag, and why these.

    An upgrade brings the new images without being told their tag, from where the old ones came.
    """
    ours = _OUR_IMAGE.fullmatch(running or "")
    repo, why = settings.image_repo, "IMAGE_REPO given"
    if repo is None:
        repo, why = (ours["repo"], "IMAGE_REPO as it runs") if ours else (DEFAULT_REPO, "IMAGE_REPO the default")
    tag = settings.image_tag
    if tag is not None:
        return repo, tag, f"{why}, IMAGE_TAG given"
    if ours and ours["tag"] and not _VERSION.fullmatch(ours["tag"]):
        return repo, ours["tag"], f"{why}, IMAGE_TAG as it runs, since it is not the number of a version"
    return repo, __version__, f"{why}, IMAGE_TAG the version of this checkout"


def _digests(choices: _Choices, settings: Settings, deployed: Running, form: str) -> dict[str, str]:
    """The digests that are known of the images that were chosen.

    Whoever deploys from where nothing was pushed, or not of late, must not take away the digests that the cluster has.
    A tag that is given is meant as it is now, not as it was.
    """
    given, pushed = settings.digests or {}, settings.pushed or {}
    running = deployed.digests if settings.image_tag is None else {}
    found, told = {}, []
    for name in IMAGES:
        tagged = form.format(name)
        digest = given.get(tagged) or running.get(tagged) or pushed.get(tagged)
        if digest is None:
            told.append(f"{name} none, a node takes what has the tag when it pulls")
            continue
        found[tagged] = digest
        ours = pushed.get(tagged)
        other = (
            f", not {ours}, which was pushed from here: to take it, give IMAGE_TAG"
            if ours not in (None, digest)
            else ""
        )
        told.append(f"{name} {digest} ({'as it was pushed' if digest == ours else 'as it runs'}{other})")
    choices.notes.append(f"digests: {'; '.join(told)}")
    return found


def _catalogue(choices: _Choices, given: Path | None, running: str | None) -> str | None:
    """The text of the catalogue; None = the packaged one."""
    text, why = _catalogue_of(given, running)
    choices.notes.append(f"client catalogue: {why}")
    return text


def _catalogue_of(given: Path | None, running: str | None) -> tuple[str | None, str]:
    """The text of the catalogue, None = the packaged one, and why this one."""
    if given is not None:
        return manifests.catalogue_text(given), f"{given} (given)"
    if running is None:
        return None, "the packaged one"
    try:
        catalogue.parse(load_yaml(running))
    except ValueError as error:
        return None, f"the packaged one, in the place of that in the cluster, which is broken: {error}"
    return running, "as it runs (from an earlier CLIENTS, or edited in the cluster)"
