"""What is decided about a copy, from listings alone."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitfusiond.core.copyplan import Entry, Plan, UncopyableError, batches, decide, is_much, shortfall

DIRECTORY, FILE, LINK = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777


def entry(path: str, mode: int = FILE, size: int = 5, modified: int = 7, inode: int = 0, target: str = "") -> Entry:
    names = 2 if inode else 1
    return Entry(path, mode, size, size, 0, 0, 0, modified, (1, inode or hash(path)), names, target)


def listed(entries: list[Entry]) -> dict[str, Entry]:
    return {each.path: each for each in entries}


def test_of_nothing_everything_is_to_be_made_and_parents_come_first() -> None:
    wanted = [
        entry("t", DIRECTORY),
        entry("t/d", DIRECTORY),
        entry("t/f"),
        entry("t/l", LINK, target="f"),
        entry("t/one", inode=9),
        entry("t/d/other", inode=9),
    ]
    plan = decide(wanted, {})
    assert [each.path for each in plan.directories] == ["t", "t/d"]
    assert [each.path for each in plan.files] == ["t/f", "t/one"]
    assert [each.path for each in plan.links] == ["t/l"]
    assert [(each.path, first.path) for each, first in plan.further_names] == [("t/d/other", "t/one")]
    assert [each.path for each in plan.finish] == ["t/d", "t"]
    assert (plan.remove, plan.kept, plan.bytes, plan.inodes()) == ([], 0, 10, 5)


@pytest.mark.parametrize(
    "there",
    [
        entry("t/f", size=4),
        entry("t/f", modified=8),
        entry("t/f", stat.S_IFREG | 0o600),
        entry("t/f", LINK, target="x"),
        entry("t/f", DIRECTORY),
    ],
    ids=["size", "time", "mode", "link", "directory"],
)
def test_a_half_file_is_removed_and_copied_again(there: Entry) -> None:
    present = [entry("t", DIRECTORY), there]
    plan = decide([entry("t", DIRECTORY), entry("t/f")], listed(present))
    assert plan.remove == [there]
    assert [each.path for each in plan.files] == ["t/f"]


def test_what_does_not_belong_is_removed() -> None:
    present = [entry("t", DIRECTORY), entry("t/x", DIRECTORY), entry("t/x/y", DIRECTORY), entry("t/x/y/z")]
    plan = decide([entry("t", DIRECTORY)], listed(present))
    assert [each.path for each in plan.remove] == ["t/x", "t/x/y", "t/x/y/z"]


def test_two_files_in_place_of_two_names_of_one_are_not_taken_for_it() -> None:
    wanted = [entry("a", inode=9), entry("b", inode=9)]
    plan = decide(wanted, listed([entry("a", inode=3), entry("b", inode=4)]))
    assert (plan.kept, plan.files) == (1, [])
    assert [(each.path, first.path) for each, first in plan.further_names] == [("b", "a")]
    assert [each.path for each in plan.remove] == ["b"]


def test_a_directory_that_was_closed_already_is_opened_again() -> None:
    wanted = [entry("t", stat.S_IFDIR | 0o555)]
    assert decide(wanted, listed(wanted)).reopen == wanted


def test_what_cannot_be_copied_is_told_all_at_once() -> None:
    strange = [entry("p", stat.S_IFIFO), entry("s", stat.S_IFSOCK), entry("c", stat.S_IFCHR), entry("b", stat.S_IFBLK)]
    with pytest.raises(UncopyableError, match=r"^p is a FIFO; s is a socket; c is a device; b is a device$"):
        decide(strange, {})


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([], "t/f is missing"),
        ([entry("t/f", LINK)], "t/f is of another kind"),
        ([entry("t/f", size=0)], "t/f has 0 bytes instead of 5"),
    ],
)
def test_a_shortfall_is_put_in_words(there: list[Entry], words: str) -> None:
    assert shortfall([entry("t/f")], listed(there)) == words


def test_a_link_that_points_elsewhere_is_a_shortfall() -> None:
    assert shortfall([entry("l", LINK, target="a")], listed([entry("l", LINK, target="b")])) == "l points elsewhere"


def test_a_file_that_lost_its_set_id_bits_with_its_owner_is_whole() -> None:
    plan = decide([entry("f", stat.S_IFREG | 0o4755)], listed([entry("f", stat.S_IFREG | 0o755)]))
    assert (plan.kept, plan.files) == (1, [])


def test_further_names_of_files_that_are_there_need_no_inode() -> None:
    plan = Plan(files=[entry("f"), entry("g")], directories=[entry("d", DIRECTORY)], links=[entry("l", LINK)])
    assert (plan.inodes(), plan.inodes(linked=True)) == (4, 2)


def test_room_is_counted_in_blocks_and_not_for_holes() -> None:
    sparse = entry("s", size=1 << 30)._replace(allocated=8192)
    plan = Plan(files=[entry("f", size=1)._replace(allocated=4096), sparse], directories=[entry("d", DIRECTORY)])
    assert plan.space(4096) == 4096 + 8192 + 4096


trees = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(
        lambda mode, size, modified, inode: (mode, size, modified, inode),
        st.sampled_from([DIRECTORY, FILE, LINK]),
        st.integers(0, 2),
        st.integers(0, 1),
        st.integers(0, 2),
    ),
)


def flat(tree: dict[str, tuple[int, int, int, int]]) -> list[Entry]:
    return [
        entry(path, mode, size, modified, inode if mode == FILE else 0)
        for path, (mode, size, modified, inode) in tree.items()
    ]


@given(trees, trees)
def test_each_wanted_name_is_kept_or_made_and_each_other_removed(
    wanted: dict[str, tuple[int, int, int, int]], present: dict[str, tuple[int, int, int, int]]
) -> None:
    there = listed(flat(present))
    plan = decide(flat(wanted), there)
    made = [*plan.directories, *plan.files, *plan.links, *(each for each, _ in plan.further_names)]
    removed = {each.path for each in plan.remove}
    kept = set(there) - removed
    assert len(made) == len({each.path for each in made})
    assert {each.path for each in made} | kept == set(wanted)
    assert {each.path for each in made} & kept == set()
    assert plan.kept == len([path for path in kept if not there[path].is_directory])
    assert {first.path for _, first in plan.further_names} <= kept | {each.path for each in plan.files}


@given(trees)
def test_a_tree_that_is_whole_needs_nothing(tree: dict[str, tuple[int, int, int, int]]) -> None:
    wanted = flat(tree)
    first = {each.inode: each for each in reversed(wanted)}
    # Names of one file have one size and one time.
    wanted = [
        each._replace(size=first[each.inode].size, modified=first[each.inode].modified) if each.names > 1 else each
        for each in wanted
    ]
    plan = decide(wanted, listed(wanted))
    assert [*plan.remove, *plan.directories, *plan.files, *plan.links, *plan.further_names] == []
    assert shortfall(wanted, listed(wanted)) is None


def test_batches_hold_each_file_once_the_large_ones_alone_and_first() -> None:
    small = [Entry(f"a/{n}", 0o100644, 10, 512, 0, 0, 0, 0, (1, n), 1) for n in range(300)]
    other = Entry("b/x", 0o100644, 10, 512, 0, 0, 0, 0, (1, 900), 1)
    large = [Entry(f"a/large{n}", 0o100644, n << 20, n << 20, 0, 0, 0, 0, (1, 1000 + n), 1) for n in (1, 3, 2)]

    made = batches([*small, *large, other])

    assert [[each.size >> 20 for each in batch] for batch in made[:3]] == [[3], [2], [1]]
    assert sorted(each for batch in made for each in batch) == sorted([*small, *large, other])
    assert all(len({each.path.rpartition("/")[0] for each in batch}) == 1 for batch in made)
    assert [len(batch) for batch in made[3:]] == [256, 44, 1]


def test_few_small_files_are_not_worth_a_second_process() -> None:
    file = Entry("a", 0o100644, 1000, 4096, 0, 0, 0, 0, (1, 1), 1)

    assert not is_much([file] * 100)
    assert is_much([file] * 1000)
    assert is_much([file._replace(size=40 << 20)])
