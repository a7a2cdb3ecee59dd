"""Steps 2 and 3: the webhook is started, and decides on pods that an API server shows it."""

from __future__ import annotations

import copy
import difflib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import trio
import trustme
import yaml

from bitfusiond.core import names
from bitfusiond.core.objects import Pod
from tests.tools.demo import apiserver
from tests.tools.demo.examples import EXAMPLES, TOTAL_GPU_MEMORY, Example, gpu_container, pod
from tests.tools.demo.processes import Daemon
from tests.tools.demo.report import Step, expect, require

DRAIN_SECONDS = 0.5
WRONG_PERCENT = "101"


class Webhook:
    """The webhook's process, where it listens, and how to trust it."""

    def __init__(self, daemon: Daemon, address: str, trusted: ssl.SSLContext) -> None:
        self.daemon = daemon
        self.address = address
        self.trusted = trusted


async def start(step: Step, nursery: trio.Nursery, directory: Path, echo: Callable[[str], None]) -> Webhook:
    """Step 2: the webhook in ``nursery``, with a certificate made for this run."""
    authority = trustme.CA()
    certificate = authority.issue_cert(apiserver.SERVICE)
    cert, key = directory / "tls.crt", directory / "tls.key"
    certificate.private_key_pem.write_to_path(key)
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    trusted = ssl.create_default_context()
    authority.configure_trust(trusted)
    arguments = ["--listen", "127.0.0.1:0", "--tls-cert", str(cert), "--tls-key", str(key), "--observe", "none"]
    arguments += ["--kubeconfig", "none", "--total-gpu-memory", str(TOTAL_GPU_MEMORY)]
    arguments += ["--drain-seconds", str(DRAIN_SECONDS)]
    daemon = await Daemon.start(nursery, "webhook", arguments, directory, echo)
    step.leans_on(daemon)
    address = (await daemon.event("listening"))["address"]
    async with apiserver.connected(address, trusted):
        step.done(f"webhook serves HTTPS on {address}, with a certificate for {apiserver.SERVICE}")
    return Webhook(daemon, address, trusted)


async def admit(step: Step, webhook: Webhook) -> dict[str, Pod]:
    """Step 3: every example admitted, by the name of its file, and a wrong one refused."""
    step.leans_on(webhook.daemon)
    admitted: dict[str, Pod] = {}
    async with apiserver.connected(webhook.address, webhook.trusted) as api:
        for example in EXAMPLES:
            before = apiserver.defaulted(pod(example.file))
            after = await api.mutate(before)
            _check(example, before, after)
            admitted[example.file] = apiserver.defaulted(after)
            shown = "the whole patch" if example is EXAMPLES[0] else "its command and resources"
            step.done(f"{example.file} ({example.wants}): admitted, {example.shares} shares; {shown}:")
            step.show(_diff(before, after) if example is EXAMPLES[0] else _short_diff(before, after))
        await _validate(step, api, admitted)
        await _refuse(step, api)
    return admitted


async def _validate(step: Step, api: apiserver.ApiServer, admitted: dict[str, Pod]) -> None:
    for file, after in admitted.items():
        require(await api.mutate(after) == after, f"{file}: a second /mutate changes nothing", "it does")
        answer = await api.ask("/validate", after)
        require(answer.get("allowed") is True, f"{file}: /validate allows it", answer)
    step.done(f"all {len(admitted)}: asked again, /mutate changes nothing, and /validate lets them be stored")
    bare = apiserver.defaulted(pod(EXAMPLES[0].file))
    answer = await api.ask("/validate", bare)
    require(answer.get("allowed") is False, "/validate refuses a pod that was not injected", answer)
    step.done(f"{EXAMPLES[0].file} as the user wrote it, past /mutate: /validate refuses it, it would have no GPU")


async def _refuse(step: Step, api: apiserver.ApiServer) -> None:
    wrong = copy.deepcopy(pod(EXAMPLES[0].file))
    gpu_container(wrong)["resources"]["limits"][names.GPU_PERCENT] = WRONG_PERCENT
    answer = await api.ask("/mutate", apiserver.defaulted(wrong))
    status = answer.get("status", {})
    require(answer.get("allowed") is False, f"/mutate refuses gpu-percent: {WRONG_PERCENT}", answer)
    expect((status.get("code"), status.get("reason")), (422, "Invalid"), "code and reason of the refusal")
    message, fix = str(status.get("message")), f"{WRONG_PERCENT} is not an integer from 1 to 100"
    require(fix in message, f"a message with {fix!r}", message)
    step.done(f"{EXAMPLES[0].file} with gpu-percent: {WRONG_PERCENT}: refused; its user reads:")
    step.show([f'The Pod "{wrong["metadata"]["name"]}" is invalid: {message}'])


def _check(example: Example, before: Pod, after: Pod) -> None:
    """What has to be in the admitted pod, and that the rest of it is as it was."""
    container, was = gpu_container(after), gpu_container(before)
    wanted = {names.GPU: str(example.shares)}
    expect(container["resources"], {"limits": wanted, "requests": wanted}, f"{example.file}: resources")
    command = " ".join(container["command"])
    wrapped = f"bitfusion {example.asked} -- python"
    require(wrapped in command, f"{example.file}: a command with {wrapped!r}", command)
    expect(after["spec"]["initContainers"][0]["name"], "populate", f"{example.file}: the first initContainer")
    annotations = before["metadata"]["annotations"] | {names.STATUS: names.STATUS_INJECTED}
    if names.VALIDATE in after["metadata"]["annotations"]:  # with a template of one's own
        annotations[names.VALIDATE] = names.VALIDATE_ALWAYS
    expect(after["metadata"], before["metadata"] | {"annotations": annotations}, f"{example.file}: metadata")
    for what, new, old in (
        ("volumes", after["spec"]["volumes"], before["spec"]["volumes"]),
        ("volumeMounts", container["volumeMounts"], was["volumeMounts"]),
    ):
        expect(new[: len(old)], old, f"{example.file}: its own {what}, first")


def _diff(before: Any, after: Any, context: int = 1) -> Iterator[str]:
    old, new = (yaml.safe_dump(each, sort_keys=False, width=2**20).splitlines() for each in (before, after))
    return difflib.unified_diff(old, new, "as the API server shows it", "as admitted", n=context, lineterm="")


def _short_diff(before: Pod, after: Pod) -> Iterator[str]:
    """The words that the container runs, and its resources; without the heads of a diff."""
    old, new = ({key: gpu_container(each)[key] for key in ("command", "resources")} for each in (before, after))
    return (line for line in _diff(old, new, context=99) if not line.startswith(("---", "+++", "@@")))
