"""What becomes of a copy of a token Secret, given its source and what is in the namespace."""

from __future__ import annotations

import base64
import copy
import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core import names
from bitfusiond.core.tokens import copies, marks
from bitfusiond.core.tokens.copies import TOKENS, Content, Copy, Create, Decision, Leave, Missing, Refuse, State, Update

HOME = "kube-system"
CA, CLIENT, SERVERS = TOKENS
Secret = dict[str, Any]


def secret(namespace: str, name: str, metadata: Secret | None = None, **data: str) -> Secret:
    encoded = {key.replace("_", "."): base64.b64encode(value.encode()).decode() for key, value in data.items()}
    about = {"namespace": namespace, "name": name, "resourceVersion": "7", **(metadata or {})}
    return {"metadata": about, "type": "Opaque", "data": encoded}


KEY = b"k" * 32
MARK = marks.mark(KEY, "team", CA.secret)
OF_OTHERS = (marks.mark(b"x" * 32, "team", CA.secret), marks.mark(KEY, "other", CA.secret))


def marked(origin: str | None, digest: str | None = None, mark: str | None = MARK) -> Secret:
    """The metadata of a copy of ours in the namespace team; without a ``mark``, of what calls itself one."""
    annotations = {names.COPIED_FROM: origin, names.CONTENT_SHA256: digest, names.MARK: mark}
    return {
        "labels": {names.MANAGED_BY: names.MANAGED_BY_US},
        "annotations": {key: value for key, value in annotations.items() if value is not None},
    }


def source(value: str = "new", origin: str = f"{HOME}/{CA.secret}") -> Content:
    return Content(origin, base64.b64encode(value.encode()).decode(), hashlib.sha256(value.encode()).hexdigest())


def decide(there: Secret | None, given_source: Content | Missing | None = None, **more: Any) -> Decision:
    return copies.decide(copy_of(there, given_source, **more))


def copy_of(there: Secret | None, given_source: Content | Missing | None = None, **more: Any) -> Copy:
    stored = None if there is None else copies.summarize(there, CA)
    return Copy(CA, "team", stored, given_source or source(), HOME, **{"mark": MARK, **more})


def stored(body: Secret) -> Secret:
    """What the API server makes of a body."""
    return {**copy.deepcopy(body), "metadata": {**body["metadata"], "resourceVersion": "8"}}


# --- sources ---------------------------------------------------------------------------------------------------------


def test_each_token_comes_from_a_secret_of_its_own() -> None:
    own = {token.secret: secret(HOME, token.secret, None, **{token.file: token.file}) for token in TOKENS}
    for token in TOKENS:
        found = copies.content(token, own, HOME)
        assert isinstance(found, Content)
        assert found.origin == f"{HOME}/{token.secret}"
        assert base64.b64decode(found.data).decode() == token.file
        assert found.digest == hashlib.sha256(token.file.encode()).hexdigest()


def test_the_earlier_secret_serves_for_each_token_that_has_none_of_its_own() -> None:
    there = {
        names.EARLIER_TOKEN_SECRET: secret(
            HOME, names.EARLIER_TOKEN_SECRET, ca_crt="e", client_yaml="e", servers_conf="e"
        ),
        CLIENT.secret: secret(HOME, CLIENT.secret, client_yaml="own"),
    }
    origins = [getattr(copies.content(token, there, HOME), "origin", None) for token in TOKENS]
    assert origins == [f"{HOME}/bitfusion-secret", f"{HOME}/{CLIENT.secret}", f"{HOME}/bitfusion-secret"]


