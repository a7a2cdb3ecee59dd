"""What an operator is told where the API server's own policy refuses a pod."""

from __future__ import annotations

import pytest

from bitfusiond.operate import proof
from bitfusiond.operate.verify import command as verify


@pytest.mark.parametrize(
    ("why", "fix"),
    [
        ("bitfusiond's webhook was not asked about it", "just deploy, where a configuration above is wrong"),
        ("container main still asks for a bitfusion.io/gpu-* resource", "kubectl get mutatingwebhookconfigurations"),
    ],
)
def test_where_the_policy_alone_refuses_the_next_command_is_not_the_webhooks_log(why: str, fix: str) -> None:
    policy = "ValidatingAdmissionPolicy 'bitfusiond-pods' with binding 'bitfusiond-pods' denied request: "
    answer = proof.judge_error(f'pods "p" is forbidden: {policy}{why}')
    assert answer.detail == f"refused by the policy bitfusiond-pods: {why}"
    assert verify.admission(answer, "default").fix.startswith(fix)
