"""Waiting: the changes of names that wait for the server, and what is shown meanwhile.

Owns the steps of one mount: which change may become one, the names as they are with all steps laid
over the stored listings, and the moment at which the server counts as here again. Does not carry
steps out (`replay`).

    the server is away:  a change that is known to be possible becomes a step, and returns
    it is back:          `replay` carries the steps out; changes made meanwhile become steps, too
    no step waits:       the rows are deleted, and the server is asked about everything (`finish`)

**What is known.** A change is possible if the stored listings tell so: a name to be deleted or
renamed is listed, a new name is missing from a listing, a folder to be deleted is listed as empty.
Anything else raises Offline, because nobody could say whether it succeeds. A folder may be renamed
without knowing what is in it: that is one command.

**Why the listings stay as they are.** Several mounts share them, and each has steps of its own.
They are written seconds after a change, and steps have to survive a kill. A step that was carried
out stays laid over them until no step waits, so both are always of the same moment.

Threading: any thread. `_changed` (Rank.WAITING) guards everything. It is held over disk I/O: of the
journal and of the stored listings. Only callers that find the server away wait for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Protocol

from ftpfs import errors
from ftpfs.core.offline.overlay import Node, Overlay
from ftpfs.core.offline.steps import Act, State, Step, StepRows
from ftpfs.core.store.presence import Presence
from ftpfs.model.entry import Entry, FolderAttributes, Kind, Trace
from ftpfs.model.locks import Rank, ranked_condition
from ftpfs.model.names import is_hidden, is_within, split
from ftpfs.model.status import PendingFile

log = logging.getLogger(__name__)


# Limit of refused steps that are told (`status`).
MOST_TOLD = 1000


class Told(Protocol):
    """What the server told of its names (`core.store.listings`)."""

    def entries(self, path: str) -> list[Entry] | None: ...

    def entry(self, path: str) -> Entry | None: ...

    def listed(self, path: str, entries: list[Entry]) -> None: ...

    def told(self, path: str, entry: Entry | None) -> None: ...

    def moved(self, old: str, new: str) -> None: ...

    def was_set(self, path: str, *, mode: int | None = None, mtime: int | None = None) -> None: ...

    def flush(self) -> None: ...


class IsHere(Exception):
    """The server is here: it is asked for the change."""


class Waiting:
    """The waiting steps of one mount.

    - `listings`: what the server told; None: nothing is stored, so no change can become a step.
    """

    def __init__(
        self,
        rows: StepRows,
        listings: Told | None,
        presence: Presence,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Reads the steps that earlier mounts left. Raises as the journal does."""
        self._rows = rows
        self._listings = listings
        self._presence = presence
        self._clock = clock
        self._changed = ranked_condition(Rank.WAITING)
        # Guarded by _changed:
        self._steps = {step.number: step for step in rows.all()}
        self._refused: list[Step] = []  # of earlier times
        self._overlay = Overlay()
        self._is_given_up = False  # nobody waits for steps any more
        # The names of refused steps that are still in the journal; for the replay's thread.
        self.refused: list[str] = []
        if not any(step.state is State.WAITING for step in self._steps.values()):
            self._end_locked()  # a mount was killed after its last step
        for step in self._steps.values():
            self._overlay.apply(step)
            self._note_refused(step)

    # What is shown.

    def entries(self, path: str) -> list[Entry]:
        """The entries of a folder. Raises Offline if they are not known."""
        with self._changed:
            return [entry for entry in self._entries_locked(path) if not is_hidden(entry.name)]

    def entry(self, path: str) -> Entry:
        """One entry. Raises NotFound, or Offline if nothing is known of the name."""
        with self._changed:
            entry = self._entry_locked(path)
        if entry is None:
            raise errors.NotFound(f"{path}: no such file or directory")
        return entry

    def known(self, path: str) -> Entry | None:
        """One entry; None if there is none, or nothing is known of it."""
        with self._changed:
            node = self._overlay.find(path)
            return self._shown_locked(path, node) if node is not None else None

    def origin(self, path: str) -> str:
        """Where the content at `path` was before the steps: the name under which it is stored."""
        if not self._steps:  # the usual case needs no lock
            return path
        with self._changed:
            return self._overlay.origin(path) or path

    def _entries_locked(self, path: str) -> list[Entry]:
        node = self._overlay.find(path)
        if node is None:
            raise errors.NotFound(f"{path}: no such file or directory")
        listed: list[Entry] | None = []
        if node.origin is not None:
            listed = self._listings.entries(node.origin) if self._listings is not None else None
        if listed is None:
            raise errors.Offline(f"{path}: the server is away, and this folder is not stored here")
        told = {entry.name: entry for entry in listed}
        for name, below in node.changes.items():
            shown = below.shown(name, told.get(name)) if below is not None else None
            if shown is None:
                told.pop(name, None)
            else:
                told[name] = shown
        return list(told.values())

    def _entry_locked(self, path: str) -> Entry | None:
        """One entry; None if there is none. Raises Offline if nothing is known of the name."""
        node = self._overlay.find(path)
        if node is None:
            return None
        if (entry := self._shown_locked(path, node)) is not None:
            return entry
        above = split(node.origin)[0] if node.origin is not None else ""
        if self._listings is None or self._listings.entries(above) is None:
            raise errors.Offline(f"{path}: the server is away, and this name is not stored here")
        return None

    def _shown_locked(self, path: str, node: Node) -> Entry | None:
        told = None
        if node.origin is not None and self._listings is not None:
            told = self._listings.entry(node.origin)
        return node.shown(split(path)[1], told)

    # Changes. They raise IsHere if the server is here.

    def mkdir(self, path: str, before: FolderAttributes | None) -> None:
        with self._changed:
            self._check_away_locked()
            if self._free_locked(path) is not None:
                raise errors.Exists(f"{path}: exists")
            self._note_locked(Step(Act.MKDIR, path, self._clock(), attributes=before))

    def rmdir(self, path: str) -> None:
        with self._changed:
            self._check_away_locked()
            known = self._named_locked(path)
            if known.kind is not Kind.DIRECTORY:
                raise errors.NotADirectory(f"{path}: not a directory")
            if self._entries_locked(path):
                raise errors.NotEmpty(f"{path}: not empty")
            self._note_locked(Step(Act.RMDIR, path, self._clock(), known=known))

    def remove(self, path: str, traces: Collection[Trace] = ()) -> None:
        """`traces`: what uploads may have left there, although no listing shows it."""
        with self._changed:
            self._check_away_locked()
            known = self._entry_locked(path)
            if known is None and not traces:
                raise errors.NotFound(f"{path}: no such file or directory")
            if known is not None and known.kind is Kind.DIRECTORY:
                raise errors.IsADirectory(f"{path}: is a directory")
            self._note_locked(Step(Act.REMOVE, path, self._clock(), known=known, traces=traces))

    def rename(
        self, old: str, new: str, *, aside: str = "", traces: Collection[Trace] = ()
    ) -> None:
        """`aside`: the file at `new` gets this name; "": it is replaced. `traces`: what uploads may
        have left there."""
        with self._changed:
            self._check_away_locked()
            known = self._named_locked(old)
            replaced = self._free_locked(new)
            is_folder = replaced is not None and replaced.kind is Kind.DIRECTORY
            if is_folder and self._entries_locked(new):
                raise errors.NotEmpty(f"{new}: not empty")
            now = self._clock()
            steps = []
            if replaced is not None and aside:
                steps.append(Step(Act.RENAME, new, now, new=aside, known=replaced))
                replaced = None
            self._note_locked(
                *steps,
                Step(
                    *(Act.RENAME, old, now),
                    new=new,
                    known=known,
                    replaced=replaced,
                    traces=traces,
                ),
            )

    def set(self, *wanted: FolderAttributes) -> None:
        """Set modes, and times of folders."""
        with self._changed:
            self._check_away_locked()
            for each in wanted:
                self._named_locked(each.path)
            now = self._clock()
            self._note_locked(*(Step(Act.SET, w.path, now, attributes=w) for w in wanted))

    def _check_away_locked(self) -> None:
        if not self._presence.is_away:
            raise IsHere
        if self._listings is None:
            raise errors.Offline("the server is away, and nothing is stored here")

    def _named_locked(self, path: str) -> Entry:
        """The entry of a name that is to be changed."""
        if (entry := self._entry_locked(path)) is None:
            raise errors.NotFound(f"{path}: no such file or directory")
        return entry

    def _free_locked(self, path: str) -> Entry | None:
        """What is at a name that is to be made; None: nothing, for sure."""
        above = split(path)[0]
        if above != "/" and self._named_locked(above).kind is not Kind.DIRECTORY:
            raise errors.NotADirectory(f"{above}: not a directory")
        name = split(path)[1]
        return next((entry for entry in self._entries_locked(above) if entry.name == name), None)

    def _note_locked(self, *steps: Step) -> None:
        for step in self._rows.add(steps):
            self._steps[step.number] = step
            self._overlay.apply(step)

    # For the replay.

    def waiting(self) -> list[Step]:
        """The steps to be carried out, in their order."""
        with self._changed:
            return [step for step in self._steps.values() if step.state is State.WAITING]

    def settle(self, step: Step, error: str | None) -> None:
        """The server did the step, or has it already; `error`: it was refused, for good."""
        state = State.REFUSED if error is not None else State.DONE
        with self._changed:
            self._steps[step.number] = replace(step, state=state, error=error)
            self._note_refused(self._steps[step.number])
            self._changed.notify_all()
            try:
                self._rows.settle(step.number, state, error)
            except errors.FtpfsError as failure:  # after a crash the step is looked at once more
                log.error("the journal does not take what became of %s: %s", step.path, failure)

    def _note_refused(self, step: Step) -> None:
        """Note the names that are not what their user believes. A mode or time is no name."""
        if step.state is State.REFUSED and step.act is not Act.SET:
            self.refused.extend(step.names)

    def finish(self) -> bool:
        """If no step waits, ask the server for everything from now on. Returns whether it is so."""
        with self._changed:
            if any(step.state is State.WAITING for step in self._steps.values()):
                return False
            self._end_locked()
            self._presence.arrive()
            self._changed.notify_all()
            return True

    def _end_locked(self) -> None:
        """No step waits: tell the listings what was done, and delete the rows.

        The listings are on the disk first. If the process is killed in between, the next one does
        this again, so what a listing has already is not told twice.
        """
        if not self._steps:
            return
        for step in self._steps.values():
            if step.state is State.REFUSED:
                self._refused = [*self._refused[-MOST_TOLD:], step]
            elif self._listings is not None:
                _tell(step, self._listings)
        if self._listings is not None:
            self._listings.flush()
        try:
            self._rows.clear()
        except errors.FtpfsError as failure:
            log.error("the journal does not let go of changes that are done: %s", failure)
        self._steps.clear()
        self.refused.clear()
        self._overlay = Overlay()

    # For people.

    @property
    def count(self) -> int:
        """How many steps wait."""
        return len(self.waiting())

    def status(self) -> tuple[PendingFile, ...]:
        """The steps that wait, and those that were refused in this mount."""
        if not (self._steps or self._refused):
            return ()
        with self._changed:
            steps = [*self._refused, *self._steps.values()]
        away = "the server is away" if self._presence.is_away else None
        return tuple(
            PendingFile(
                path=step.path,
                state="failed" if step.state is State.REFUSED else "dirty",
                size=0,
                sent=0,
                attempts=0,
                error=errors.printable(step.error) if step.error else away,
                since=step.since,
                change=errors.printable(step.words),
            )
            for step in steps
            if step.state is not State.DONE
        )

    def waits(self, path: str) -> bool:
        """Whether a step waits that changes something at or below `path`."""
        if not self._steps:
            return False
        return any(is_within(name, path) for step in self.waiting() for name in step.names)

    def drain(self, path: str, timeout: float | None) -> bool:
        """Wait until no step about `path` waits. False: it took too long."""
        if not self._steps:
            return True
        with self._changed:
            return self._changed.wait_for(
                lambda: self._is_given_up or not self.waits(path), timeout
            )

    def hurry(self) -> None:
        """Look for the server now."""
        self._presence.hurry()

    def give_up_waiting(self) -> None:
        """End each `drain`, and let none wait any more."""
        with self._changed:
            self._is_given_up = True
            self._changed.notify_all()

    def forget(self, path: str) -> None:
        """Tell no more of steps at and below `path` that were refused."""
        with self._changed:
            self._refused = [step for step in self._refused if not is_within(step.path, path)]


def _tell(step: Step, listings: Told) -> None:
    """The server has carried a step out: so the listings say, if they do not say so already."""
    if step.act is Act.MKDIR:
        if listings.entry(step.path) is None:
            listings.told(step.path, Entry(split(step.path)[1], Kind.DIRECTORY))
            listings.listed(step.path, [])
    elif step.act is Act.RENAME:
        if listings.entry(step.path) is not None:
            listings.moved(step.path, step.new)
    elif step.act is Act.SET:
        if step.attributes is not None:
            listings.was_set(step.path, mode=step.attributes.mode, mtime=step.attributes.mtime)
    else:
        listings.told(step.path, None)