def test_a_missing_source_is_named_with_its_namespace_its_key_and_the_command_that_makes_it() -> None:
    assert copies.content(CA, {}, HOME) == Missing(
        "Secret kube-system/bitfusion-client-secret-ca.crt with the key ca.crt is missing: create it with `kubectl"
        " create secret generic bitfusion-client-secret-ca.crt --namespace kube-system --from-file=ca.crt`"
    )


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "has no key ca.crt"),
        ({"ca": "x"}, "has no key ca.crt"),
        ({"ca_crt": ""}, "has nothing under the key ca.crt"),
        ({"ca_crt": " \n"}, "has nothing under the key ca.crt"),
    ],
)
def test_a_source_without_content_is_named_and_the_earlier_one_does_not_stand_in(
    data: dict[str, Any], problem: str
) -> None:
    there = {
        CA.secret: secret(HOME, CA.secret, **data),
        names.EARLIER_TOKEN_SECRET: secret(HOME, names.EARLIER_TOKEN_SECRET, ca_crt="old"),
    }
    found = copies.content(CA, there, HOME)
    assert isinstance(found, Missing)
    assert found.message.startswith(
        f"Secret kube-system/bitfusion-client-secret-ca.crt {problem}: write it with `kubectl"
    )


def test_an_earlier_secret_that_lacks_the_key_is_named_too() -> None:
    there = {names.EARLIER_TOKEN_SECRET: secret(HOME, names.EARLIER_TOKEN_SECRET, client_yaml="x")}
    found = copies.content(CA, there, HOME)
    assert isinstance(found, Missing)
    assert f"{CA.secret} with the key ca.crt is missing, and kube-system/bitfusion-secret has no" in found.message


def test_a_copy_in_the_token_namespace_is_no_source_but_a_source_that_carries_the_label_is_one() -> None:
    copied = secret(HOME, CA.secret, marked("vault/bitfusion-secret"), ca_crt="x")
    found = copies.content(CA, {CA.secret: copied}, HOME)
    assert isinstance(found, Missing)
    assert "is itself a copy, of vault/bitfusion-secret" in found.message
    for origin in (None, f"{HOME}/{CA.secret}"):
        labelled = secret(HOME, CA.secret, marked(origin), ca_crt="x")
        assert isinstance(copies.content(CA, {CA.secret: labelled}, HOME), Content)
        assert isinstance(copies.decide(Copy(CA, HOME, copies.summarize(labelled, CA), source("y"), HOME, MARK)), Leave)


def test_a_source_shows_no_content_when_printed() -> None:
    there = source("sensitive")
    assert there.data not in repr(there)
    assert there.data not in repr(decide(None, there))
    assert there.data not in repr(copies.summarize(secret("team", CA.secret, ca_crt="sensitive"), CA))


# --- copies ----------------------------------------------------------------------------------------------------------


def test_where_there_is_nothing_a_copy_is_created_with_one_key_its_label_and_where_it_came_from() -> None:
    decision = decide(None)
    assert isinstance(decision, Create)
    assert decision.body == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "bitfusion-client-secret-ca.crt",
            "namespace": "team",
            "labels": {"app.kubernetes.io/managed-by": "bitfusiond"},
            "annotations": {
                "bitfusion.io/copied-from": "kube-system/bitfusion-client-secret-ca.crt",
                "bitfusion.io/content-sha256": hashlib.sha256(b"new").hexdigest(),
                "bitfusion.io/mark": MARK,
            },
        },
        "type": "Opaque",
        "data": {"ca.crt": base64.b64encode(b"new").decode()},
    }


def test_a_copy_follows_its_source_and_keeps_what_others_wrote_into_its_metadata() -> None:
    metadata = marked(f"{HOME}/{CA.secret}", "0")
    metadata["labels"]["team"] = "a"
    metadata["annotations"] |= {"note": "b", "kubectl.kubernetes.io/last-applied-configuration": "{content}"}
    metadata |= {"uid": "u", "finalizers": ["f"], "managedFields": [{}], "creationTimestamp": "then"}
    decision = decide(secret("team", CA.secret, metadata, ca_crt="old", stray="x"))
    assert isinstance(decision, Update)
    written = decision.body["metadata"]
    assert written["resourceVersion"] == "7"
    assert (written["uid"], written["finalizers"]) == ("u", ["f"])
    assert written["labels"] == {"team": "a", names.MANAGED_BY: names.MANAGED_BY_US}
    assert written["annotations"].keys() == {"note", names.COPIED_FROM, names.CONTENT_SHA256, names.MARK}
    assert decision.body["data"] == {"ca.crt": source().data}


