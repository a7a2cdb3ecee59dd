"""Pods as Hypothesis makes them: what users write, with fields that no client library knows yet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from bitfusiond.core import names

_words = st.text("abz/._-= $'\"~{}", max_size=12).map("w{}".format)
_keys = st.text("abz/._-~", min_size=1, max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=6,
)

demands = st.fixed_dictionaries(
    {names.GPU_AMOUNT: st.integers(1, 8).map(str)},
    optional={names.GPU_PERCENT: st.integers(1, 100).map(str)},
) | st.fixed_dictionaries(
    {names.GPU_AMOUNT: st.integers(1, 8)}, optional={names.GPU_MEMORY: st.integers(1, 16000).map(lambda m: f"{m}M")}
)

_others = st.dictionaries(st.sampled_from(["cpu", "memory", "vendor.io/x~y"]), st.sampled_from(["1", "500m", "2Gi"]))

commands = st.sampled_from([["/bin/bash", "-c"], ["sh", "-ec"], []]).flatmap(
    lambda shell: st.tuples(st.just(shell), st.lists(_words, min_size=1, max_size=3)).map(
        lambda both: [*both[0], *both[1]]
    )
)

_variables = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["A", "B", names.LD_LIBRARY_PATH])}, optional={"value": st.text(max_size=6)}
    )
    | st.builds(lambda: {"name": names.LD_LIBRARY_PATH, "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}),
    max_size=3,
    unique_by=lambda variable: str(variable["name"]),
)
_mounts = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["code", "bitfusion-client-dir"]), "mountPath": _keys.map("/data/{}".format)}
    ),
    max_size=2,
    unique_by=lambda mount: mount["mountPath"],
)


@st.composite
def containers(draw: st.DrawFn, name: str, gpu: bool) -> dict[str, Any]:
    limits = draw(_others) | (draw(demands) if gpu else {})
    section = draw(st.sampled_from(["limits", "requests", "both"])) if gpu else "limits"
    resources = {each: dict(limits) for each in ("limits", "requests") if section in {each, "both"}}
    container: dict[str, Any] = {"name": name, "image": "i", "command": draw(commands), "resources": resources}
    if draw(st.booleans()):
        container["args"] = draw(st.lists(_words, max_size=2))
        # A script of several commands in one string takes no args: that is another test's matter.
        if len(container["command"]) == 1:
            container["command"] = ["python"]
    for field, values in (("env", _variables), ("volumeMounts", _mounts)):
        if draw(st.booleans()):
            container[field] = draw(values)
    if draw(st.booleans()):
        container["fieldFromTheFuture"] = draw(json_values)
    return container


@st.composite
def pods(draw: st.DrawFn, *, opted_in: bool = True) -> dict[str, Any]:
    """A pod that the webhook admits (or, with ``opted_in=False``, one that never heard of it)."""
    wants = draw(st.lists(st.booleans(), min_size=1, max_size=3))
    if not any(wants):
        wants[0] = True
    spec: dict[str, Any] = {
        "containers": [draw(containers(f"c{index}", gpu)) for index, gpu in enumerate(wants)],
    }
    if draw(st.booleans()):
        own = draw(st.lists(st.booleans(), max_size=2))
        spec["initContainers"] = [draw(containers(f"i{index}", gpu)) for index, gpu in enumerate(own)]
    if draw(st.booleans()):
        spec["volumes"] = [
            {"name": name, "emptyDir": {}}
            for name in draw(st.sets(st.sampled_from(["code", "bitfusion-client-dir", "bitfusion-client-dir-2"])))
        ]
    if draw(st.booleans()):
        spec["fieldFromTheFuture"] = draw(json_values)
    annotations: dict[str, Any] = draw(st.dictionaries(_keys.map("x/{}".format), st.text(max_size=8), max_size=3))
    if opted_in:
        annotations |= {
            names.MANAGEMENT: draw(st.sampled_from(["all", "injection", "YES", "on"])),
            names.CLIENT_OS: draw(st.sampled_from(["ubuntu18", "centos8"])),
            names.CLIENT_VERSION: draw(st.sampled_from(["450", "401"])),
        }
    elif draw(st.booleans()):
        annotations[names.MANAGEMENT] = draw(st.sampled_from(["none", "No", "off", ""]))
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": annotations}, "spec": spec}
