"""The API server's part: fill in a pod's defaults, ask the webhook over HTTPS, apply the patch that it answers."""

from __future__ import annotations

import base64
import copy
import json
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import jsonpatch
import trio

from bitfusiond.core.objects import Pod
from tests.tools.demo.examples import NAMESPACE
from tests.tools.demo.report import StepFailed, expect, require

SERVICE = "bwki-webhook-svc.bwki.svc"  # whom the API server means to reach, and checks the certificate for
ANSWER_SECONDS = 10.0
_TOKEN_VOLUME = "kube-api-access-x7k2p"
_SUFFIXES = ("", "k", "M", "G", "T", "P")


def defaulted(pod: Pod) -> Pod:
    """``pod`` as the API server completes it before it asks a webhook; what is there stays. Twice equals once."""
    pod = copy.deepcopy(pod)
    pod["metadata"].setdefault("creationTimestamp", None)
    spec = pod["spec"]
    spec["volumes"] = [*spec.get("volumes", [])]
    if all(volume["name"] != _TOKEN_VOLUME for volume in spec["volumes"]):
        spec["volumes"].append({"name": _TOKEN_VOLUME, "projected": {"sources": [], "defaultMode": 420}})
    for volume in spec["volumes"]:
        if "hostPath" in volume:
            volume["hostPath"].setdefault("type", "")
        if "secret" in volume:
            volume["secret"].setdefault("defaultMode", 420)
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        _complete_container(container)
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        for key in ("not-ready", "unreachable")
    ]
    defaults = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "dnsPolicy": "ClusterFirst",
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "securityContext": {},
        "schedulerName": "default-scheduler",
        "tolerations": tolerations,
        "priority": 0,
        "enableServiceLinks": True,
        "preemptionPolicy": "PreemptLowerPriority",
    }
    pod["spec"] = spec | {key: value for key, value in defaults.items() if key not in spec}
    return pod


def _complete_container(container: dict[str, Any]) -> None:
    resources = container.setdefault("resources", {})
    for section in resources.values():
        section.update({name: _canonical(str(value)) for name, value in section.items()})
    if limits := resources.get("limits"):
        resources["requests"] = limits | resources.get("requests", {})
    mounts = container.setdefault("volumeMounts", [])
    if all(mount["name"] != _TOKEN_VOLUME for mount in mounts):
        path = "/var/run/secrets/kubernetes.io/serviceaccount"
        mounts.append({"name": _TOKEN_VOLUME, "readOnly": True, "mountPath": path})
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")


def _canonical(quantity: str) -> str:
    """A whole quantity as the API server writes it back: 8000M is 8G."""
    digits = quantity.rstrip("".join(_SUFFIXES))
    number, at = int(digits), _SUFFIXES.index(quantity[len(digits) :])
    while number and number % 1000 == 0 and at + 1 < len(_SUFFIXES):
        number, at = number // 1000, at + 1
    return f"{number}{_SUFFIXES[at]}"


class ApiServer:
    """One kept-alive connection to the webhook. Made by :func:`connected`."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def mutate(self, pod: Pod) -> Pod:
        """``pod`` after /mutate, its patch applied strictly. Raises StepFailed where it is refused."""
        answer = await self.ask("/mutate", pod)
        require(answer.get("allowed") is True, "/mutate allows the pod", answer.get("status"))
        if "patch" not in answer:
            return pod
        expect(answer.get("patchType"), "JSONPatch", "patchType")
        operations = json.loads(base64.b64decode(answer["patch"], validate=True))
        try:
            patched: Pod = jsonpatch.apply_patch(pod, operations)
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            raise StepFailed("a patch that applies to the pod as it is", error) from None
        return patched

    async def ask(self, path: str, pod: Pod) -> dict[str, Any]:
        """The ``response`` of the AdmissionReview that comes back on the creation of ``pod``. Raises StepFailed."""
        review = _review(pod)
        with trio.move_on_after(ANSWER_SECONDS) as deadline:
            status, body = await self._post(f"{path}?timeout=10s", json.dumps(review).encode())
        if deadline.cancelled_caught:
            raise StepFailed(f"an answer from {path} within {ANSWER_SECONDS:g} s", "none")
        require(status == 200, f"HTTP status 200 from {path}", f"{status}: {body[:200].decode(errors='replace')}")
        document = json.loads(body)
        expect({key: document.get(key) for key in _KIND}, _KIND, "the kind of the answer")
        answer: dict[str, Any] = document["response"]
        expect(answer.get("uid"), review["request"]["uid"], "the uid of the answer")
        return answer

    async def _post(self, target: str, body: bytes) -> tuple[int, bytes]:
        headers = {
            "Host": f"{SERVICE}:443",
            "User-Agent": "kube-apiserver-admission",
            "Content-Length": str(len(body)),
            "Accept": "application/json, */*",
            "Content-Type": "application/json",
        }
        request = h11.Request(method="POST", target=target, headers=list(headers.items()))
        for part in (request, h11.Data(body), h11.EndOfMessage()):
            await self._stream.send_all(self._http.send(part) or b"")
        status, answer = 0, b""
        while not isinstance(event := self._http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                self._http.receive_data(bytes(await self._stream.receive_some()))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                answer += bytes(event.data)
            elif isinstance(event, h11.ConnectionClosed):
                raise StepFailed("an answer", "the webhook closed the connection")
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        return status, answer


@asynccontextmanager
async def connected(address: str, trusted: ssl.SSLContext) -> AsyncIterator[ApiServer]:
    """An :class:`ApiServer` that speaks to the webhook at ``address`` and trusts what ``trusted`` does."""
    trusted.set_alpn_protocols(["http/1.1"])
    host, _, port = address.rpartition(":")
    tcp = await trio.open_tcp_stream(host, int(port))
    async with trio.SSLStream(tcp, trusted, server_hostname=SERVICE, https_compatible=True) as stream:
        await stream.do_handshake()
        yield ApiServer(stream)


_KIND = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}


def _review(pod: Pod) -> dict[str, Any]:
    kind = {"group": "", "version": "v1", "kind": "Pod"}
    resource = {"group": "", "version": "v1", "resource": "pods"}
    request = {
        "uid": str(uuid.uuid4()),
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "namespace": NAMESPACE,
        "operation": "CREATE",
        "userInfo": {"username": "kubernetes-admin", "groups": ["kubeadm:cluster-admins", "system:authenticated"]},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    if name := pod["metadata"].get("name"):
        request["name"] = name
    return {**_KIND, "request": request}