@pytest.mark.parametrize("origin", ["kube-system/bitfusion-secret", f"{HOME}/{CA.secret}"])
def test_a_copy_of_the_earlier_secret_follows_to_the_one_that_replaced_it(origin: str) -> None:
    there = secret("team", CA.secret, marked(origin, source().digest), ca_crt="new")
    expected = Update if origin.endswith("bitfusion-secret") else Leave
    assert isinstance(decide(there), expected)


def test_an_unlabelled_secret_is_left_alone_and_used_even_without_a_source() -> None:
    there = secret("team", CA.secret, ca_crt="theirs")
    assert isinstance(decide(there), Leave)
    assert isinstance(decide(there, Missing("no source")), Leave)


def test_an_unlabelled_secret_without_the_key_would_stop_the_pod_and_is_named() -> None:
    decision = decide(secret("team", CA.secret, cert="theirs"))
    assert isinstance(decision, Refuse)
    assert (
        "Secret team/bitfusion-client-secret-ca.crt, which bitfusiond does not manage, has nothing" in decision.problem
    )


@pytest.mark.parametrize("there", [None, secret("team", CA.secret, marked(f"{HOME}/{CA.secret}"), ca_crt="old")])
def test_without_a_source_no_new_pod_is_admitted_whether_a_copy_is_left_or_not(there: Secret | None) -> None:
    decision = decide(there, Missing("the source is gone"))
    assert isinstance(decision, Refuse)
    assert decision.problem == "the source is gone"


def test_the_copy_of_another_installation_is_left_alone_until_its_source_is_gone() -> None:
    there = secret("team", CA.secret, marked(f"vault/{CA.secret}", "0", OF_OTHERS[0]), ca_crt="of vault")
    assert isinstance(decide(there), Leave)
    assert isinstance(copies.upkeep(copy_of(there)), Leave)
    assert isinstance(decide(there, Missing("not here")), Leave)
    taken = decide(there, origin_lives=False)
    assert isinstance(taken, Update)
    assert taken.body["metadata"]["annotations"][names.COPIED_FROM] == f"{HOME}/{CA.secret}"


def test_a_copy_of_ours_follows_to_another_token_namespace() -> None:
    there = copy_of(secret("team", CA.secret, marked(f"vault/{CA.secret}", "0"), ca_crt="of vault"))
    assert copies.state(there) is State.STALE
    followed = copies.upkeep(there)
    assert isinstance(followed, Update)
    assert followed.body["metadata"]["annotations"][names.COPIED_FROM] == f"{HOME}/{CA.secret}"


def test_only_an_admission_takes_over_a_copy_of_nobody() -> None:
    there = copy_of(secret("team", CA.secret, marked(None, mark=None), ca_crt="old"))
    assert copies.state(there) is State.ABANDONED
    assert isinstance(copies.upkeep(there), Leave)
    assert isinstance(copies.decide(there), Update)


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"immutable": True}, "is immutable"), ({"type": "a/b"}, "is of type a/b instead of Opaque")],
)
def test_a_copy_that_cannot_be_updated_is_named_with_the_fix(change: Secret, problem: str) -> None:
    there = secret("team", CA.secret, marked(f"{HOME}/{CA.secret}"), ca_crt="old") | change
    decision = decide(there)
    assert isinstance(decision, Refuse)
    assert decision.problem.startswith("Secret team/bitfusion-client-secret-ca.crt, a copy")
    assert decision.problem.endswith(f"{problem}: delete it")


def test_namespaces_are_allowed_by_globs_and_another_is_told_the_option() -> None:
    globs = ("team-*", "research")
    assert [name for name in ("team-a", "research", "team", "researchers") if copies.allowed(name, globs)] == [
        "team-a",
        "research",
    ]
    message = copies.not_allowed("x", globs)
    assert "pods of x may not receive" in message
    assert "--allow-namespaces of bitfusiond is team-*,research" in message


MANY = tuple(f"team-{number}" for number in range(copies.MOST_FOLLOWED))


