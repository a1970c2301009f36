"""Restarts: uploads that broke off, kept to be resumed with the same content.

After a network failure, the queue tries a file again, with the same content object unless a program
has written to the file. Then the upload resumes where it broke off. With another content the old
upload is given up: its temporary file is deleted, and the new upload learns the name under which
the old file may have been moved aside.

Threading: any thread; one lock.
"""

from __future__ import annotations

import weakref

from ftpfs.ftp.uploading.remains import Remains
from ftpfs.ftp.uploading.store import Store
from ftpfs.ftp.uploading.temporaries import Temporaries
from ftpfs.model.locks import Rank, ranked_lock
from ftpfs.model.remote import Content


class BrokenUploads:
    """The broken uploads of one server."""

    def __init__(self, temporaries: Temporaries) -> None:
        # Dependencies and constants:
        self._temporaries = temporaries
        self._lock = ranked_lock(Rank.UPLOADS)
        # Guarded by _lock; keys are paths of targets:
        self._broken: dict[str, tuple[weakref.ref[Content], Store]] = {}
        self._asides: dict[str, str] = {}  # of uploads given up: the hidden name of the old file

    def keep(self, path: str, content: Content, upload: Store) -> None:
        """Keep an upload that broke off, if resuming it saves anything."""
        if not upload.is_worth_keeping():
            self._temporaries.delete_later(upload.temporary)
            return
        with self._lock:
            self._broken[path] = (weakref.ref(content), upload)

    def give_up(self, path: str, upload: Store) -> None:
        """Drop an upload that failed, but not because of the network."""
        if upload.aside:
            with self._lock:
                self._asides[path] = upload.aside
        self._temporaries.delete_later(upload.temporary)

    def take_up(self, path: str, content: Content) -> tuple[Store | None, str, Remains | None]:
        """The upload to resume, or None; and what an upload of other content has left.

        It may have moved the old file aside, to the hidden name that is returned; and it may have
        given its file the final name.
        """
        with self._lock:
            aside = self._asides.pop(path, "")
            broken = self._broken.pop(path, None)
            forgotten = [key for key, (of, _) in self._broken.items() if of() is None]
            gone = {key: self._broken.pop(key)[1] for key in forgotten}
            if broken and broken[0]() is not content:
                gone[path] = broken[1]
                aside = aside or broken[1].aside
            self._asides.update({key: one.aside for key, one in gone.items() if one.aside})
            self._asides.pop(path, None)
        remains = gone[path].remains if path in gone else None
        for upload in gone.values():
            if remains is None or upload.temporary != remains.temporary:
                self._temporaries.delete_later(upload.temporary)
        resumed = broken[1] if broken and broken[0]() is content else None
        return resumed, aside, remains
