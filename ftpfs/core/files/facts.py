"""What can be asked of an open file.

Owns: the answers, each of one moment; `snapshot` has several of one moment. Changes nothing.

Threading: any. Each answer takes the file's `changed` lock. No method here may be called with it
held.
"""

from __future__ import annotations

from ftpfs.core.files.progress import Snapshot
from ftpfs.core.files.state import FileState
from ftpfs.model.entry import Entry, Trace


class Facts:
    """The answers of one open file."""

    def __init__(self, state: FileState) -> None:
        self._state = state

    def attributes(self) -> Entry:
        """The entry as an application shall see it now."""
        with self._state.changed:
            return self._state.shown_locked()

    @property
    def path(self) -> str:
        with self._state.changed:
            return self._state.path

    # How far it is.

    def snapshot(self) -> Snapshot:
        """How far it is on its way to the server."""
        with self._state.changed:
            return self._state.progress.snapshot()

    @property
    def dirty(self) -> bool:
        """Whether something here is not on the server yet."""
        with self._state.changed:
            return self._state.progress.is_dirty and not self._state.progress.is_deleted

    @property
    def writes(self) -> int:
        """How often it was written to."""
        with self._state.changed:
            return self._state.progress.writes

    @property
    def waits(self) -> bool:
        """Whether content of it is to be sent now."""
        with self._state.changed:
            return self._state.progress.is_to_be_sent

    @property
    def closed_unsent(self) -> bool:
        """Whether closed content of it is not on the server yet."""
        with self._state.changed:
            progress = self._state.progress
            return progress.sent < progress.committed and not progress.is_deleted

    def has_other_writer(self, writer: int) -> bool:
        """Whether another handle than `writer` was opened to make it, or has changed it."""
        with self._state.changed:
            return self._state.progress.has_other_writer(writer)

    @property
    def is_untouched(self) -> bool:
        """Whether it is new, was never written to, and the server has nothing of it."""
        with self._state.changed:
            return self._state.is_untouched_locked()

    @property
    def is_refused(self) -> bool:
        """Whether it is empty, and the server refused it, as the program knows."""
        with self._state.changed:
            return self._state.failures.refusal is not None and self._state.is_untouched_locked()

    # What the queue of uploads asks.

    @property
    def has_content(self) -> bool:
        return True

    @property
    def changes_in_place(self) -> bool:
        """Whether the next upload sends only parts of it, as far as one knows before it."""
        with self._state.changed:
            return self._state.is_patch_locked()

    @property
    def is_between_contents(self) -> bool:
        """Whether a change in place broke off: the server may have a part of it."""
        with self._state.changed:
            return bool(self._state.server.patching)

    @property
    def unsent_bytes(self) -> int:
        """How much the upload under way has to send, or else the next one, as far as is known."""
        with self._state.changed:
            if self._state.capture is not None:
                return self._state.capture.total_locked()
            unsent = self._state.changes.unsent.total()
            return (
                unsent if self._state.is_patch_locked() else max(unsent, self._state.changes.size)
            )

    @property
    def sent_bytes(self) -> int:
        """Of the upload under way."""
        with self._state.changed:
            return self._state.capture.sent if self._state.capture else 0

    # What the server has.

    @property
    def entry(self) -> Entry | None:
        """What the server has under its name, as far as is known."""
        with self._state.changed:
            return self._state.server.entry

    @property
    def uncertain(self) -> set[Trace]:
        """Size and time of uploads that may have been carried out."""
        with self._state.changed:
            return set(self._state.changes.uncertain)

    @property
    def on_server(self) -> bool:
        with self._state.changed:
            return self._state.server.entry is not None

    @property
    def may_be_on_server(self) -> bool:
        """Whether the server has a file of this name, or may have: a first upload that failed can
        have left all or a part of it."""
        with self._state.changed:
            return self._state.server.entry is not None or bool(self._state.changes.uncertain)

    def followed(self) -> Entry | None:
        """The server's entry, if the content is the server's file and nothing but that."""
        with self._state.changed:
            return self._state.server.entry if self._state.follows_locked() else None

    @property
    def follows_server(self) -> bool:
        """Whether its content is the server's file and nothing but that."""
        with self._state.changed:
            return self._state.follows_locked()

    @property
    def needs_base(self) -> bool:
        """Whether reading, or the next upload, needs content that only the server has."""
        with self._state.changed:
            return self._state.needs_base_locked()

    @property
    def is_deleted(self) -> bool:
        """Whether it has lost its name, and lives on in its handles only."""
        with self._state.changed:
            return self._state.progress.is_deleted

    @property
    def hidden_as(self) -> str | None:
        """The name on the server that the base of a deleted file has until the last handle goes."""
        with self._state.changed:
            return self._state.hidden_as