@pytest.mark.parametrize(
    ("globs", "followed"),
    [
        (("team", "research"), {"team", "research"}),
        (("team", HOME), {"team"}),
        ((HOME,), set()),
        (("*",), None),
        (("team", "research-*"), None),
        (("team-?",), None),
        (("team-[ab]",), None),
        (MANY, set(MANY)),
        ((*MANY, "one-more"), None),
    ],
)
def test_namespaces_are_followed_one_by_one_where_they_are_few_and_named(
    globs: tuple[str, ...], followed: set[str] | None
) -> None:
    found = copies.followed(globs, frozenset({HOME}))
    assert (None if found is None else set(found)) == followed


# --- whose is it? -----------------------------------------------------------------------------------------------------

OURS = f"{HOME}/{CA.secret}"
OTHER_MARKS = [None, "", "0" * 64, "\u00e9", *OF_OTHERS]


@pytest.mark.parametrize("mark", OTHER_MARKS)
@pytest.mark.parametrize("value", ["", "old"])
def test_what_calls_itself_a_copy_without_our_mark_is_never_filled_but_for_a_pod(mark: str | None, value: str) -> None:
    there = copy_of(secret("team", CA.secret, marked(OURS, source().digest, mark), ca_crt=value))
    assert copies.state(there) is State.UNPROVEN
    assert isinstance(copies.upkeep(there), Leave)
    taken = copies.decide(there)
    assert isinstance(taken, Update), "the next pod would get a new copy there, were it deleted"
    assert taken.body["metadata"]["annotations"][names.MARK] == MARK


@pytest.mark.parametrize("mark", OTHER_MARKS)
@pytest.mark.parametrize("noted", [None, "0", source().digest])
@pytest.mark.parametrize("origin", [OURS, f"{HOME}/bitfusion-secret"])
def test_a_copy_of_an_earlier_version_that_holds_what_its_source_holds_gets_the_mark_and_follows(
    mark: str | None, noted: str | None, origin: str
) -> None:
    there = copy_of(secret("team", CA.secret, marked(origin, noted, mark), ca_crt="new"))
    assert copies.state(there) is State.UNMARKED
    assert isinstance(copies.decide(there), Leave), "a pod can use it as it is"
    written = copies.upkeep(there)
    assert isinstance(written, Update)
    assert written.body["metadata"]["annotations"][names.MARK] == MARK
    assert copies.state(copy_of(stored(written.body), source("newer"))) is State.STALE


def test_an_immutable_copy_without_a_mark_is_left_alone() -> None:
    there = copy_of(secret("team", CA.secret, marked(OURS, mark=None), ca_crt="new") | {"immutable": True})
    assert copies.state(there) is State.CURRENT
    assert isinstance(copies.upkeep(there), Leave)


@pytest.mark.parametrize("there", [None, secret("team", CA.secret, marked(OURS), ca_crt="old")])
def test_where_no_copy_may_be_none_is_made_or_brought_up_to_date(there: Secret | None) -> None:
    copy = copy_of(there, is_served=False)
    for decision in (copies.decide(copy), copies.upkeep(copy)):
        assert not isinstance(decision, Create | Update)
    refused = copies.decide(copy)
    assert isinstance(refused, Refuse)
    assert refused.problem == "metadata.namespace: no tokens are copied into team: use a namespace of your own"
    assert there is None or copies.state(copy) is State.NOT_ALLOWED


def test_a_key_is_random_and_one_that_could_be_guessed_is_none() -> None:
    assert marks.new_key() != marks.new_key()
    good = base64.b64encode(marks.new_key()).decode()
    assert marks.key_of({"key": good}) == base64.b64decode(good)
    for data in (None, {}, {"key": ""}, {"key": "no base64"}, {"key": base64.b64encode(b"x" * 31).decode()}):
        assert marks.key_of(data) is None


# --- for every state of things ----------------------------------------------------------------------------------------

