"""What is done with one folder, from its two listings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpfs.model.entry import Entry, Kind
from ftpfs.trees.plan import Action, Rules, compare

MIRROR = Rules(changed_only=True, can_ask=True)


def file(name: str, size: int | None = 1, mtime: int | None = 100, *, exact: bool = True) -> Entry:
    return Entry(name, Kind.FILE, size, mtime, exact)


def folder(name: str) -> Entry:
    return Entry(name, Kind.DIRECTORY)


def actions(source: list[Entry], target: list[Entry], rules: Rules) -> dict[str, Action]:
    return {step.name: step.action for step in compare("", source, target, rules)}


@pytest.mark.parametrize(
    ("new", "old", "action"),
    [
        (file("a"), file("a"), Action.SAME),
        (file("a", size=2), file("a"), Action.COPY),
        (file("a", size=2, exact=False), file("a"), Action.COPY),
        (file("a", mtime=101), file("a"), Action.COPY),
        (file("a", mtime=99), file("a"), Action.SAME),
        (file("a", mtime=None), file("a"), Action.SAME),
        (file("a", exact=False), file("a"), Action.ASK),
        (file("a"), file("a", exact=False), Action.ASK),
        (file("a", size=None), file("a"), Action.ASK),
        (file("a"), Entry("a", Kind.LINK, 1, 100, True), Action.COPY),
        (file("a"), folder("a"), Action.REFUSE),
        (folder("a"), file("a"), Action.REFUSE),
        (folder("a"), Entry("a", Kind.LINK), Action.REFUSE),
        (folder("a"), folder("a"), Action.ENTER),
        (Entry("a", Kind.LINK), folder("a"), Action.REFUSE),
        (Entry("a", Kind.LINK), file("a"), Action.LINK),
        (Entry("a", Kind.OTHER), file("a"), Action.REFUSE),
        (file("a"), Entry("a", Kind.OTHER), Action.REFUSE),
    ],
)
def test_only_changed_files_are_copied_over_files_and_links(
    new: Entry, old: Entry, action: Action
) -> None:
    assert actions([new], [old], MIRROR) == {"a": action}


def test_every_file_is_copied_without_the_rule_for_changed_ones() -> None:
    assert actions([file("a")], [file("a")], Rules()) == {"a": Action.COPY}


@pytest.mark.parametrize(
    ("later", "shown", "action"),
    [
        (59, 1_600_000_020, Action.SAME),  # a listing that shows minutes
        (61, 1_600_000_020, Action.COPY),
        (86_000, 1_599_955_200, Action.SAME),  # one that shows days
        (86_401, 1_599_955_200, Action.COPY),
    ],
)
def test_rough_time_counts_as_older_only_if_it_surely_is(
    later: int, shown: int, action: Action
) -> None:
    rules = Rules(changed_only=True, can_ask=False)
    old = file("a", mtime=shown, exact=False)
    assert actions([file("a", mtime=shown + later)], [old], rules) == {"a": action}


def test_times_that_the_server_takes_for_one_do_not_differ() -> None:
    rules = Rules(changed_only=True, is_same_time=lambda a, b: abs(a - b) < 2)
    assert actions([file("a", mtime=101)], [file("a")], rules) == {"a": Action.SAME}


def test_names_that_differ_in_case_clash_only_on_a_disk_that_folds_case() -> None:
    source, target = [file("A"), file("a", 2), file("b")], [file("B", 3)]
    plain = actions(source, target, Rules(delete=True))
    assert plain == dict.fromkeys(("A", "a", "b"), Action.COPY) | {"B": Action.DELETE}
    steps = list(compare("", source, target, Rules(delete=True, folds_case=True)))
    assert [(step.name, step.action) for step in steps] == [
        ("A", Action.COPY),
        ("a", Action.REFUSE),
        ("b", Action.COPY),
    ]
    assert "case" in steps[1].why
    assert steps[2].old == target[0]


def test_what_a_filter_leaves_out_is_neither_copied_nor_deleted() -> None:
    rules = Rules(delete=True, takes=lambda path, _: not path.startswith("below/no"))
    steps = compare("below", [file("no1"), file("a")], [file("no2"), file("b")], rules)
    assert {s.name: s.action for s in steps} == {"a": Action.COPY, "b": Action.DELETE}


def test_old_files_are_left_out_and_their_copies_stay() -> None:
    rules = Rules(delete=True, newer_than=100)
    source = [file("old"), file("new", mtime=101), folder("in")]
    assert actions(source, [file("old")], rules) == {"new": Action.COPY, "in": Action.MAKE}


_NAMES = st.sampled_from(["a", "A", "b", "B", "c"])
_KINDS = st.sampled_from(list(Kind))
_ENTRIES = st.dictionaries(
    _NAMES, st.tuples(_KINDS, st.integers(0, 2), st.integers(0, 2)), max_size=5
).map(lambda found: [Entry(n, k, size, time, True) for n, (k, size, time) in found.items()])


@given(_ENTRIES, _ENTRIES, st.booleans(), st.booleans(), st.booleans())
def test_each_name_has_one_step_and_nothing_of_the_source_is_deleted(
    source: list[Entry], target: list[Entry], delete: bool, folds: bool, changed: bool
) -> None:
    rules = Rules(changed_only=changed, delete=delete, folds_case=folds)
    if folds:  # such a disk has no two of them
        target = list({entry.name.casefold(): entry for entry in target}.values())
    steps = list(compare("", source, target, rules))
    key = str.casefold if folds else str
    kept = [step for step in steps if step.action is not Action.DELETE]
    assert [step.name for step in kept] == [entry.name for entry in source]
    wanted = {key(entry.name) for entry in source}
    deleted = {step.name for step in steps if step.action is Action.DELETE}
    extra = {entry.name for entry in target if key(entry.name) not in wanted}
    assert deleted == (extra if delete else set())
    written = [key(step.name) for step in kept if step.action not in (Action.REFUSE, Action.SAME)]
    assert len(written) == len(set(written))  # no two steps write to one name
