"""What a pod leaves to its images, where they are looked up: ENTRYPOINT, CMD and LD_LIBRARY_PATH."""

from __future__ import annotations

from dataclasses import dataclass

from bitfusiond.core import names
from bitfusiond.core.admission import optin, pod
from bitfusiond.core.admission.decision import Rules
from bitfusiond.core.admission.optin import Mode
from bitfusiond.core.fields import Document, Field, Json, names_of, objects
from bitfusiond.core.images import reference

MOST_IMAGES = 16  # different ones of a pod
MOST_PULL_SECRETS = 16


@dataclass(frozen=True, slots=True)
class Needed:
    """The images of a pod that say what the pod does not, by their names; True: pulled anew for each pod.

    ``pull_secrets`` are the names of Secrets in the pod's namespace. Those of its service account are among them: the
    API server puts them into a pod that has none of its own before it asks a webhook, and the kubelet takes no others.
    """

    images: dict[str, bool]
    pull_secrets: tuple[str, ...]


def needed(document: Json, namespace: str, rules: Rules) -> Needed | None:
    """What is to be looked up for the pod ``document``; None for nothing."""
    if namespace in rules.exempt_namespaces:
        return None
    root = Document(document)
    opt_in = optin.opt_in(root, namespace)
    if opt_in.is_mirror or opt_in.is_injected or opt_in.mode in {None, Mode.NONE}:
        return None
    client = optin.client(root["metadata"]["annotations"], rules.catalogue)
    if client is None:
        return None
    spec = root["spec"]
    images: dict[str, bool] = {}
    for container, _ in pod.asking(pod.containers_of(spec)):
        name = container["image"].value
        leaves_command = opt_in.mode is Mode.ALL and bool(client.wrap) and not container["command"].value
        leaves_path = client.merges_library_path and names.LD_LIBRARY_PATH not in names_of(
            objects(container["env"].value)
        )
        if isinstance(name, str) and name and (leaves_command or leaves_path):
            images[name] = images.get(name, False) or _pulls_always(container)
    if not images:
        return None
    secrets = [name for each in objects(spec["imagePullSecrets"].value) if isinstance(name := each.get("name"), str)]
    return Needed(images, tuple(dict.fromkeys(secrets))[:MOST_PULL_SECRETS])


def _pulls_always(container: Field) -> bool:
    """By the pod's word, else as Kubernetes does by default."""
    policy = container["imagePullPolicy"].value
    if policy is not None:
        return bool(policy == "Always")
    try:
        return reference.parse(container["image"].value).is_latest
    except ValueError:
        return True
