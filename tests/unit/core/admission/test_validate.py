"""/validate: a pod that opted in carries what it needs, and fits a node."""

from __future__ import annotations

import copy
import shlex

import pytest
from hypothesis import given

from bitfusiond.core import names
from bitfusiond.core.admission.capacity import Largest
from bitfusiond.core.admission.decision import Allowed, Refusal, Untouched
from bitfusiond.core.admission.pod import MOST_CONTAINERS
from bitfusiond.core.admission.validate import Verdict, validate
from bitfusiond.core.objects import Pod
from tests import strategies
from tests.pods import BINARY, NAMESPACE, admitted, container, pod, rules

LARGEST = {names.GPU: 1000}


def _validate(given_pod: Pod, largest: Largest | None = None, namespace: str = NAMESPACE) -> Verdict:
    return validate(given_pod, namespace, rules(), largest)


@given(strategies.pods())
def test_what_mutate_admits_is_valid(given_pod: Pod) -> None:
    assert isinstance(_validate(admitted(given_pod)), Allowed)


@given(strategies.pods(opted_in=False))
def test_a_pod_that_never_opted_in_is_left_alone(given_pod: Pod) -> None:
    assert isinstance(_validate(given_pod, LARGEST), Untouched)


def _without(change: str) -> Pod:
    broken = copy.deepcopy(admitted(pod(container(), container(name="second"))))
    main = broken["spec"]["containers"][1]
    match change:
        case "status":
            del broken["metadata"]["annotations"][names.STATUS]
        case "populate":
            broken["spec"]["initContainers"] = []
        case "mounts":
            main["volumeMounts"].pop()
        case "variable":
            main["env"] = []
        case "command":
            main["command"] = ["python", "x.py"]
        case "shares":
            for each in broken["spec"]["containers"]:
                del each["resources"]["limits"][names.GPU]
        case "requests":
            main["resources"]["limits"][names.GPU_AMOUNT] = "1"
    return broken


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("status", "metadata.annotations[auto-management/status] is not injected"),
        ("populate", "spec.initContainers has no populate"),
        ("mounts", "spec.containers[1] has no mount at /etc/bitfusion/tls/ca.crt"),
        ("variable", "spec.containers[1] has no LD_LIBRARY_PATH"),
        ("command", "spec.containers[1] has no /usr/bin/bitfusion in its command"),
        ("shares", "no container has bitfusion.io/gpu"),
        ("requests", "spec.containers[1].resources still asks for bitfusion.io/gpu-amount"),
    ],
)
def test_a_pod_that_lost_a_part_is_refused_with_the_part(change: str, words: str) -> None:
    verdict = _validate(_without(change))
    assert isinstance(verdict, Refusal)
    assert len(verdict.problems) == 1
    assert verdict.problems[0].startswith("the pod opted in but was not injected, or another webhook took parts away: ")
    assert words in verdict.problems[0]


def test_a_pod_that_was_never_mutated_is_refused() -> None:
    assert isinstance(_validate(pod()), Refusal)


def _asking(shares: int, amount: int = 1) -> Pod:
    return admitted(pod(container({names.GPU_AMOUNT: amount, names.GPU_PERCENT: shares})))


@pytest.mark.parametrize("largest", [None, LARGEST])
def test_a_pod_that_fits_one_node_or_meets_no_known_node_is_allowed(largest: Largest | None) -> None:
    assert isinstance(_validate(_asking(100, 10), largest), Allowed)


def test_more_than_any_one_node_has_is_refused() -> None:
    """The amount counts, not only the name of the resource."""
    verdict = _validate(_asking(91, 11), LARGEST)
    assert isinstance(verdict, Refusal)
    assert verdict.problems == [
        "Resource validation failed: the pod asks for 1001 of bitfusion.io/gpu, the largest node has 1000: ask for less"
    ]


def test_a_pod_waits_where_nodes_have_none_for_the_moment() -> None:
    """A kubelet that starts writes 0 until the plugin has registered again."""
    assert isinstance(_validate(_asking(50), {names.GPU: 0}), Allowed)


def test_a_resource_that_no_node_has_is_refused() -> None:
    verdict = _validate(_asking(50), {})
    assert isinstance(verdict, Refusal)
    assert verdict.problems == [
        "Resource validation failed: no node has bitfusion.io/gpu: its device plugin must run on one"
    ]


def test_containers_count_together_and_init_containers_alone() -> None:
    """Init containers count as the scheduler counts them; sidecars count with the containers."""
    half = {names.GPU_AMOUNT: "5", names.GPU_PERCENT: "100"}
    together = admitted(pod(container(half), container(half, name="two"), initContainers=[container(half, name="i")]))
    assert isinstance(_validate(together, LARGEST), Allowed)
    sidecar = container(half, name="i", restartPolicy="Always")
    assert isinstance(
        _validate(admitted(pod(container(half), container(half, name="two"), initContainers=[sidecar])), LARGEST),
        Refusal,
    )


@pytest.mark.parametrize("namespace", ["kube-system", "bwki"])
def test_namespaces_of_the_cluster_are_left_alone(namespace: str) -> None:
    assert _validate(pod(), namespace=namespace) == Untouched("exempt namespace")


def test_a_status_without_an_annotation_is_still_held_against_the_nodes() -> None:
    alone = _asking(100, 11)
    del alone["metadata"]["annotations"][names.MANAGEMENT]
    assert isinstance(_validate(alone, LARGEST), Refusal)
    assert isinstance(_validate(alone), Allowed)


SCRIPT = ["sh", "-c", "cd /code && python x.py"]


