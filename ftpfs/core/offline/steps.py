"""Steps: the changes of names that wait for the server, as rows of the journal.

Owns what a step says, and the table in which the steps lie. Does not know what a step means for
what is shown (`overlay`), nor how it is carried out (`replay`).

A step is in the journal before the call that made it returns. It is synced as the rows of closed
files are: at once in a mount with `sync`, else within a second. All rows are in one database, so
a loss of power never takes a step and leaves a later change.

Threading: any thread; the lock is the journal's.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftpfs.core.writing.journal import Journal
from ftpfs.model.entry import Entry, FolderAttributes, Kind, Trace


class Act(enum.Enum):
    """What a step does. The values are stored, and shown to people."""

    MKDIR = "make the folder"
    RMDIR = "delete the folder"
    REMOVE = "delete"
    RENAME = "rename"
    SET = "set mode or time"


# noted --> WAITING --+--> DONE     the server did it, or has it already
#                     |
#                     +--> REFUSED  the server refuses; or what is there is not what was known
#
# When no step is WAITING, all rows are deleted: the server is asked about everything again. Until
# then what is shown is the listings of before, with all steps laid over them.
class State(enum.Enum):
    """How far a step is. The values are stored."""

    WAITING = "waiting"
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True)
class Step:
    """One change of names. Paths are as they were when it was made, after all steps before it.

    Attributes:
        number: steps are carried out in this order; 0: not in the journal yet.
        path: what is made, deleted, renamed or set.
        new: the new name of a rename; else "".
        known: what was known of `path`; None for MKDIR and SET.
        replaced: what was known of `new`; None: a free name.
        traces: what uploads of this mount may have left at the name that is deleted or replaced.
            Their replies were lost, so nobody knows.
        attributes: for SET, what is set. For MKDIR, the mode to be set on the folder above first.
        since: when the step was made (seconds since the epoch).
        error: why the step was REFUSED.
    """

    act: Act
    path: str
    since: float
    new: str = ""
    known: Entry | None = None
    replaced: Entry | None = None
    attributes: FolderAttributes | None = None
    number: int = 0
    state: State = State.WAITING
    error: str | None = None
    traces: Collection[Trace] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.path, self.new) if self.new else (self.path,)

    @property
    def words(self) -> str:
        """What the step does, for people."""
        return f"{self.act.value} to {self.new}" if self.new else self.act.value


class StepRows:
    """The table of steps in one journal. Methods raise as the journal's do."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add(self, steps: Sequence[Step]) -> list[Step]:
        """Write these steps, all or none. Intents about their names count as carried out.

        Returns the steps with their numbers.
        """
        numbered = []
        with self._journal.noting() as connection:
            for step in steps:
                added = connection.execute(
                    "insert into step (act, path, new, since, known, replaced, attributes, state,"
                    " traces) values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        step.act.name,
                        os.fsencode(step.path),
                        os.fsencode(step.new),
                        step.since,
                        _packed(step.known),
                        _packed(step.replaced),
                        _packed_attributes(step.attributes),
                        step.state.value,
                        json.dumps(sorted(step.traces, key=str)),
                    ),
                )
                numbered.append(replace(step, number=added.lastrowid or 0))
                for path in step.names:
                    connection.execute(
                        "update intent set done = 1 where old = ?", (os.fsencode(path),)
                    )
        return numbered

    def all(self) -> list[Step]:
        """All steps in their order."""
        with self._journal.noting(changes=False) as connection:
            rows = connection.execute(
                "select number, act, path, new, since, known, replaced, attributes, state, error,"
                " traces from step order by number"
            ).fetchall()
        return [_step_in(row) for row in rows]

    def settle(self, number: int, state: State, error: str | None = None) -> None:
        """Note what became of a step."""
        with self._journal.noting() as connection:
            connection.execute(
                "update step set state = ?, error = ? where number = ?",
                (state.value, error, number),
            )

    def clear(self) -> None:
        """Delete all steps."""
        with self._journal.noting() as connection:
            connection.execute("delete from step")


def _step_in(row: Sequence[Any]) -> Step:
    number, act, path, new, since, known, replaced, attributes, state, error, traces = row
    return Step(
        act=Act[act],
        path=os.fsdecode(path),
        since=since,
        new=os.fsdecode(new),
        known=_unpacked(known),
        replaced=_unpacked(replaced),
        attributes=_unpacked_attributes(attributes),
        number=number,
        state=State(state),
        error=error,
        traces=tuple((size, mtime) for size, mtime in json.loads(traces or "[]")),
    )


def _packed(entry: Entry | None) -> str | None:
    if entry is None:
        return None
    kind = entry.kind.value
    return json.dumps(
        [entry.name, kind, entry.size, entry.mtime, entry.exact, entry.mode, entry.target]
    )


def _unpacked(text: str | None) -> Entry | None:
    if text is None:
        return None
    name, kind, *rest = json.loads(text)
    return Entry(name, Kind(kind), *rest)


def _packed_attributes(attributes: FolderAttributes | None) -> str | None:
    return json.dumps(attributes) if attributes is not None else None


def _unpacked_attributes(text: str | None) -> FolderAttributes | None:
    return FolderAttributes(*json.loads(text)) if text is not None else None
