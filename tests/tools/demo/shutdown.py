"""The last step: SIGTERM, as when a node is drained or a Deployment is rolled out."""

from __future__ import annotations

import trio

from tests.fakes.kubelet import Kubelet
from tests.tools.demo import apiserver
from tests.tools.demo.admission import DRAIN_SECONDS, Webhook
from tests.tools.demo.examples import EXAMPLES, pod
from tests.tools.demo.plugin import SOCKET
from tests.tools.demo.processes import Daemon
from tests.tools.demo.report import Step, StepFailed, expect, require


async def stop(step: Step, webhook: Webhook, plugin: Daemon, kubelet: Kubelet) -> None:
    """Stop both daemons and look at what they leave behind."""
    step.leans_on(webhook.daemon, plugin)
    webhook.daemon.terminate()
    await webhook.daemon.event("draining")
    async with apiserver.connected(webhook.address, webhook.trusted) as api:
        await api.mutate(apiserver.defaulted(pod(EXAMPLES[0].file)))
    step.done("webhook still answers a new connection, as the API server may not have heard of its end yet")
    expect(await webhook.daemon.ended(), 0, "the exit status of the webhook")
    host, _, port = webhook.address.rpartition(":")
    try:
        await (await trio.open_tcp_stream(host, int(port))).aclose()
    except OSError:
        step.done(f"webhook closed its port after {DRAIN_SECONDS:g} s (15 by default) and ended with exit status 0")
    else:
        raise StepFailed("the port of the webhook is closed", "it accepts a connection")
    socket = kubelet.socket.with_name(SOCKET)
    plugin.terminate()
    expect(await plugin.ended(), 0, "the exit status of the plugin")
    await kubelet.wait_stream_ended()
    require(not socket.exists(), f"the socket {SOCKET} is gone", "it is there")
    step.done(f"plugin ended its stream to the kubelet, removed {SOCKET} and ended with exit status 0")