@pytest.mark.parametrize(
    ("user", "command", "args"),
    [
        (["python", "x.py"], ["/vault/vault-env"], "all"),
        (["python", "x.py"], ["agent", "exec", "--"], "all"),
        (SCRIPT, ["/vault/vault-env"], "all"),
        (SCRIPT, ["sh", "-c"], "joined, quoted"),
        (["sh", "-c", "python x.py"], ["sh", "-c"], "joined, quoted"),
        (["sh", "-c", "python x.py"], ["sh", "-c", '. /s; exec "$0" "$@"'], "all"),
        (["sh", "-c", "bitfusion run -p .5 a; bitfusion run -p .5 b"], ["sh", "-c"], "joined, quoted"),
        (["sh", "-c", "python x.py"], ["agent", "exec", "--"], "all"),
        (["sh", "-c", "bitfusion run -p .5 a; bitfusion run -p .5 b"], ["agent", "exec", "--"], "all"),
        (["python", "x.py"], ["sh", "-c"], "joined"),
        (["python", "x.py"], ["sh", "-c"], "joined, with more behind"),
        (["sh", "-c", "python x.py"], ["sh", "-c"], "the script alone"),
    ],
)
def test_another_webhook_may_move_our_words_as_long_as_the_client_runs(
    user: list[str], command: list[str], args: str
) -> None:
    moved = admitted(pod(container(command=user)))
    main = moved["spec"]["containers"][0]
    words = main["command"]
    lines = {
        "all": words,
        "joined": [" ".join(words)],
        "joined, quoted": [shlex.join(words)],
        "joined, with more behind": [" ".join(words) + " 1>/var/log/m.log 2>&1 && echo completed"],
        "the script alone": words[-1:],
    }
    main["command"], main["args"] = command, lines[args]
    assert isinstance(_validate(moved), Allowed)


@pytest.mark.parametrize("words", [["echo", BINARY], ["sleep", "1", f"--why={BINARY}"], ["sh", "-c", f"echo {BINARY}"]])
def test_a_word_that_is_only_shown_is_no_client_that_runs(words: list[str]) -> None:
    stored = admitted(pod())
    stored["spec"]["containers"][0]["command"] = words
    verdict = _validate(stored)
    assert isinstance(verdict, Refusal)
    assert "has no /usr/bin/bitfusion in its command" in verdict.problems[0]


@pytest.mark.parametrize(
    "script",
    [
        'bitfusion run -n 1 -p 0.5 -- bash -c "$TRAIN"',
        'bitfusion run -n 1 -p 0.5 -- bash -c "cd $DIR && python y"',
        'bitfusion run -n 1 -p 0.5 -- bash -c "./run.sh;"',
        "bitfusion run -n 1 -p 0.5 -- bash -c ./run.sh x",
        "bitfusion run -n 1 -p 0.5 -- bash -c nvidia-smi && echo done",
        "bash -c ls",
        "bash train.sh",
        "./run.sh x",
        "cd /x && python y",
        "bitfusion run -p .1 a; bitfusion run -p .1 b",
        "bitfusion list_gpus; python x",
        "echo bitfusion run; python x",
        'train() { bitfusion run -p .1 "$@"; }; train a',
        "bitfusion run -p .1 -- bitfusion run -p .1 x",
        "bitfusion run -p .1 -- bash -c 'bitfusion run -p .1 x; y'",
        "bit''fusion run -p .1 x",
    ],
)
def test_what_mutate_makes_of_a_script_is_valid(script: str) -> None:
    assert isinstance(_validate(admitted(pod(container(command=["bash", "-c", script])))), Allowed)


def test_a_pod_with_as_many_init_containers_as_may_be_is_valid_once_ours_is_there() -> None:
    full = pod(initContainers=[{"name": f"i{each}", "image": "i"} for each in range(MOST_CONTAINERS)])
    assert isinstance(_validate(admitted(full)), Allowed)


@pytest.mark.parametrize("starter", [[], ["env", "A=1"], ["/tini", "--"], ["timeout", "5"]], ids=" ".join)
@pytest.mark.parametrize(
    "script",
    [
        *("cd /code && python x.py", "source env; python x.py", "python x.py > log", "A=1 python x"),
        *("./a.sh && python y", "bitfusion run -p .1 a; bitfusion run -p .1 b"),
    ],
)
def test_a_line_that_runs_the_program_beside_the_client_is_refused_with_the_way_out(
    script: str, starter: list[str]
) -> None:
    _refused_with_the_way_out([*starter, "bash", "-c", script])


@pytest.mark.parametrize(
    "user", [["python x.py"], ["bash", "-c", "python x.py"], ["sh", "-c", "bitfusion run -p .5 x"]]
)
def test_a_line_that_starts_the_client_without_its_words_is_refused_with_the_way_out(user: list[str]) -> None:
    """Of ``bash -c CLIENT run ...`` the shell takes CLIENT alone for its script."""
    _refused_with_the_way_out(user)


def _refused_with_the_way_out(user: list[str]) -> None:
    joined = admitted(pod(container(command=user)))
    main = joined["spec"]["containers"][0]
    main["command"], main["args"] = ["sh", "-c"], [" ".join(main["command"]) + " && echo completed"]
    verdict = _validate(joined)
    assert isinstance(verdict, Refusal)
    assert "spec.containers[0] has no program behind the client any more" in verdict.problems[0]
    assert "a name that comes before bwki-webhook-cfg" in verdict.problems[0]


@pytest.mark.parametrize("limits", [{"cpu": "1"}, {names.GPU: "0"}, {names.GPU: "0.5"}])
def test_a_status_without_a_gpu_container_gets_nothing(limits: Pod) -> None:
    """No tokens either: somebody wrote the status, and the pod has no use for them."""
    given_pod = pod(container(limits))
    given_pod["metadata"]["annotations"] = {names.STATUS: names.STATUS_INJECTED}
    assert _validate(given_pod) == Untouched("no GPU container")