_values = st.sampled_from(["", " ", "old", "new"])
_origins = st.sampled_from([None, "", "x", f"{HOME}/{CA.secret}", f"{HOME}/bitfusion-secret", f"vault/{CA.secret}"])
_secrets = st.builds(
    lambda origin, mark, labelled, more, value, data, other: {
        **secret("team", CA.secret, marked(origin, mark=mark) if labelled else more),
        "data": data or ({"ca.crt": base64.b64encode(value.encode()).decode()} | other),
    },
    _origins,
    st.sampled_from([MARK, *OTHER_MARKS]),
    st.booleans(),
    st.sampled_from([{}, {"labels": None}, {"labels": {"app.kubernetes.io/managed-by": "Helm"}}, {"annotations": {}}]),
    _values,
    st.sampled_from([None, {}, {"ca.crt": ""}, {"x": "eA=="}]),
    st.sampled_from([{}, {"stray": "eA=="}]),
)


@given(st.none() | _secrets, st.booleans())
def test_after_one_write_nothing_is_left_to_do(there: Secret | None, lives: bool) -> None:
    decision = decide(there, origin_lives=lives)
    if isinstance(decision, Create | Update):
        after = stored(decision.body)
        assert isinstance(decide(after, origin_lives=lives), Leave)
        assert copies.state(copy_of(after)) is State.CURRENT
        assert isinstance(copies.upkeep(copy_of(after, source("newer"))), Update), "and it follows from now on"
        assert isinstance(decide(after, source("newer"), origin_lives=lives), Update)


@given(_secrets, st.booleans(), st.sampled_from([source(), source("old"), Missing("gone")]))
def test_no_secret_without_our_label_is_ever_written(
    there: Secret, lives: bool, given_source: Content | Missing
) -> None:
    decision = decide(there, given_source, origin_lives=lives)
    labelled = (there["metadata"].get("labels") or {}).get(names.MANAGED_BY) == names.MANAGED_BY_US
    assert labelled or not isinstance(decision, Create | Update)


@given(_secrets, st.booleans())
def test_what_a_pod_is_left_with_has_content(there: Secret, lives: bool) -> None:
    if isinstance(decide(there, origin_lives=lives), Leave):
        assert base64.b64decode(there["data"]["ca.crt"]).strip()


@given(_secrets, st.booleans(), st.booleans(), st.sampled_from([source(), source("old"), Missing("gone")]))
def test_nobody_but_us_can_make_a_secret_that_gets_a_token_it_does_not_have(
    there: Secret, lives: bool, served: bool, given_source: Content | Missing
) -> None:
    copy = copy_of(there, given_source, origin_lives=lives, is_served=served)
    written = copies.upkeep(copy)
    assert not isinstance(written, Create)
    if isinstance(written, Update):
        has_mark = there["metadata"]["annotations"].get(names.MARK) == MARK
        assert served
        assert has_mark or there["data"] == written.body["data"], "the same content, and the mark"


@given(_secrets, st.sampled_from([source(), source("old")]))
def test_without_a_key_nothing_that_is_there_is_written_but_for_a_mark(there: Secret, given_source: Content) -> None:
    written = copies.upkeep(copy_of(there, given_source, mark=None))
    assert isinstance(written, Leave) or (isinstance(written, Update) and there["data"] == written.body["data"])


def test_of_a_secret_that_is_stuffed_nothing_is_kept() -> None:
    """Whoever may make Secrets in many namespaces would fill the webhook's memory with their labels."""
    origin = f"{HOME}/{CA.secret}"
    ours = secret("team", CA.secret, marked(origin), ca_crt="old")
    assert copies.summarize(ours, CA).labelled
    for stuffed in ({"labels": {f"l{each}": "x" * 60 for each in range(1000)}}, {"annotations": {"a": "x" * 70_000}}):
        metadata = marked(origin)
        metadata = {key: {**metadata[key], **stuffed.get(key, {})} for key in metadata}
        found = copies.summarize(secret("team", CA.secret, metadata, ca_crt="old"), CA)
        assert (found.labelled, found.metadata, found.origin, found.mark) == (False, {}, None, None)
    unlabelled = secret("team", CA.secret, {"annotations": {names.COPIED_FROM: "x" * 200_000}}, ca_crt="old")
    assert copies.summarize(unlabelled, CA).origin is None
