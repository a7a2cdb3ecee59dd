"""Objects of a wrong form cost nobody the table: what cannot be understood counts nothing."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
from hypothesis import strategies as st

from bitfusiond.core.usage import holdings, quotas
from bitfusiond.core.usage.usage import Usage, document
from bitfusiond.kubectl_bitfusion import usage_tables
from tests.fakes.pool import result
from tests.unit.core.diagnosis.scenes import injected, node, quota
from tests.unit.core.diagnosis.test_hostile import with_junk
from tests.unit.core.usage.test_usage import held, pool_slice


@st.composite
def objects(draw: st.DrawFn) -> dict[str, list[dict[str, Any]]]:
    whole = {
        "slices": [pool_slice("gpu-a", "0", down=True)],
        "claims": [held("c", "a", result("gpu-a", "gpu-0", 60))],
        "nodes": [node("n1")],
        "pods": [injected(phase="Running")],
        "quotas": [quota(100, 50)],
    }
    return {
        key: [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
        for key, value in with_junk(draw, whole).items()
    }


@hypothesis.given(objects())
@hypothesis.settings(max_examples=300, deadline=None)
def test_no_object_of_a_wrong_form_is_an_error(given: dict[str, list[dict[str, Any]]]) -> None:
    claims = given["claims"]
    pods = [holdings.of_pod(each, holdings.by_pod(claims)) for each in given["pods"] if holdings.is_counting(each)]
    found = Usage(
        "",
        holdings.servers(given["slices"], claims),
        holdings.nodes(given["nodes"], given["pods"]),
        pods,
        quotas.share_quotas(given["quotas"]),
        knows_holders=True,
    )
    json.dumps(document(found))
    assert usage_tables.lines(found)
    assert all(isinstance(cell, str) for each in usage_tables.tables(found) for row in each.rows for cell in row)
