"""``python -m bitfusiond.prove``: what it says of an installation that is right, and of each that is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonpatch
import pytest
import trio

from bitfusiond import prove
from bitfusiond.core import names, proof
from bitfusiond.core.fields import Json
from bitfusiond.errors import ConfigurationError, Failure
from bitfusiond.files.read import CATALOGUE, packaged
from bitfusiond.kube import ForbiddenError, InvalidError, Object, Resource, UnavailableError
from tests.fakes.cluster import FakeCluster

_DENIED = 'admission webhook "bwkimua.bitfusion.io" denied the request: metadata.annotations: nonsense is not a mode'
Answer = Callable[[Object], Object]


class Asked(FakeCluster):
    """An API server that answers pods that opted in as ``answer`` does, and keeps every pod that it was shown."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("default")
        self.answer = answer
        self.shown: list[Object] = []

    async def create(self, resource: Resource, namespace: str | None, body: Object, *, dry_run: bool = False) -> Object:
        assert dry_run
        self.shown.append(body)
        return self.answer(body)


def mode(pod: Object) -> str | None:
    found: str | None = pod["metadata"].get("annotations", {}).get(names.MANAGEMENT)
    return found


def right(pod: Object) -> Object:
    if mode(pod) == "nonsense":
        raise InvalidError(_DENIED)
    if mode(pod) is None:
        return pod
    status = [{"op": "add", "path": "/metadata/annotations/auto-management~1status", "value": names.STATUS_INJECTED}]
    stored: Object = jsonpatch.apply_patch(pod, status)
    return stored


def asks_nobody(pod: Object) -> Object:
    return pod


def takes_nonsense(pod: Object) -> Object:
    return right({**pod, "metadata": {**pod["metadata"], "annotations": {names.MANAGEMENT: "all"}}})


def unreachable(pod: Object) -> Object:
    raise UnavailableError('failed calling webhook "bwkimua.bitfusion.io": no endpoints available')


def guarded(pod: Object) -> Object:
    raise InvalidError(
        "pods \"p\" is forbidden: ValidatingAdmissionPolicy 'bitfusiond-pods' with binding 'bitfusiond-pods' denied"
        " request: the pod opted in to GPUs, and bitfusiond's webhook was not asked about it"
    )


def away(pod: Object) -> Object:
    raise UnavailableError("the API server did not answer within 60 s")


def forbidden(pod: Object) -> Object:
    raise ForbiddenError('pods is forbidden: User "system:serviceaccount:bwki:t" cannot create resource "pods"')


def settings(answer: Answer) -> prove.Settings:
    return prove.Settings(Asked(answer), "default", {}, seconds=0)


async def test_a_right_installation_admits_refuses_and_leaves_alone(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings(right)
    await prove.serve(chosen, trio.Event())
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", by dry run: ")[0] for line in lines] == [
        "a pod that opts in",
        "a pod that opts in and is wrong",
        "a pod that does not opt in",
    ]
    assert isinstance(chosen.cluster, Asked)
    assert list(map(mode, chosen.cluster.shown)) == ["all", "nonsense", None]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (unreachable, "a pod that opts in, by dry run: the API server cannot reach bwkimua.bitfusion.io"),
        (away, "a pod that opts in, by dry run: the API server did not answer within 60 s; more"),
        (forbidden, "a pod that opts in, by dry run: refused, not by bitfusiond: pods is forbidden"),
        (takes_nonsense, "a pod that opts in and is wrong, by dry run: asked, patched"),
    ],
)
async def test_the_first_pod_that_is_not_treated_as_it_should_be_is_named(answer: Answer, told: str) -> None:
    with pytest.raises(Failure, match=r"more: kubectl logs -n bwki deployment/") as raised:
        await prove.serve(settings(answer), trio.Event())
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (asks_nobody, "the API server did not ask the webhook, and would have stored the pod as it is"),
        (guarded, "refused by the policy bitfusiond-pods: the pod opted in to GPUs, and bitfusiond's webhook was not"),
    ],
)
async def test_where_the_webhook_is_not_asked_its_configuration_says_more_than_its_log(
    answer: Answer, told: str
) -> None:
    with pytest.raises(Failure, match=r"more: kubectl get mutatingwebhookconfiguration bwki-webhook-cfg") as raised:
        await prove.serve(settings(answer), trio.Event())
    assert str(raised.value).startswith(f"a pod that opts in, by dry run: {told}")


async def test_the_wait_ends_by_the_clock_however_long_an_answer_takes(autojump_clock: trio.testing.MockClock) -> None:
    class Slow(Asked):
        async def create(
            self, resource: Resource, namespace: str | None, body: Object, *, dry_run: bool = False
        ) -> Object:
            await trio.sleep(10)
            return await super().create(resource, namespace, body, dry_run=dry_run)

    with pytest.raises(Failure, match="cannot reach"):
        await prove.serve(prove.Settings(Slow(unreachable), "default", {}), trio.Event())
    assert trio.current_time() < proof.SETTLE_SECONDS + 15


async def test_a_good_answer_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    answers = iter([unreachable, unreachable])

    def answer(pod: Object) -> Object:
        return next(answers, right)(pod)

    chosen = prove.Settings(Asked(answer), "default", {})
    await prove.serve(chosen, trio.Event())
    assert trio.current_time() < proof.SETTLE_SECONDS


def test_a_plain_pod_asks_for_nothing_of_ours() -> None:
    text = json.dumps(proof.plain(proof.pod("default", {})))
    assert "bitfusion.io" not in text
    assert names.MANAGEMENT not in text


def test_the_client_is_the_first_of_the_catalogue(tmp_path: Path) -> None:
    file = tmp_path / "clients.yaml"
    file.write_text(packaged(CATALOGUE))
    first: Json = prove.client(file)
    assert first == {names.CLIENT_OS: "ubuntu18", names.CLIENT_VERSION: "450"}


@pytest.mark.parametrize(
    ("text", "told"), [(None, "cannot read"), ("[]", "--clients: "), ("BitfusionClients: 1", "--clients: ")]
)
def test_a_catalogue_that_is_not_one_is_named(tmp_path: Path, text: str | None, told: str) -> None:
    file = tmp_path / "clients.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match=told) as raised:
        prove.client(file)
    assert str(file) in str(raised.value)


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prove.main(["--clients", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("prove: ")
