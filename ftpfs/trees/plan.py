"""Pure: what to do with one folder of a tree, from its listings on both sides.

A plan of a whole tree is never held in memory: each folder is compared by itself, and its steps are
carried out while other folders are listed.

Owns: which file counts as changed, what may replace what, and which names clash. No I/O.
"""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ftpfs.model.entry import Entry, Kind

_DAY_SECONDS = 86400


class Action(enum.Enum):
    """What is done with one name."""

    COPY = "copy"
    ASK = "ask"  # copy unless a closer look shows that it has not changed
    LINK = "link"
    MAKE = "folder"  # make a folder and copy what is in it
    ENTER = "enter"  # the folder exists: compare what is in it
    SAME = "same"
    DELETE = "delete"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Step:
    """One name of a folder, and what is done with it.

    - `entry`: at the source; None only with DELETE.
    - `old`: at the destination, None: nothing is there.
    - `why`: the reason of REFUSE.
    """

    action: Action
    name: str
    entry: Entry | None
    old: Entry | None = None
    why: str = ""


def _takes_all(_path: str, _is_folder: bool) -> bool:
    return True


def _is_same(first: int, second: int) -> bool:
    return first == second


@dataclass(frozen=True)
class Rules:
    """How trees are copied.

    - `changed_only`: leave files alone whose copy has the same size and is not older. Files then
      get the mode of the source; without it, a file that is replaced keeps its mode, as with cp.
    - `delete`: delete what the source does not have.
    - `newer_than`: leave out files whose time (s since the epoch) is not later.
    - `takes`: whether to take a path (relative to the tree) into account, on both sides; the second
      argument: it is a folder.
    - `folds_case`: the destination takes names that differ in case for one name.
    - `is_same_time`: whether the server may show one of these times for the other.
    - `can_ask`: the server tells the exact time of a single file.
    - `checksum`: compare files of one size by the server's checksums, and not by their times.
    """

    changed_only: bool = False
    delete: bool = False
    newer_than: float | None = None
    takes: Callable[[str, bool], bool] = _takes_all
    folds_case: bool = False
    is_same_time: Callable[[int, int], bool] = _is_same
    can_ask: bool = False
    checksum: bool = False


def compare(
    folder: str, source: Sequence[Entry], target: Sequence[Entry], rules: Rules
) -> Iterator[Step]:
    """The steps for one folder, in the order of the source; deletions come last.

    `folder` is relative to the tree, '' for its root.
    """
    key = str.casefold if rules.folds_case else str
    there = {key(entry.name): entry for entry in target}
    seen: dict[str, str] = {}
    for entry in source:
        folded = key(entry.name)
        old = there.pop(folded, None) if folded not in seen else None
        if not _is_taken(folder, entry, rules):
            continue
        if folded in seen:
            why = f"differs from {seen[folded]!r} in case only, which the disk takes for one name"
            yield Step(Action.REFUSE, entry.name, entry, None, why)
            continue
        seen[folded] = entry.name
        yield _step(entry, old, rules)
    if rules.delete:
        for entry in there.values():
            if rules.takes(posixpath.join(folder, entry.name), entry.kind is Kind.DIRECTORY):
                yield Step(Action.DELETE, entry.name, None, entry)


def _is_taken(folder: str, entry: Entry, rules: Rules) -> bool:
    is_folder = entry.kind is Kind.DIRECTORY
    if not rules.takes(posixpath.join(folder, entry.name), is_folder):
        return False
    if is_folder or rules.newer_than is None or entry.mtime is None:
        return True
    return entry.mtime > rules.newer_than


def _step(entry: Entry, old: Entry | None, rules: Rules) -> Step:
    if why := _why_not_over(entry, old):
        return Step(Action.REFUSE, entry.name, entry, old, why)
    if entry.kind is Kind.DIRECTORY:
        return Step(Action.MAKE if old is None else Action.ENTER, entry.name, entry, old)
    if entry.kind is Kind.LINK:
        return Step(Action.LINK, entry.name, entry, old)
    if old is None or not rules.changed_only or old.kind is not Kind.FILE:
        return Step(Action.COPY, entry.name, entry, old)
    return Step(judge(entry, old, rules), entry.name, entry, old)


def _why_not_over(entry: Entry, old: Entry | None) -> str:
    """Why `entry` cannot take the place of `old`; empty: it can."""
    if entry.kind is Kind.OTHER:
        return "neither a file nor a folder"
    if old is None:
        return ""
    if entry.kind is Kind.DIRECTORY:
        # A link is not entered: it may lead anywhere.
        return "" if old.kind is Kind.DIRECTORY else f"a {old.kind.value} is in the way of a folder"
    if old.kind in (Kind.DIRECTORY, Kind.OTHER):
        what = "folder" if old.kind is Kind.DIRECTORY else "device"
        return f"a {what} is in the way of a {entry.kind.value}"
    return ""


def judge(entry: Entry, old: Entry, rules: Rules) -> Action:
    """COPY, ASK or SAME, for a file that has a copy."""
    if None not in (entry.size, old.size) and entry.size != old.size:
        return Action.COPY
    if rules.checksum:
        return Action.ASK
    known = entry.size is not None and old.size is not None and entry.exact and old.exact
    if not known and rules.can_ask:
        return Action.ASK
    return Action.COPY if is_newer(entry, old, rules) else Action.SAME


def is_changed(entry: Entry, old: Entry, rules: Rules) -> bool:
    """Whether a file was changed since `old` was copied from it.

    What neither side tells cannot differ.
    """
    if None not in (entry.size, old.size) and entry.size != old.size:
        return True
    return is_newer(entry, old, rules)


def is_newer(entry: Entry, old: Entry, rules: Rules) -> bool:
    """Whether the source's file surely has a later time than its copy."""
    if entry.mtime is None or old.mtime is None or rules.is_same_time(entry.mtime, old.mtime):
        return False
    return entry.mtime - old.mtime > max(_slack_seconds(entry), _slack_seconds(old))


def _slack_seconds(entry: Entry) -> int:
    """How much later than shown a file may have been changed. LIST shows minutes, or days only."""
    if entry.exact or entry.mtime is None:
        return 0
    return _DAY_SECONDS if entry.mtime % _DAY_SECONDS == 0 else 60
